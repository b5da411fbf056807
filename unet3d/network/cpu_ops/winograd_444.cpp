#include "kernels.h"
#include "winograd.h"

namespace unet3d {

void conv_winograd_444(const Layer& layer) { winograd<4, 4, 4>(layer); }

}  // namespace unet3d

#include "kernels.h"
#include "winograd.h"

namespace unet3d {

void conv_winograd_222(const Layer& layer) { winograd<2, 2, 2>(layer); }

}  // namespace unet3d

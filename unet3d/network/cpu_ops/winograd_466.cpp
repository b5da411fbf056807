#include "kernels.h"
#include "winograd.h"

namespace unet3d {

void conv_winograd_466(const Layer& layer) { winograd<4, 6, 6>(layer); }

}  // namespace unet3d

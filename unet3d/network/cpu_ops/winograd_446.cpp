#include "kernels.h"
#include "winograd.h"

namespace unet3d {

void conv_winograd_446(const Layer& layer) { winograd<4, 4, 6>(layer); }

}  // namespace unet3d

#include "kernels.h"
#include "winograd.h"

namespace unet3d {

void conv_winograd_666(const Layer& layer) { winograd<6, 6, 6>(layer); }

}  // namespace unet3d

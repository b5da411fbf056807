#include "kernels.h"
#include "winograd.h"

namespace unet3d {

void conv_winograd_244(const Layer& layer) { winograd<2, 4, 4>(layer); }

}  // namespace unet3d

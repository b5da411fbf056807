#include "direct.h"
#include "kernels.h"

namespace unet3d {

void conv_direct_fp32(const Layer& layer) {
  if (layer.storage == c10::ScalarType::Float) {
    Direct<float, float>(layer).run();
  } else {
    Direct<c10::BFloat16, float>(layer).run();
  }
}

}  // namespace unet3d

#include "direct.h"
#include "kernels.h"

namespace unet3d {

void conv_direct_bf16(const Layer& layer) { Direct<c10::BFloat16, uint16_t>(layer).run(); }

}  // namespace unet3d

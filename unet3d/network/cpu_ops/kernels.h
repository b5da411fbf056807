// The kernels that operators.cpp chooses from.
#pragma once

#include "layer.h"

namespace unet3d {

// 3x3x3, stride 1, tiles of so many outputs in z, y and x; products in fp32.
void conv_winograd_222(const Layer& layer);
void conv_winograd_444(const Layer& layer);
void conv_winograd_446(const Layer& layer);
void conv_winograd_466(const Layer& layer);
void conv_winograd_666(const Layer& layer);

// 3x3x3, stride 1 or 2, also of the network's input; products in fp32 or in bf16.
void conv_direct_fp32(const Layer& layer);
void conv_direct_bf16(const Layer& layer);

// 2x2x2 transposed, stride 2, without moments; products in fp32 or in bf16.
void upsample_fp32(const Layer& layer);
void upsample_bf16(const Layer& layer);

// 1x1x1, to `classes` logits [samples, D, H, W, classes] in the storage type. weight [classes][channels in slots] fp32,
// bias [classes] or null.
void head(const Layer& layer, int64_t classes, const float* bias);

}  // namespace unet3d

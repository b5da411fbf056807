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

// The same on AMX tiles, emulated where the compiler's target has none, for bf16 tensors: with bf16 products, also of the
// network's input, and with int8 products, not of it. The upsampling's weights are those of upsample_bf16.
void conv_amx_bf16(const Layer& layer);
void conv_amx_int8(const Layer& layer);
void upsample_amx(const Layer& layer);
// Whether there are tiles that this process may use.
bool has_amx();

// 1x1x1, to logits [samples, D, H, W, classes] in the storage type, a class an output channel. weight [classes][channels in
// slots] fp32, bias [classes] or null.
void head(const Layer& layer, const float* bias);
// The same for bf16 tensors and up to 16 classes, with bf16 products on AMX tiles.
void head_amx(const Layer& layer, const float* bias);

}  // namespace unet3d

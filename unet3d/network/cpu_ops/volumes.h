// What a host does around the network, each in one pass over memory: the input's type and layout, and labels.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace unet3d {

constexpr int64_t kModalities = 4, kClasses = 4;

// From x [samples, 4, voxels] to y [samples, voxels, 4], fp32 or bf16.
template <class T>
void interleave(const float* x, int64_t samples, int64_t voxels, T* y);

// The class of the largest of each voxel's logits [voxels, 4], fp32 or bf16; the first of equal ones.
template <class T>
void labels(const T* logits, int64_t voxels, uint8_t* out);

}  // namespace unet3d

// The network's input in the layout and type of the layers, one pass over memory where PyTorch makes two.
#include <algorithm>

#include "driver.h"
#include "kernels.h"

namespace unet3d {
namespace {

constexpr int64_t kVoxels = 1 << 14;  // that a thread takes at once

UNET3D_INLINE VecU bits(Vec v) { return __builtin_convertvector(to_bf16(v), VecU); }

// Four channels of kLanes voxels.
UNET3D_INLINE void interleave(const Vec* channel, uint16_t* to) {
  VecU first = bits(channel[0]) | bits(channel[1]) << 16, second = bits(channel[2]) | bits(channel[3]) << 16, low{}, high{};
  for (int i = 0; i < kLanes; ++i) {
    low[i] = i / 2 + (i % 2) * kLanes;
    high[i] = low[i] + kLanes / 2;
  }
  *(LooseVecU*)to = __builtin_shuffle(first, second, low);
  *(LooseVecU*)(to + 2 * kLanes) = __builtin_shuffle(first, second, high);
}

}  // namespace

void interleave_input(const float* from, int64_t samples, int64_t voxels, uint16_t* to) {
  int64_t items = divide_up(voxels, kVoxels);
  for_each(samples * items, 0, [&](int64_t item, char*) {
    int64_t sample = item / items, begin = item % items * kVoxels, end = std::min(begin + kVoxels, voxels);
    const float* channel = from + sample * 4 * voxels;
    uint16_t* out = to + sample * voxels * 4;
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      Vec v[4];
      for (int c = 0; c < 4; ++c) v[c] = load(channel + c * voxels + i);
      interleave(v, out + i * 4);
    }
    for (; i < end; ++i) {
      for (int c = 0; c < 4; ++c) out[i * 4 + c] = to_bf16(broadcast(channel[c * voxels + i]))[0];
    }
  });
}

}  // namespace unet3d

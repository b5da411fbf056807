// Stage 3 of a layer: raw outputs to memory, with the sums that their moments are made from.
#pragma once

#include "layer.h"

namespace unet3d {

// Sums of one block of voxels and one panel of 32 channels, of the deviations from the first voxel's values: a mean far
// from zero takes no digits of the variance.
struct Sums {
  Vec origin[kParts], sum[kParts], squares[kParts];
  int64_t count = 0;

  UNET3D_INLINE void add(const Vec* v) {
    if (count++ == 0) {
      for (int i = 0; i < kParts; ++i) {
        origin[i] = v[i];
        sum[i] = squares[i] = Vec{};
      }
    }
    for (int i = 0; i < kParts; ++i) {
      Vec off = v[i] - origin[i];
      sum[i] += off;
      squares[i] += off * off;
    }
  }

  void put(const Layer& layer, int64_t block, int64_t channel) const {
    layer.moments->put(block, channel, count, origin, sum, squares);
  }
};

// Writes one voxel's 32 outputs `values` (fp32, a row of the products' result) to `out`.
template <class T>
UNET3D_INLINE void write(const float* values, T* out, bool stream, Sums& sums) {
  Vec v[kParts];
  for (int i = 0; i < kParts; ++i) v[i] = load(values + i * kLanes);
  sums.add(v);
  store_block(out, v, stream);
}

}  // namespace unet3d

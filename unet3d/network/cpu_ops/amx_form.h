// What the forms of a convolution on AMX tiles have in common: the rows of input voxels that a plane is staged from.
#pragma once

#include "amx_conv.h"

namespace unet3d::amx {

// One row of input voxels: columns [begin, end) of `count` are inside the volume, the others are padding.
struct RowAt {
  int64_t voxel;  // of column 0, where it is or would be
  int64_t begin, end, count;
};

// Calls row(i, RowAt) for each row of input plane z that the window needs, with a border of kernel / 2.
template <typename Row>
inline void each_row(const Layer& layer, const Window& window, int64_t z, int kernel, Row row) {
  Extent in = layer.in;
  int64_t stride = layer.stride, border = kernel / 2, first = window.x * stride - border;
  int64_t count = (window.columns - 1) * stride + kernel;
  for (int64_t i = 0; i < (window.rows - 1) * stride + kernel; ++i) {
    int64_t y = window.y * stride - border + i;
    RowAt at{((window.sample * in.d + z) * in.h + y) * in.w + first, 0, 0, count};
    if (z >= 0 && z < in.d && y >= 0 && y < in.h) {
      at.begin = std::max<int64_t>(0, -first);
      at.end = std::max(at.begin, std::min(count, in.w - first));
    }
    row(i, at);
  }
}

// Cells of voxels in a plane. With stride 2 they are parted by the parity of row and column, so that the voxels that one
// tap reads for sixteen outputs lie side by side.
struct Voxels {
  int kernel;
  int64_t stride;

  Layout layout(int64_t rows, int64_t columns) const {
    if (stride == 1) return {columns + kernel - 1, 0, (rows + kernel - 1) * (columns + kernel - 1)};
    return {columns + 1, (rows + 1) * (columns + 1), 4 * (rows + 1) * (columns + 1)};
  }
  int64_t at(const Layout& l, int64_t y, int64_t x) const {
    if (stride == 1) return y * l.pitch + x;
    return ((y & 1) * 2 + (x & 1)) * l.subplane + (y >> 1) * l.pitch + (x >> 1);
  }
};

// Announces the rows that `stage` will read.
inline void announce_rows(const Layer& layer, const Window& window, int64_t z, int kernel, Ahead& ahead) {
  each_row(layer, window, z, kernel, [&](int64_t, const RowAt& at) {
    for (int i = 0; i < layer.source_count; ++i) {
      int64_t channels = layer.sources[i].channels;
      ahead.add((const c10::BFloat16*)layer.sources[i].data + (at.voxel + at.begin) * channels,
                (at.end - at.begin) * channels * 2);
    }
  });
}

}  // namespace unet3d::amx

// What the forms of a convolution on AMX tiles have in common: which input voxels a work item reads, and where they lie
// when they are staged.
#pragma once

#include <algorithm>
#include <vector>

#include "layer.h"
#include "stage.h"

namespace unet3d::amx {

// Where the voxels of a staged plane lie, in positions. Sixteen output voxels are sixteen positions in a row.
struct Layout {
  int64_t pitch, subplane, positions;
};

// A block of output voxels in one plane and one sample.
struct Window {
  int64_t sample, y, x, rows, columns;

  // Input rows, or columns, that so many output rows read.
  static int64_t extent_in(int64_t extent, int64_t stride, int kernel) { return (extent - 1) * stride + kernel; }
};

// One row of input voxels: columns [begin, end) are inside the volume, the others are padding.
struct RowAt {
  int64_t voxel;  // of column 0, where it is or would be
  int64_t begin, end;
};

// Row i of input plane z of a window, which has a border of kernel / 2 voxels.
inline RowAt row_at(const Layer& layer, const Window& window, int64_t z, int64_t i, int kernel) {
  Extent in = layer.in;
  int64_t stride = layer.stride, border = kernel / 2, first = window.x * stride - border, y = window.y * stride - border + i;
  RowAt at{((window.sample * in.d + z) * in.h + y) * in.w + first, 0, 0};
  if (z >= 0 && z < in.d && y >= 0 && y < in.h) {
    at.begin = std::max<int64_t>(0, -first);
    at.end = std::max(at.begin, std::min(Window::extent_in(window.columns, stride, kernel), in.w - first));
  }
  return at;
}

// What is staged at once: columns [begin, end) of one row and one chunk of channels. z is that of the input.
struct Piece {
  int64_t z, row, chunk, begin, end;

  // Its part of a row of the volume.
  RowAt within(RowAt at) const {
    at.begin = std::clamp(at.begin, begin, end);
    at.end = std::clamp(at.end, at.begin, end);
    return at;
  }
};

// Asks for a piece's values of `blocks` blocks of channels, which will be staged soon.
inline void prefetch_blocks(const Layer& layer, const Window& window, const Piece& piece, int kernel, int64_t blocks) {
  RowAt at = piece.within(row_at(layer, window, piece.z, piece.row, kernel));
  for (int64_t block = piece.chunk * blocks; block < (piece.chunk + 1) * blocks && block * kBlock < layer.channels_in(); ++block) {
    auto [source, channel] = source_block(layer, block);
    const c10::BFloat16* from = (const c10::BFloat16*)source->data + at.voxel * source->channels + channel;
    for (int64_t x = at.begin; x < at.end; ++x) __builtin_prefetch(from + x * source->channels, 0, 2);
  }
}

// The activations of each block of channels of each sample.
class Activations {
 public:
  explicit Activations(const Layer& layer) : blocks_(layer.channels_in() / kBlock) {
    for (int64_t sample = 0; sample < layer.samples; ++sample) {
      for (int64_t block = 0; block < blocks_; ++block) {
        auto [source, channel] = source_block(layer, block);
        made_.push_back(Activation::of<c10::BFloat16>(*source, sample, channel, layer.slope));
      }
    }
  }
  const Activation& of(int64_t sample, int64_t block) const { return made_[sample * blocks_ + block]; }

 private:
  int64_t blocks_;
  std::vector<Activation> made_;
};

// Positions of voxels in a plane. With stride 2 they are parted by the parity of row and column, so that the voxels that
// one tap reads for sixteen outputs lie side by side.
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

}  // namespace unet3d::amx

// 3x3x3 convolution with stride 1 or 2 as sums over the 27 taps, products in fp32 or bf16 (E).
//
// Weights: [panels of 32 outputs][taps][input channels in slots][32]; bf16 [...][input channels / 2][32][2].
// The network's input has its own form: at most 4 channels, as they are, padded to 4.
// Scratch: staged lines [blocks of input channels][z][y][x] of 32 (or 4) channels, with the zero padding in place. For
// stride 2 the even x come first, so that the rows of a product always lie beside each other.
#pragma once

#include <algorithm>
#include <cstddef>

#include "buffers.h"
#include "driver.h"
#include "layer.h"
#include "output.h"
#include "products.h"
#include "stage.h"

namespace unet3d {

// Bytes of staged lines a block may have, so that they stay in a core's cache.
constexpr int64_t kStageBytes = 512 << 10;
// Voxels of a line that are multiplied before they are written.
constexpr int64_t kPiece = kLanes == 16 ? 28 : 24;

template <class T, class E>
class Direct {
 public:
  explicit Direct(const Layer& layer)
      : layer_(layer), stride_(layer.stride), narrow_(layer.sources[0].channels % kBlock != 0),
        unit_(narrow_ ? (int)RowStride::kInput : kBlock), blocks_in_(narrow_ ? 1 : layer.channels_in() / kBlock),
        panels_(layer.channels_out / kBlock), stream_(layer.stream()), width_((layer.out.w - 1) * stride_ + 3) {}

  void run() {
    // A block is a box of output lines; its size is the largest that the cache has room for.
    int64_t d = std::min<int64_t>(2, layer_.out.d), h = std::min<int64_t>(4, layer_.out.h);
    while (h > 1 && staged(d, h) * (int64_t)sizeof(E) > kStageBytes) h /= 2;
    // By the sample's blocks, not the batch's: a sample's result does not depend on its batch.
    if (divide_up(layer_.out.d, d) * divide_up(layer_.out.h, h) < 64) {
      run_whole();
    } else {
      run_blocks(d, h);
    }
  }

 private:
  // Each thread stages and multiplies its own blocks.
  void run_blocks(int64_t d, int64_t h) {
    set_offsets(d, h);
    int64_t nd = divide_up(layer_.out.d, d), nh = divide_up(layer_.out.h, h);
    layer_.moments->resize(layer_.samples, nd * nh, layer_.channels_out);
    for_each(layer_.samples * nd * nh, staged(d, h) * sizeof(E), [&](int64_t item, char* scratch) {
      int64_t sample = item / (nd * nh), z = item / nh % nd * d, y = item % nh * h;
      int64_t depth = std::min(d, layer_.out.d - z), height = std::min(h, layer_.out.h - y);
      E* a = (E*)scratch;
      for (int64_t block = 0; block < blocks_in_; ++block) {
        for (int64_t i = 0; i < depth_in(depth); ++i) {
          for (int64_t j = 0; j < depth_in(height); ++j)
            stage_line(sample, block, z * stride_ - 1 + i, y * stride_ - 1 + j, line(a, block, i, j));
        }
      }
      for (int64_t panel = 0; panel < panels_; ++panel) {
        Sums sums;
        for (int64_t i = 0; i < depth; ++i) {
          for (int64_t j = 0; j < height; ++j)
            multiply_line(sample, panel, z + i, y + j, line(a, 0, i * stride_, j * stride_), sums);
        }
        sums.put(layer_, item, panel * kBlock);
      }
    });
  }

  // All threads stage the whole sample, then share out its slices and panels: for layers of few voxels and large weights,
  // of which each thread keeps one panel in its cache for all slices.
  void run_whole() {
    int64_t d = layer_.out.d, h = layer_.out.h, lines = depth_in(d) * depth_in(h);
    set_offsets(d, h);
    KeptScratch scratch(staged(d, h) * sizeof(E));
    E* a = (E*)scratch.data();
    layer_.moments->resize(layer_.samples, d, layer_.channels_out);
    for (int64_t sample = 0; sample < layer_.samples; ++sample) {
      for_each(blocks_in_ * lines, 0, [&](int64_t item, char*) {
        int64_t block = item / lines, i = item % lines / depth_in(h), j = item % depth_in(h);
        stage_line(sample, block, i - 1, j - 1, line(a, block, i, j));
      });
      for_each(panels_ * d, 0, [&](int64_t item, char*) {
        int64_t panel = item / d, z = item % d;
        Sums sums;
        for (int64_t y = 0; y < h; ++y) multiply_line(sample, panel, z, y, line(a, 0, z * stride_, y * stride_), sums);
        sums.put(layer_, sample * d + z, panel * kBlock);
      });
    }
  }

  // Input slices (or lines) that so many output slices (or lines) read.
  int64_t depth_in(int64_t d) const { return (d - 1) * stride_ + 3; }
  // Elements of the staged input of d x h output lines.
  int64_t staged(int64_t d, int64_t h) const { return blocks_in_ * depth_in(d) * depth_in(h) * width_ * unit_; }

  E* line(E* a, int64_t block, int64_t i, int64_t j) const {
    return a + ((block * lines_d_ + i) * lines_h_ + j) * width_ * unit_;
  }

  // Position of input voxel x - 1 in a staged line.
  int64_t position(int64_t x) const { return stride_ == 1 ? x : (x & 1) * ((width_ + 1) / 2) + x / 2; }

  void set_offsets(int64_t d, int64_t h) {
    lines_d_ = depth_in(d);
    lines_h_ = depth_in(h);
    offsets_.clear();
    for (int64_t i = 0; i < 3; ++i) {
      for (int64_t j = 0; j < 3; ++j) {
        // The three taps in x of the network's input lie side by side and are one segment.
        for (int64_t k = 0; k < (narrow_ ? 1 : 3); ++k) {
          for (int64_t block = 0; block < blocks_in_; ++block)
            offsets_.push_back(line((E*)nullptr, block, i, j) - (E*)nullptr + position(k) * unit_);
        }
      }
    }
  }

  // Stage 1: one line of the input, with a voxel of padding at both ends. All zeros where it is outside of the volume.
  void stage_line(int64_t sample, int64_t block, int64_t d, int64_t h, E* to) const {
    Extent in = layer_.in;
    if (d < 0 || d >= in.d || h < 0 || h >= in.h) {
      std::memset(to, 0, width_ * unit_ * sizeof(E));
      return;
    }
    auto [source, channel] = source_block(layer_, narrow_ ? 0 : block);
    const T* from = (const T*)source->data + ((sample * in.d + d) * in.h + h) * in.w * source->channels + channel;
    if (narrow_) {
      stage_input(from, source->channels, to);
      return;
    }
    Activation activation = Activation::of<T>(*source, sample, channel, layer_.slope);
    for (int64_t x = 0; x < width_; ++x) {
      E* voxel = to + position(x) * kBlock;
      if (x == 0 || x > in.w) {
        std::memset(voxel, 0, kBlock * sizeof(E));
      } else {
        stage_voxel(from + (x - 1) * source->channels, activation, voxel);
      }
    }
  }

  // A line of the network's input, as it is, with zeros for channels that it has not.
  void stage_input(const T* from, int64_t channels, E* to) const {
    int64_t voxels = std::min(layer_.in.w, width_ - 1);
    std::memset(to, 0, unit_ * sizeof(E));
    std::memset(to + (voxels + 1) * unit_, 0, (width_ - 1 - voxels) * unit_ * sizeof(E));
    to += unit_;
    if (channels == unit_ && sizeof(T) == sizeof(E)) {
      std::memcpy(to, from, voxels * unit_ * sizeof(E));
      return;
    }
    for (int64_t x = 0; x < voxels; ++x) {
      for (int64_t c = 0; c < unit_; ++c) {
        T value = c < channels ? from[x * channels + c] : T(0.0f);
        if constexpr (sizeof(T) == sizeof(E)) {
          std::memcpy(to + x * unit_ + c, &value, sizeof(E));
        } else {
          to[x * unit_ + c] = (float)value;
        }
      }
    }
  }

  // Stages 2 and 3 of one line of output voxels and one panel; `a` is the line's first tap.
  void multiply_line(int64_t sample, int64_t panel, int64_t z, int64_t y, const E* a, Sums& total) const {
    alignas(64) float c[kPiece * kBlock];
    Extent out = layer_.out;
    int64_t taps = 27 / (narrow_ ? 3 : 1), length = narrow_ ? 3 * unit_ : kBlock;
    Segments segments{offsets_.data(), (int)(taps * blocks_in_), (int)length};
    const E* b = (const E*)layer_.weight + panel * taps * blocks_in_ * length * kBlock;
    T* to = (T*)layer_.output + ((sample * out.d + z) * out.h + y) * out.w * layer_.channels_out + panel * kBlock;
    int64_t pieces = divide_up(out.w, kPiece);
    Sums sums = total;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      int64_t x = out.w * piece / pieces, rows = out.w * (piece + 1) / pieces - x;
      multiply(a + x * unit_, narrow_ ? RowStride::kInput : RowStride::kBlock, segments, b, c, rows);
      for (int64_t r = 0; r < rows; ++r) write(c + r * kBlock, to + (x + r) * layer_.channels_out, stream_, sums);
    }
    total = sums;
  }

  const Layer& layer_;
  int64_t stride_;
  bool narrow_;
  int64_t unit_, blocks_in_, panels_;
  bool stream_;
  int64_t width_;  // voxels of a staged line
  int64_t lines_d_ = 0, lines_h_ = 0;
  std::vector<ptrdiff_t> offsets_;
};

}  // namespace unet3d

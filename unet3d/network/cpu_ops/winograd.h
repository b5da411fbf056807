// 3x3x3 convolution with stride 1 by Winograd's method in three dimensions: tiles of MD x MH x MW outputs, for each of
// which (MD + 2)(MH + 2)(MW + 2) positions are multiplied instead of 27 MD MH MW. Products and transforms are in fp32.
//
// Weights: [panels of 32 outputs][positions][input channels in slots][32] in fp32.
// Scratch: A [blocks of input channels][positions][rows][32], M [panels][positions][rows][32], a row being a tile.
#pragma once

#include <algorithm>
#include <cstddef>

#include "buffers.h"
#include "driver.h"
#include "layer.h"
#include "output.h"
#include "products.h"
#include "stage.h"
#include "transforms.h"

namespace unet3d {

// Tiles that one block multiplies at once: as many as a kernel of products.cpp has rows, or twice as many.
constexpr int64_t kTiles = kLanes == 16 ? 14 : 12;
// Every block of tiles reads all weights. Where these are so many times the block's own scratch, they are read once for
// as many tiles as kSlabBytes of scratch have room for, which then lies outside of the cores' caches. With AVX2 measured
// on Zen 3; with AVX-512 it makes the choices that were measured on Zen 4.
constexpr int64_t kWeightsOfScratch = kLanes == 16 ? 8 : 4, kSlabBytes = 64 << 20;

// Whether a kernel computes all columns of its rows at once, so that M may take the place of A's first block of channels
// for the last panel: less memory that wants to be in a cache.
constexpr bool kInPlace = 2 * kLanes == kBlock;

// A box of tiles, in units of tiles, of one sample.
struct Tiles {
  int64_t sample, z, y, x;  // the first one
  int64_t d, h, w;          // how many
  int64_t rows() const { return d * h * w; }
};

template <int MD, int MH, int MW, class T>
class Winograd {
  static constexpr int AD = MD + 2, AH = MH + 2, AW = MW + 2, kPlane = AH * AW, kPositions = AD * kPlane;

 public:
  explicit Winograd(const Layer& layer)
      : layer_(layer),
        d_(divide_up(layer.out.d, MD)), h_(divide_up(layer.out.h, MH)), w_(divide_up(layer.out.w, MW)),
        blocks_in_(layer.channels_in() / kBlock), panels_(layer.channels_out / kBlock), stream_(layer.stream()) {}

  void run() {
    int64_t d = divide_up(d_, divide_up(d_, kTiles));
    int64_t h = std::clamp<int64_t>(kTiles / d, 1, h_), w = std::clamp<int64_t>(kTiles / (d * h), 1, w_);
    // By the sample's blocks, not the batch's: a sample's result does not depend on its batch.
    int64_t blocks = divide_up(d_, d) * divide_up(h_, h) * divide_up(w_, w);
    int64_t inputs = layer_.channels_in(), outputs = layer_.channels_out;  // of each position, which all have as many
    if (inputs * outputs > kWeightsOfScratch * d * h * w * (inputs + outputs) || blocks < 64) {
      run_slabs();
    } else {
      run_blocks(d, h, w);
    }
  }

 private:
  // Floats between positions of A and M, for so many rows.
  static int64_t stride(int64_t rows) { return odd_lines(rows * kBlock * 4) / 4; }

  // Each thread does all three stages for its blocks, so that A and M stay in its cache.
  void run_blocks(int64_t d, int64_t h, int64_t w) {
    set_stride(d * h * w);
    int64_t nd = divide_up(d_, d), nh = divide_up(h_, h), nw = divide_up(w_, w), per_sample = nd * nh * nw;
    layer_.moments->resize(layer_.samples, per_sample, layer_.channels_out);
    int64_t a_floats = blocks_in_ * kPositions * stride_, m_floats = panels_ > 1 || !kInPlace ? kPositions * stride_ : 0;
    for_each(layer_.samples * per_sample, (a_floats + m_floats) * 4, [&](int64_t item, char* scratch) {
      int64_t i = item % per_sample, z = i / (nh * nw) * d, y = i / nw % nh * h, x = i % nw * w;
      Tiles tiles{item / per_sample, z, y, x, std::min(d, d_ - z), std::min(h, h_ - y), std::min(w, w_ - x)};
      float *a = (float*)scratch, *m = a + a_floats;
      for (int64_t block = 0; block < blocks_in_; ++block) {
        Activation activation = this->activation(tiles, block);
        for (int64_t column = 0; column < tiles.h * tiles.w; ++column) load_column(tiles, column, block, activation, a);
      }
      for (int64_t panel = 0; panel < panels_; ++panel) {
        if (kInPlace && panel == panels_ - 1) m = a;
        for (int position = 0; position < kPositions; ++position)
          multiply_position(position, panel, a, m, tiles.rows(), position + 1 < kPositions ? stride_ : 0);
        Sums sums;
        for (int64_t column = 0; column < tiles.h * tiles.w; ++column) store_column(tiles, column, panel, m, sums);
        sums.put(layer_, item, panel * kBlock);
      }
    });
  }

  // All threads do one stage after the other for a slab of tiles, so that the weights are read once a slab, and layers
  // of few tiles have work for many threads.
  void run_slabs() {
    int64_t row_bytes = kPositions * (blocks_in_ + panels_) * kBlock * 4;
    int64_t h = std::clamp<int64_t>(kSlabBytes / (row_bytes * d_ * w_), 1, h_);
    h = divide_up(h_, divide_up(h_, h));
    set_stride(d_ * h * w_);
    int64_t a_floats = blocks_in_ * kPositions * stride_, m_floats = panels_ * kPositions * stride_;
    KeptScratch scratch((a_floats + m_floats) * 4);
    float *a = (float*)scratch.data(), *m = a + a_floats;
    layer_.moments->resize(layer_.samples, h_ * w_, layer_.channels_out);
    for (int64_t sample = 0; sample < layer_.samples; ++sample) {
      for (int64_t y = 0; y < h_; y += h) {
        Tiles tiles{sample, 0, y, 0, d_, std::min(h, h_ - y), w_};
        int64_t columns = tiles.h * tiles.w;
        for_each(columns * blocks_in_, 0, [&](int64_t item, char*) {
          load_column(tiles, item / blocks_in_, item % blocks_in_, activation(tiles, item % blocks_in_), a);
        });
        for_each(kPositions * panels_, 0, [&](int64_t item, char*) {
          int64_t panel = item % panels_;
          multiply_position(item / panels_, panel, a, m + panel * kPositions * stride_, tiles.rows(), 0);
        });
        for_each(columns * panels_, 0, [&](int64_t item, char*) {
          int64_t column = item / panels_, panel = item % panels_;
          Sums sums;
          store_column(tiles, column, panel, m + panel * kPositions * stride_, sums);
          sums.put(layer_, (sample * h_ + y) * w_ + column, panel * kBlock);
        });
      }
    }
  }

  void set_stride(int64_t rows) {
    stride_ = stride(rows);
    offsets_.resize(blocks_in_);
    for (int64_t block = 0; block < blocks_in_; ++block) offsets_[block] = block * kPositions * stride_;
  }

  Activation activation(const Tiles& tiles, int64_t block) const {
    auto [source, channel] = source_block(layer_, block);
    return Activation::of<T>(*source, tiles.sample, channel, layer_.slope);
  }

  // next: floats from A to that of the position after this one, or 0 where that is not what this thread goes on with.
  void multiply_position(int64_t position, int64_t panel, const float* a, float* m, int64_t rows, ptrdiff_t next) const {
    const float* b = (const float*)layer_.weight + (panel * kPositions + position) * layer_.channels_in() * kBlock;
    Segments segments{offsets_.data(), (int)blocks_in_, kBlock, next};
    multiply(a + position * stride_, RowStride::kBlock, segments, b, m + position * stride_, rows);
  }

  // Stage 1 for the tiles above each other at one (y, x) and one block of input channels. Neighbours in z share two
  // slices, whose transform in y and x is kept in a ring.
  void load_column(const Tiles& tiles, int64_t column, int64_t block, const Activation& activation, float* a) const {
    auto [source, channel] = source_block(layer_, block);
    Extent in = layer_.in;
    int64_t h = (tiles.y + column / tiles.w) * MH - 1, w = (tiles.x + column % tiles.w) * MW - 1;
    ptrdiff_t step_w = source->channels, step_h = step_w * in.w, step_d = step_h * in.h;
    const T* corner = (const T*)source->data + tiles.sample * step_d * in.d + h * step_h + w * step_w + channel;
    unsigned rows = inside(h, AH, in.h), lines = inside(w, AW, in.w);
    float* row = a + offsets_[block] + column * kBlock;
    Vec ring[kParts][AD][kPlane];
    for (int64_t z = 0; z < tiles.d; ++z) {
      int64_t d = (tiles.z + z) * MD - 1;
      for (int part = 0; part < kParts; ++part) {
        for (int s = z == 0 ? 0 : AD - MD; s < AD; ++s) {
          bool is_inside = d + s >= 0 && d + s < in.d;
          Vec* slice = ring[part][(d + s + 1) % AD];
          ptrdiff_t ahead = d + s + MD < in.d && part == 0 ? step_d * MD : 0;
          auto load = odd_part<T>(part) ? load_slice<true> : load_slice<false>;
          load(corner + (d + s) * step_d, step_h, step_w, is_inside ? rows : 0, lines, ahead, activation, part, slice);
        }
        const Vec* slices[AD];
        for (int s = 0; s < AD; ++s) slices[s] = ring[part][(d + s + 1) % AD];
        float* to = row + z * tiles.h * tiles.w * kBlock + part * kLanes;
        for (int q = 0; q < kPlane; ++q) {
          Vec v[AD];
#pragma GCC unroll 8
          for (int s = 0; s < AD; ++s) v[s] = slices[s][q];
          transform_input<MD>(v);
#pragma GCC unroll 8
          for (int s = 0; s < AD; ++s) store(to + (s * kPlane + q) * stride_, v[s]);
        }
      }
    }
  }

  // Bit i: whether first + i is inside [0, extent).
  static unsigned inside(int64_t first, int count, int64_t extent) {
    unsigned mask = 0;
    for (int i = 0; i < count; ++i) mask |= unsigned(first + i >= 0 && first + i < extent) << i;
    return mask;
  }

  // The transform in y and x of one slice of one tile and one part of its channels. Voxels outside of the volume are
  // zero after normalisation. `ahead`: where the slice will be that is wanted next.
  template <bool ODD>
  static __attribute__((noinline)) void load_slice(const T* corner, ptrdiff_t step_h, ptrdiff_t step_w, unsigned rows,
                                                   unsigned lines, ptrdiff_t ahead, const Activation& activation,
                                                   int part, Vec* slice) {
    Vec plane[AH][AW];
    for (int h = 0; h < AH; ++h) {
      Vec x[AW];
      const T* from = corner + h * step_h;
      if (!(rows >> h & 1)) {
#pragma GCC unroll 8
        for (int w = 0; w < AW; ++w) x[w] = Vec{};
      } else if (lines == (1u << AW) - 1) {
        const T* at = from;
#pragma GCC unroll 8
        for (int w = 0; w < AW; ++w) {
          x[w] = activation(load_part<ODD>(at, part), part);
          at += step_w;
        }
        if (ahead) {
          const T* next = from + ahead;
#pragma GCC unroll 8
          for (int w = 0; w < AW; ++w) {
            __builtin_prefetch(next);
            if (sizeof(T) == 4) __builtin_prefetch(next + kBlock / 2);
            next += step_w;
          }
        }
      } else {
        for (int w = 0; w < AW; ++w)
          x[w] = lines >> w & 1 ? activation(load_part<ODD>(from + w * step_w, part), part) : Vec{};
      }
      transform_input<MW>(x);
#pragma GCC unroll 8
      for (int w = 0; w < AW; ++w) plane[h][w] = x[w];
    }
#pragma GCC unroll 8
    for (int w = 0; w < AW; ++w) {
      Vec x[AH];
#pragma GCC unroll 8
      for (int h = 0; h < AH; ++h) x[h] = plane[h][w];
      transform_input<MH>(x);
#pragma GCC unroll 8
      for (int h = 0; h < AH; ++h) slice[h * AW + w] = x[h];
    }
  }

  // Stage 3 for the tiles above each other at one (y, x) and one panel of output channels.
  void store_column(const Tiles& tiles, int64_t column, int64_t panel, const float* m, Sums& sums) const {
    Extent out = layer_.out;
    int64_t h = (tiles.y + column / tiles.w) * MH, w = (tiles.x + column % tiles.w) * MW;
    int64_t height = std::min<int64_t>(MH, out.h - h), width = std::min<int64_t>(MW, out.w - w);
    ptrdiff_t step_w = layer_.channels_out, step_h = step_w * out.w, step_d = step_h * out.h;
    T* corner = (T*)layer_.output + tiles.sample * step_d * out.d + h * step_h + w * step_w + panel * kBlock;
    for (int64_t z = 0; z < tiles.d; ++z) {
      int64_t d = (tiles.z + z) * MD, depth = std::min<int64_t>(MD, out.d - d);
      const float* row = m + (z * tiles.h * tiles.w + column) * kBlock;
      store_tile(row, corner + d * step_d, step_d, step_h, step_w, depth, height, width, sums);
    }
  }

  void store_tile(const float* row, T* corner, ptrdiff_t step_d, ptrdiff_t step_h, ptrdiff_t step_w, int64_t depth,
                  int64_t height, int64_t width, Sums& total) const {
    Vec slices[kParts][MD][kPlane];
    for (int part = 0; part < kParts; ++part) {
      for (int q = 0; q < kPlane; ++q) {
        Vec v[AD], y[MD];
#pragma GCC unroll 8
        for (int s = 0; s < AD; ++s) v[s] = load(row + (s * kPlane + q) * stride_ + part * kLanes);
        transform_output<MD>(v, y);
#pragma GCC unroll 8
        for (int s = 0; s < MD; ++s) slices[part][s][q] = y[s];
      }
    }
    Sums sums = total;
    for (int64_t s = 0; s < depth; ++s) {
      Vec plane[kParts][AH][MW];
      for (int part = 0; part < kParts; ++part) {
#pragma GCC unroll 8
        for (int h = 0; h < AH; ++h) transform_output<MW>(slices[part][s] + h * AW, plane[part][h]);
      }
      for (int64_t w = 0; w < width; ++w) {
        Vec y[kParts][MH];
        for (int part = 0; part < kParts; ++part) {
          Vec v[AH];
#pragma GCC unroll 8
          for (int h = 0; h < AH; ++h) v[h] = plane[part][h][w];
          transform_output<MH>(v, y[part]);
        }
        for (int64_t h = 0; h < height; ++h) {
          Vec v[kParts];
#pragma GCC unroll 8
          for (int part = 0; part < kParts; ++part) v[part] = y[part][h];
          sums.add(v);
          store_block(corner + s * step_d + h * step_h + w * step_w, v, stream_);
        }
      }
    }
    total = sums;
  }

  const Layer& layer_;
  int64_t d_, h_, w_;  // tiles of one sample
  int64_t blocks_in_, panels_;
  bool stream_;
  int64_t stride_ = 0;
  std::vector<ptrdiff_t> offsets_;
};

// The kernel of one tile for both storage types.
template <int MD, int MH, int MW>
void winograd(const Layer& layer) {
  if (layer.storage == c10::ScalarType::Float) {
    Winograd<MD, MH, MW, float>(layer).run();
  } else {
    Winograd<MD, MH, MW, c10::BFloat16>(layer).run();
  }
}

}  // namespace unet3d

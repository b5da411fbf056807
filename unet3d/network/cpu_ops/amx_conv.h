// The driver of the convolutions on AMX tiles. A work item is a column of output voxels that it walks along z: for each
// step it stages the input planes that are new into a ring of planes, multiplies tiles of sixteen output voxels with
// tiles of weights, and stores outputs and their moments. What the next step reads is fetched meanwhile.
//
// A staged plane is [chunk of channels][position][cell]; a cell is what one row of a tile reads at one position.
// Sixteen output voxels are sixteen positions in a row, so that every tap of the kernel is one constant offset. Tiles may
// run over the end of a row of voxels into its padding, and what they compute there is left out when storing.
//
// A voxel's outputs of one panel are one line of a cache. Written past the caches, lines with gaps between them take up to
// twice as long as lines side by side. So two panels whose lines are neighbours are computed and stored abreast, where
// their weights fit the second cache: the next channels of a voxel, or the neighbour in x that an upsampling gives.
//
// Weights: [panels of 32 outputs][halves of 16][chunks][planes][offsets] of one tile each. FORM::kPairs: those of
// upsample.cpp, [panels][8 taps][chunks] of two tiles whose rows alternate.
#pragma once

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "amx_blocking.h"
#include "amx_multiply.h"
#include "driver.h"
#include "output.h"
#include "stage.h"

namespace unet3d::amx {

// Where the voxels of a staged plane lie, in cells.
struct Layout {
  int64_t pitch, subplane, cells;
};

// A block of output voxels in one plane and one sample.
struct Window {
  int64_t sample, y, x, rows, columns;
};

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

template <class FORM>
class Convolution {
  // Tiles that are multiplied at once: the first output voxel of the first one in the step.
  struct GroupAt {
    int64_t plane, y, x, tiles;
  };
  struct Position {
    int64_t y, x;
  };

 public:
  explicit Convolution(const Layer& layer)
      : layer_(layer), form_(layer), out_(FORM::kTaps == 8 ? layer.in : layer.out),
        panels_(layer.channels_out / kBlock * FORM::kTaps), stream_(layer.stream()) {
    Shape shape{out_, layer.stride, panels_, form_.chunks(), FORM::kKernel, FORM::kOffsets, FORM::kCell};
    b_ = blocking_of(shape, layer.samples, at::get_num_threads());
    layout_ = form_.layout(b_.y, b_.x);
    form_.offsets(layout_, offsets_);
    ring_ = layer.stride * (b_.planes - 1) + FORM::kKernel;
    // A tile's last row may lie behind the last voxel's, and its cells there end up to a tile's row later.
    chunk_bytes_ = odd_lines((layout_.cells + kRows) * FORM::kCell + 2 * kRowBytes);
  }

  void run() {
    TORCH_CHECK(usable(), "the system does not let this process use AMX tiles");
    int64_t nz = divide_up(out_.d, b_.z), ny = divide_up(out_.h, b_.y), nx = divide_up(out_.w, b_.x);
    int64_t groups = divide_up(panels_, b_.panels), blocks = layer_.samples * nz * ny * nx;
    if (layer_.moments) layer_.moments->resize(layer_.samples, nz * ny * nx, layer_.channels_out);
    int64_t bytes = ring_ * plane_bytes() + b_.abreast * kProducts * sizeof(float) + b_.panels * sizeof(Sums);
    for_each(blocks * groups, bytes, [&](int64_t item, char* scratch) {
      int64_t block = item / groups, panel = item % groups * b_.panels;
      int64_t z = block / (ny * nx) % nz * b_.z, y = block / nx % ny * b_.y, x = block % nx * b_.x;
      Window window{block / (nz * ny * nx), y, x, std::min(b_.y, out_.h - y), std::min(b_.x, out_.w - x)};
      run_item(window, z, std::min(out_.d, z + b_.z), panel, std::min(panels_, panel + b_.panels), block, scratch);
    });
  }

 private:
  int64_t plane_bytes() const { return form_.chunks() * chunk_bytes_; }

  void run_item(const Window& window, int64_t z, int64_t end, int64_t first, int64_t last, int64_t block, char* scratch) {
    TileRegisters registers;
    float* products = (float*)(scratch + ring_ * plane_bytes());
    Sums* sums = (Sums*)(products + b_.abreast * kProducts);
    for (int64_t panel = first; panel < last; ++panel) new (&sums[panel - first]) Sums{};
    bool stacked = tiling_of(window.rows, window.columns, layout_.pitch).stacked;
    std::vector<GroupAt> groups;
    Ahead ahead;
    int64_t stride = layer_.stride, staged = z * stride;
    for (; z < end; z += b_.planes) {
      int64_t planes = std::min(b_.planes, end - z);
      for (int64_t until = (z + planes - 1) * stride + FORM::kKernel; staged < until; ++staged)
        form_.stage(layout_, window, staged - FORM::kKernel / 2, scratch + staged % ring_ * plane_bytes(), chunk_bytes_);
      list_groups(planes, window, stacked, groups);
      ahead.clear();
      int64_t next = std::min(b_.planes, end - z - planes);
      for (int64_t plane = staged; next > 0 && plane < (z + planes + next - 1) * stride + FORM::kKernel; ++plane)
        announce(window, plane - FORM::kKernel / 2, ahead);
      int64_t fetches = 0;
      for (const GroupAt& group : groups) fetches += fetches_of<FORM>(group.tiles, shares_rows(stacked));
      ahead.begin((last - first) * fetches * 2 * form_.chunks() * FORM::kKernel);
      for (int64_t panel = first; panel < last; panel += b_.abreast) {
        multiply_panels(window, z, panel, std::min(b_.abreast, last - panel), stacked, groups, scratch, products,
                        sums + (panel - first), ahead);
      }
    }
    if (!layer_.moments) return;
    for (int64_t panel = first; panel < last; ++panel) sums[panel - first].put(layer_, block, panel * kBlock);
  }

  // The rows of input plane z that the form will stage.
  void announce(const Window& window, int64_t z, Ahead& ahead) const {
    each_row(layer_, window, z, FORM::kKernel, [&](int64_t, const RowAt& at) {
      for (int i = 0; i < layer_.source_count; ++i) {
        int64_t channels = layer_.sources[i].channels;
        ahead.add((const c10::BFloat16*)layer_.sources[i].data + (at.voxel + at.begin) * channels,
                  (at.end - at.begin) * channels * 2);
      }
    });
  }

  // Whether one tile of voxels is read by several taps of a group.
  bool shares_rows(bool stacked) const { return stacked && FORM::kKernel == 3 && layer_.stride == 1; }

  // Groups of tiles that lie one below the other, or one after the other.
  void list_groups(int64_t planes, const Window& window, bool stacked, std::vector<GroupAt>& groups) const {
    groups.clear();
    auto each_group = [](int64_t tiles, auto add) {
      for (int64_t i = 0, count = divide_up(tiles, kGroup); i < count; ++i)
        add(tiles * i / count, tiles * (i + 1) / count - tiles * i / count);
    };
    int64_t positions = (window.rows - 1) * layout_.pitch + window.columns;
    for (int64_t z = 0; z < planes; ++z) {
      if (stacked) {
        for (int64_t x = 0; x < window.columns; x += kRows)
          each_group(window.rows, [&](int64_t y, int64_t tiles) { groups.push_back({z, y, x, tiles}); });
      } else {
        each_group(divide_up(positions, kRows), [&](int64_t first, int64_t tiles) {
          groups.push_back({z, first * kRows / layout_.pitch, first * kRows % layout_.pitch, tiles});
        });
      }
    }
  }

  // So many panels from `panel` on.
  void multiply_panels(const Window& window, int64_t z, int64_t panel, int64_t count, bool stacked,
                       const std::vector<GroupAt>& groups, const char* ring, float* products, Sums* sums, Ahead& ahead) const {
    int64_t steps = form_.chunks() * FORM::kKernel * FORM::kOffsets, cells = stacked ? layout_.pitch : kRows;
    static_assert(kAbreast == 2);
    auto store = count == 1 ? &Convolution::store_voxels<1> : &Convolution::store_voxels<2>;
    for (const GroupAt& at : groups) {
      Group group{{}, cells * FORM::kCell, chunk_bytes_};
      for (int plane = 0; plane < FORM::kKernel; ++plane) {
        group.plane[plane] = ring + ((z + at.plane) * layer_.stride + plane) % ring_ * plane_bytes() +
                             (at.y * layout_.pitch + at.x) * FORM::kCell;
      }
      auto multiply = shares_rows(stacked) ? kernel<FORM::kKernel == 3>(at.tiles) : kernel<false>(at.tiles);
      for (int64_t i = 0; i < count; ++i) {
        Panel now = panel_at(panel + i);
        const char* w = (const char*)layer_.weight + (now.block * FORM::kTaps + now.tap) * steps * 2 * kTileBytes;
        for (int half = 0; half < 2; ++half) {
          multiply(group, form_.chunks(), offsets_, w + half * (FORM::kPairs ? 64 : steps * kTileBytes),
                   products + i * kProducts + 256 * half, ahead);
        }
      }
      for (int64_t t = 0; t < at.tiles; ++t) {
        int64_t x = at.x + (stacked ? 0 : t * kRows);
        (this->*store)(window, z + at.plane, panel, {at.y + (stacked ? t : x / layout_.pitch), x % layout_.pitch},
                       products + 512 * t, sums);
      }
    }
  }

  // The function for so many tiles. SHARED: a tile of voxels is multiplied with the weights of all taps that read it.
  template <bool SHARED>
  static auto kernel(int64_t tiles) {
    static constexpr decltype(&multiply_group<FORM, 1, SHARED>) kKernels[] = {
        multiply_group<FORM, 1, SHARED>, multiply_group<FORM, 2, SHARED>, multiply_group<FORM, 3, SHARED>,
        multiply_group<FORM, 4, SHARED>};
    static_assert(std::size(kKernels) == kGroup);
    return kKernels[tiles - 1];
  }

  // What a panel gives: 32 channels, of an upsampling at one of eight taps. All channels of a tap follow each other, so that
  // they are abreast; in memory all taps of 32 channels do.
  struct Panel {
    int64_t tap, block;
  };
  Panel panel_at(int64_t panel) const {
    int64_t blocks = panels_ / FORM::kTaps;
    return {panel / blocks, panel % blocks};
  }

  // Sixteen voxels of COUNT panels from `panel` on; what lies beyond a row's end is left out.
  template <int COUNT>
  void store_voxels(const Window& window, int64_t z, int64_t panel, Position first, const float* products, Sums* total) const {
    constexpr int64_t kScale = FORM::kTaps == 8 ? 2 : 1;
    Extent out = layer_.out;
    c10::BFloat16* outputs[COUNT];
    typename FORM::Result result[COUNT];
    Sums sums[COUNT];
    for (int i = 0; i < COUNT; ++i) {
      Panel now = panel_at(panel + i);
      int64_t line = (window.sample * out.d + z * kScale + (now.tap >> 2)) * out.h + window.y * kScale + (now.tap >> 1 & 1);
      int64_t voxel = line * out.w + window.x * kScale + (now.tap & 1);
      outputs[i] = (c10::BFloat16*)layer_.output + voxel * layer_.channels_out + now.block * kBlock;
      result[i] = form_.result(now.block * kBlock);
      if constexpr (FORM::kTaps == 1) sums[i] = total[i];
    }
    for (int64_t r = 0, y = first.y, x = first.x; r < kRows && y < window.rows; ++y, x = 0) {
      int64_t to = (y * out.w + x) * kScale * layer_.channels_out;
      int64_t stop = std::min<int64_t>(kRows, r + window.columns - x);
      for (int64_t k = r; k < stop; ++k, to += kScale * layer_.channels_out) {
#pragma GCC unroll 2
        for (int i = 0; i < COUNT; ++i) {
          const float* row = products + i * kProducts + 16 * k;
          Vec v[kParts];
          for (int part = 0; part < kParts; ++part)
            v[part] = result[i](row + part * kLanes / 16 * 256 + part * kLanes % 16, part);
          if constexpr (FORM::kTaps == 1) sums[i].add(v);
          store_block(outputs[i] + to, v, stream_);
        }
      }
      r += std::max(layout_.pitch, x) - x;
    }
    if constexpr (FORM::kTaps == 1) std::copy(sums, sums + COUNT, total);
  }

  static constexpr int64_t kProducts = 2 * kGroup * kTileBytes / sizeof(float);  // of a group, of one panel

  const Layer& layer_;
  FORM form_;
  Extent out_;  // voxels that are computed, before an upsampling puts them at their places
  int64_t panels_;
  bool stream_;
  Blocking b_;
  Layout layout_;
  int64_t offsets_[FORM::kOffsets], ring_, chunk_bytes_;
};

}  // namespace unet3d::amx

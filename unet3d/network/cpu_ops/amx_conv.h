// The driver of the convolutions on AMX tiles. A work item is a column of output voxels that it walks along z, four planes
// a step. What vector instructions do, staging the next step's input and storing the last tiles' outputs and moments, is
// done in small pieces between the products, so that the tiles' unit need not wait for it.
//
// Staged input is a ring of planes, [chunk of channels][position]; a tile's row reads what lies from one position on.
// Sixteen output voxels are sixteen positions in a row, so that every tap of the kernel is one constant offset. Tiles may
// run over the end of a row of voxels into its padding, and what they compute there is left out when storing.
//
// Weights: [panels of 32 outputs][halves of 16][chunks][offsets][planes] of one tile each. FORM::kPairs: those of
// upsample.cpp, [panels][8 taps][chunks] of two tiles whose rows alternate.
#pragma once

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "amx_blocking.h"
#include "amx_staging.h"
#include "amx_tile.h"
#include "output.h"

namespace unet3d::amx {

template <class FORM>
class Item;

// A layer's form, and how it is cut into work items.
template <class FORM>
class Convolution {
 public:
  explicit Convolution(const Layer& layer)
      : layer_(layer), form_(layer), out_(FORM::kTaps == 8 ? layer.in : layer.out),
        panels_(layer.channels_out / kBlock * FORM::kTaps), stream_(layer.stream()) {
    Shape shape{out_, layer.stride, panels_, form_.chunks(), FORM::kKernel, FORM::kOffsets, form_.position()};
    b_ = blocking_of(shape, layer.samples, at::get_num_threads());
    layout_ = form_.layout(b_.y, b_.x);
    form_.offsets(layout_, offsets_);
    ring_ = layer.stride * (std::min<int64_t>(b_.z, kPlanes) - 1) + FORM::kKernel;
    // A tile's last row may lie behind the last voxel's, and its positions there end up to a tile's row later.
    chunk_bytes_ = odd_lines((layout_.positions + kRows) * form_.position() + 2 * kRowBytes);
  }

  void run() {
    TORCH_CHECK(usable(), "the system does not let this process use AMX tiles");
    int64_t nz = divide_up(out_.d, b_.z), ny = divide_up(out_.h, b_.y), nx = divide_up(out_.w, b_.x);
    int64_t groups = divide_up(panels_, b_.panels), blocks = layer_.samples * nz * ny * nx;
    if (layer_.moments) layer_.moments->resize(layer_.samples, nz * ny * nx, layer_.channels_out);
    int64_t bytes = ring_ * plane_bytes() + 2 * kPlanes * kTileBytes + b_.panels * sizeof(Sums);
    for_each(blocks * groups, bytes, [&](int64_t item, char* scratch) {
      int64_t block = item / groups, panel = item % groups * b_.panels;
      int64_t z = block / (ny * nx) % nz * b_.z, y = block / nx % ny * b_.y, x = block % nx * b_.x;
      Window window{block / (nz * ny * nx), y, x, std::min(b_.y, out_.h - y), std::min(b_.x, out_.w - x)};
      TileRegisters registers;
      Walk walk{z, std::min(out_.d, z + b_.z), layer_.stride, FORM::kKernel};
      Item<FORM>(*this, window, walk, scratch).run(panel, std::min(panels_, panel + b_.panels), block);
    });
  }

 private:
  friend class Item<FORM>;

  int64_t plane_bytes() const { return form_.chunks() * chunk_bytes_; }

  const Layer& layer_;
  FORM form_;
  Extent out_;  // voxels that are computed, before an upsampling puts them at their places
  int64_t panels_;
  bool stream_;
  Blocking b_;
  Layout layout_;
  int64_t offsets_[FORM::kOffsets], ring_, chunk_bytes_;
};

// One work item: its place in the volume, and what is staged, multiplied and not yet stored.
template <class FORM>
class Item {
  // A tile's first output voxel in each plane.
  struct TileAt {
    int64_t y, x;
  };

 public:
  Item(const Convolution<FORM>& convolution, const Window& window, const Walk& walk, char* scratch)
      : c_(convolution), layer_(convolution.layer_), window_(window), walk_(walk), scratch_(scratch),
        products_((float*)(scratch + c_.ring_ * c_.plane_bytes())), sums_((Sums*)(products_ + 512 * kPlanes)),
        rows_in_(Window::extent_in(window.rows, walk.stride, walk.kernel)),
        staging_(c_.form_, c_.layout_, window_,
                 Pieces(walk, rows_in_, Window::extent_in(window.columns, walk.stride, walk.kernel), c_.form_.chunks()), c_.ring_,
                 c_.plane_bytes(), c_.chunk_bytes_, scratch) {}

  void run(int64_t first, int64_t last, int64_t block) {
    first_ = first;
    for (int64_t panel = first; panel < last; ++panel) new (&sums_[panel - first]) Sums{};
    std::vector<TileAt> tiles = list_tiles();
    staging_.finish(0);
    for (int64_t step = 0; step < walk_.steps(); ++step) {
      // Rows of the ring become free while the last panel is multiplied.
      staging_.begin(step + 1, tiles.size() * slots(), rows_in_);
      for (int64_t panel = first; panel < last; ++panel) {
        for (const TileAt& tile : tiles) {
          free_rows_ = panel + 1 == last ? tile.y * walk_.stride : 0;
          multiply(step, panel, tile);
        }
      }
      staging_.finish(step + 1);
    }
    while (stored_ < to_store_) store_next();
    if (!layer_.moments) return;
    for (int64_t panel = first; panel < last; ++panel) sums_[panel - first].put(layer_, block, panel * kBlock);
  }

  // Called between the products: stores what the last ones gave while the first half of outputs is multiplied, and stages
  // while the second one is.
  __attribute__((noinline)) void operator()() {
    if (half_ == 1) {
      staging_.advance(free_rows_);
      return;
    }
    for (int64_t i = 0; i < stores_a_slot_ && stored_ < to_store_; ++i) store_next();
  }

 private:
  // Products of one tile and one panel whose outputs are in products_.
  struct Made {
    int64_t z, panel;
    TileAt tile;
  };
  // Voxels of a tile that are stored at once.
  static constexpr int64_t kStored = kRows / 2;

  int64_t slots() const { return c_.form_.chunks() * FORM::kOffsets; }

  // Tiles that begin at the rows' starts, or run through all positions of a plane where these are not more.
  std::vector<TileAt> list_tiles() const {
    std::vector<TileAt> tiles;
    int64_t pitch = c_.layout_.pitch, positions = (window_.rows - 1) * pitch + window_.columns;
    if (divide_up(positions, kRows) <= window_.rows * divide_up(window_.columns, kRows)) {
      for (int64_t i = 0; i < positions; i += kRows) tiles.push_back({i / pitch, i % pitch});
      return tiles;
    }
    for (int64_t y = 0; y < window_.rows; ++y)
      for (int64_t x = 0; x < window_.columns; x += kRows) tiles.push_back({y, x});
    return tiles;
  }

  using Kernel = void (*)(const Products&, Item&);

  template <bool SHARED, int... PLANES>
  static Kernel kernel(int64_t planes, std::integer_sequence<int, PLANES...>) {
    constexpr Kernel kernels[] = {multiply_tiles<FORM, PLANES + 1, SHARED, Item>...};
    return kernels[planes - 1];
  }
  Kernel kernel(int64_t planes) const {
    constexpr std::make_integer_sequence<int, kPlanes> kCounts;
    if constexpr (FORM::kKernel == 3) {
      if (walk_.stride == 1) return kernel<true>(planes, kCounts);
    }
    return kernel<false>(planes, kCounts);
  }

  void multiply(int64_t step, int64_t panel, const TileAt& tile) {
    int64_t z = walk_.z + step * kPlanes, planes = std::min<int64_t>(kPlanes, walk_.end - z);
    int64_t tiles = slots() * FORM::kKernel, at = (tile.y * c_.layout_.pitch + tile.x) * c_.form_.position();
    const char* w = (const char*)layer_.weight + panel * tiles * 2 * kTileBytes;
    Products products{{}, walk_.stride, c_.form_.chunks(), c_.chunk_bytes_, c_.offsets_, c_.form_.position(), nullptr,
                      FORM::kPairs ? 2 * kRowBytes : kRowBytes, nullptr};
    for (int64_t i = 0; i < Window::extent_in(planes, walk_.stride, walk_.kernel); ++i)
      products.a[i] = scratch_ + (z * walk_.stride + i) % c_.ring_ * c_.plane_bytes() + at;
    stores_a_slot_ = divide_up(to_store_ - stored_, slots());
    for (half_ = 0; half_ < 2; ++half_) {
      products.w = w + half_ * (FORM::kPairs ? kRowBytes : tiles * kTileBytes);
      products.sums = products_ + 256 * half_;
      kernel(planes)(products, *this);
    }
    made_ = {z, panel, tile};
    stored_ = 0, to_store_ = planes * (kRows / kStored);
  }

  // Some voxels' 32 channels; what lies beyond a row's end is left out.
  void store_next() {
    constexpr int64_t kScale = FORM::kTaps == 8 ? 2 : 1;
    int64_t plane = stored_ / (kRows / kStored), first = stored_ % (kRows / kStored) * kStored, last = first + kStored;
    ++stored_;
    int64_t tap = made_.panel % FORM::kTaps, channel = made_.panel / FORM::kTaps * kBlock, pitch = c_.layout_.pitch;
    Extent out = layer_.out;
    const float* products = products_ + 512 * plane;
    typename FORM::Result result = c_.form_.result(channel);
    Sums sums = sums_[made_.panel - first_];
    int64_t y = made_.tile.y, x = made_.tile.x + first;
    for (; x >= pitch; x -= pitch) ++y;
    for (int64_t r = first; r < last && y < window_.rows; r += pitch - x, ++y, x = 0) {
      int64_t line = (window_.sample * out.d + (made_.z + plane) * kScale + (tap >> 2)) * out.h + (window_.y + y) * kScale + (tap >> 1 & 1);
      c10::BFloat16* to = (c10::BFloat16*)layer_.output +
                          (line * out.w + (window_.x + x) * kScale + (tap & 1)) * layer_.channels_out + channel;
      int64_t stop = std::min(last, r + window_.columns - x);
      for (int64_t k = r; k < stop; ++k, to += kScale * layer_.channels_out) {
        Vec v[kParts];
        for (int part = 0; part < kParts; ++part)
          v[part] = result(products + 16 * k + part * kLanes / 16 * 256 + part * kLanes % 16, part);
        if (FORM::kTaps == 1) sums.add(v);
        store_block(to, v, c_.stream_);
      }
    }
    sums_[made_.panel - first_] = sums;
  }

  const Convolution<FORM>& c_;
  const Layer& layer_;
  Window window_;
  Walk walk_;
  char* scratch_;
  float* products_;
  Sums* sums_;  // of each panel
  int64_t rows_in_;
  Staging<FORM> staging_;
  int64_t first_ = 0;  // panel
  int64_t free_rows_ = 0;
  int half_ = 0;
  Made made_{};
  int64_t stored_ = 0, to_store_ = 0, stores_a_slot_ = 0;
};

}  // namespace unet3d::amx

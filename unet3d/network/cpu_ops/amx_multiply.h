// Products of a group of tiles of voxels with tiles of weights, for sixteen output channels.
//
// Operands come from the second cache, which takes longer than multiplying them. So a tile of weights is multiplied with all
// tiles of a group. Where these lie one below the other, a tile of voxels is multiplied with the weights of all taps that read
// it: row r of voxels gives products for the outputs of rows r, r - 1 and r - 2.
//
// A FORM says which tiles of voxels a plane's products need: kOffsets of them, each with all taps that a tile of weights holds.
// They are kRowTaps rows by kColumns columns, a row kTapRows rows of voxels below the one before.
#pragma once

#include <algorithm>
#include <vector>

#include "amx_tile.h"
#include "driver.h"
#include "vec.h"

namespace unet3d::amx {

// Memory that will be read soon, into the second cache: line by line, since a core has few loads under way, and the tiles'
// own must find room among them.
class Ahead {
 public:
  void clear() { parts_.clear(); }
  void add(const void* begin, int64_t bytes) {
    if (bytes > 0) parts_.push_back({(const char*)begin, (const char*)begin + bytes}), lines_ += bytes / 64 + 1;
  }
  // Spreads the memory over so many calls of `fetch`.
  void begin(int64_t calls) {
    a_call_ = divide_up(lines_, std::max<int64_t>(calls, 1));
    lines_ = 0, part_ = 0;
    if (!parts_.empty()) at_ = parts_[0].begin;
  }
  UNET3D_INLINE void fetch() {
    for (int64_t i = 0; i < a_call_ && part_ < parts_.size(); ++i) {
      __builtin_prefetch(at_, 0, 2);
      at_ += 64;
      if (at_ >= parts_[part_].end && ++part_ < parts_.size()) at_ = parts_[part_].begin;
    }
  }

 private:
  struct Part {
    const char *begin, *end;
  };
  std::vector<Part> parts_;
  int64_t lines_ = 0, a_call_ = 0;
  size_t part_ = 0;
  const char* at_ = nullptr;
};

// The planes of a group's first chunk, each from the cell of its first tile's first voxel on, and how the others lie.
struct Group {
  const char* plane[3];
  int64_t step, chunk_bytes;  // from a tile to the next, and from a chunk to the next
};

template <int TILES>
UNET3D_INLINE void zero_tiles() {
  if constexpr (TILES > 0) zero_tiles<TILES - 1>(), zero_tile<TILES - 1>();
}

// Sums are [tiles of voxels][two tiles of outputs, one of them written][16][16].
template <int TILES>
UNET3D_INLINE void store_tiles(float* sums) {
  if constexpr (TILES > 0) store_tiles<TILES - 1>(sums), store_tile<TILES - 1>(sums + 512 * (TILES - 1), 64);
}

// Registers of tiles, by number: sums, then weights, then voxels in turn.

// Every tile of voxels by one of weights.
template <class FORM, int TILES, int TILE = 0>
UNET3D_INLINE void multiply_each(const char* at, int64_t step, Ahead& ahead) {
  if constexpr (TILE < TILES) {
    constexpr int kVoxels = TILES + 1 + TILE % (7 - TILES);
    load_tile<kVoxels>(at + TILE * step, FORM::kCell);
    FORM::template dot<TILE, kVoxels, TILES>();
    ahead.fetch();
    multiply_each<FORM, TILES, TILE + 1>(at, step, ahead);
  }
}

// Rows of voxels that the taps of so many tiles read.
template <class FORM>
constexpr int64_t rows_read(int64_t tiles) {
  return tiles + (FORM::kRowTaps - 1) * FORM::kTapRows;
}

// The tile of voxels in register VOXELS, of one row, by the weights of all taps that read it.
template <class FORM, int TILES, int ROW, int VOXELS, int TAP = 0>
UNET3D_INLINE void multiply_taps() {
  if constexpr (TAP < FORM::kRowTaps) {
    constexpr int kSums = ROW - TAP * FORM::kTapRows;
    if constexpr (kSums >= 0 && kSums < TILES) FORM::template dot<kSums, VOXELS, TILES + TAP>();
    multiply_taps<FORM, TILES, ROW, VOXELS, TAP + 1>();
  }
}

// All rows of voxels of one column of taps; the weights of the tap below lie `below` bytes later.
template <class FORM, int TILES, int ROW = 0>
UNET3D_INLINE void multiply_rows(const char* at, int64_t step, const char* w, int64_t below, Ahead& ahead) {
  if constexpr (ROW < rows_read<FORM>(TILES)) {
    constexpr int kVoxels = TILES + FORM::kRowTaps + ROW % (8 - TILES - FORM::kRowTaps), kTap = ROW / FORM::kTapRows;
    load_tile<kVoxels>(at + ROW * step, FORM::kCell);
    if constexpr (ROW % FORM::kTapRows == 0 && kTap < FORM::kRowTaps) load_tile<TILES + kTap>(w + kTap * below, 64);
    multiply_taps<FORM, TILES, ROW, kVoxels>();
    ahead.fetch();
    multiply_rows<FORM, TILES, ROW + 1>(at, step, w, below, ahead);
  }
}

// How often a plane of a group's chunk lets memory be fetched.
template <class FORM>
constexpr int64_t fetches_of(int64_t tiles, bool shared) {
  return shared ? FORM::kColumns * rows_read<FORM>(tiles) : FORM::kOffsets * tiles;
}

// Sums of a group's tiles. SHARED: these lie one below the other in a volume that is read with stride 1.
template <class FORM, int TILES, bool SHARED>
inline void multiply_group(const Group& group, int64_t chunks, const int64_t* offsets, const char* w, float* sums, Ahead& ahead) {
  static_assert(FORM::kOffsets == FORM::kRowTaps * FORM::kColumns);
  constexpr int64_t kStride = FORM::kPairs ? 128 : 64;
  zero_tiles<TILES>();
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (int plane = 0; plane < FORM::kKernel; ++plane, w += FORM::kOffsets * 16 * kStride) {
      const char* at = group.plane[plane] + chunk * group.chunk_bytes;
      if constexpr (SHARED) {
        for (int column = 0; column < FORM::kColumns; ++column)
          multiply_rows<FORM, TILES>(at + offsets[column], group.step, w + column * kTileBytes, FORM::kColumns * kTileBytes, ahead);
      } else {
        for (int i = 0; i < FORM::kOffsets; ++i) {
          load_tile<TILES>(w + i * 16 * kStride, kStride);
          multiply_each<FORM, TILES>(at + offsets[i], group.step, ahead);
        }
      }
    }
  }
  store_tiles<TILES>(sums);
}

}  // namespace unet3d::amx

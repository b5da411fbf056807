// How a convolution on AMX tiles is cut into work items, by a small model of what an item costs.
#pragma once

#include <cstdint>

#include "amx_tile.h"
#include "driver.h"
#include "layer.h"

namespace unet3d::amx {

// Output voxels and panels of an item, the planes that it computes at once on its way along z, and the panels that it
// computes and stores side by side.
struct Blocking {
  int64_t planes, z, y, x, panels, abreast;
};

constexpr int64_t kAbreast = 2;  // panels abreast, at most

// How a window of voxels in a plane is covered by tiles. Stacked: they begin at the rows' starts, and those of a group lie one
// below the other. Otherwise they run through all positions of the plane, `pitch` a row, where these are fewer.
struct Tiling {
  bool stacked;
  int64_t tiles, groups;
};

inline Tiling tiling_of(int64_t rows, int64_t columns, int64_t pitch) {
  int64_t wide = divide_up(columns, kRows), through = divide_up((rows - 1) * pitch + columns, kRows);
  // Fewer, not as few: then no stacked tile reaches into the next row, whose voxels would count twice.
  if (rows * wide < through) return {true, rows * wide, wide * divide_up(rows, kGroup)};
  return {false, through, divide_up(through, kGroup)};
}

// What the model must know of a layer's form.
struct Shape {
  Extent out;
  int64_t stride, panels, chunks;
  int64_t kernel;   // extent of a plane's neighbourhood: 3, or 1 for an upsampling
  int64_t offsets;  // products with a pair of tiles of weights for one plane and chunk
  int64_t cell_bytes;
};

// The cheapest blocking, kept for the next time. Threads and samples decide how many panels an item has and computes abreast,
// and nothing else: results have the same bits whatever their numbers, since the blocks of voxels, which moments are summed
// in, stay.
Blocking blocking_of(const Shape& shape, int64_t samples, int64_t threads);

}  // namespace unet3d::amx

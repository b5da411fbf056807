// How a convolution on AMX tiles is cut into work items, by a small model of what an item costs.
#pragma once

#include <cstdint>

#include "layer.h"

namespace unet3d::amx {

// Output voxels and panels of an item, and the planes that it computes at once on its way along z.
struct Blocking {
  int64_t planes, z, y, x, panels;
};

// What the model must know of a layer's form.
struct Shape {
  Extent out;
  int64_t stride, panels, chunks;
  int64_t kernel;   // extent of a plane's neighbourhood: 3, or 1 for an upsampling
  int64_t offsets;  // products with a pair of tiles of weights for one plane and chunk
  int64_t cell_bytes;
};

// The cheapest blocking, kept for the next time. Threads and samples decide how many panels an item has, and nothing else:
// results have the same bits whatever their numbers, since the blocks of voxels, which moments are summed in, stay.
Blocking blocking_of(const Shape& shape, int64_t samples, int64_t threads);

}  // namespace unet3d::amx

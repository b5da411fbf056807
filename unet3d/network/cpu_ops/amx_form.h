// What the forms of a convolution on AMX tiles have in common: where voxels lie in a plane.
#pragma once

#include "amx_conv.h"

namespace unet3d::amx {

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

}  // namespace unet3d::amx

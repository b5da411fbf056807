// Sums of products of AMX tiles for up to four planes of output voxels at once.
//
// With stride 1 an input plane is read by three output planes. Its tile is loaded once and multiplied with the weights of
// each, and a tile of weights stays for all output planes: four planes take 9 loads for 12 products, where three tiles of
// voxels by one of weights take 16. Of what is read from a core's second cache weights are the most, and four tiles of
// voxels read them once.
#pragma once

#include <cstdint>
#include <utility>

#include "amx_tile.h"
#include "vec.h"

namespace unet3d::amx {

// Output planes that are computed at once: each has one tile of sums, beside three of weights and one of voxels.
constexpr int kPlanes = 4;
// Input planes that they read at most: with stride 2.
constexpr int kMostPlanesIn = 2 * (kPlanes - 1) + 3;

// Input plane and output plane of each product of one tap in y and x, for one to kPlanes output planes. Products that add
// to the same sums are far apart, since each waits for the one before.
constexpr int kOrder[4][12][2] = {
    {{1, 0}, {0, 0}, {2, 0}},
    {{1, 0}, {1, 1}, {2, 0}, {2, 1}, {0, 0}, {3, 1}},
    {{2, 0}, {2, 1}, {2, 2}, {1, 0}, {1, 1}, {4, 2}, {3, 1}, {3, 2}, {0, 0}},
    {{2, 0}, {2, 1}, {2, 2}, {3, 3}, {3, 1}, {3, 2}, {1, 0}, {1, 1}, {4, 2}, {4, 3}, {0, 0}, {5, 3}},
};

// Calls f(0), f(1), … with numbers that the compiler knows.
template <class F, int... I>
UNET3D_INLINE void each_of(F f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>()), ...);
}
template <int COUNT, class F>
UNET3D_INLINE void each(F f) {
  each_of(f, std::make_integer_sequence<int, COUNT>());
}

// What `multiply_tiles` reads and writes.
struct Products {
  const char* a[kMostPlanesIn];  // each input plane's first position
  int64_t stride;                // between the output planes' first input planes
  int64_t chunks, chunk_bytes;   // of voxels
  const int64_t* offsets;
  int64_t position;  // bytes
  const char* w;     // [chunks][offsets][kernel in z] tiles
  int64_t w_stride;  // bytes between a tile's rows
  float* sums;       // [planes][two tiles, the other one not written][16][16]
};

// Sums of PLANES tiles of voxels by one of outputs. SHARED: neighbouring output planes share input planes: kernel 3, stride
// 1. Calls `beside()` after each offset's products, which go on meanwhile.
template <class FORM, int PLANES, bool SHARED, class Beside>
void multiply_tiles(const Products& p, Beside& beside) {
  constexpr int kB = kPlanes;  // the first tile of weights; those of voxels follow
  const char* w = p.w;
  each<PLANES>([](auto plane) { zero_tile<plane>(); });
  for (int64_t chunk = 0; chunk < p.chunks; ++chunk) {
    for (int i = 0; i < FORM::kOffsets; ++i) {
      int64_t at = chunk * p.chunk_bytes + p.offsets[i];
      if constexpr (SHARED) {
        constexpr int kA = kB + 3, kCount = 8 - kA;
        each<3>([&](auto z) { load_tile<kB + z>(w + z * 16 * p.w_stride, p.w_stride); });
        each<3 * PLANES>([&](auto product) {
          constexpr int kNow = decltype(product)::value, kBefore = kNow == 0 ? 0 : kNow - 1;
          constexpr int kIn = kOrder[PLANES - 1][kNow][0], kOut = kOrder[PLANES - 1][kNow][1];
          constexpr int kTile = kA + kIn % kCount;
          if constexpr (kNow == 0 || kIn != kOrder[PLANES - 1][kBefore][0]) load_tile<kTile>(p.a[kIn] + at, p.position);
          FORM::template dot<kOut, kTile, kB + kIn - kOut>();
        });
      } else {
        constexpr int kA = kB + 1;
        for (int z = 0; z < FORM::kKernel; ++z) {
          load_tile<kB>(w + z * 16 * p.w_stride, p.w_stride);
          each<PLANES>([&](auto plane) {
            constexpr int kPlane = decltype(plane)::value, kTile = kA + kPlane % (8 - kA);
            load_tile<kTile>(p.a[kPlane * p.stride + z] + at, p.position);
            FORM::template dot<kPlane, kTile, kB>();
          });
        }
      }
      w += FORM::kKernel * 16 * p.w_stride;
      beside();
    }
  }
  each<PLANES>([&](auto plane) { store_tile<plane>(p.sums + 512 * plane, 64); });
}

}  // namespace unet3d::amx

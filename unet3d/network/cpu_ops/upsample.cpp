// 2x2x2 transposed convolution with stride 2: each input voxel gives the 8 output voxels of its own, which no other
// reaches. Normalises while loading; no normalisation follows, so there are no moments.
//
// Weights: [panels of 32 outputs][8 taps][input channels in slots][32]; bf16 [...][input channels / 2][32][2].
#include <algorithm>

#include "driver.h"
#include "kernels.h"
#include "products.h"
#include "stage.h"

namespace unet3d {
namespace {

// Input voxels, as whole lines, that are staged for the products at once.
constexpr int64_t kVoxels = 84;

template <class T, class E>
void upsample(const Layer& layer) {
  const Source& source = layer.sources[0];
  Extent in = layer.in, out = layer.out;
  int64_t blocks = source.channels / kBlock, panels = layer.channels_out / kBlock;
  int64_t lines = std::clamp<int64_t>(kVoxels / in.w, 1, in.h), groups = divide_up(in.h, lines), most = lines * in.w;
  bool stream = layer.stream();
  std::vector<ptrdiff_t> offsets;
  for (int64_t block = 0; block < blocks; ++block) offsets.push_back(block * most * kBlock);
  size_t c_bytes = most * kBlock * sizeof(float), a_bytes = blocks * most * kBlock * sizeof(E);

  for_each(layer.samples * in.d * groups * panels, c_bytes + a_bytes, [&](int64_t item, char* scratch) {
    int64_t panel = item % panels, group = item / panels % groups, slice = item / panels / groups;
    int64_t y = group * lines, rows = std::min(lines, in.h - y) * in.w;
    float* c = (float*)scratch;
    E* a = (E*)(scratch + c_bytes);
    const T* from = (const T*)source.data + (slice * in.h + y) * in.w * source.channels;
    for (int64_t block = 0; block < blocks; ++block) {
      Activation activation = Activation::of<T>(source, slice / in.d, block * kBlock, layer.slope);
      for (int64_t r = 0; r < rows; ++r)
        stage_voxel(from + r * source.channels + block * kBlock, activation, a + offsets[block] + r * kBlock);
    }
    Segments segments{offsets.data(), (int)blocks, kBlock};
    for (int tap = 0; tap < 8; ++tap) {
      const E* b = (const E*)layer.weight + (panel * 8 + tap) * source.channels * kBlock;
      multiply(a, RowStride::kBlock, segments, b, c, rows);
      int64_t d = slice * 2 + tap / 4, w = tap % 2;
      const float* row = c;
      for (int64_t h = y * 2 + tap / 2 % 2; row < c + rows * kBlock; h += 2) {
        T* to = (T*)layer.output + ((d * out.h + h) * out.w + w) * layer.channels_out + panel * kBlock;
        for (int64_t x = 0; x < in.w; ++x, row += kBlock, to += 2 * layer.channels_out) {
          Vec v[kParts];
#pragma GCC unroll 8
          for (int part = 0; part < kParts; ++part) v[part] = load(row + part * kLanes);
          store_block(to, v, stream);
        }
      }
    }
  });
}

}  // namespace

void upsample_fp32(const Layer& layer) {
  if (layer.storage == c10::ScalarType::Float) {
    upsample<float, float>(layer);
  } else {
    upsample<c10::BFloat16, float>(layer);
  }
}

void upsample_bf16(const Layer& layer) { upsample<c10::BFloat16, uint16_t>(layer); }

}  // namespace unet3d

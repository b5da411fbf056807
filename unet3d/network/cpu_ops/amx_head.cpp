// Normalisation, LeakyReLU and the 1x1x1 segmentation head on AMX tiles, in one pass of reading: bf16 products.
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>

#include "amx_tile.h"
#include "driver.h"
#include "kernels.h"
#include "stage.h"

namespace unet3d {
namespace {

using namespace amx;

// Voxels of two tiles, and those that a thread takes at once.
constexpr int64_t kBoth = 2 * kRows, kVoxels = 64 * kBoth;

// [blocks of channels] tiles of the weight [classes][channels in slots].
std::vector<c10::BFloat16> weight_tiles(const float* weight, int64_t classes, int64_t channels) {
  std::vector<c10::BFloat16> tiles(channels / kBlock * kTileBytes / 2, 0.0f);
  for (int64_t k = 0; k < classes; ++k)
    for (int64_t c = 0; c < channels; ++c)
      tiles[(c / kBlock * kRows + c % kBlock / 2) * kBlock + 2 * k + c % 2] = weight[k * channels + c];
  return tiles;
}

template <int CLASSES>
void logits(const Layer& layer, const float* bias) {
  const int64_t classes = CLASSES ? CLASSES : layer.channels_out;
  const Source& source = layer.sources[0];
  int64_t voxels = layer.in.voxels(), blocks = source.channels / kBlock, items = divide_up(voxels, kVoxels);
  std::vector<c10::BFloat16> weights = weight_tiles((const float*)layer.weight, classes, source.channels);
  int64_t staged = 2 * blocks * kTileBytes;
  for_each(layer.samples * items, staged + 2 * kTileBytes, [&](int64_t item, char* scratch) {
    TileRegisters registers;
    float* sums = (float*)(scratch + staged);
    int64_t sample = item / items, begin = item % items * kVoxels, end = std::min(begin + kVoxels, voxels);
    std::vector<Activation> activations;
    for (int64_t block = 0; block < blocks; ++block)
      activations.push_back(Activation::of<c10::BFloat16>(source, sample, block * kBlock, layer.slope));
    for (int64_t voxel = begin; voxel < end; voxel += kBoth) {
      int64_t count = std::min(kBoth, end - voxel);
      const c10::BFloat16* from = (const c10::BFloat16*)source.data + (sample * voxels + voxel) * source.channels;
      zero_tile<0>(), zero_tile<1>();
      for (int64_t block = 0; block < blocks; ++block) {
        // What rows behind the last voxel hold ends in sums that are not stored.
        uint16_t* to = (uint16_t*)(scratch + 2 * block * kTileBytes);
        Activation activation = activations[block];
        for (int64_t i = 0; i < count; ++i)
          stage_voxel(from + i * source.channels + block * kBlock, activation, to + i * kBlock);
        load_tile<4>(weights.data() + block * kTileBytes / 2, kRowBytes);
        load_tile<5>(to, kRowBytes), dot_bf16<0, 5, 4>();
        load_tile<6>(to + kRows * kBlock, kRowBytes), dot_bf16<1, 6, 4>();
      }
      store_tile<0>(sums, kRowBytes), store_tile<1>(sums + kRows * 16, kRowBytes);
      c10::BFloat16* out = (c10::BFloat16*)layer.output + (sample * voxels + voxel) * classes;
      for (int64_t i = 0; i < count; ++i)
        for (int64_t k = 0; k < classes; ++k) out[i * classes + k] = sums[16 * i + k] + (bias ? bias[k] : 0.0f);
    }
  });
}

}  // namespace

void head_amx(const Layer& layer, const float* bias) {
  TORCH_CHECK(usable(), "the system does not let this process use AMX tiles");
  (layer.channels_out == 4 ? logits<4> : logits<0>)(layer, bias);
}

}  // namespace unet3d

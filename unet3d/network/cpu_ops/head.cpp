// Normalisation, LeakyReLU and the 1x1x1 segmentation head in one pass of reading.
#include <algorithm>

#include "driver.h"
#include "kernels.h"
#include "stage.h"

namespace unet3d {
namespace {

typedef int32_t VecI __attribute__((vector_size(4 * kLanes)));

// Half the lanes of each group of `group` lanes, of a then of b; the upper halves for `upper`.
template <int GROUP>
UNET3D_INLINE Vec halves(Vec a, Vec b, int upper) {
  VecI lanes{};
  for (int i = 0; i < kLanes; ++i) {
    int within = i % GROUP, half = GROUP / 2;
    lanes[i] = i / GROUP * GROUP + within % half + upper * half + (within / half) * kLanes;
  }
  return __builtin_shuffle(a, b, lanes);
}

// Lane i of the result is the sum of the lanes of v[i]. v is overwritten.
template <int COUNT = kLanes>
UNET3D_INLINE Vec lane_sums(Vec* v) {
  if constexpr (COUNT == 1) {
    return v[0];
  } else {
    for (int i = 0; i < COUNT / 2; ++i) {
      Vec a = v[i], b = v[i + COUNT / 2];
      v[i] = halves<COUNT>(a, b, 0) + halves<COUNT>(a, b, 1);
    }
    return lane_sums<COUNT / 2>(v);
  }
}

void store_logits(float* to, Vec v, int64_t count) {
  std::memcpy(to, &v, count * sizeof(float));
}

void store_logits(c10::BFloat16* to, Vec v, int64_t count) {
  VecH half = to_bf16(v);
  std::memcpy(to, &half, count * sizeof(uint16_t));
}

// Voxels that a thread takes at once.
constexpr int64_t kVoxels = 2048;

// CLASSES: how many there are, known to the compiler, or 0 for any number.
template <class T, int CLASSES>
void logits(const Layer& layer, const float* bias) {
  const int64_t classes = CLASSES ? CLASSES : layer.channels_out;
  const Source& source = layer.sources[0];
  const float* weight = (const float*)layer.weight;
  int64_t voxels = layer.in.voxels(), blocks = source.channels / kBlock, items = divide_up(voxels, kVoxels);
  // Products of kLanes voxels with all classes, then as many rows of biases in the order of the logits in memory.
  int64_t sums = kLanes * classes;
  for_each(layer.samples * items, (sums + classes) * sizeof(Vec), [&](int64_t item, char* scratch) {
    Vec *total = (Vec*)scratch, *biases = total + sums;
    for (int64_t i = 0; i < sums; ++i) biases[i / kLanes][i % kLanes] = bias ? bias[i % classes] : 0.0f;
    int64_t sample = item / items, begin = item % items * kVoxels, end = std::min(begin + kVoxels, voxels);
    std::vector<Activation> activations;
    for (int64_t block = 0; block < blocks; ++block)
      activations.push_back(Activation::of<T>(source, sample, block * kBlock, layer.slope));
    for (int64_t voxel = begin; voxel < end; voxel += kLanes) {
      int64_t count = std::min<int64_t>(kLanes, end - voxel);
      // Lanes of voxels that are not there are never stored.
      for (int64_t i = 0; i < count; ++i) {
        const T* from = (const T*)source.data + (sample * voxels + voxel + i) * source.channels;
        for (int64_t block = 0; block < blocks; ++block) {
          Vec v[kParts];
#pragma GCC unroll 8
          for (int part = 0; part < kParts; ++part) {
            const T* at = from + block * kBlock;
            v[part] = odd_part<T>(part) ? load_part<true>(at, part) : load_part<false>(at, part);
            v[part] = activations[block](v[part], part);
          }
#pragma GCC unroll 4
          for (int64_t k = 0; k < classes; ++k) {
            const float* row = weight + (k * blocks + block) * kBlock;
            Vec product = v[0] * load(row);
#pragma GCC unroll 8
            for (int part = 1; part < kParts; ++part) product += v[part] * load(row + part * kLanes);
            total[i * classes + k] = block == 0 ? product : total[i * classes + k] + product;
          }
        }
      }
      T* to = (T*)layer.output + (sample * voxels + voxel) * classes;
      for (int64_t k = 0; k < classes; ++k) {
        Vec sum = lane_sums(total + k * kLanes) + biases[k];
        int64_t left = std::clamp<int64_t>(count * classes - k * kLanes, 0, kLanes);
        store_logits(to + k * kLanes, sum, left);
      }
    }
  });
}

}  // namespace

void head(const Layer& layer, const float* bias) {
  bool fp32 = layer.storage == c10::ScalarType::Float, four = layer.channels_out == 4;
  auto kernel = fp32 ? (four ? logits<float, 4> : logits<float, 0>)
                     : (four ? logits<c10::BFloat16, 4> : logits<c10::BFloat16, 0>);
  kernel(layer, bias);
}

}  // namespace unet3d

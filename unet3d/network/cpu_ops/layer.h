// What every form of a layer gets and gives: the contract between the operators and the kernels.
//
// Tensors are channels-last, [samples, D, H, W, channels], fp32 or bf16, with channels padded by zeros to a multiple of
// 32 (kBlock). Only the network's input keeps its few channels. A layer reads what the layer before wrote before its
// normalisation, and applies scale, shift and LeakyReLU while loading. The zero padding of a 3x3x3 convolution comes
// after that. It writes its own output before normalisation and, for each block of voxels, moments of it.
//
// A kernel is a function `void conv_xyz(const Layer&)` with three stages for a block of output voxels:
//   1. load, normalise (and transform) into scratch memory of the thread: see stage.h,
//   2. matrix products, fp32 sums: see products.h,
//   3. (transform back,) moments and store: see output.h.
// driver.h gives the blocks to the threads. operators.cpp chooses the kernel by the name of the layer's form.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <vector>

#include "vec.h"

namespace unet3d {

struct Extent {
  int64_t d = 0, h = 0, w = 0;
  int64_t voxels() const { return d * h * w; }
};

// The raw output of an earlier layer. Without scale and shift the values are taken as they are, without LeakyReLU.
struct Source {
  const void* data = nullptr;
  const float* scale = nullptr;  // [samples, channels]
  const float* shift = nullptr;
  int64_t channels = 0;
};

// Mean and sum of squared deviations of each channel, one entry for each block of voxels, merged in a fixed order: the
// result does not depend on the number of threads.
class Moments {
 public:
  // Blocks of all samples are numbered through; `blocks` is how many there are in one sample.
  void resize(int64_t samples, int64_t blocks, int64_t channels);
  // Channels [channel, channel + kBlock) of one block: `sum` and `squares` of the deviations from `origin`.
  void put(int64_t block, int64_t channel, int64_t count, const Vec* origin, const Vec* sum, const Vec* squares);
  // scale, shift [samples, channels]: x * scale + shift is x normalised, times gamma, plus beta.
  void affine(const float* gamma, const float* beta, double eps, float* scale, float* shift) const;

 private:
  int64_t samples_ = 0, blocks_ = 0, channels_ = 0;
  std::vector<double> count_;             // [samples * blocks]
  std::vector<double> mean_, deviation_;  // [samples * blocks, channels]
};

// What int8 products need: values are (byte - zero) * step of their source, a result is its sum * factor + offset.
struct Quantised {
  const float *factor = nullptr, *offset = nullptr;  // [channels_out]
  float step[2] = {1, 1}, zero[2] = {0, 0};
};

// One convolution. Weights are packed by pack.py: panels of 32 output channels, their order within a panel that of
// memory; input channels within a block of 32 in the order of slots (vec.h) of the storage type, the first source's
// blocks before the second's.
struct Layer {
  c10::ScalarType storage = c10::ScalarType::Float;  // of sources and output: Float or BFloat16
  int64_t samples = 0;
  Extent in, out;
  int stride = 1;
  Source sources[2];
  int source_count = 1;
  float slope = 0.01f;  // of the LeakyReLU, at most 1
  const void* weight = nullptr;
  const Quantised* quantised = nullptr;  // for int8 products
  int64_t channels_out = 0;
  void* output = nullptr;
  Moments* moments = nullptr;

  int64_t channels_in() const { return sources[0].channels + (source_count > 1 ? sources[1].channels : 0); }
  // Tensors that no cache keeps until they are read again are written past the caches.
  bool stream() const {
    return samples * out.voxels() * channels_out * (int64_t)c10::elementSize(storage) > (8 << 20);
  }
};

}  // namespace unet3d

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "layer.h"

namespace unet3d {

void Moments::resize(int64_t samples, int64_t blocks, int64_t channels) {
  samples_ = samples;
  blocks_ = blocks;
  channels_ = channels;
  count_.assign(samples * blocks, 0);
  mean_.assign(samples * blocks * channels, 0);
  deviation_.assign(samples * blocks * channels, 0);
}

void Moments::put(int64_t block, int64_t channel, int64_t count, const Vec* origin, const Vec* sum, const Vec* squares) {
  // Every panel of a block writes the same count: no thread may see another value there.
  if (channel == 0) count_[block] = count;
  double* mean = mean_.data() + block * channels_ + channel;
  double* deviation = deviation_.data() + block * channels_ + channel;
  double inverse = 1.0 / count;
  for (int part = 0; part < kParts; ++part) {
    for (int i = 0; i < kLanes; ++i) {
      double total = sum[part][i], off = total * inverse;
      mean[part * kLanes + i] = origin[part][i] + off;
      deviation[part * kLanes + i] = std::max(0.0, squares[part][i] - total * off);
    }
  }
}

void Moments::affine(const float* gamma, const float* beta, double eps, float* scale, float* shift) const {
  int64_t groups = channels_ / kBlock;
  at::parallel_for(0, samples_ * groups, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      int64_t sample = task / groups, channel = task % groups * kBlock, at = sample * blocks_;
      // Two passes, so that nothing cancels: the mean of all, then the deviations of the blocks' means from it.
      double total = 0, mean[kBlock] = {}, deviation[kBlock] = {};
      for (int64_t b = at; b < at + blocks_; ++b) {
        total += count_[b];
        for (int i = 0; i < kBlock; ++i) mean[i] += count_[b] * mean_[b * channels_ + channel + i];
      }
      for (double& value : mean) value /= total;
      for (int64_t b = at; b < at + blocks_; ++b) {
        for (int i = 0; i < kBlock; ++i) {
          double off = mean_[b * channels_ + channel + i] - mean[i];
          deviation[i] += deviation_[b * channels_ + channel + i] + count_[b] * off * off;
        }
      }
      for (int i = 0; i < kBlock; ++i) {
        double factor = gamma[channel + i] / std::sqrt(deviation[i] / total + eps);
        scale[sample * channels_ + channel + i] = factor;
        shift[sample * channels_ + channel + i] = beta[channel + i] - mean[i] * factor;
      }
    }
  });
}

}  // namespace unet3d

// Instance normalisation + LeakyReLU over channels-last volumes in two passes over memory, what nnU-Net's blocks need
// around a convolution: statistics (read), then normalise and activate (read, write) in place, or straight into the
// 1x1x1 segmentation head (read).
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "cpu_pool.h"
#include "cpu_vec.h"

namespace unet3d {
namespace {

// Voxels whose deviations from the first one are summed in fp32; such blocks are merged in fp64.
constexpr int64_t kBlock = 256;

struct Moments {
  double count = 0, mean = 0, m2 = 0;
  // Chan, Golub, LeVeque 1979: merging of means and sums of squared deviations.
  void merge(double n, double other_mean, double other_m2) {
    double total = count + n, delta = other_mean - mean;
    mean += delta * n / total;
    m2 += other_m2 + delta * delta * count * n / total;
    count = total;
  }
};

void check(const at::Tensor& x) {
  TORCH_CHECK(x.dim() == 5 && x.is_contiguous(at::MemoryFormat::ChannelsLast3d),
              "expected a channels_last_3d tensor [N, C, D, H, W]");
}

// Moments of each channel over rows [begin, end) of x [rows, channels].
template <typename T>
void accumulate(const T* x, int64_t channels, int64_t begin, int64_t end, Moments* moments) {
  for (int64_t start = begin; start < end; start += kBlock) {
    int64_t rows = std::min(kBlock, end - start);
    const T* block = x + start * channels;
    for (int64_t c = 0; c < channels; c += kLanes) {
      int n = std::min<int64_t>(kLanes, channels - c);
      Vec shift = load(block + c, n), total{}, squares{};
      if (n == kLanes) {
        for (int64_t r = 0; r < rows; ++r) {
          Vec v = load(block + r * channels + c) - shift;
          total += v;
          squares += v * v;
        }
      } else {
        for (int64_t r = 0; r < rows; ++r) {
          Vec v = load(block + r * channels + c, n) - shift;
          total += v;
          squares += v * v;
        }
      }
      for (int i = 0; i < n; ++i) {
        double mean = total[i] / double(rows);
        double m2 = std::max(0.0, squares[i] - total[i] * mean);
        moments[c + i].merge(rows, shift[i] + mean, m2);
      }
    }
  }
}

// scale, shift [C] such that x * scale + shift is sample n of x normalised, scaled and shifted.
template <typename T>
void affine(const T* x, int64_t channels, int64_t rows, const float* weight, const float* bias, double eps,
            float* scale, float* shift) {
  int64_t chunks = at::get_num_threads();
  std::vector<Moments> partial(chunks * channels);
  at::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      accumulate(x, channels, rows * i / chunks, rows * (i + 1) / chunks, partial.data() + i * channels);
  });
  for (int64_t c = 0; c < channels; ++c) {
    Moments all;
    for (int64_t i = 0; i < chunks; ++i) {
      const Moments& part = partial[i * channels + c];
      if (part.count > 0) all.merge(part.count, part.mean, part.m2);
    }
    double factor = weight[c] / std::sqrt(all.m2 / all.count + eps);
    scale[c] = factor;
    shift[c] = bias[c] - all.mean * factor;
  }
}

// x = leaky_relu(x * scale + shift) for every voxel.
template <typename T>
void apply(T* x, int64_t channels, int64_t rows, const float* scale, const float* shift, float slope) {
  at::parallel_for(0, rows, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      T* row = x + r * channels;
      for (int64_t c = 0; c < channels; c += kLanes) {
        int n = std::min<int64_t>(kLanes, channels - c);
        store(row + c, leaky_relu(load(row + c, n) * load(scale + c, n) + load(shift + c, n), slope), n);
      }
    }
  });
}

// logits [rows, classes] of the 1x1x1 head with weights [classes, channels] on the normalised, activated voxels.
template <typename T>
void apply_head(const T* x, T* logits, int64_t channels, int64_t rows, const float* scale, const float* shift,
                float slope, const float* head, int64_t classes) {
  at::parallel_for(0, rows, 1024, [&](int64_t begin, int64_t end) {
    std::vector<Vec> totals(classes);
    for (int64_t r = begin; r < end; ++r) {
      std::fill(totals.begin(), totals.end(), Vec{});
      for (int64_t c = 0; c < channels; c += kLanes) {
        int n = std::min<int64_t>(kLanes, channels - c);
        Vec y = leaky_relu(load(x + r * channels + c, n) * load(scale + c, n) + load(shift + c, n), slope);
        for (int64_t k = 0; k < classes; ++k) totals[k] += y * load(head + k * channels + c, n);
      }
      for (int64_t k = 0; k < classes; ++k) logits[r * classes + k] = sum(totals[k]);
    }
  });
}

// Calls body(sample index, scale, shift) with each sample's affine form of the normalisation.
template <typename T, typename Body>
void for_each_sample(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps, Body body) {
  int64_t channels = x.size(1), rows = x.size(2) * x.size(3) * x.size(4);
  at::Tensor w = weight.to(at::kFloat).contiguous(), b = bias.to(at::kFloat).contiguous();
  TORCH_CHECK(w.numel() == channels && b.numel() == channels, "one weight and bias per channel");
  std::vector<float> scale(channels), shift(channels);
  for (int64_t n = 0; n < x.size(0); ++n) {
    affine(x.const_data_ptr<T>() + n * rows * channels, channels, rows, w.const_data_ptr<float>(),
           b.const_data_ptr<float>(), eps, scale.data(), shift.data());
    body(n, scale.data(), shift.data());
  }
}

#define DISPATCH(tensor, name, ...) \
  AT_DISPATCH_SWITCH(tensor.scalar_type(), name, \
                     AT_DISPATCH_CASE(at::kFloat, __VA_ARGS__) AT_DISPATCH_CASE(at::kBFloat16, __VA_ARGS__))

void norm_act_(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps, double slope) {
  check(x);
  int64_t channels = x.size(1), rows = x.size(2) * x.size(3) * x.size(4);
  DISPATCH(x, "norm_act", [&] {
    for_each_sample<scalar_t>(x, weight, bias, eps, [&](int64_t n, const float* scale, const float* shift) {
      apply(x.mutable_data_ptr<scalar_t>() + n * rows * channels, channels, rows, scale, shift, slope);
    });
  });
}

at::Tensor norm_act_head(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps,
                         double slope, const at::Tensor& head) {
  check(x);
  int64_t channels = x.size(1), rows = x.size(2) * x.size(3) * x.size(4), classes = head.size(0);
  TORCH_CHECK(head.numel() == classes * channels, "the head must be a 1x1x1 convolution of x's channels");
  at::Tensor weights = head.to(at::kFloat).reshape({classes, channels}).contiguous();
  Pooled memory;
  at::Tensor logits = at::empty({x.size(0), classes, x.size(2), x.size(3), x.size(4)},
                                x.options().memory_format(at::MemoryFormat::ChannelsLast3d));
  DISPATCH(x, "norm_act_head", [&] {
    for_each_sample<scalar_t>(x, weight, bias, eps, [&](int64_t n, const float* scale, const float* shift) {
      apply_head(x.const_data_ptr<scalar_t>() + n * rows * channels,
                 logits.mutable_data_ptr<scalar_t>() + n * rows * classes, channels, rows, scale, shift, slope,
                 weights.const_data_ptr<float>(), classes);
    });
  });
  return logits;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(unet3d_cpu, m) {
  m.def("norm_act_(Tensor(a!) x, Tensor weight, Tensor bias, float eps, float slope) -> ()");
  m.def("norm_act_head(Tensor x, Tensor weight, Tensor bias, float eps, float slope, Tensor head) -> Tensor");
}

TORCH_LIBRARY_IMPL(unet3d_cpu, CPU, m) {
  m.impl("norm_act_", norm_act_);
  m.impl("norm_act_head", norm_act_head);
}

}  // namespace unet3d

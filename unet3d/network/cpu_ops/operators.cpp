// torch.ops.unet3d_fused: one operator a layer. Shapes for tracing and torch.compile are in ops.py.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <tuple>

#include "buffers.h"
#include "kernels.h"
#include "message.h"
#include "peak.h"
#include "products.h"
#include "volumes.h"

namespace unet3d {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// A form of a 3x3x3 convolution: its name (forms.py chooses), its kernel, and what its packed weight must be.
struct Form {
  const char* name;
  void (*kernel)(const Layer&);
  int64_t positions;  // numbers of a packed weight for each pair of an input and an output channel
  at::ScalarType weight;
  int stride;  // the largest
  int input_positions = 0;  // the same for the network's input, whose channels count as 4; 0 where it is not taken
};

constexpr Form kForms[] = {
    {"winograd 2x2x2, fp32 products", conv_winograd_222, 64, at::kFloat, 1},
    {"winograd 4x4x4, fp32 products", conv_winograd_444, 216, at::kFloat, 1},
    {"winograd 4x4x6, fp32 products", conv_winograd_446, 288, at::kFloat, 1},
    {"winograd 4x6x6, fp32 products", conv_winograd_466, 384, at::kFloat, 1},
    {"winograd 6x6x6, fp32 products", conv_winograd_666, 512, at::kFloat, 1},
    {"direct, fp32 products", conv_direct_fp32, 27, at::kFloat, 2, 27},
    {"direct, bf16 products", conv_direct_bf16, 27, at::kBFloat16, 2, 27},
    {"direct, bf16 products on AMX tiles", conv_amx_bf16, 27, at::kBFloat16, 2, 48},
    {"direct, int8 products on AMX tiles", conv_amx_int8, 27, at::kChar, 2},
};

const Form& form_named(c10::string_view name) {
  for (const Form& form : kForms) {
    if (name == form.name) return form;
  }
  TORCH_CHECK(false, message("no form of a convolution is called ", std::string(name.data(), name.size()).c_str()));
}

void check(const at::Tensor& x) {
  TORCH_CHECK(x.dim() == 5 && x.is_contiguous(at::MemoryFormat::ChannelsLast3d) && x.numel() > 0 &&
                  (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16),
              "expected an fp32 or bf16 channels_last_3d tensor [N, C, D, H, W]");
}

const float* per_channel(const OptionalTensor& values, int64_t count, const char* name) {
  if (!values.has_value()) return nullptr;
  TORCH_CHECK(values->scalar_type() == at::kFloat && values->is_contiguous() && values->numel() == count,
              message(name, " must be ", count, " fp32 numbers"));
  return values->const_data_ptr<float>();
}

Source source(const at::Tensor& x, const OptionalTensor& scale, const OptionalTensor& shift) {
  check(x);
  TORCH_CHECK(scale.has_value() == shift.has_value(), "scale and shift come together");
  int64_t count = x.size(0) * x.size(1);
  return {x.const_data_ptr(), per_channel(scale, count, "scale"), per_channel(shift, count, "shift"), x.size(1)};
}

Layer layer_of(const at::Tensor& x, const OptionalTensor& scale, const OptionalTensor& shift, double slope,
               const at::Tensor& weight, at::ScalarType type) {
  TORCH_CHECK(weight.scalar_type() == type && weight.is_contiguous(), "the weight is not packed for this form");
  TORCH_CHECK(slope <= 1, "slopes above 1 are not computed");
  Layer layer;
  layer.storage = x.scalar_type();
  layer.samples = x.size(0);
  layer.in = {x.size(2), x.size(3), x.size(4)};
  layer.sources[0] = source(x, scale, shift);
  layer.slope = slope;
  layer.weight = weight.const_data_ptr();
  return layer;
}

at::Tensor output_of(Layer& layer) {
  at::Tensor y = kept_tensor(layer.samples, layer.channels_out, layer.out.d, layer.out.h, layer.out.w, layer.storage);
  layer.output = y.mutable_data_ptr();
  return y;
}

void check_blocks(const Layer& layer) {
  for (int i = 0; i < layer.source_count; ++i)
    TORCH_CHECK(layer.sources[i].channels % kBlock == 0, message("channels must be padded to a multiple of ", kBlock));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> conv(
    const at::Tensor& x, const OptionalTensor& scale, const OptionalTensor& shift, const OptionalTensor& skip,
    const OptionalTensor& skip_scale, const OptionalTensor& skip_shift, double slope, const at::Tensor& weight,
    int64_t stride, const at::Tensor& gamma, const at::Tensor& beta, double eps, c10::string_view form_name,
    const OptionalTensor& quantised) {
  at::AutoDispatchBelowADInplaceOrView guard;
  const Form& form = form_named(form_name);
  Layer layer = layer_of(x, scale, shift, slope, weight, form.weight);
  if (skip.has_value()) {
    TORCH_CHECK(skip->scalar_type() == x.scalar_type() && skip->size(0) == x.size(0) && skip->sizes().slice(2) == x.sizes().slice(2),
                "the two sources must have the same type and extents");
    layer.sources[1] = source(*skip, skip_scale, skip_shift);
    layer.source_count = 2;
  }
  // The network's input has few channels and no normalisation before it; only direct forms take it.
  bool input = form.input_positions > 0 && layer.source_count == 1 && stride == 1 && x.size(1) <= 4 && !scale.has_value();
  if (!input) check_blocks(layer);
  TORCH_CHECK(1 <= stride && stride <= form.stride, message(form.name, " has no stride ", stride));
  TORCH_CHECK(form.weight == at::kFloat || layer.storage == at::kBFloat16, message(form.name, " is for bf16 tensors"));
  layer.stride = stride;
  layer.out = {(layer.in.d - 1) / stride + 1, (layer.in.h - 1) / stride + 1, (layer.in.w - 1) / stride + 1};
  layer.channels_out = gamma.numel();
  int64_t channels_in = input ? 4 : layer.channels_in(), numbers = (input ? form.input_positions : form.positions) * channels_in;
  // Tiles of int8 are rows of 64 channels, or of 32 of two taps, of which the kernel then has 18 pairs.
  if (form.weight == at::kChar) numbers = 64 * (channels_in == kBlock ? 18 : 27 * ((channels_in + 63) / 64));
  TORCH_CHECK(layer.channels_out % kBlock == 0 && weight.numel() == numbers * layer.channels_out,
              message("the weight is not packed for ", form.name, " from ", channels_in, " to ", layer.channels_out, " channels"));
  const float* gammas = per_channel(gamma, layer.channels_out, "gamma");
  const float* betas = per_channel(beta, layer.channels_out, "beta");
  Quantised values;
  TORCH_CHECK(quantised.has_value() == (form.weight == at::kChar), "int8 products, and no others, need their quantisation");
  if (const float* numbers = per_channel(quantised, 2 * layer.channels_out + 4, "quantised")) {
    values = {numbers, numbers + layer.channels_out, {}, {}};
    for (int i = 0; i < 2; ++i) {
      values.step[i] = numbers[2 * layer.channels_out + i];
      values.zero[i] = numbers[2 * layer.channels_out + 2 + i];
    }
    layer.quantised = &values;
  }
  at::Tensor y = output_of(layer);
  Moments moments;
  layer.moments = &moments;
  form.kernel(layer);
  at::Tensor y_scale = at::empty({layer.samples, layer.channels_out}, at::kFloat), y_shift = at::empty_like(y_scale);
  moments.affine(gammas, betas, eps, y_scale.mutable_data_ptr<float>(), y_shift.mutable_data_ptr<float>());
  return {y, y_scale, y_shift};
}

at::Tensor upsample(const at::Tensor& x, const OptionalTensor& scale, const OptionalTensor& shift, double slope,
                    const at::Tensor& weight, bool tiles) {
  at::AutoDispatchBelowADInplaceOrView guard;
  bool bf16 = weight.scalar_type() == at::kBFloat16;
  Layer layer = layer_of(x, scale, shift, slope, weight, bf16 ? at::kBFloat16 : at::kFloat);
  TORCH_CHECK(!bf16 || layer.storage == at::kBFloat16, "bf16 products are for bf16 tensors");
  TORCH_CHECK(bf16 || !tiles, "AMX tiles are for bf16 products");
  check_blocks(layer);
  layer.out = {2 * layer.in.d, 2 * layer.in.h, 2 * layer.in.w};
  layer.channels_out = weight.numel() / (8 * x.size(1));
  TORCH_CHECK(layer.channels_out % kBlock == 0 && layer.channels_out > 0, "the weight is not packed for upsampling");
  at::Tensor y = output_of(layer);
  (tiles ? upsample_amx : bf16 ? upsample_bf16 : upsample_fp32)(layer);
  return y;
}

at::Tensor norm_act_head(const at::Tensor& x, const OptionalTensor& scale, const OptionalTensor& shift, double slope,
                         const at::Tensor& weight, const OptionalTensor& bias, bool tiles) {
  at::AutoDispatchBelowADInplaceOrView guard;
  Layer layer = layer_of(x, scale, shift, slope, weight, at::kFloat);
  check_blocks(layer);
  TORCH_CHECK(weight.dim() == 2 && weight.size(1) == x.size(1), "the head's weight must be [classes, channels]");
  int64_t classes = weight.size(0);
  layer.out = layer.in;
  layer.channels_out = classes;
  at::Tensor y = output_of(layer);
  TORCH_CHECK(!tiles || (layer.storage == at::kBFloat16 && classes <= 16), "AMX tiles are for bf16 and up to 16 classes");
  (tiles ? head_amx : head)(layer, per_channel(bias, classes, "bias"));
  return y;
}

int64_t voxels_of(const at::Tensor& x) { return x.size(2) * x.size(3) * x.size(4); }

void interleave_volumes(const at::Tensor& x, at::Tensor& y) {
  TORCH_CHECK(x.dim() == 5 && x.size(1) == kModalities && x.scalar_type() == at::kFloat && x.is_contiguous(),
              "expected a contiguous fp32 tensor [N, 4, D, H, W]");
  check(y);
  TORCH_CHECK(y.sizes() == x.sizes(), "expected a place of the same shape");
  const float* from = x.const_data_ptr<float>();
  if (y.scalar_type() == at::kFloat) {
    interleave(from, x.size(0), voxels_of(x), y.mutable_data_ptr<float>());
  } else {
    interleave(from, x.size(0), voxels_of(x), y.mutable_data_ptr<at::BFloat16>());
  }
}

void labels_of(const at::Tensor& logits, at::Tensor& out) {
  check(logits);
  int64_t voxels = logits.size(0) * voxels_of(logits);
  TORCH_CHECK(logits.size(1) == kClasses && out.scalar_type() == at::kByte && out.is_contiguous() && out.numel() == voxels,
              "expected logits [N, 4, D, H, W] and a place for a contiguous uint8 label of each voxel");
  auto* to = out.mutable_data_ptr<uint8_t>();
  if (logits.scalar_type() == at::kFloat) {
    labels(logits.const_data_ptr<float>(), voxels, to);
  } else {
    labels(logits.const_data_ptr<at::BFloat16>(), voxels, to);
  }
}

// What the products of this build are made with: "AVX-512", "AVX-512 BF16", "AVX2" or "portable".
std::string vectors() { return std::string(UNET3D_VECTORS) + (bf16_products() ? " BF16" : ""); }

}  // namespace

TORCH_LIBRARY(unet3d_fused, m) {
  m.def(
      "conv(Tensor x, Tensor? scale, Tensor? shift, Tensor? skip, Tensor? skip_scale, Tensor? skip_shift, float slope, "
      "Tensor weight, int stride, Tensor gamma, Tensor beta, float eps, str form, Tensor? quantised=None) "
      "-> (Tensor, Tensor, Tensor)");
  m.def("upsample(Tensor x, Tensor? scale, Tensor? shift, float slope, Tensor weight, bool tiles=False) -> Tensor");
  m.def("head(Tensor x, Tensor? scale, Tensor? shift, float slope, Tensor weight, Tensor? bias, bool tiles=False) -> Tensor");
  m.def("interleave(Tensor x, Tensor(a!) y) -> ()");
  m.def("labels(Tensor logits, Tensor(a!) out) -> ()");
  m.def("release_kept() -> int", release_kept);
  m.def("vectors() -> str", vectors);
  m.def("amx() -> bool", has_amx);
  m.def("product_loops() -> str[]", product_loops);
  m.def("product_loop(str instructions, int rounds) -> float", product_loop);
}

TORCH_LIBRARY_IMPL(unet3d_fused, CPU, m) {
  m.impl("conv", conv);
  m.impl("upsample", upsample);
  m.impl("head", norm_act_head);
  m.impl("interleave", interleave_volumes);
  m.impl("labels", labels_of);
}

}  // namespace unet3d

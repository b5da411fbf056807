// Convolutions by the oneDNN inside PyTorch, with what its own operators do at every call done once: weights are cast
// and brought into oneDNN's blocked layout at the first call and kept, outputs come from a pool.
//
// The operators used are those that torch.compile's freezing uses. They also take small fp32 inputs, for which
// PyTorch's choice of a kernel falls on one ten times slower.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <map>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu_pool.h"

namespace unet3d {
namespace {

using Ints = at::IntArrayRef;
using OptionalTensor = std::optional<at::Tensor>;
using Scalars = torch::List<std::optional<at::Scalar>>;

template <typename Signature>
auto mkldnn_operator(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

constexpr int64_t kOnes[3] = {1, 1, 1}, kZeros[3] = {0, 0, 0};

void check(const at::Tensor& x) {
  TORCH_CHECK(x.dim() == 5 && x.is_contiguous(at::MemoryFormat::ChannelsLast3d) &&
                  (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16),
              "expected an fp32 or bf16 channels_last_3d tensor [N, C, D, H, W]");
}

struct Packed {
  c10::weak_intrusive_ptr<c10::TensorImpl> source;
  uint32_t version;
  std::vector<int64_t> sizes;
  at::Tensor weight;
};

// The weight in x's type and oneDNN's layout for x's extents; made anew when the weight was written to or the extents
// are others. Weights that no longer exist are dropped.
template <typename Pack>
at::Tensor packed(const at::Tensor& weight, const at::Tensor& x, Pack pack) {
  static auto* mutex = new std::mutex;
  static auto* cache = new std::map<std::tuple<c10::TensorImpl*, at::ScalarType>, Packed>;
  std::lock_guard<std::mutex> lock(*mutex);
  auto key = std::make_tuple(weight.unsafeGetTensorImpl(), x.scalar_type());
  uint32_t version = weight.is_inference() ? 0 : weight._version();
  auto found = cache->find(key);
  if (found != cache->end() && !found->second.source.expired() && found->second.version == version &&
      Ints(found->second.sizes) == x.sizes())
    return found->second.weight;
  for (auto it = cache->begin(); it != cache->end();)
    it = it->second.source.expired() || it->first == key ? cache->erase(it) : std::next(it);
  at::Tensor made = pack(weight.detach().to(x.scalar_type()).contiguous());
  cache->emplace(key, Packed{c10::weak_intrusive_ptr<c10::TensorImpl>(weight.getIntrusivePtr()), version,
                             x.sizes().vec(), made});
  return made;
}

at::Tensor pack_convolution(const at::Tensor& weight, const at::Tensor& x, Ints stride, Ints padding) {
  static auto reorder = mkldnn_operator<at::Tensor(const at::Tensor&, Ints, Ints, Ints, int64_t, at::OptionalIntArrayRef)>(
      "mkldnn::_reorder_convolution_weight");
  return packed(weight, x, [&](const at::Tensor& w) { return reorder.call(w, padding, stride, kOnes, 1, x.sizes()); });
}

at::Tensor conv(const at::Tensor& x, const at::Tensor& weight, Ints stride, Ints padding) {
  static auto convolve =
      mkldnn_operator<at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&, Ints, Ints, Ints, int64_t,
                                 std::string_view, Scalars, std::optional<std::string_view>)>("mkldnn::_convolution_pointwise");
  check(x);
  at::AutoDispatchBelowADInplaceOrView guard;
  at::Tensor w = pack_convolution(weight, x, stride, padding);
  Pooled memory;
  return convolve.call(x, w, std::nullopt, padding, stride, kOnes, 1, "none", Scalars(), "")
      .contiguous(at::MemoryFormat::ChannelsLast3d);
}

void conv_add_(const at::Tensor& y, const at::Tensor& x, const at::Tensor& weight, Ints stride, Ints padding) {
  static auto convolve = mkldnn_operator<at::Tensor&(
      at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&, Ints, Ints, Ints, int64_t, std::string_view,
      std::optional<at::Scalar>, std::optional<std::string_view>, Scalars, std::optional<std::string_view>)>(
      "mkldnn::_convolution_pointwise_", "binary");
  check(x);
  check(y);
  at::AutoDispatchBelowADInplaceOrView guard;
  at::Tensor target = y;
  convolve.call(target, x, pack_convolution(weight, x, stride, padding), std::nullopt, padding, stride, kOnes, 1, "add",
                1.0, std::nullopt, Scalars(), "");
}

at::Tensor conv_transpose(const at::Tensor& x, const at::Tensor& weight, Ints stride, Ints padding) {
  static auto reorder =
      mkldnn_operator<at::Tensor(const at::Tensor&, Ints, Ints, Ints, Ints, int64_t, at::OptionalIntArrayRef)>(
          "mkldnn::_reorder_convolution_transpose_weight");
  static auto convolve =
      mkldnn_operator<at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&, Ints, Ints, Ints, Ints,
                                 int64_t, std::string_view, Scalars, std::optional<std::string_view>)>(
          "mkldnn::_convolution_transpose_pointwise");
  check(x);
  at::AutoDispatchBelowADInplaceOrView guard;
  at::Tensor w = packed(weight, x, [&](const at::Tensor& dense) {
    return reorder.call(dense, padding, kZeros, stride, kOnes, 1, x.sizes());
  });
  Pooled memory;
  return convolve.call(x, w, std::nullopt, padding, kZeros, stride, kOnes, 1, "none", Scalars(), "")
      .contiguous(at::MemoryFormat::ChannelsLast3d);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(unet3d_cpu, m) {
  m.def("conv(Tensor x, Tensor weight, int[3] stride, int[3] padding) -> Tensor");
  m.def("conv_add_(Tensor(a!) y, Tensor x, Tensor weight, int[3] stride, int[3] padding) -> ()");
  m.def("conv_transpose(Tensor x, Tensor weight, int[3] stride, int[3] padding) -> Tensor");
  install_pool();
}

TORCH_LIBRARY_IMPL(unet3d_cpu, CPU, m) {
  m.impl("conv", conv);
  m.impl("conv_add_", conv_add_);
  m.impl("conv_transpose", conv_transpose);
}

}  // namespace unet3d

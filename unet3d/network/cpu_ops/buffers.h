// Memory of the activations and of what layers compute on the way, kept from one inference to the next.
//
// glibc gives blocks of this size back to the system when they are freed, so that every layer of every inference pays
// again for the kernel to map and clear its output: 0.27 s of one core per 512 MiB where writing them takes 0.03 s.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>

namespace unet3d {

// An uninitialised tensor [n, channels, d, h, w] in channels-last order. Its memory goes back to the kept buffers when
// the tensor is freed.
at::Tensor kept_tensor(int64_t n, int64_t channels, int64_t d, int64_t h, int64_t w, at::ScalarType type);

// Memory for one layer's intermediate values, read by all threads, with anything in it. Deep in the network, where layers
// need most of it, it lies where the outer layers' tensors were.
class KeptScratch {
 public:
  explicit KeptScratch(size_t bytes);
  ~KeptScratch();
  KeptScratch(const KeptScratch&) = delete;
  KeptScratch& operator=(const KeptScratch&) = delete;

  char* data() const { return memory_; }

 private:
  size_t bytes_;
  char* memory_;
};

// Gives the system back the buffers that no tensor lies in, and says how many bytes these are.
int64_t release_kept();

}  // namespace unet3d

// Memory of the activations, kept from one inference to the next.
//
// glibc gives blocks of this size back to the system when they are freed, so that every layer of every inference pays
// again for the kernel to map and clear its output: 0.27 s of one core per 512 MiB where writing them takes 0.03 s.
#pragma once

#include <ATen/core/Tensor.h>

namespace unet3d {

// An uninitialised tensor [n, channels, d, h, w] in channels-last order. Its memory goes back to the kept buffers when
// the tensor is freed.
at::Tensor kept_tensor(int64_t n, int64_t channels, int64_t d, int64_t h, int64_t w, at::ScalarType type);

}  // namespace unet3d

// Memory of the activations, kept from one inference to the next.
//
// glibc gives blocks of this size back to the system when they are freed, so that every layer of every inference pays
// again for the kernel to map and clear its output: 0.27 s of one core per 512 MiB where writing them takes 0.03 s.
#pragma once

#include <c10/core/Allocator.h>

#include <cstdint>

namespace unet3d {

// Puts the pool in front of PyTorch's CPU allocator. It hands everything on but large blocks asked for by a thread that
// holds a Pooled.
void install_pool();

// While one exists in a thread, that thread's large tensors come from the pool, and go back to it when they are freed.
struct Pooled {
  Pooled();
  ~Pooled();
  Pooled(const Pooled&) = delete;
  Pooled& operator=(const Pooled&) = delete;
};

}  // namespace unet3d

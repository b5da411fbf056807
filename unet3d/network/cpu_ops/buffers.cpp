#include "buffers.h"

#include <ATen/ops/from_blob.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <cstdlib>
#include <list>
#include <mutex>

namespace unet3d {
namespace {

// One huge page of x86-64: buffers are aligned to it and multiples of it, so that the kernel can use such pages.
constexpr size_t kPage = 2 << 20;
// A buffer that so many requests passed by belongs to a volume shape no longer in use. An inference makes about thirty.
constexpr uint64_t kStale = 128;

struct Buffer {
  void* memory;
  size_t bytes;
  uint64_t freed_at;
};

// Never destroyed: tensors may outlive this library's static objects when the process ends.
struct State {
  std::mutex mutex;
  std::list<Buffer> free;
  uint64_t requests = 0;
};

State& state() {
  static auto* instance = new State;
  return *instance;
}

// Frees the buffers that were given back at least `age` requests ago.
void release(State& pool, uint64_t age) {
  pool.free.remove_if([&](const Buffer& buffer) {
    if (pool.requests - buffer.freed_at < age) return false;
    std::free(buffer.memory);
    return true;
  });
}

void* take(size_t bytes) {
  State& pool = state();
  std::lock_guard<std::mutex> lock(pool.mutex);
  ++pool.requests;
  for (auto buffer = pool.free.begin(); buffer != pool.free.end(); ++buffer) {
    if (buffer->bytes != bytes) continue;
    void* memory = buffer->memory;
    pool.free.erase(buffer);
    return memory;
  }
  release(pool, kStale);
  void* memory = nullptr;
  if (posix_memalign(&memory, kPage, bytes) != 0) {
    release(pool, 0);
    TORCH_CHECK(posix_memalign(&memory, kPage, bytes) == 0, "not enough memory: ", bytes, " bytes for a layer's output");
  }
  madvise(memory, bytes, MADV_HUGEPAGE);
  return memory;
}

void give_back(void* memory, size_t bytes) {
  State& pool = state();
  std::lock_guard<std::mutex> lock(pool.mutex);
  pool.free.push_front({memory, bytes, pool.requests});
}

}  // namespace

at::Tensor kept_tensor(int64_t n, int64_t channels, int64_t d, int64_t h, int64_t w, at::ScalarType type) {
  size_t bytes = n * channels * d * h * w * c10::elementSize(type);
  bytes = (bytes + kPage - 1) / kPage * kPage;
  void* memory = take(bytes);
  int64_t strides[] = {d * h * w * channels, 1, h * w * channels, w * channels, channels};
  return at::from_blob(memory, {n, channels, d, h, w}, strides, [bytes](void* p) { give_back(p, bytes); },
                       at::TensorOptions().dtype(type));
}

}  // namespace unet3d

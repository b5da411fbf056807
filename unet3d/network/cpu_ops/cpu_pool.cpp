#include "cpu_pool.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <cstdlib>
#include <list>
#include <mutex>
#include <unordered_map>

namespace unet3d {
namespace {

// Smaller blocks glibc keeps itself.
constexpr size_t kLarge = 1 << 20;
// One huge page of x86-64: blocks are aligned to it and multiples of it, so that the kernel can use such pages.
constexpr size_t kPage = 2 << 20;
// A block that so many requests passed by belongs to a volume shape no longer in use. An inference makes about thirty.
constexpr uint64_t kStale = 128;

thread_local int pooled = 0;

struct Block {
  void* memory;
  size_t bytes;
  uint64_t freed_at;
};

// Never destroyed: tensors may outlive this library's static objects when the process ends.
struct State {
  std::mutex mutex;
  std::list<Block> free;
  std::unordered_map<void*, size_t> used;  // memory and its bytes
  uint64_t requests = 0;
  c10::Allocator* inner = nullptr;
};

State& state() {
  static auto* instance = new State;
  return *instance;
}

// Frees the blocks that were given back at least `age` requests ago.
void release(State& pool, uint64_t age) {
  pool.free.remove_if([&](const Block& block) {
    if (pool.requests - block.freed_at < age) return false;
    std::free(block.memory);
    return true;
  });
}

void* take(size_t bytes) {
  State& pool = state();
  std::lock_guard<std::mutex> lock(pool.mutex);
  ++pool.requests;
  void* memory = nullptr;
  for (auto block = pool.free.begin(); block != pool.free.end(); ++block) {
    if (block->bytes != bytes) continue;
    memory = block->memory;
    pool.free.erase(block);
    break;
  }
  if (memory == nullptr) {
    release(pool, kStale);
    if (posix_memalign(&memory, kPage, bytes) != 0) {
      release(pool, 0);
      TORCH_CHECK(posix_memalign(&memory, kPage, bytes) == 0, "not enough memory: ", bytes, " bytes for a layer's output");
    }
    madvise(memory, bytes, MADV_HUGEPAGE);
  }
  pool.used.emplace(memory, bytes);
  return memory;
}

// Also gets memory that the allocator behind the pool gave out: oneDNN frees by pointer whatever it asked for.
void give_back(void* memory) {
  State& pool = state();
  {
    std::lock_guard<std::mutex> lock(pool.mutex);
    auto found = pool.used.find(memory);
    if (found != pool.used.end()) {
      pool.free.push_front({memory, found->second, pool.requests});
      pool.used.erase(found);
      return;
    }
  }
  pool.inner->raw_deallocate(memory);
}

struct Pool final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (pooled == 0 || bytes < kLarge) return state().inner->allocate(bytes);
    void* memory = take((bytes + kPage - 1) / kPage * kPage);
    return {memory, memory, &give_back, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

}  // namespace

void install_pool() {
  state().inner = c10::GetCPUAllocator();
  c10::SetCPUAllocator(new Pool);
}

Pooled::Pooled() { ++pooled; }
Pooled::~Pooled() { --pooled; }

}  // namespace unet3d

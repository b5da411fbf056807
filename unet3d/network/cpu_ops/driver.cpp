#include "driver.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>

namespace unet3d {
namespace {

// One huge page of x86-64.
constexpr size_t kPage = 2 << 20;

// Grows, and is kept until its thread ends.
struct Scratch {
  char* memory = nullptr;
  size_t bytes = 0;

  char* at_least(size_t wanted) {
    if (wanted <= bytes) return memory;
    std::free(memory);
    memory = nullptr;
    bytes = (wanted + kPage - 1) / kPage * kPage;
    void* made = nullptr;
    if (posix_memalign(&made, kPage, bytes) != 0) {
      bytes = 0;
      TORCH_CHECK(false, "not enough memory: ", wanted, " bytes for a layer's intermediate values");
    }
    madvise(made, bytes, MADV_HUGEPAGE);
    return memory = (char*)made;
  }
  ~Scratch() { std::free(memory); }
};

thread_local Scratch own, shared;

}  // namespace

void for_each(int64_t items, size_t bytes, c10::function_ref<void(int64_t, char*)> body) {
  std::atomic<int64_t> next{0};
  int64_t workers = std::min<int64_t>(at::get_num_threads(), items);
  at::parallel_for(0, workers, 1, [&](int64_t first, int64_t last) {
    // Fewer chunks than workers, if ATen makes them so, still do all items.
    char* scratch = bytes ? own.at_least(bytes) : nullptr;
    for (int64_t worker = first; worker < last; ++worker) {
      for (int64_t item = next++; item < items; item = next++) body(item, scratch);
    }
  });
}

char* shared_scratch(size_t bytes) { return shared.at_least(bytes); }

}  // namespace unet3d

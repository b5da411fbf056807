#include "driver.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "message.h"

namespace unet3d {
namespace {

// Grows, and is kept until its thread ends.
struct Scratch {
  char* memory = nullptr;
  size_t bytes = 0;

  char* at_least(size_t wanted) {
    if (wanted <= bytes) return memory;
    std::free(memory);
    bytes = 0;
    memory = huge_pages(whole_pages(wanted));
    TORCH_CHECK(memory, message("not enough memory: ", wanted, " bytes for a layer's intermediate values"));
    bytes = whole_pages(wanted);
    return memory;
  }
  ~Scratch() { std::free(memory); }
};

thread_local Scratch own;

}  // namespace

void for_each(int64_t items, size_t bytes, c10::function_ref<void(int64_t, char*)> body) {
  std::atomic<int64_t> next{0};
  int64_t workers = std::min<int64_t>(at::get_num_threads(), items);
  // `next` is counted by a locked instruction, which also orders the layers' stores that go past the caches.
  at::parallel_for(0, workers, 1, [&](int64_t first, int64_t last) {
    // Fewer chunks than workers, if ATen makes them so, still do all items.
    char* scratch = bytes ? own.at_least(bytes) : nullptr;
    for (int64_t worker = first; worker < last; ++worker) {
      for (int64_t item = next++; item < items; item = next++) body(item, scratch);
    }
  });
}

size_t whole_pages(size_t bytes) { return divide_up(bytes, kPage) * kPage; }

char* huge_pages(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kPage, bytes) != 0) return nullptr;
  madvise(memory, bytes, MADV_HUGEPAGE);
  return (char*)memory;
}

}  // namespace unet3d

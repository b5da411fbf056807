#include "buffers.h"

#include <ATen/ops/from_blob.h>
#include <c10/util/Exception.h>

#include <cstdlib>
#include <list>
#include <map>
#include <mutex>

#include "driver.h"
#include "message.h"

namespace unet3d {
namespace {

// A buffer that so many requests passed by belongs to a volume shape no longer in use. An inference makes thirty to forty.
constexpr uint64_t kStale = 128;

// Memory from the system, parts of which are in use: while the small volumes deep in the network are computed, they lie
// where the large ones of its outer layers were.
struct Buffer {
  char* memory;
  size_t bytes;
  uint64_t last_use;
  std::map<size_t, size_t> free;  // offset and bytes of each free range, never two side by side

  bool unused() const { return free.size() == 1 && free.begin()->second == bytes; }
};

// Never destroyed: tensors may outlive this library's static objects when the process ends.
struct State {
  std::mutex mutex;
  std::list<Buffer> buffers;
  uint64_t requests = 0;
};

State& state() {
  static auto* instance = new State;
  return *instance;
}

// Gives the system back what is not in use and was not for `age` requests, and says how many bytes these are.
size_t release(State& pool, uint64_t age) {
  size_t bytes = 0;
  pool.buffers.remove_if([&](const Buffer& buffer) {
    if (!buffer.unused() || pool.requests - buffer.last_use < age) return false;
    std::free(buffer.memory);
    bytes += buffer.bytes;
    return true;
  });
  return bytes;
}

void add_buffer(State& pool, size_t bytes) {
  char* memory = huge_pages(bytes);
  if (memory == nullptr) {
    release(pool, 0);
    memory = huge_pages(bytes);
  }
  TORCH_CHECK(memory, message("not enough memory: ", bytes, " bytes for a layer"));
  pool.buffers.push_back({memory, bytes, pool.requests, {{0, bytes}}});
}

// The start of the smallest free range that is large enough.
char* take(size_t bytes) {
  State& pool = state();
  std::lock_guard<std::mutex> lock(pool.mutex);
  ++pool.requests;
  for (bool added = false;; added = true) {
    Buffer* best = nullptr;
    std::map<size_t, size_t>::iterator range;
    for (Buffer& buffer : pool.buffers) {
      for (auto it = buffer.free.begin(); it != buffer.free.end(); ++it) {
        if (it->second >= bytes && (best == nullptr || it->second < range->second)) best = &buffer, range = it;
      }
    }
    if (best != nullptr) {
      auto [offset, available] = *range;
      best->free.erase(range);
      if (available > bytes) best->free.emplace(offset + bytes, available - bytes);
      best->last_use = pool.requests;
      return best->memory + offset;
    }
    TORCH_CHECK(!added, "a new buffer has no room");
    release(pool, kStale);
    add_buffer(pool, bytes);
  }
}

void give_back(void* memory, size_t bytes) {
  State& pool = state();
  std::lock_guard<std::mutex> lock(pool.mutex);
  for (Buffer& buffer : pool.buffers) {
    if (memory < buffer.memory || memory >= buffer.memory + buffer.bytes) continue;
    buffer.last_use = pool.requests;
    auto range = buffer.free.emplace((char*)memory - buffer.memory, bytes).first;
    auto next = std::next(range);
    if (next != buffer.free.end() && range->first + range->second == next->first) {
      range->second += next->second;
      buffer.free.erase(next);
    }
    if (range != buffer.free.begin()) {
      auto before = std::prev(range);
      if (before->first + before->second == range->first) {
        before->second += range->second;
        buffer.free.erase(range);
      }
    }
    return;
  }
}

}  // namespace

at::Tensor kept_tensor(int64_t n, int64_t channels, int64_t d, int64_t h, int64_t w, at::ScalarType type) {
  size_t bytes = whole_pages(n * channels * d * h * w * c10::elementSize(type));
  void* memory = take(bytes);
  int64_t strides[] = {d * h * w * channels, 1, h * w * channels, w * channels, channels};
  return at::from_blob(memory, {n, channels, d, h, w}, strides, [bytes](void* p) { give_back(p, bytes); },
                       at::TensorOptions().dtype(type));
}

KeptScratch::KeptScratch(size_t bytes) : bytes_(whole_pages(bytes)), memory_(take(bytes_)) {}

KeptScratch::~KeptScratch() { give_back(memory_, bytes_); }

int64_t release_kept() {
  State& pool = state();
  std::lock_guard<std::mutex> lock(pool.mutex);
  return release(pool, 0);
}

}  // namespace unet3d

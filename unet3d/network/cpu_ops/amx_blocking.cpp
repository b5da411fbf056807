#include "amx_blocking.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <mutex>

#include "amx_products.h"
#include "driver.h"

namespace unet3d::amx {
namespace {

// Costs in units of one tile product, estimated: loading a tile, as far as products do not hide it; staging a position
// behind products and without; storing a voxel's 32 channels; and beginning an item.
constexpr double kLoad = 0.35, kStage = 0.3, kStageAlone = 0.6, kStore = 0.25, kItem = 800;
// Staged planes up to the first size share a core's cache with weights and another thread; beyond, products wait.
constexpr double kCacheBytes = 500 << 10, kSlower = 0.25;

// Threads that blocks of voxels are chosen for.
constexpr int64_t kThreads = 16;

// Of the products of one tile of voxels and one of outputs, one offset and chunk, in so many planes: see amx_products.h.
double products(const Shape& s, int64_t planes) {
  bool shared = s.stride == 1 && s.kernel == 3;
  int64_t loads = shared ? planes + 2 + 3 : s.kernel * (planes + 1);
  return s.kernel * planes + kLoad * loads;
}

double cost(const Shape& s, const Blocking& b, int64_t samples, int64_t threads) {
  int64_t items = samples * divide_up(s.out.d, b.z) * divide_up(s.out.h, b.y) * divide_up(s.out.w, b.x) *
                  divide_up(s.panels, b.panels);
  int64_t pitch = b.x + (s.stride == 1 ? s.kernel - 1 : 1);
  int64_t tiles = std::min(b.y * divide_up(b.x, 16), divide_up((b.y - 1) * pitch + b.x, 16));
  double a_tile = b.z / kPlanes * products(s, kPlanes) + (b.z % kPlanes ? products(s, b.z % kPlanes) : 0);
  auto extent = [&](int64_t n) { return double((n - 1) * s.stride + s.kernel); };
  double plane = extent(b.y) * extent(b.x) * s.chunks, ring = extent(std::min<int64_t>(b.z, kPlanes));
  double slower = 1 + kSlower * std::max(0.0, ring * plane * s.position / kCacheBytes - 1);
  double staging = plane * (extent(b.z) * kStage + ring * (kStageAlone - kStage));
  double item = a_tile * tiles * b.panels * 2 * s.chunks * s.offsets * slower + staging +
                double(b.z * b.y * b.x) * b.panels * kStore + kItem;
  // Threads that the system interrupts end later: the fewer items, the more the others wait for them.
  return (divide_up(items, threads) + 0.3) * item;
}

Blocking with_panels(const Shape& s, Blocking b, int64_t samples, int64_t threads) {
  Blocking best = b;
  double least = std::numeric_limits<double>::infinity();
  for (int64_t parts = 1; parts <= s.panels; ++parts) {
    b.panels = divide_up(s.panels, parts);
    double now = cost(s, b, samples, threads);
    if (now < least) least = now, best = b;
  }
  return best;
}

Blocking search(const Shape& s) {
  Blocking best{};
  double least = std::numeric_limits<double>::infinity();
  auto next = [](int64_t parts) { return parts < 8 ? parts + 1 : parts * 5 / 4; };
  for (int64_t ny = 1; ny <= s.out.h; ny = next(ny)) {
    for (int64_t nx = 1; nx <= std::min<int64_t>(4, s.out.w); ++nx) {
      for (int64_t nz = 1; nz <= s.out.d; nz = next(nz)) {
        // All items but the last along z have whole steps.
        int64_t z = std::min(s.out.d, divide_up(divide_up(s.out.d, nz), kPlanes) * kPlanes);
        Blocking b = with_panels(s, {z, divide_up(s.out.h, ny), divide_up(s.out.w, nx), s.panels}, 1, kThreads);
        double now = cost(s, b, 1, kThreads);
        if (now < least) least = now, best = b;
      }
    }
  }
  return best;
}

}  // namespace

Blocking blocking_of(const Shape& s, int64_t samples, int64_t threads) {
  static auto* mutex = new std::mutex;
  static auto* kept = new std::map<std::array<int64_t, 9>, Blocking>;
  std::array<int64_t, 9> key{s.out.d, s.out.h, s.out.w, s.stride, s.panels, s.chunks, s.kernel, s.offsets, s.position};
  std::lock_guard<std::mutex> lock(*mutex);
  auto found = kept->find(key);
  if (found == kept->end()) found = kept->emplace(key, search(s)).first;
  return with_panels(s, found->second, samples, threads);
}

}  // namespace unet3d::amx

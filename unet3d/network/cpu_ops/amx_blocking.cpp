#include "amx_blocking.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <mutex>


namespace unet3d::amx {
namespace {

// Costs in units of a product of two tiles whose operands come from the second cache, measured on two cores of a Xeon: what
// a tile of weights costs beside the products of a group; beyond the second cache; staging a cell of 64 bytes; that cell in
// the first planes of an item, which nobody has fetched ahead; beginning a row of cells that does not go on where the one
// before ended; storing a voxel's 32 channels; beginning an item.
constexpr double kWeights = 1.25, kFarWeights = 2.8, kStage = 1.2, kCold = 1.2, kRow = 16, kStore = 0.7, kItem = 200;
// Bytes that weights and staged planes may have of a core's second cache, and those that staged planes alone have without
// being slower to read: another thread may share the core.
constexpr double kSecondCache = 1200 << 10, kCacheBytes = 600 << 10, kSlower = 0.25;

// Threads that blocks of voxels are chosen for.
constexpr int64_t kThreads = 16;

// Cells in a row, or rows or planes of them, that so many outputs side by side read.
int64_t read_by(const Shape& s, int64_t outputs) { return (outputs - 1) * s.stride + s.kernel; }

int64_t tiles_of_weights(const Shape& s) { return 2 * s.chunks * s.kernel * s.offsets; }  // of a panel

// Bytes that an item has in the second cache: a staged plane, all of them, and a panel's weights.
struct Resident {
  double plane, ring, panel;
};

Resident resident(const Shape& s, const Blocking& b) {
  double plane = double(read_by(s, b.y)) * read_by(s, b.x) * s.chunks * s.cell_bytes;
  return {plane, read_by(s, b.planes) * plane, double(tiles_of_weights(s)) * kTileBytes};
}

double cost(const Shape& s, const Blocking& b, int64_t samples, int64_t threads) {
  int64_t nx = divide_up(s.out.w, b.x);
  int64_t items = samples * divide_up(s.out.d, b.z) * divide_up(s.out.h, b.y) * nx * divide_up(s.panels, b.panels);
  int64_t pitch = b.x + (s.stride == 1 ? s.kernel - 1 : 1);
  Tiling tiling = tiling_of(b.y, b.x, pitch);
  Resident held = resident(s, b);
  // How often a tile of weights comes from beyond the second cache while the planes of a step are computed.
  int64_t groups = tiling.groups * b.planes;
  double far = held.ring + b.panels * held.panel < kSecondCache ? 0 : held.ring + held.panel < kSecondCache ? 1 : groups;
  double step = tiling.tiles * b.planes + kWeights * groups + kFarWeights * far;
  double products = divide_up(b.z, b.planes) * b.panels * tiles_of_weights(s) * step *
                    (1 + kSlower * std::max(0.0, held.ring / kCacheBytes - 1));
  double planes = read_by(s, b.z), first = read_by(s, b.planes);
  double staging = (planes * kStage + first * kCold) * held.plane / kRowBytes +
                   (nx > 1 ? planes * read_by(s, b.y) * s.chunks * kRow : 0);
  double item = products + staging + double(b.z * b.y * b.x) * b.panels * kStore + kItem;
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

// Weights of panels that are abreast are read anew for each group of tiles, so they must all stay in the second cache.
int64_t abreast(const Shape& s, const Blocking& b) {
  Resident held = resident(s, b);
  return held.ring + kAbreast * held.panel < kSecondCache ? std::min(b.panels, kAbreast) : 1;
}

// The next smaller of the blocks that an axis is cut into nearly evenly; 0 after the smallest.
int64_t next_block(int64_t extent, int64_t block) { return block == 1 ? 0 : divide_up(extent, divide_up(extent, block - 1)); }

Blocking search(const Shape& s) {
  Blocking best{};
  double least = std::numeric_limits<double>::infinity();
  for (int64_t y = s.out.h; y > 0; y = next_block(s.out.h, y)) {
    for (int64_t nx = 1; nx <= std::min<int64_t>(4, s.out.w); ++nx) {
      for (int64_t z = s.out.d; z > 0; z = next_block(s.out.d, z)) {
        Blocking b{1, z, y, divide_up(s.out.w, nx), s.panels, 1};
        for (b.planes = 1; b.planes <= std::min<int64_t>(z, 4); b.planes *= 2) {
          Blocking whole = with_panels(s, b, 1, kThreads);
          double now = cost(s, whole, 1, kThreads);
          if (now < least) least = now, best = whole;
        }
      }
    }
  }
  return best;
}

}  // namespace

Blocking blocking_of(const Shape& s, int64_t samples, int64_t threads) {
  static auto* mutex = new std::mutex;
  static auto* kept = new std::map<std::array<int64_t, 9>, Blocking>;
  std::array<int64_t, 9> key{s.out.d, s.out.h, s.out.w, s.stride, s.panels, s.chunks, s.kernel, s.offsets, s.cell_bytes};
  std::lock_guard<std::mutex> lock(*mutex);
  auto found = kept->find(key);
  if (found == kept->end()) found = kept->emplace(key, search(s)).first;
  Blocking made = with_panels(s, found->second, samples, threads);
  made.abreast = abreast(s, made);
  return made;
}

}  // namespace unet3d::amx

// Convolutions with bf16 products on AMX tiles.
#include <cstring>

#include "amx_form.h"
#include "kernels.h"

namespace unet3d {
namespace amx {
namespace {

struct Bf16Products {
  template <int C, int A, int B>
  static void dot() {
    dot_bf16<C, A, B>();
  }
  struct Result {
    UNET3D_INLINE Vec operator()(const float* products, int) const { return load(products); }
  };
  Result result(int64_t) const { return {}; }
};

// A chunk is 32 channels in slots, a cell one voxel of it. KERNEL 3, or 1 with the 8 taps of an upsampling.
template <int KERNEL, int TAPS>
class Bf16 : public Bf16Products {
 public:
  static constexpr int kKernel = KERNEL, kTaps = TAPS, kOffsets = KERNEL * KERNEL, kCell = kRowBytes;
  static constexpr int kColumns = KERNEL, kRowTaps = KERNEL, kTapRows = 1;
  // The upsampling's weights are those of upsample_bf16.
  static constexpr bool kPairs = TAPS == 8;

  explicit Bf16(const Layer& layer) : layer_(layer), voxels_{KERNEL, layer.stride} {}
  int64_t chunks() const { return layer_.channels_in() / kBlock; }
  Layout layout(int64_t rows, int64_t columns) const { return voxels_.layout(rows, columns); }

  void offsets(const Layout& layout, int64_t* to) const {
    for (int y = 0; y < KERNEL; ++y)
      for (int x = 0; x < KERNEL; ++x) *to++ = voxels_.at(layout, y, x) * kCell;
  }

  void stage(const Layout& layout, const Window& window, int64_t z, char* plane, int64_t chunk_bytes) const {
    int64_t odd = voxels_.at(layout, 0, 1) * kCell, two = voxels_.at(layout, 0, 2) * kCell;
    each_row(layer_, window, z, KERNEL, [&](int64_t i, const RowAt& at) {
      for (int64_t chunk = 0; chunk < chunks(); ++chunk) {
        char* to = plane + chunk * chunk_bytes + voxels_.at(layout, i, 0) * kCell;
        auto cell = [&](int64_t x) { return (uint16_t*)(to + (x & 1) * odd + (x >> 1) * two); };
        auto [source, channel] = source_block(layer_, chunk);
        Activation activation = Activation::of<c10::BFloat16>(*source, window.sample, channel, layer_.slope);
        const c10::BFloat16* from = (const c10::BFloat16*)source->data + at.voxel * source->channels + channel;
        for (int64_t x = 0; x < at.begin; ++x) std::memset(cell(x), 0, kCell);
        for (int64_t x = at.begin; x < at.end; ++x) stage_voxel(from + x * source->channels, activation, cell(x));
        for (int64_t x = at.end; x < at.count; ++x) std::memset(cell(x), 0, kCell);
      }
    });
  }

 private:
  const Layer& layer_;
  Voxels voxels_;
};

// The network's input of up to four channels: a cell is a voxel and the one below it in y, and a tile's row reads four of
// them side by side, so that six taps are one product, and three the second one. The weights of what is left are zero.
class Bf16Input : public Bf16Products {
 public:
  static constexpr int kKernel = 3, kTaps = 1, kOffsets = 2, kCell = 16;
  static constexpr int kColumns = 1, kRowTaps = 2, kTapRows = 2;
  static constexpr bool kPairs = false;

  explicit Bf16Input(const Layer& layer) : layer_(layer) {}
  int64_t chunks() const { return 1; }
  Layout layout(int64_t rows, int64_t columns) const { return {columns + 2, 0, (rows + 2) * (columns + 2)}; }

  void offsets(const Layout& layout, int64_t* to) const {
    to[0] = 0;
    to[1] = 2 * layout.pitch * kCell;
  }

  void stage(const Layout& layout, const Window& window, int64_t z, char* plane, int64_t) const {
    int64_t last = window.rows + 1;
    // Voxels of 8 bytes of the row above and this one; what lies below the last one is multiplied by zero.
    static thread_local std::vector<uint64_t> above, row;
    above.assign(window.columns + 2, 0);
    row.resize(window.columns + 2);
    each_row(layer_, window, z, 3, [&](int64_t i, const RowAt& at) {
      read(at, row.data());
      if (i > 0) write(above.data(), row.data(), at.count, plane + (i - 1) * layout.pitch * kCell);
      std::swap(above, row);
      if (i < last) return;
      std::fill(row.begin(), row.end(), 0);
      write(above.data(), row.data(), at.count, plane + last * layout.pitch * kCell);
    });
  }

 private:
  void read(const RowAt& at, uint64_t* to) const {
    int64_t channels = layer_.sources[0].channels;
    const uint16_t* from = (const uint16_t*)layer_.sources[0].data + at.voxel * channels;
    std::fill(to, to + at.count, 0);
    if (channels == 4) {
      if (at.end > at.begin) std::memcpy(to + at.begin, from + at.begin * 4, (at.end - at.begin) * 8);
      return;
    }
    for (int64_t x = at.begin; x < at.end; ++x) std::memcpy(to + x, from + x * channels, channels * 2);
  }

  static void write(const uint64_t* __restrict above, const uint64_t* __restrict row, int64_t count, char* to) {
    uint64_t* __restrict cells = (uint64_t*)to;
    for (int64_t x = 0; x < count; ++x) {
      cells[2 * x] = above[x];
      cells[2 * x + 1] = row[x];
    }
    // What a tile reads beyond the row is multiplied by zero, and must be finite.
    std::memset(cells + 2 * count, 0, kRowBytes);
  }

  const Layer& layer_;
};

}  // namespace
}  // namespace amx

void conv_amx_bf16(const Layer& layer) {
  if (layer.sources[0].channels % kBlock) {
    amx::Convolution<amx::Bf16Input>(layer).run();
  } else {
    amx::Convolution<amx::Bf16<3, 1>>(layer).run();
  }
}
bool has_amx() { return amx::permitted(); }
void upsample_amx(const Layer& layer) { amx::Convolution<amx::Bf16<1, 8>>(layer).run(); }

}  // namespace unet3d

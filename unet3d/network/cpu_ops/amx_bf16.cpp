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

  void announce(const Window& window, int64_t z, Ahead& ahead) const { announce_rows(layer_, window, z, KERNEL, ahead); }

 private:
  const Layer& layer_;
  Voxels voxels_;
};

// The network's input of up to four channels: a cell is one voxel, a tile's row reads three of them (and five more, whose
// weights are zero).
class Bf16Input : public Bf16Products {
 public:
  static constexpr int kKernel = 3, kTaps = 1, kOffsets = 3, kCell = 8;
  static constexpr bool kPairs = false;

  explicit Bf16Input(const Layer& layer) : layer_(layer) {}
  int64_t chunks() const { return 1; }
  Layout layout(int64_t rows, int64_t columns) const { return {columns + 2, 0, (rows + 2) * (columns + 2)}; }

  void offsets(const Layout& layout, int64_t* to) const {
    for (int y = 0; y < 3; ++y) *to++ = y * layout.pitch * kCell;
  }

  void stage(const Layout& layout, const Window& window, int64_t z, char* plane, int64_t) const {
    int64_t channels = layer_.sources[0].channels;
    each_row(layer_, window, z, 3, [&](int64_t i, const RowAt& at) {
      char* to = plane + i * layout.pitch * kCell;
      const uint16_t* from = (const uint16_t*)layer_.sources[0].data + at.voxel * channels;
      std::memset(to, 0, at.begin * kCell);
      if (channels == 4) {
        if (at.end > at.begin) std::memcpy(to + at.begin * kCell, from + at.begin * 4, (at.end - at.begin) * kCell);
      } else {
        for (int64_t x = at.begin; x < at.end; ++x) {
          uint16_t cell[4] = {};
          for (int64_t c = 0; c < channels; ++c) cell[c] = from[x * channels + c];
          std::memcpy(to + x * kCell, cell, kCell);
        }
      }
      // What a tile reads beyond the row is multiplied by zero, and must be finite.
      std::memset(to + at.end * kCell, 0, (at.count - at.end) * kCell + kRowBytes);
    });
  }

  void announce(const Window& window, int64_t z, Ahead& ahead) const { announce_rows(layer_, window, z, 3, ahead); }

 private:
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

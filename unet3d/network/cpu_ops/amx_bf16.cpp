// Convolutions with bf16 products on AMX tiles.
#include <cstring>

#include "amx_conv.h"
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

// A chunk is 32 channels in slots, a position one voxel of it. KERNEL 3, or 1 with the 8 taps of an upsampling.
template <int KERNEL, int TAPS>
class Bf16 : public Bf16Products {
 public:
  static constexpr int kKernel = KERNEL, kTaps = TAPS, kOffsets = KERNEL * KERNEL;
  // The upsampling's weights are those of upsample_bf16.
  static constexpr bool kPairs = TAPS == 8;

  explicit Bf16(const Layer& layer) : layer_(layer), voxels_{KERNEL, layer.stride}, activations_(layer) {}
  int64_t chunks() const { return layer_.channels_in() / kBlock; }
  int64_t position() const { return kRowBytes; }
  Layout layout(int64_t rows, int64_t columns) const { return voxels_.layout(rows, columns); }

  void offsets(const Layout& layout, int64_t* to) const {
    for (int y = 0; y < KERNEL; ++y)
      for (int x = 0; x < KERNEL; ++x) *to++ = voxels_.at(layout, y, x) * kRowBytes;
  }

  void prefetch(const Window& window, const Piece& piece) const { prefetch_blocks(layer_, window, piece, KERNEL, 1); }

  void stage(const Layout& layout, const Window& window, const Piece& piece, char* plane) const {
    RowAt at = piece.within(row_at(layer_, window, piece.z, piece.row, KERNEL));
    int64_t odd = voxels_.at(layout, 0, 1) * kRowBytes, two = voxels_.at(layout, 0, 2) * kRowBytes;
    char* to = plane + voxels_.at(layout, piece.row, 0) * kRowBytes;
    auto voxel = [&](int64_t x) { return (uint16_t*)(to + (x & 1) * odd + (x >> 1) * two); };
    auto [source, channel] = source_block(layer_, piece.chunk);
    Activation activation = activations_.of(window.sample, piece.chunk);
    const c10::BFloat16* from = (const c10::BFloat16*)source->data + at.voxel * source->channels + channel;
    for (int64_t x = piece.begin; x < at.begin; ++x) std::memset(voxel(x), 0, kRowBytes);
    for (int64_t x = at.begin; x < at.end; ++x) stage_voxel(from + x * source->channels, activation, voxel(x));
    for (int64_t x = at.end; x < piece.end; ++x) std::memset(voxel(x), 0, kRowBytes);
  }

 private:
  const Layer& layer_;
  Voxels voxels_;
  Activations activations_;
};

// The network's input of up to four channels: a position is a voxel and the one below it in y, and a tile's row reads four
// of them side by side, so that six taps are one product, and three the second one. The weights of what is left are zero.
class Bf16Input : public Bf16Products {
 public:
  static constexpr int kKernel = 3, kTaps = 1, kOffsets = 2;
  static constexpr bool kPairs = false;

  explicit Bf16Input(const Layer& layer) : layer_(layer) {}
  int64_t chunks() const { return 1; }
  int64_t position() const { return 16; }
  Layout layout(int64_t rows, int64_t columns) const { return {columns + 2, 0, (rows + 2) * (columns + 2)}; }

  void offsets(const Layout& layout, int64_t* to) const {
    to[0] = 0;
    to[1] = 2 * layout.pitch * position();
  }

  void prefetch(const Window& window, const Piece& piece) const {
    RowAt at = piece.within(row_at(layer_, window, piece.z, piece.row, kKernel));
    int64_t channels = layer_.sources[0].channels;
    const c10::BFloat16* from = (const c10::BFloat16*)layer_.sources[0].data + at.voxel * channels;
    for (int64_t i = at.begin * channels; i < at.end * channels; i += 32) __builtin_prefetch(from + i, 0, 2);
  }

  void stage(const Layout& layout, const Window& window, const Piece& piece, char* plane) const {
    constexpr int64_t kColumns = 64;  // more than any piece has
    int64_t last = window.rows + 1, count = piece.end - piece.begin;
    uint64_t row[kColumns], below[kColumns];
    read(window, piece, row);
    Piece next = piece;
    ++next.row;
    // What lies below the last row is multiplied by zero.
    if (piece.row < last) {
      read(window, next, below);
    } else {
      std::fill(below, below + count, 0);
    }
    uint64_t* to = (uint64_t*)(plane + (piece.row * layout.pitch + piece.begin) * position());
    for (int64_t x = 0; x < count; ++x) to[2 * x] = row[x], to[2 * x + 1] = below[x];
    // What tiles read behind a row's last voxel is multiplied by zero, and must be finite: the next row, or else this.
    if (piece.end == window.columns + 2 && (piece.row == last || piece.end < layout.pitch)) to[2 * count] = to[2 * count + 1] = 0;
  }

 private:
  // A piece's voxels of 8 bytes.
  void read(const Window& window, const Piece& piece, uint64_t* to) const {
    RowAt at = piece.within(row_at(layer_, window, piece.z, piece.row, kKernel));
    int64_t channels = layer_.sources[0].channels;
    const uint16_t* from = (const uint16_t*)layer_.sources[0].data + at.voxel * channels;
    std::fill(to, to + piece.end - piece.begin, 0);
    if (at.end <= at.begin) return;
    to += at.begin - piece.begin;
    if (channels == 4) {
      std::memcpy(to, from + at.begin * 4, (at.end - at.begin) * 8);
      return;
    }
    for (int64_t x = at.begin; x < at.end; ++x) std::memcpy(to++, from + x * channels, channels * 2);
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

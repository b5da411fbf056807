// Convolutions with int8 products on AMX tiles: activations as unsigned bytes, quantised while they are staged, weights
// as signed bytes, sums exact in int32, and from them raw bf16 outputs.
//
// Bytes are in the order in which AVX-512 packs its lanes. Byte 16 l + 4 q + i of two blocks of 32 channels is slot 4 l + i
// of their quarter q, a quarter being 16 slots; byte 8 l + 4 q + i of one block is slot 4 l + i of its half q.
#include <cmath>
#include <cstring>

#include "amx_conv.h"
#include "kernels.h"

namespace unet3d {
namespace amx {
namespace {

typedef int32_t LooseVecI __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

// 32 values rounded to nearest (ties to even), and how one or two of them are clamped to 0..255 and stored as bytes.
#if defined(__AVX512BW__)
typedef __m512i Rounded;
UNET3D_INLINE Rounded rounded(const Vec* v) {
  return _mm512_packs_epi32(_mm512_cvtps_epi32((__m512)v[0]), _mm512_cvtps_epi32((__m512)v[1]));
}
UNET3D_INLINE void store_bytes(char* to, const Rounded& first, const Rounded& second) {
  _mm512_storeu_si512(to, _mm512_packus_epi16(first, second));
}
UNET3D_INLINE void store_bytes(char* to, const Rounded& only) {
  _mm256_storeu_si256((__m256i*)to, _mm512_cvtusepi16_epi8(_mm512_max_epi16(only, _mm512_setzero_si512())));
}
#else
struct Rounded {
  float values[kBlock];
};
inline Rounded rounded(const Vec* v) {
  Rounded r;
  std::memcpy(r.values, v, sizeof(r.values));
  return r;
}
inline char byte_of(float value) {
  value = std::nearbyint(value);
  return (char)(uint8_t)(value > 0 ? std::min(value, 255.0f) : 0.0f);
}
inline void store_bytes(char* to, const Rounded& first, const Rounded& second) {
  for (int q = 0; q < 4; ++q)
    for (int k = 0; k < 16; ++k) to[16 * (k / 4) + 4 * q + k % 4] = byte_of((q < 2 ? first : second).values[16 * (q & 1) + k]);
}
inline void store_bytes(char* to, const Rounded& only) {
  for (int k = 0; k < kBlock; ++k) to[8 * (k % 16 / 4) + 4 * (k / 16) + k % 4] = byte_of(only.values[k]);
}
#endif

// Normalisation and quantisation of one block of 32 channels. What LeakyReLU leaves below zero, at most a hundredth of
// what was there, ends at zero, which a range from zero on cannot tell from it.
struct Quantiser {
  Vec scale[kParts], shift[kParts];
  Rounded padding;

  // Of all blocks of all samples; those behind the last one give zeros.
  static std::vector<Quantiser> of(const Layer& layer, int64_t blocks) {
    std::vector<Quantiser> made;
    for (int64_t sample = 0; sample < layer.samples; ++sample)
      for (int64_t block = 0; block < blocks; ++block) made.push_back(of(layer, sample, block));
    return made;
  }

  UNET3D_INLINE Rounded operator()(const c10::BFloat16* from) const {
    Vec v[kParts];
#pragma GCC unroll 8
    for (int part = 0; part < kParts; ++part) {
      bool odd = odd_part<c10::BFloat16>(part);
      v[part] = (odd ? load_part<true>(from, part) : load_part<false>(from, part)) * scale[part] + shift[part];
    }
    return rounded(v);
  }

 private:
  static Quantiser of(const Layer& layer, int64_t sample, int64_t block) {
    Quantiser made{};
    float zero = 0;
    if (block * kBlock < layer.channels_in()) {
      auto [source, channel] = source_block(layer, block);
      int index = source - layer.sources;
      float step = layer.quantised->step[index];
      zero = layer.quantised->zero[index];
      Activation activation = Activation::of<c10::BFloat16>(*source, sample, channel, layer.slope);
      for (int part = 0; part < kParts; ++part) {
        made.scale[part] = activation.scale[part] / step;
        made.shift[part] = activation.shift[part] / step + zero;
      }
    }
    Vec v[kParts];
    for (Vec& part : v) part = broadcast(zero);
    made.padding = rounded(v);
    return made;
  }
};

class Int8Products {
 public:
  static constexpr int kKernel = 3, kTaps = 1;
  static constexpr bool kPairs = false;

  template <int C, int A, int B>
  static void dot() {
    dot_u8s8<C, A, B>();
  }

  Int8Products(const Layer& layer, int64_t blocks) : layer_(layer), blocks_(blocks), quantisers_(Quantiser::of(layer, blocks)) {}

  struct Result {
    Vec factor[kParts], offset[kParts];
    UNET3D_INLINE Vec operator()(const float* products, int part) const {
      return __builtin_convertvector(*(const LooseVecI*)products, Vec) * factor[part] + offset[part];
    }
  };
  Result result(int64_t channel) const {
    Result made;
    for (int part = 0; part < kParts; ++part) {
      made.factor[part] = load(layer_.quantised->factor + channel + part * kLanes);
      made.offset[part] = load(layer_.quantised->offset + channel + part * kLanes);
    }
    return made;
  }

 protected:
  const Quantiser& quantiser(const Window& window, int64_t block) const { return quantisers_[window.sample * blocks_ + block]; }

  const Layer& layer_;

 private:
  int64_t blocks_;
  std::vector<Quantiser> quantisers_;
};

// A chunk is two blocks of 32 channels, a position one voxel of it.
class Int8 : public Int8Products {
 public:
  static constexpr int kOffsets = 9;

  explicit Int8(const Layer& layer) : Int8Products(layer, divide_up(layer.channels_in(), 2 * kBlock) * 2), voxels_{3, layer.stride} {}
  int64_t chunks() const { return divide_up(layer_.channels_in(), 2 * kBlock); }
  int64_t position() const { return kRowBytes; }
  Layout layout(int64_t rows, int64_t columns) const { return voxels_.layout(rows, columns); }

  void offsets(const Layout& layout, int64_t* to) const {
    for (int y = 0; y < 3; ++y)
      for (int x = 0; x < 3; ++x) *to++ = voxels_.at(layout, y, x) * kRowBytes;
  }

  void prefetch(const Window& window, const Piece& piece) const { prefetch_blocks(layer_, window, piece, kKernel, 2); }

  void stage(const Layout& layout, const Window& window, const Piece& piece, char* plane) const {
    RowAt at = piece.within(row_at(layer_, window, piece.z, piece.row, kKernel));
    int64_t odd = voxels_.at(layout, 0, 1) * kRowBytes, two = voxels_.at(layout, 0, 2) * kRowBytes;
    char* to = plane + voxels_.at(layout, piece.row, 0) * kRowBytes;
    auto voxel = [&](int64_t x) { return to + (x & 1) * odd + (x >> 1) * two; };
    int64_t block = 2 * piece.chunk;
    Quantiser first = quantiser(window, block), second = quantiser(window, block + 1);
    auto from = [&](int64_t block) {
      auto [source, channel] = source_block(layer_, block);
      return Strided{(const c10::BFloat16*)source->data + at.voxel * source->channels + channel, source->channels};
    };
    Strided a = from(block);
    for (int64_t x = piece.begin; x < at.begin; ++x) store_bytes(voxel(x), first.padding, second.padding);
    if ((block + 1) * kBlock < layer_.channels_in()) {
      Strided b = from(block + 1);
      for (int64_t x = at.begin; x < at.end; ++x) store_bytes(voxel(x), first(a.at(x)), second(b.at(x)));
    } else {
      for (int64_t x = at.begin; x < at.end; ++x) store_bytes(voxel(x), first(a.at(x)), second.padding);
    }
    for (int64_t x = at.end; x < piece.end; ++x) store_bytes(voxel(x), first.padding, second.padding);
  }

 private:
  // A block's first channel of column 0, and how far the columns are apart.
  struct Strided {
    const c10::BFloat16* from;
    int64_t channels;
    const c10::BFloat16* at(int64_t x) const { return from + x * channels; }
  };

  Voxels voxels_;
};

// 32 channels fill half a tile's row: a row reads two neighbouring voxels, so that two taps are one product. The partner of
// the third tap has weight zero. A position is one voxel with stride 1, two with stride 2, rows then parted by their parity.
class Int8Narrow : public Int8Products {
 public:
  static constexpr int kOffsets = 6;

  explicit Int8Narrow(const Layer& layer) : Int8Products(layer, 1) {}
  int64_t chunks() const { return 1; }
  int64_t position() const { return layer_.stride * kBlock; }

  Layout layout(int64_t rows, int64_t columns) const {
    if (layer_.stride == 1) return {columns + 2, 0, (rows + 2) * (columns + 2)};
    return {columns + 1, (rows + 1) * (columns + 1), 2 * (rows + 1) * (columns + 1)};
  }

  void offsets(const Layout& layout, int64_t* to) const {
    for (int y = 0; y < 3; ++y)
      for (int x = 0; x < 3; x += 2) *to++ = row(layout, y) * position() + x * kBlock;
  }

  void prefetch(const Window& window, const Piece& piece) const { prefetch_blocks(layer_, window, piece, kKernel, 1); }

  void stage(const Layout& layout, const Window& window, const Piece& piece, char* plane) const {
    RowAt at = piece.within(row_at(layer_, window, piece.z, piece.row, kKernel));
    char* to = plane + row(layout, piece.row) * position();
    Quantiser quantise = quantiser(window, 0);
    const Source& source = layer_.sources[0];
    const c10::BFloat16* from = (const c10::BFloat16*)source.data + at.voxel * kBlock;
    for (int64_t x = piece.begin; x < at.begin; ++x) store_bytes(to + x * kBlock, quantise.padding);
    for (int64_t x = at.begin; x < at.end; ++x) store_bytes(to + x * kBlock, quantise(from + x * kBlock));
    for (int64_t x = at.end; x < piece.end; ++x) store_bytes(to + x * kBlock, quantise.padding);
  }

 private:
  // First position of a row.
  int64_t row(const Layout& layout, int64_t y) const {
    return layer_.stride == 1 ? y * layout.pitch : (y & 1) * layout.subplane + (y >> 1) * layout.pitch;
  }
};

}  // namespace
}  // namespace amx

void conv_amx_int8(const Layer& layer) {
  if (layer.channels_in() == kBlock) {
    amx::Convolution<amx::Int8Narrow>(layer).run();
  } else {
    amx::Convolution<amx::Int8>(layer).run();
  }
}

}  // namespace unet3d

// Convolutions with int8 products on AMX tiles: activations as unsigned bytes, quantised while they are staged, weights
// as signed bytes, sums exact in int32, and from them raw bf16 outputs.
//
// The bytes of a cell are in the order in which AVX-512 packs its lanes: byte 16 l + 4 q + i of a cell is slot 4 l + i
// of its quarter q, a quarter being 16 slots.
#include <cmath>
#include <cstring>

#include "amx_form.h"
#include "kernels.h"

namespace unet3d {
namespace amx {
namespace {

typedef int32_t LooseVecI __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

// 32 values rounded to nearest (ties to even), and how two of them are clamped to 0..255 and put into a cell.
#if defined(__AVX512BW__)
typedef __m512i Rounded;
UNET3D_INLINE Rounded rounded(const Vec* v) {
  return _mm512_packs_epi32(_mm512_cvtps_epi32((__m512)v[0]), _mm512_cvtps_epi32((__m512)v[1]));
}
UNET3D_INLINE void store_cell(char* to, const Rounded& first, const Rounded& second) {
  _mm512_storeu_si512(to, _mm512_packus_epi16(first, second));
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
inline void store_cell(char* to, const Rounded& first, const Rounded& second) {
  for (int q = 0; q < 4; ++q) {
    for (int k = 0; k < 16; ++k) {
      float value = std::nearbyint((q < 2 ? first : second).values[16 * (q & 1) + k]);
      to[16 * (k / 4) + 4 * q + k % 4] = (char)(uint8_t)(value > 0 ? std::min(value, 255.0f) : 0.0f);
    }
  }
}
#endif

// Normalisation and quantisation of one block of 32 channels. What LeakyReLU leaves below zero, at most a hundredth of
// what was there, ends at zero, which a range from zero on cannot tell from it.
struct Quantiser {
  Vec scale[kParts], shift[kParts];
  const c10::BFloat16* from;  // the block's first channel of the row's column 0
  int64_t channels;
  Rounded padding;

  UNET3D_INLINE Rounded operator()(int64_t x) const {
    Vec v[kParts];
#pragma GCC unroll 8
    for (int part = 0; part < kParts; ++part) {
      bool odd = odd_part<c10::BFloat16>(part);
      const c10::BFloat16* p = from + x * channels;
      v[part] = (odd ? load_part<true>(p, part) : load_part<false>(p, part)) * scale[part] + shift[part];
    }
    return rounded(v);
  }
};

inline Rounded constant(float value) {
  Vec v[kParts];
  for (Vec& part : v) part = broadcast(value);
  return rounded(v);
}

class Int8Products {
 public:
  static constexpr int kKernel = 3, kTaps = 1, kCell = kRowBytes, kRowTaps = 3, kTapRows = 1;
  static constexpr bool kPairs = false;

  template <int C, int A, int B>
  static void dot() {
    dot_u8s8<C, A, B>();
  }

  explicit Int8Products(const Layer& layer) : layer_(layer) {}

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
  // Of one block of input channels; one behind the last gives zeros.
  Quantiser quantiser(const Window& window, int64_t block, int64_t voxel) const {
    Quantiser made{};
    made.padding = constant(0);
    if (block * kBlock >= layer_.channels_in()) return made;
    auto [source, channel] = source_block(layer_, block);
    const Quantised& quantised = *layer_.quantised;
    int index = source - layer_.sources;
    Activation activation = Activation::of<c10::BFloat16>(*source, window.sample, channel, layer_.slope);
    for (int part = 0; part < kParts; ++part) {
      made.scale[part] = activation.scale[part] / quantised.step[index];
      made.shift[part] = activation.shift[part] / quantised.step[index] + quantised.zero[index];
    }
    made.from = (const c10::BFloat16*)source->data + voxel * source->channels + channel;
    made.channels = source->channels;
    made.padding = constant(quantised.zero[index]);
    return made;
  }

  const Layer& layer_;
};

// A chunk is two blocks of 32 channels, a cell one voxel of it.
class Int8 : public Int8Products {
 public:
  static constexpr int kOffsets = 9, kColumns = 3;

  explicit Int8(const Layer& layer) : Int8Products(layer), voxels_{3, layer.stride} {}
  int64_t chunks() const { return divide_up(layer_.channels_in(), 2 * kBlock); }
  Layout layout(int64_t rows, int64_t columns) const { return voxels_.layout(rows, columns); }

  void offsets(const Layout& layout, int64_t* to) const {
    for (int y = 0; y < 3; ++y)
      for (int x = 0; x < 3; ++x) *to++ = voxels_.at(layout, y, x) * kCell;
  }

  void stage(const Layout& layout, const Window& window, int64_t z, char* plane, int64_t chunk_bytes) const {
    int64_t odd = voxels_.at(layout, 0, 1) * kCell, two = voxels_.at(layout, 0, 2) * kCell;
    each_row(layer_, window, z, 3, [&](int64_t i, const RowAt& at) {
      for (int64_t chunk = 0; chunk < chunks(); ++chunk) {
        char* to = plane + chunk * chunk_bytes + voxels_.at(layout, i, 0) * kCell;
        auto cell = [&](int64_t x) { return to + (x & 1) * odd + (x >> 1) * two; };
        Quantiser first = quantiser(window, 2 * chunk, at.voxel), second = quantiser(window, 2 * chunk + 1, at.voxel);
        for (int64_t x = 0; x < at.begin; ++x) store_cell(cell(x), first.padding, second.padding);
        if (second.from != nullptr) {
          for (int64_t x = at.begin; x < at.end; ++x) store_cell(cell(x), first(x), second(x));
        } else {
          for (int64_t x = at.begin; x < at.end; ++x) store_cell(cell(x), first(x), second.padding);
        }
        for (int64_t x = at.end; x < at.count; ++x) store_cell(cell(x), first.padding, second.padding);
      }
    });
  }

 private:
  Voxels voxels_;
};

// 32 channels fill half a tile's row: a cell is two neighbouring voxels of a row, and two taps are one product. The
// partner of the third tap has weight zero. With stride 1 every voxel is in two cells, with stride 2 in one.
class Int8Narrow : public Int8Products {
 public:
  static constexpr int kOffsets = 6, kColumns = 2;

  using Int8Products::Int8Products;
  int64_t chunks() const { return 1; }

  Layout layout(int64_t rows, int64_t columns) const {
    if (layer_.stride == 1) return {columns + 2, 0, (rows + 2) * (columns + 2)};
    return {columns + 1, (rows + 1) * (columns + 1), 2 * (rows + 1) * (columns + 1)};
  }

  void offsets(const Layout& layout, int64_t* to) const {
    for (int y = 0; y < 3; ++y)
      for (int x = 0; x < 3; x += 2) *to++ = (row(layout, y) + x / layer_.stride) * kCell;
  }

  void stage(const Layout& layout, const Window& window, int64_t z, char* plane, int64_t) const {
    each_row(layer_, window, z, 3, [&](int64_t i, const RowAt& at) {
      char* to = plane + row(layout, i) * kCell;
      Quantiser quantise = quantiser(window, 0, at.voxel);
      if (layer_.stride == 2) {
        auto value = [&](int64_t x) { return at.begin <= x && x < at.end ? quantise(x) : quantise.padding; };
        for (int64_t x = 0; x < at.count; x += 2, to += kCell) store_cell(to, value(x), value(x + 1));
        return;
      }
      Rounded before = quantise.padding;
      auto next = [&](const Rounded& now) {
        store_cell(to, before, now);
        before = now;
        to += kCell;
      };
      if (at.begin == 0 && at.end > 0) before = quantise(0);
      int64_t x = 1;
      for (; x < at.begin; ++x) next(quantise.padding);
      for (; x < at.end; ++x) next(quantise(x));
      for (; x <= at.count; ++x) next(quantise.padding);
    });
  }

 private:
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

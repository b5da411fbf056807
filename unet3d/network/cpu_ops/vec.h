// Vectors of fp32 as wide as the compiler's target has them, in GCC/Clang vector extensions, and their loads and stores
// of fp32 or bf16 memory by blocks of 32 channels.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace unet3d {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#define UNET3D_VECTORS "AVX-512"
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kLanes = 8;
#define UNET3D_VECTORS "AVX2"
#else
constexpr int kLanes = 4;
#define UNET3D_VECTORS "portable"
#endif

// Channels are padded to multiples of this; a block of them is kParts vectors.
constexpr int kBlock = 32;
constexpr int kParts = kBlock / kLanes;

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef uint32_t VecU __attribute__((vector_size(4 * kLanes)));
typedef uint16_t VecH __attribute__((vector_size(2 * kLanes)));
typedef float LooseVec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint32_t LooseVecU __attribute__((vector_size(4 * kLanes), aligned(2), may_alias));
typedef uint16_t LooseVecH __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

#define UNET3D_INLINE inline __attribute__((always_inline))
// Keeps a broadcast value in a register: the compiler would else read it again for every multiplication.
#if defined(__x86_64__)
#define UNET3D_IN_REGISTER(x) asm("" : "+v"(x))
#else
#define UNET3D_IN_REGISTER(x)
#endif

UNET3D_INLINE Vec broadcast(float value) { return value - Vec{}; }
UNET3D_INLINE Vec load(const float* p) { return *(const LooseVec*)p; }
UNET3D_INLINE void store(float* p, Vec v) { *(LooseVec*)p = v; }

UNET3D_INLINE Vec maximum(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

// LeakyReLU for slopes up to 1; NaN stays NaN.
UNET3D_INLINE Vec leaky_relu(Vec v, Vec slope) { return maximum(v, v * slope); }

// A block of 32 channels is read as kParts vectors. The order of channels in them ("slots") is that of memory for fp32.
// For bf16 it is all even channels, then all odd ones, since this takes one instruction a vector.
template <class T>
constexpr int slot_channel(int slot) {
  return sizeof(T) == 4 ? slot : slot < kBlock / 2 ? 2 * slot : 2 * slot - kBlock + 1;
}

// Vector `part` of a block at p. ODD says for bf16 whether the part is of the second half, and is nothing for fp32.
template <bool ODD>
UNET3D_INLINE Vec load_part(const float* p, int part) { return load(p + part * kLanes); }

template <bool ODD>
UNET3D_INLINE Vec load_part(const c10::BFloat16* p, int part) {
  VecU pairs = *(const LooseVecU*)((const uint16_t*)p + 2 * kLanes * (part % (kParts / 2)));
  return (Vec)(ODD ? pairs & 0xffff0000u : pairs << 16);
}

// Whether the part is of the second half of slots and of a type for which this matters.
template <class T>
constexpr bool odd_part(int part) { return sizeof(T) == 2 && part >= kParts / 2; }

UNET3D_INLINE VecH to_bf16(Vec v) {
#if defined(__AVX512BF16__)
  return (VecH)_mm512_cvtneps_pbh((__m512)v);
#else
  VecU bits = (VecU)v;
  VecU rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  // Rounding may carry a NaN's payload into the sign: keep NaN a NaN.
  return __builtin_convertvector((VecU)(v == v ? rounded : (VecU{} + 0x7fc0)), VecH);
#endif
}

// Writes a block of 32 values in the order of the vectors. `stream`: past the caches, for tensors larger than these; the
// address must then be a multiple of 64 bytes.
UNET3D_INLINE void store_block(float* p, const Vec* v, bool stream) {
  for (int i = 0; i < kParts; ++i) {
#if defined(__AVX512F__)
    if (stream) {
      _mm512_stream_ps(p + i * kLanes, (__m512)v[i]);
      continue;
    }
#elif defined(__AVX2__)
    if (stream) {
      _mm256_stream_ps(p + i * kLanes, (__m256)v[i]);
      continue;
    }
#endif
    store(p + i * kLanes, v[i]);
  }
}

UNET3D_INLINE void store_block(c10::BFloat16* p, const Vec* v, bool stream) {
#if defined(__AVX512BF16__)
  __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)v[1], (__m512)v[0]);
  if (stream) {
    _mm512_stream_si512((__m512i*)p, both);
  } else {
    _mm512_storeu_si512(p, both);
  }
#else
  for (int i = 0; i < kParts; ++i) *(LooseVecH*)((uint16_t*)p + i * kLanes) = to_bf16(v[i]);
#endif
}

}  // namespace unet3d

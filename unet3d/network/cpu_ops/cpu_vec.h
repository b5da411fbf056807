// Sixteen floats at a time over fp32 or bf16 memory, in GCC/Clang vector extensions: AVX-512 where the compiler's
// target has it, narrower instructions elsewhere.
#pragma once

#include <cstdint>
#include <cstring>

#include <c10/util/BFloat16.h>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace unet3d {

constexpr int kLanes = 16;
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef uint32_t VecU __attribute__((vector_size(4 * kLanes)));
typedef uint16_t VecH __attribute__((vector_size(2 * kLanes)));

inline Vec broadcast(float value) { return value - Vec{}; }

// n < kLanes reads or writes the first n values only; the other lanes read as zero.
inline Vec load(const float* p, int n = kLanes) {
  Vec v{};
  std::memcpy(&v, p, n == kLanes ? sizeof(v) : n * sizeof(float));
  return v;
}

inline Vec load(const c10::BFloat16* p, int n = kLanes) {
  VecH half{};
  std::memcpy(&half, p, n == kLanes ? sizeof(half) : n * sizeof(uint16_t));
  return (Vec)(__builtin_convertvector(half, VecU) << 16);
}

inline VecH to_bf16(Vec v) {
#if defined(__AVX512BF16__)
  return (VecH)_mm512_cvtneps_pbh((__m512)v);
#else
  VecU bits = (VecU)v;
  VecU rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  // Rounding may carry a NaN's payload into the sign: keep NaN a NaN.
  return __builtin_convertvector((VecU)(v == v ? rounded : (VecU{} + 0x7fc0)), VecH);
#endif
}

inline void store(float* p, Vec v, int n = kLanes) { std::memcpy(p, &v, n == kLanes ? sizeof(v) : n * sizeof(float)); }

inline void store(c10::BFloat16* p, Vec v, int n = kLanes) {
  VecH half = to_bf16(v);
  std::memcpy(p, &half, n == kLanes ? sizeof(half) : n * sizeof(uint16_t));
}

inline Vec leaky_relu(Vec v, float slope) {
  Vec scaled = v * slope;
  return v > 0 ? v : scaled;  // a NaN stays a NaN
}

inline float sum(Vec v) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

}  // namespace unet3d

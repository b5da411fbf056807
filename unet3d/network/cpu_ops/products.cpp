#include "products.h"

#include <c10/util/Exception.h>

#include <array>
#include <utility>

#include "vec.h"

namespace unet3d {
namespace {

// Rows whose sums, two vectors each, fit the registers beside two vectors of B and one value of A.
constexpr int kRows = kLanes == 16 ? 14 : 6;
// A kernel computes this many of a panel's 32 columns.
constexpr int kColumns = 2 * kLanes;

// 32 numbers that will be read soon: two lines of cache.
UNET3D_INLINE void fetch(const float* p) {
  __builtin_prefetch(p);
  __builtin_prefetch(p + kBlock / 2);
}

template <int ROWS, int STRIDE>
__attribute__((noinline)) void kernel(const float* a, const Segments& segments, const float* b, float* c) {
  Vec low[ROWS], high[ROWS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) low[r] = high[r] = Vec{};
  const ptrdiff_t whole_b = (ptrdiff_t)segments.count * segments.length * kBlock;
  for (int s = 0; s < segments.count; ++s) {
    const float* row = a + segments.offset[s];
    const float* next = row + segments.next;
#pragma GCC unroll 2
    for (int k = 0; k < segments.length; ++k, b += kBlock, ++row) {
      // Not with narrower vectors, by which a kernel computes only part of B's columns.
      if (kLanes == 16 && segments.next) {
        fetch(b + whole_b);
        if (k < ROWS) fetch(next + k * STRIDE);
      }
      Vec b0 = load(b), b1 = load(b + kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        Vec value = broadcast(row[r * STRIDE]);
        UNET3D_IN_REGISTER(value);
        low[r] += value * b0;
        high[r] += value * b1;
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    store(c + r * kBlock, low[r]);
    store(c + r * kBlock + kLanes, high[r]);
  }
}

#if defined(__AVX512BF16__)
typedef int32_t Pair __attribute__((aligned(2), may_alias));

template <int ROWS, int STRIDE>
__attribute__((noinline)) void kernel(const uint16_t* a, const Segments& segments, const uint16_t* b, float* c) {
  __m512 low[ROWS], high[ROWS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) low[r] = high[r] = _mm512_setzero_ps();
  for (int s = 0; s < segments.count; ++s) {
    const uint16_t* row = a + segments.offset[s];
#pragma GCC unroll 2
    for (int k = 0; k < segments.length; k += 2, b += 2 * kBlock, row += 2) {
      __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + kBlock);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        __m512i value;
        if constexpr (STRIDE == kBlock) {
          value = _mm512_set1_epi32(*(const Pair*)(row + r * STRIDE));
          UNET3D_IN_REGISTER(value);
        } else {
          // Written out, since the compiler else reads short segments ahead until it is out of registers.
          asm volatile("vpbroadcastd %1, %0" : "=v"(value) : "m"(*(const Pair*)(row + r * STRIDE)));
        }
        low[r] = _mm512_dpbf16_ps(low[r], (__m512bh)value, b0);
        high[r] = _mm512_dpbf16_ps(high[r], (__m512bh)value, b1);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    _mm512_storeu_ps(c + r * kBlock, low[r]);
    _mm512_storeu_ps(c + r * kBlock + kLanes, high[r]);
  }
}
#endif

template <class T>
using Kernel = void (*)(const T*, const Segments&, const T*, float*);

template <class T, int STRIDE, int... ROWS>
constexpr std::array<Kernel<T>, kRows> kernels(std::integer_sequence<int, ROWS...>) {
  return {static_cast<Kernel<T>>(kernel<ROWS + 1, STRIDE>)...};
}

// Kernels of 1 to kRows rows.
template <class T, RowStride STRIDE>
constexpr auto kKernels = kernels<T, (int)STRIDE>(std::make_integer_sequence<int, kRows>());

template <class T>
void multiply_by_kernels(const T* a, RowStride stride, const Segments& segments, const T* b, float* c, int64_t rows) {
  const auto& table = stride == RowStride::kBlock ? kKernels<T, RowStride::kBlock> : kKernels<T, RowStride::kInput>;
  constexpr int kPerRow = sizeof(T) == 4 ? 1 : 2;  // values of B side by side in one column
  // Groups of nearly equal size: one row left over would cost as much as several.
  int64_t groups = (rows + kRows - 1) / kRows;
  for (int64_t g = 0; g < groups; ++g) {
    int64_t first = rows * g / groups, count = rows * (g + 1) / groups - first;
    for (int column = 0; column < kBlock; column += kColumns) {
      table[count - 1](a + first * (int)stride, segments, b + column * kPerRow, c + first * kBlock + column);
    }
  }
}

}  // namespace

void multiply(const float* a, RowStride stride, const Segments& segments, const float* b, float* c, int64_t rows) {
  multiply_by_kernels(a, stride, segments, b, c, rows);
}

void multiply(const uint16_t* a, RowStride stride, const Segments& segments, const uint16_t* b, float* c, int64_t rows) {
#if defined(__AVX512BF16__)
  multiply_by_kernels(a, stride, segments, b, c, rows);
#else
  TORCH_CHECK(false, "this CPU does not multiply bf16");
#endif
}

bool bf16_products() {
#if defined(__AVX512BF16__)
  return true;
#else
  return false;
#endif
}

}  // namespace unet3d

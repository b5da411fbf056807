// Stage 2 of a layer: C [rows, 32] = A [rows, K] x B [K, 32], sums in fp32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace unet3d {

// K in segments of `length` values that lie side by side in A, `offset[i]` elements from a row's address. B has the
// segments one after the other. `next`: elements from A to that of the product after this one, whose B follows this one's; 0
// where there is none. In fp32 with AVX-512 both are fetched meanwhile.
struct Segments {
  const ptrdiff_t* offset;
  int count;
  int length;
  ptrdiff_t next = 0;
};

// Elements between rows of A: a block of channels, or the few channels of the network's input.
enum class RowStride { kBlock = 32, kInput = 4 };

// fp32: B [K][32].
void multiply(const float* a, RowStride stride, const Segments& segments, const float* b, float* c, int64_t rows);

// bf16, K even: B [K / 2][32][2]. Only where `bf16_products()`.
void multiply(const uint16_t* a, RowStride stride, const Segments& segments, const uint16_t* b, float* c, int64_t rows);

// Whether the compiler's target multiplies bf16 (AVX512-BF16).
bool bf16_products();

}  // namespace unet3d

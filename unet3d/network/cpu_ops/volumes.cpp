// What a host does around the network, each in one pass over memory: the input's type and layout, and labels.
#include "volumes.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

#include "driver.h"

// Nobody asks for traps of comparisons here, which keep the loops from becoming vectors. For this file alone: the convolutions'
// machine code would be another one too.
#pragma GCC optimize("no-trapping-math")

namespace unet3d {
namespace {

// Voxels that a thread takes at a time.
constexpr int64_t kChunk = 16384;

float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The number rounded to bf16, in the upper half of the bits; NaN stays NaN.
uint32_t rounded(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return value == value ? bits + 0x7fff + ((bits >> 16) & 1) : 0x7fc00000u;
}

// Four modalities side by side. a to d: `count` voxels of each.
void put(const float* a, const float* b, const float* c, const float* d, int64_t count, float* out) {
  for (int64_t v = 0; v < count; ++v) {
    out[4 * v] = a[v];
    out[4 * v + 1] = b[v];
    out[4 * v + 2] = c[v];
    out[4 * v + 3] = d[v];
  }
}

// Two numbers of a voxel make 32 bits: compilers find vectors for pairs of these, and none for four numbers of 16.
void put(const float* a, const float* b, const float* c, const float* d, int64_t count, at::BFloat16* out) {
  auto* pairs = reinterpret_cast<uint32_t*>(out);
  for (int64_t v = 0; v < count; ++v) {
    pairs[2 * v] = rounded(a[v]) >> 16 | (rounded(b[v]) & 0xffff0000u);
    pairs[2 * v + 1] = rounded(c[v]) >> 16 | (rounded(d[v]) & 0xffff0000u);
  }
}

// The first of the largest: a tournament of two rounds, in which a later class wins only if it is larger.
uint8_t winner(float a, float b, float c, float d) {
  int lower = b > a ? 1 : 0, upper = d > c ? 3 : 2;
  return (d > c ? d : c) > (b > a ? b : a) ? upper : lower;
}

void choose(const float* logits, int64_t count, uint8_t* labels) {
  for (int64_t v = 0; v < count; ++v) {
    labels[v] = winner(logits[4 * v], logits[4 * v + 1], logits[4 * v + 2], logits[4 * v + 3]);
  }
}

void choose(const at::BFloat16* logits, int64_t count, uint8_t* labels) {
  auto* pairs = reinterpret_cast<const uint32_t*>(logits);
  for (int64_t v = 0; v < count; ++v) {
    uint32_t first = pairs[2 * v], second = pairs[2 * v + 1];
    labels[v] = winner(as_float(first << 16), as_float(first & 0xffff0000u), as_float(second << 16),
                       as_float(second & 0xffff0000u));
  }
}

// body(sample, first voxel, count), by the threads of ATen's pool.
template <class Body>
void for_voxels(int64_t samples, int64_t voxels, const Body& body) {
  int64_t chunks = divide_up(voxels, kChunk);
  at::parallel_for(0, samples * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      int64_t first = task % chunks * kChunk;
      body(task / chunks, first, std::min(kChunk, voxels - first));
    }
  });
}

}  // namespace

template <class T>
void interleave(const float* x, int64_t samples, int64_t voxels, T* y) {
  for_voxels(samples, voxels, [&](int64_t sample, int64_t first, int64_t count) {
    const float* a = x + sample * kModalities * voxels + first;
    put(a, a + voxels, a + 2 * voxels, a + 3 * voxels, count, y + kModalities * (sample * voxels + first));
  });
}

template <class T>
void labels(const T* logits, int64_t voxels, uint8_t* out) {
  for_voxels(1, voxels, [&](int64_t, int64_t first, int64_t count) {
    choose(logits + kClasses * first, count, out + first);
  });
}

template void interleave(const float*, int64_t, int64_t, float*);
template void interleave(const float*, int64_t, int64_t, at::BFloat16*);
template void labels(const float*, int64_t, uint8_t*);
template void labels(const at::BFloat16*, int64_t, uint8_t*);

}  // namespace unet3d

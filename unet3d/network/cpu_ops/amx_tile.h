// AMX tile instructions by number of tile. Where the compiler's target has none they are emulated, so that the
// convolutions above them compile and can be tested on every CPU.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define UNET3D_AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#else
#define UNET3D_AMX 0
#if defined(__AVX512F__)
#include <immintrin.h>
#endif
#endif

namespace unet3d::amx {

constexpr int kRows = 16;      // of a tile
constexpr int kRowBytes = 64;  // of a tile
constexpr int kTileBytes = kRows * kRowBytes;
constexpr int kGroup = 4;  // tiles of voxels that are multiplied at once, the most

#if UNET3D_AMX

// Linux gives a process the tiles' registers when it asks for them, and ends one that uses them unasked.
inline bool permitted() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

// All eight tiles 16 x 64 bytes in this thread, while it exists.
struct TileRegisters {
  TileRegisters() {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) config.row_bytes[i] = kRowBytes, config.rows[i] = kRows;
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~TileRegisters() { asm volatile("tilerelease" ::); }
};

// Whether the functions below may be called: where tiles are emulated, always.
inline bool usable() { return permitted(); }

template <int T>
inline void zero_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
inline void load_tile(const void* from, long stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
inline void store_tile(void* to, long stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
}
// C += A * B for bf16 pairs into fp32, and for quadruples of unsigned (A) and signed (B) bytes into int32.
template <int C, int A, int B>
inline void dot_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}
template <int C, int A, int B>
inline void dot_u8s8() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

#else

inline bool permitted() { return false; }
inline bool usable() { return true; }

struct alignas(64) Tile {
  uint8_t bytes[kRows][kRowBytes];
};
struct Tiles {
  Tile tiles[8];
  bool configured = false;
};
inline Tiles& tiles() {
  static thread_local Tiles all;
  return all;
}
// Ends the process, as the CPU does, where this thread has not configured them.
inline Tile& tile(int i) {
  if (!tiles().configured) std::abort();
  return tiles().tiles[i];
}
// What is in them before they are written must not be in any result: NaN as numbers.
struct TileRegisters {
  TileRegisters() {
    std::memset(tiles().tiles, 0xff, sizeof(tiles().tiles));
    tiles().configured = true;
  }
  ~TileRegisters() { tiles().configured = false; }
};

template <int T>
inline void zero_tile() {
  std::memset(&tile(T), 0, sizeof(Tile));
}
template <int T>
inline void load_tile(const void* from, long stride) {
  for (int r = 0; r < kRows; ++r) std::memcpy(tile(T).bytes[r], static_cast<const char*>(from) + r * stride, kRowBytes);
}
template <int T>
inline void store_tile(void* to, long stride) {
  for (int r = 0; r < kRows; ++r) std::memcpy(static_cast<char*>(to) + r * stride, tile(T).bytes[r], kRowBytes);
}

// One row of C plus four bytes of A times sixteen columns of B: two bf16 numbers, or four bytes.
typedef float Row __attribute__((vector_size(64)));
typedef int32_t RowI __attribute__((vector_size(64)));

inline void multiply_bf16(Row& c, const uint8_t* a, const uint8_t* b) {
  int32_t pair;
  std::memcpy(&pair, a, 4);
  RowI values;
  std::memcpy(&values, b, sizeof(values));
#if defined(__AVX512BF16__)
  c = (Row)_mm512_dpbf16_ps((__m512)c, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)values);
#else
  RowI left = pair - RowI{};
  c += (Row)(left << 16) * (Row)(values << 16);
  c += (Row)(left & int32_t(0xffff0000)) * (Row)(values & int32_t(0xffff0000));
#endif
}
inline void multiply_u8s8(RowI& c, const uint8_t* a, const uint8_t* b) {
#if defined(__AVX512VNNI__)
  int32_t four;
  std::memcpy(&four, a, 4);
  c = (RowI)_mm512_dpbusd_epi32((__m512i)c, _mm512_set1_epi32(four), _mm512_loadu_si512(b));
#else
  for (int n = 0; n < 16; ++n)
    for (int i = 0; i < 4; ++i) c[n] += int32_t(a[i]) * int8_t(b[4 * n + i]);
#endif
}
template <typename Sums, void (*multiply)(Sums&, const uint8_t*, const uint8_t*)>
inline void emulated_dot(Tile& c, const Tile& a, const Tile& b) {
  for (int r = 0; r < kRows; ++r) {
    Sums sums;
    std::memcpy(&sums, c.bytes[r], sizeof(sums));
    for (int k = 0; k < kRows; ++k) multiply(sums, a.bytes[r] + 4 * k, b.bytes[k]);
    std::memcpy(c.bytes[r], &sums, sizeof(sums));
  }
}
template <int C, int A, int B>
inline void dot_bf16() {
  emulated_dot<Row, multiply_bf16>(tile(C), tile(A), tile(B));
}
template <int C, int A, int B>
inline void dot_u8s8() {
  emulated_dot<RowI, multiply_u8s8>(tile(C), tile(A), tile(B));
}

#endif

}  // namespace unet3d::amx

// AMX tile instructions by number of tile, and the same in plain C++ where the compiler's target has none, so that
// the convolutions above them compile and can be tested on every CPU.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define UNET3D_AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#else
#define UNET3D_AMX 0
#endif

namespace unet3d::amx {

constexpr int kRows = 16;      // of a tile
constexpr int kRowBytes = 64;  // of a tile
constexpr int kTileBytes = kRows * kRowBytes;

#if UNET3D_AMX

// Linux gives a process the tiles' registers when it asks for them.
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

struct alignas(64) Tile {
  uint8_t bytes[kRows][kRowBytes];
};
inline Tile& tile(int i) {
  static thread_local Tile tiles[8];
  return tiles[i];
}
struct TileRegisters {
  TileRegisters() {}
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
inline float bf16_value(const uint8_t* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  uint32_t bits = uint32_t(half) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
template <typename Sum, int Bytes, typename ValueA, typename ValueB>
inline void emulated_dot(Tile& c, const Tile& a, const Tile& b, ValueA value_a, ValueB value_b) {
  Sum right[kRows][4 / Bytes][16];
  for (int k = 0; k < kRows; ++k)
    for (int p = 0; p < 4 / Bytes; ++p)
      for (int n = 0; n < 16; ++n) right[k][p][n] = value_b(b.bytes[k] + 4 * n + Bytes * p);
  for (int r = 0; r < kRows; ++r) {
    Sum sums[16];
    std::memcpy(sums, c.bytes[r], sizeof(sums));
    for (int k = 0; k < kRows; ++k)
      for (int p = 0; p < 4 / Bytes; ++p) {
        Sum left = value_a(a.bytes[r] + 4 * k + Bytes * p);
        for (int n = 0; n < 16; ++n) sums[n] += left * right[k][p][n];
      }
    std::memcpy(c.bytes[r], sums, sizeof(sums));
  }
}
template <int C, int A, int B>
inline void dot_bf16() {
  emulated_dot<float, 2>(tile(C), tile(A), tile(B), bf16_value, bf16_value);
}
template <int C, int A, int B>
inline void dot_u8s8() {
  emulated_dot<int32_t, 1>(tile(C), tile(A), tile(B), [](const uint8_t* p) { return int32_t(*p); },
                           [](const uint8_t* p) { return int32_t(int8_t(*p)); });
}

#endif

}  // namespace unet3d::amx

#include "peak.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include "amx_tile.h"
#include "driver.h"
#include "vec.h"

namespace unet3d {
namespace {

// Sums that do not wait for each other: more than the cycles of a product times the products begun in a cycle, and as many
// as AVX2's 16 registers hold beside two factors.
constexpr int kSums = 12;
// Threads take the next item when they are done with one, so that one that is held up holds up little.
constexpr int kItemsPerThread = 8;

struct Loop {
  const char* name;
  double flop;  // of a round
  void (*run)(int64_t rounds);
  bool (*usable)();
};

bool always() { return true; }

// Written as instructions: the compiler may neither leave one out nor keep a sum in memory.
#define UNET3D_VECTOR_LOOP(function, Vector, pattern, instruction, constraint)                                  \
  void function(int64_t rounds) {                                                                               \
    Vector a = (Vector)(VectorOf<sizeof(Vector)>{} + (pattern)), b = a, sums[kSums];                            \
    _Pragma("GCC unroll 12") for (int i = 0; i < kSums; ++i) sums[i] = Vector{};                                \
    for (int64_t round = 0; round < rounds; ++round) {                                                          \
      _Pragma("GCC unroll 12") for (int i = 0; i < kSums; ++i) {                                                \
        asm volatile(instruction " %2, %1, %0" : "+" constraint(sums[i]) : constraint(a), constraint(b));       \
      }                                                                                                         \
    }                                                                                                           \
    _Pragma("GCC unroll 12") for (int i = 0; i < kSums; ++i) asm volatile("" ::constraint(sums[i]));            \
  }

template <int BYTES>
using VectorOf __attribute__((vector_size(BYTES))) = int32_t;

// Factors whose bits differ, since zeros would let the CPU run cooler and so faster than a network does; their sums stay
// finite for any number of rounds.
[[maybe_unused]] constexpr int32_t kFp32 = 0x3a9d4b67;  // about 1.2e-3
[[maybe_unused]] constexpr int32_t kBf16 = 0x3a9d3ab3;  // a pair of such
[[maybe_unused]] constexpr int32_t kBytes = 0x5b2d9167;

#if defined(__AVX2__) && defined(__FMA__)
UNET3D_VECTOR_LOOP(fma_256, __m256, kFp32, "vfmadd231ps", "x")
#endif
#if defined(__AVX512F__)
UNET3D_VECTOR_LOOP(fma_512, __m512, kFp32, "vfmadd231ps", "v")
#endif
#if defined(__AVX512BF16__)
UNET3D_VECTOR_LOOP(bf16_512, __m512, kBf16, "vdpbf16ps", "v")
#endif
#if defined(__AVX512VNNI__)
UNET3D_VECTOR_LOOP(vnni_512, __m512i, kBytes, "vpdpbusd", "v")
#endif

#if UNET3D_AMX
constexpr int kTileSums = 4;

// Two by two tiles of factors, as in the convolutions: four sums, which is more than a product's time.
template <bool BF16>
void tiles(int64_t rounds) {
  alignas(64) int32_t values[amx::kTileBytes / 4];
  for (int32_t& value : values) value = BF16 ? kBf16 : kBytes;
  amx::TileRegisters registers;
  amx::zero_tile<0>(), amx::zero_tile<1>(), amx::zero_tile<2>(), amx::zero_tile<3>();
  amx::load_tile<4>(values, amx::kRowBytes), amx::load_tile<5>(values, amx::kRowBytes);
  amx::load_tile<6>(values, amx::kRowBytes), amx::load_tile<7>(values, amx::kRowBytes);
  for (int64_t round = 0; round < rounds; ++round) {
    if constexpr (BF16) {
      amx::dot_bf16<0, 4, 6>(), amx::dot_bf16<1, 4, 7>(), amx::dot_bf16<2, 5, 6>(), amx::dot_bf16<3, 5, 7>();
    } else {
      amx::dot_u8s8<0, 4, 6>(), amx::dot_u8s8<1, 4, 7>(), amx::dot_u8s8<2, 5, 6>(), amx::dot_u8s8<3, 5, 7>();
    }
  }
}
#endif

// Products of a vector, or of a tile, times two.
const Loop kLoops[] = {
#if UNET3D_AMX
    {"AMX bf16", kTileSums * 2.0 * 16 * 16 * 32, tiles<true>, amx::permitted},
    {"AMX int8", kTileSums * 2.0 * 16 * 16 * 64, tiles<false>, amx::permitted},
#endif
#if defined(__AVX512BF16__)
    {"AVX512-BF16", kSums * 2.0 * 32, bf16_512, always},
#endif
#if defined(__AVX512VNNI__)
    {"AVX512-VNNI", kSums * 2.0 * 64, vnni_512, always},
#endif
#if defined(__AVX512F__)
    {"AVX-512 FMA", kSums * 2.0 * 16, fma_512, always},
#endif
#if defined(__AVX2__) && defined(__FMA__)
    {"AVX2 FMA", kSums * 2.0 * 8, fma_256, always},
#endif
    {nullptr, 0, nullptr, always},  // an array has one at least
};

}  // namespace

std::vector<std::string> product_loops() {
  std::vector<std::string> names;
  for (const Loop& loop : kLoops) {
    if (loop.name && loop.usable()) names.push_back(loop.name);
  }
  return names;
}

double product_loop(c10::string_view instructions, int64_t rounds) {
  TORCH_CHECK(rounds > 0, "a loop has one round at least");
  for (const Loop& loop : kLoops) {
    if (!loop.name || instructions != loop.name || !loop.usable()) continue;
    int64_t items = kItemsPerThread * at::get_num_threads();
    for_each(items, 0, [&](int64_t, char*) { loop.run(rounds); });
    return loop.flop * (double)rounds * (double)items;
  }
  TORCH_CHECK(false, "no loop of products by ", instructions, " in this build");
}

}  // namespace unet3d

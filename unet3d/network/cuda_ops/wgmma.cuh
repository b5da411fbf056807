// Hopper's matrix instructions on operands in shared memory, and the barriers by which producers hand these over.
#pragma once

#include "numbers.cuh"

// An operand in shared memory without swizzling: pieces of 8 rows by 16 bytes lie together, `along_k` bytes from one to
// the next along the product's depth, `along_rows` along its rows or columns. So a piece may begin at any 16 bytes, and
// a neighbouring voxel is a start 16 bytes further.
__device__ __forceinline__ u64 operand(u32 address, u32 along_k, u32 along_rows) {
    return u64(address >> 4) | u64(along_k >> 4) << 16 | u64(along_rows >> 4) << 32;
}

// The same operand so many bytes further on.
__device__ __forceinline__ u64 further(u64 operand, int bytes) { return operand + (bytes >> 4); }

#define REGISTERS_8(d, i, as) as(d[i]), as(d[i + 1]), as(d[i + 2]), as(d[i + 3]), as(d[i + 4]), as(d[i + 5]), as(d[i + 6]), as(d[i + 7])
#define REGISTERS_32(d, as) REGISTERS_8(d, 0, as), REGISTERS_8(d, 8, as), REGISTERS_8(d, 16, as), REGISTERS_8(d, 24, as)
#define REGISTERS_48(d, as) REGISTERS_32(d, as), REGISTERS_8(d, 32, as), REGISTERS_8(d, 40, as)
#define REGISTERS_64(d, as) REGISTERS_48(d, as), REGISTERS_8(d, 48, as), REGISTERS_8(d, 56, as)
#define NAMES_32                                                                                         \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
    "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_48 NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define NAMES_64 NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

#ifdef INT8
using Sum = int;
#define AS_SUM "+r"
#define PRODUCT(columns, names, a, b)                                                                       \
    "{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n" columns "k32.s32.u8.s8 {" names \
    "}, " a ", " b ", p;}"
#else
using Sum = float;
#define AS_SUM "+f"
#define PRODUCT(columns, names, a, b)                                                                 \
    "{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." HALF_TYPE "." HALF_TYPE \
    " {" names "}, " a ", " b ", p, 1, 1, 0, 0;}"
#endif

// d [64, columns] += a [64, 32 bytes] * b [32 bytes, columns], of a warpgroup. Not finished before `wgmma_wait`.
__device__ __forceinline__ void wgmma_96(Sum (&d)[48], u64 a, u64 b) {
    asm volatile(PRODUCT("96", NAMES_48, "%48", "%49") : REGISTERS_48(d, AS_SUM) : "l"(a), "l"(b));
}
__device__ __forceinline__ void wgmma_64(Sum (&d)[64], u64 a, u64 b) {  // into the first half of the sums
    asm volatile(PRODUCT("64", NAMES_32, "%32", "%33") : REGISTERS_32(d, AS_SUM) : "l"(a), "l"(b));
}
__device__ __forceinline__ void wgmma_128(Sum (&d)[64], u64 a, u64 b) {
    asm volatile(PRODUCT("128", NAMES_64, "%64", "%65") : REGISTERS_64(d, AS_SUM) : "l"(a), "l"(b));
}

// The compiler sees no use of the sums between a product and its end: this keeps it from moving them there.
__device__ __forceinline__ void hold(Sum (&d)[48]) { asm volatile("" : REGISTERS_48(d, AS_SUM)::"memory"); }
__device__ __forceinline__ void hold(Sum (&d)[64]) { asm volatile("" : REGISTERS_64(d, AS_SUM)::"memory"); }

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until no more than so many of the products committed are unfinished.
template <int LEFT = 0>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// What ordinary stores wrote to shared memory is seen by the matrix instructions after this and a barrier.
__device__ __forceinline__ void shared_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ void barrier_init(u32 barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void await(u32 barrier, u32 parity) {
    asm volatile(
        "{.reg .pred p; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @!p bra AGAIN;}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// How the warpgroups of a program share its work and its shared memory: some load slabs into a ring, others multiply them.
//
// To be defined before: rows PIXELS_Y and columns PIXELS_X of a slab; STAGES of the ring; PRODUCER_REGISTERS of a thread that
// loads.
#pragma once

#include "wgmma.cuh"

#ifdef INT8
constexpr int CHUNKS = 2;  // pieces of 16 bytes that a pixel has in a slab
#else
constexpr int CHUNKS = 4;
#endif
// Bytes from a chunk's pixels to the next chunk's: stores of 8 neighbouring threads fall into different banks.
constexpr int PIXELS = PIXELS_Y * PIXELS_X;
constexpr int CHUNK = (PIXELS * 16 + 127) / 128 * 128 + 128 / CHUNKS;
constexpr int SLAB = CHUNKS * CHUNK;
constexpr int GROUP = 128;  // threads of a warpgroup
// Warpgroups that multiply, each its part of every slab, and that load, each every other slab.
constexpr int CONSUMERS = 2, PRODUCERS = 2, THREADS = (CONSUMERS + PRODUCERS) * GROUP;

// Registers are dealt out anew: sums need many, loading few. REGISTERS are those of a thread of each warpgroup together.
constexpr int REGISTERS = 65536 / GROUP, CONSUMER_REGISTERS = (REGISTERS - PRODUCERS * PRODUCER_REGISTERS) / CONSUMERS;
static_assert(PRODUCER_REGISTERS % 8 == 0 && CONSUMER_REGISTERS % 8 == 0, "registers are dealt out by eights");
__device__ __forceinline__ void become_consumer() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
}
__device__ __forceinline__ void become_producer() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
}

// A barrier of the threads that multiply.
__device__ __forceinline__ void consumers_meet() { asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS * GROUP) : "memory"); }

// Two warpgroups multiply a slab by turns: one counts and stores while the products of the other are made. Without
// turns both would do the same at the same time, and the matrix units would wait for both.
struct Turns {
    int group;  // 0 or 1

    __device__ explicit Turns(int group) : group(group) {
        if (group == 1) give();
    }
    __device__ void wait() const { asm volatile("bar.sync %0, %1;" ::"r"(2 + group), "n"(CONSUMERS * GROUP) : "memory"); }
    __device__ void give() const { asm volatile("bar.arrive %0, %1;" ::"r"(3 - group), "n"(CONSUMERS * GROUP) : "memory"); }
    // The end of a turn: what was committed last is still made while the other warpgroup begins.
    __device__ void finish() const {
        wgmma_wait<1>();
        give();
        wgmma_wait();
    }
    __device__ void end() const {  // the last turn that was given
        if (group == 0) wait();
    }
};

struct Ring {
    u32 slabs, full, empty;  // addresses in shared memory
    int stage = 0;
    u32 parity = 0;

    // Behind `used` bytes of shared memory; one thread makes the barriers.
    __device__ Ring(u32 used, bool make) : slabs(used + 16 * STAGES), full(used), empty(used + 8 * STAGES) {
        if (make)
            for (int i = 0; i < STAGES; i++) {
                barrier_init(full + 8 * i, GROUP);
                barrier_init(empty + 8 * i, CONSUMERS * GROUP / 32);
            }
    }
    __device__ u32 slab() const { return slabs + stage * SLAB; }
    __device__ void wait_full() const { await(full + 8 * stage, parity); }
    __device__ void wait_empty() const { await(empty + 8 * stage, parity ^ 1); }
    __device__ void give_full() const { arrive(full + 8 * stage); }
    __device__ void give_empty() const { arrive(empty + 8 * stage); }
    __device__ void next(int slabs = 1) {
        for (int i = 0; i < slabs; i++)
            if (++stage == STAGES) {
                stage = 0;
                parity ^= 1;
            }
    }
};

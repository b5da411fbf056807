// How producers bring slabs, a plane of a tile with its neighbours and 32 channels of it, into a ring in shared memory.
//
// To be defined before: rows PIXELS_Y and columns PIXELS_X of a slab, and `column`, which one lies at a place of a row;
// STAGES of the ring.
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
// Warpgroups that multiply, and that load, each every other slab.
constexpr int CONSUMERS = 2, PRODUCERS = 2, THREADS = (CONSUMERS + PRODUCERS) * GROUP;
constexpr int ROUNDS = (PIXELS * 4 + GROUP - 1) / GROUP;  // units of 8 channels of a pixel, of a thread
constexpr int BATCH = ROUNDS > 12 ? (ROUNDS + 1) / 2 : ROUNDS;  // loads of a thread that are under way at a time

// A program's packed weights to the beginning of its shared memory, by all its threads; finished after a barrier.
template <int BYTES>
__device__ __forceinline__ void bring_weights(char* shared, const char* w, u32 block) {
    const uint4* packed = reinterpret_cast<const uint4*>(w + (long long)block * BYTES);
    for (int i = threadIdx.x; i < BYTES / 16; i += THREADS) reinterpret_cast<uint4*>(shared)[i] = packed[i];
    shared_fence();
}

// Registers are dealt out anew: sums need many, loading few.
__device__ __forceinline__ void become_consumer() { asm volatile("setmaxnreg.inc.sync.aligned.u32 152;"); }
__device__ __forceinline__ void become_producer() { asm volatile("setmaxnreg.dec.sync.aligned.u32 104;"); }

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
    __device__ void next() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

struct Source {
    const char* x;               // raw volume of this sample, 16-bit, channels innermost
    const float *scale, *shift;  // of its normalisation, or null: the numbers are taken as they are
    int channels;
    float inverse = 1, zero = 0;  // 8-bit products: 1 / step, and the byte of zero, which is 0 where there is a scale

    __device__ Source(const char* x, const float* scale, const float* shift, int channels, int n, long long voxels)
        : x(x + n * voxels * channels * 2),
          scale(scale ? scale + n * channels : nullptr),
          shift(scale ? shift + n * channels : nullptr),
          channels(channels) {}
};

#ifdef INT8
// Rounded to the nearest byte; what lies beyond 0 and 255 becomes these.
__device__ __forceinline__ u32 bytes(float a, float b, float c, float d) {
    int i, j, k, l;
    asm("cvt.rni.s32.f32 %0, %1;" : "=r"(i) : "f"(a));
    asm("cvt.rni.s32.f32 %0, %1;" : "=r"(j) : "f"(b));
    asm("cvt.rni.s32.f32 %0, %1;" : "=r"(k) : "f"(c));
    asm("cvt.rni.s32.f32 %0, %1;" : "=r"(l) : "f"(d));
    u32 high, all;
    asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, %3;" : "=r"(high) : "r"(l), "r"(k), "r"(0));
    asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, %3;" : "=r"(all) : "r"(j), "r"(i), "r"(high));
    return all;
}
#endif

// 16 bytes, or zeros. Not kept in the first-level cache, which is the slabs' memory: nothing is read twice by a program.
__device__ __forceinline__ uint4 load_if(bool wanted, const char* from) {
    uint4 v;
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %5, 0; mov.b32 %0, 0; mov.b32 %1, 0; mov.b32 %2, 0; mov.b32 %3, 0;"
        " @p ld.global.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];}"
        : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w)
        : "l"(from), "r"(int(wanted))
        : "memory");
    return v;
}

// A thread's share of a slab: 8 channels of every so manieth pixel.
struct Loader {
    int offset[ROUNDS];  // of its pixels in a plane
    u32 inside;          // a bit for each that is within the plane

    // The slab's first pixel is (y, x) of the input's plane.
    __device__ void place(int y, int x, int height, int width, int thread) {
        inside = 0;
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            const int place = thread / 4 + i * (GROUP / 4), yy = y + place / PIXELS_X, xx = x + column(place % PIXELS_X);
            const bool ok = place < PIXELS && yy >= 0 && yy < height && xx >= 0 && xx < width;
            inside |= u32(ok) << i;
            offset[i] = ok ? yy * width + xx : 0;
        }
    }

    // 32 channels of `source` from `channel` on; `first` voxel of the plane, which may be one outside the volume.
    __device__ void load(Source source, int channel, long long first, bool exists, float slope, u32 slab,
                         int thread) const {
        const int part = thread % 4;
        const char* x = source.x + (first * source.channels + channel + 8 * part) * 2;
        const u32 live = exists ? inside : 0;
        int bytes_of_voxel = source.channels * 2;
        asm volatile("" : "+r"(bytes_of_voxel));  // kept from making addresses of all pixels in advance, for want of registers
        Affine affine;
        if (source.scale) {
            affine.load(source.scale + channel + 8 * part, source.shift + channel + 8 * part);
        } else {  // what changes nothing: one way for both, without a branch
            affine.none();
            slope = 1;
        }
#ifdef INT8
        // To bytes by one product: a range after LeakyReLU begins at zero, so that what is negative becomes zero.
#pragma unroll
        for (int i = 0; i < 8; i++) {
            affine.scale[i] *= source.inverse;
            affine.shift[i] = fmaf(affine.shift[i], source.inverse, source.zero);
        }
#endif
        // Some at a time, all of which are under way before the first is used.
#pragma unroll
        for (int begin = 0; begin < ROUNDS; begin += BATCH) {
            uint4 raw[BATCH];
#pragma unroll
            for (int i = 0; i < BATCH && begin + i < ROUNDS; i++)
                raw[i] = load_if(live >> (begin + i) & 1, x + (long long)offset[begin + i] * bytes_of_voxel);
            __syncwarp();  // the compiler would let few loads be under way, to save registers; it moves none past this
#pragma unroll
            for (int i = 0; i < BATCH && begin + i < ROUNDS; i++) {
                const int place = thread / 4 + (begin + i) * (GROUP / 4);
                if (place < PIXELS)
                    store(raw[i], live >> (begin + i) & 1, affine, source, slope,
                          slab + place * 16, thread % 4);
            }
        }
    }

    // 8 channels of a pixel, part `part` of its 4, to its place in the slab.
    __device__ static __forceinline__ void store(uint4 raw, bool ok, const Affine& affine, const Source& source, float slope,
                                                 u32 place, int part) {
#ifdef INT8
        const u32 pairs[4] = {raw.x, raw.y, raw.z, raw.w}, zero = u32(source.zero) * 0x01010101u;
        float f[8];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float2 both = unpack(pairs[j / 2]);
            f[j] = fmaf(j % 2 ? both.y : both.x, affine.scale[j], affine.shift[j]);
        }
        const u32 keep = ok ? ~0u : 0;
        const u32 low = bytes(f[0], f[1], f[2], f[3]) & keep | zero & ~keep;
        const u32 high = bytes(f[4], f[5], f[6], f[7]) & keep | zero & ~keep;
        asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(place + part / 2 * CHUNK + part % 2 * 8), "r"(low), "r"(high)
                     : "memory");
#else
        const u32 keep = ok ? ~0u : 0;
        uint4 value = affine(raw, slope);
        value = make_uint4(value.x & keep, value.y & keep, value.z & keep, value.w & keep);
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(place + part * CHUNK), "r"(value.x), "r"(value.y),
                     "r"(value.z), "r"(value.w)
                     : "memory");
#endif
    }
};

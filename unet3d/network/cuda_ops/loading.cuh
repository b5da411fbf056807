// How producers bring slabs, a plane of a tile with its neighbours and 32 channels of it, into a ring in shared memory.
//
// To be defined before: rows PIXELS_Y and columns PIXELS_X of a slab, and `place_in_row`, where a column lies in a row;
// STAGES of the ring.
#pragma once

#include "ring.cuh"

// Four threads bring a pixel's 32 channels, a group so many pixels in a round.
constexpr int AT_ONCE = GROUP / 4;
// Where a row has one pixel more than that, each row is a round, and the last pixels of all rows are one more round. A thread
// knows then where its pixels are without keeping it, and has registers for more loads.
constexpr bool BY_ROWS = PIXELS_X == AT_ONCE + 1;
constexpr int ROUNDS = BY_ROWS ? PIXELS_Y + 1 : (PIXELS + AT_ONCE - 1) / AT_ONCE;
static_assert(!BY_ROWS || PIXELS_Y <= AT_ONCE, "the last pixels of all rows are more than a group brings at once");
static_assert(ROUNDS <= 32, "a thread has a bit for each of its pixels");
// A thread's loads are under way in batches, an even number of them: one is on its way while another is stored.
constexpr int MOST = BY_ROWS ? 5 : 3, BATCHES = 2 * ((ROUNDS + 2 * MOST - 1) / (2 * MOST));
constexpr int BATCH = (ROUNDS + BATCHES - 1) / BATCHES;

// A program's packed weights to the beginning of its shared memory, by all its threads; finished after a barrier.
template <int BYTES>
__device__ __forceinline__ void bring_weights(char* shared, const char* w, u32 block) {
    const uint4* packed = reinterpret_cast<const uint4*>(w + (long long)block * BYTES);
    for (int i = threadIdx.x; i < BYTES / 16; i += THREADS) reinterpret_cast<uint4*>(shared)[i] = packed[i];
    shared_fence();
}

struct Source {
    const char* x;               // raw volume of this sample, 16-bit, channels innermost
    const float *scale, *shift;  // of its normalisation, or null: the numbers are taken as they are
    int channels;
    float inverse = 1, zero = 0;  // 8-bit products: 1 / step, and the byte of zero, which is 0 where there is a scale

    // How 8 channels from `channel` on are activated: `slope` is that of LeakyReLU, 1 where nothing is to be done.
    __device__ float activation(Affine& affine, int channel, float slope) const {
        if (scale) {
            affine.load(scale + channel, shift + channel);
        } else {  // what changes nothing: one way for both, without a branch
            affine.none();
            slope = 1;
        }
#ifdef INT8
        // To bytes by one product: a range after LeakyReLU begins at zero, so that what is negative becomes zero.
#pragma unroll
        for (int i = 0; i < 8; i++) {
            affine.scale[i] *= inverse;
            affine.shift[i] = fmaf(affine.shift[i], inverse, zero);
        }
#endif
        return slope;
    }

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

// 16 bytes into registers, or zeros. Not kept in the first-level cache, which is the slabs' memory: nothing is read twice by a program.
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

// The pixel of a slab that a thread brings in a round.
struct Spot {
    int y, x;
    bool exists;

    __device__ Spot(int round, int thread) {
        const int first = thread / 4, number = first + round * AT_ONCE;
        const bool whole = round < PIXELS_Y;  // by rows: not the last round
        y = !BY_ROWS ? number / PIXELS_X : whole ? round : first;
        x = !BY_ROWS ? number % PIXELS_X : whole ? first : AT_ONCE;
        exists = BY_ROWS ? whole || first < PIXELS_Y : number < PIXELS;
    }
    __device__ int place() const { return y * PIXELS_X + place_in_row(x); }
};

// What a thread brings of a slab.
struct Piece {
    const char* x;   // its 8 channels of the plane's first voxel
    int voxel, row;  // bytes from a voxel to the next, and from a row to the next
    u32 live;        // a bit for each of its pixels that exists
};

// A thread's share of slabs: 8 channels of every so manieth pixel, or of one in each row. Loads of a batch are under way
// while the one before is stored, and those of the next slab while this one waits for its place in the ring.
//
// Numbers of 16 bits come by registers. Slabs of bytes leave room in shared memory, and their products take half the time,
// so that more loads have to be under way than there are registers for: they come by a place of the thread's own there.
struct Loader {
    int offset[BY_ROWS ? 2 : ROUNDS];  // of its pixels in a plane; by rows of the first and the last one
    u32 inside;                        // a bit for each that is within the plane
#ifdef INT8
    u32 own;  // place in shared memory

    __device__ Loader(const Ring& ring, int turn, int thread)
        : own(ring.slabs + STAGES * SLAB + (turn * ROUNDS * GROUP + thread) * 16) {}
#else
    uint4 raw[2][BATCH];

    __device__ Loader(const Ring&, int, int) {}
#endif

    // The slab's first pixel is (y, x) of the input's plane.
    __device__ void place(int y, int x, int height, int width, int thread) {
        inside = 0;
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            const Spot spot(i, thread);
            const int yy = y + spot.y, xx = x + spot.x;
            const bool ok = spot.exists && yy >= 0 && yy < height && xx >= 0 && xx < width;
            inside |= u32(ok) << i;
            if (!BY_ROWS)
                offset[i] = ok ? yy * width + xx : 0;
            else if (i == 0 || i == PIXELS_Y)
                offset[i / PIXELS_Y] = yy * width + xx;
        }
    }

    // Where the pixel of a round is, if it exists.
    __device__ const char* from(const Piece& piece, int round) const {
        if (!BY_ROWS) return piece.x + (long long)offset[round] * piece.voxel;
        const bool whole = round < PIXELS_Y;
        return piece.x + (long long)offset[whole ? 0 : 1] * piece.voxel + (whole ? round * piece.row : 0);
    }

    // 32 channels of `source` from `channel` on; `first` voxel of the plane, which may be one outside the volume.
    __device__ Piece piece(const Source& source, int channel, long long first, bool exists, int width, int thread) const {
        int voxel = source.channels * 2, row = voxel * width;
        // Kept from making addresses of all pixels in advance, for want of registers.
        asm volatile("" : "+r"(voxel));
        if (BY_ROWS) asm volatile("" : "+r"(row));
        return {source.x + (first * source.channels + channel + 8 * (thread % 4)) * 2, voxel, row, exists ? inside : 0};
    }

#ifdef INT8
    template <int AT>
    __device__ void fetch(const Piece& piece) const {
#pragma unroll
        for (int i = 0; i < BATCH && AT * BATCH + i < ROUNDS; i++) {
            const int round = AT * BATCH + i;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(own + round * GROUP * 16),
                         "l"(from(piece, round)), "r"(piece.live >> round & 1 ? 16 : 0)
                         : "memory");
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }

    // Lets the loads of the first slab get under way.
    template <int AT = 0>
    __device__ void begin(const Piece& piece) const {
        fetch<AT>(piece);
        if constexpr (AT + 1 < BATCHES) begin<AT + 1>(piece);
    }

    template <int AT>
    __device__ uint4 take(int i) const {
        uint4 raw;
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(raw.x), "=r"(raw.y), "=r"(raw.z), "=r"(raw.w)
                     : "r"(own + (AT * BATCH + i) * GROUP * 16)
                     : "memory");
        return raw;
    }
#else
    template <int AT>
    __device__ void fetch(const Piece& piece) {
#pragma unroll
        for (int i = 0; i < BATCH && AT * BATCH + i < ROUNDS; i++) {
            const int round = AT * BATCH + i;
            raw[AT % 2][i] = load_if(piece.live >> round & 1, from(piece, round));
        }
        __syncwarp();  // the compiler would let few loads be under way, to save registers; it moves none past this
    }

    __device__ void begin(const Piece& piece) { fetch<0>(piece); }

    template <int AT>
    __device__ uint4 take(int i) const {
        return raw[AT % 2][i];
    }
#endif

    // Brings `now`, whose loads have begun, to `slab` in shared memory, and lets those of `next` begin.
    template <int AT = 0>
    __device__ void bring(const Piece& now, bool more, const Piece& next, const Affine& affine, float zero, float slope, u32 slab,
                          int thread) {
#ifdef INT8
        asm volatile("cp.async.wait_group %0;" ::"n"(BATCHES - 1) : "memory");
#else
        if constexpr (AT + 1 < BATCHES)
            fetch<AT + 1>(now);
        else if (more)
            fetch<0>(next);
#endif
#pragma unroll
        for (int i = 0; i < BATCH && AT * BATCH + i < ROUNDS; i++) {
            const int round = AT * BATCH + i;
            const Spot spot(round, thread);
            if (spot.exists)
                store(take<AT>(i), now.live >> round & 1, affine, zero, slope, slab + spot.place() * 16, thread % 4);
        }
#ifdef INT8
        if (more)
            fetch<AT>(next);
        else
            asm volatile("cp.async.commit_group;" ::: "memory");  // counted as if it were one
#endif
        if constexpr (AT + 1 < BATCHES) bring<AT + 1>(now, more, next, affine, zero, slope, slab, thread);
    }

    // Of a segment's slabs, those of this group: number `s` and every so manieth one after it. piece: of a number. prepare:
    // called before each slab is brought, so that `affine`, `zero` and `slope` are its own. Returns the number of this
    // group's next slab in the segment that follows.
    template <class PieceOf, class Prepare>
    __device__ __forceinline__ int bring_segment(Ring& ring, int s, int slabs, const PieceOf& piece, const Prepare& prepare,
                                                 const Affine& affine, const float& zero, const float& slope, int thread) {
        Piece now = piece(s);
        if (s < slabs) begin(now);
        for (; s < slabs; s += PRODUCERS) {
            prepare(s);
            const Piece next = piece(s + PRODUCERS);
            ring.wait_empty();
            bring(now, s + PRODUCERS < slabs, next, affine, zero, slope, ring.slab(), thread);
            shared_fence();
            ring.give_full();
            ring.next(PRODUCERS);
            now = next;
        }
        return s - slabs;
    }

    // 8 channels of a pixel, part `part` of its 4, to its place in the slab.
    __device__ static __forceinline__ void store(uint4 raw, bool ok, const Affine& affine, float zero, float slope, u32 place,
                                                 int part) {
#ifdef INT8
        const u32 pairs[4] = {raw.x, raw.y, raw.z, raw.w}, zeros = u32(zero) * 0x01010101u;
        float f[8];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float2 both = unpack(pairs[j / 2]);
            f[j] = fmaf(j % 2 ? both.y : both.x, affine.scale[j], affine.shift[j]);
        }
        const u32 keep = ok ? ~0u : 0;
        const u32 low = bytes(f[0], f[1], f[2], f[3]) & keep | zeros & ~keep;
        const u32 high = bytes(f[4], f[5], f[6], f[7]) & keep | zeros & ~keep;
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

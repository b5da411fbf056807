// 3x3x3 convolution, stride 1, that normalises and activates its input while loading and gives the moments of its output.
//
// A program owns 256 pixels of the (y, x) plane and 32 output channels, and walks along z. Producers bring the
// pixels and their neighbours, a plane and 32 channels at a time (a slab), from device memory through scale, shift and
// LeakyReLU into a ring in shared memory. Consumers multiply each slab by all its weights at once, 96 columns: what it
// gives to the output planes behind, at and in front of it. The neighbours of a pixel are the same slab read from another
// start, so nothing is gathered; the weights stay in shared memory for the whole walk. The two warpgroups of consumers
// multiply by turns.
//
//     planes in              columns of the sums, 32 channels each
//                       |  o = z - 1 |   o = z    |  o = z + 1 |
//        z ------------>| + x * w[2] | + x * w[1] | + x * w[0] |
//                             '--- done: counted, stored; the others move one to the left
//
// Two tensors are read as if they were one behind the other in channels: nothing is concatenated. Where the weights of
// both have no room together, each has a walk of its own: the first one gives its sums, which the second one begins with.
// The bias is left out: the normalisation that follows subtracts it again.
//
// To be defined when compiled: SLABS, 32 input channels each; TILE_Y and TILE_X, pixels of a program, 16 and 16 or 32 and
// 8; STAGES of the ring; BFLOAT16 for bf16 instead of fp16; INT8 for 8-bit products; GIVES_SUMS for the first of two
// walks, TAKES_SUMS for the second.
constexpr int PIXELS_Y = TILE_Y + 2, PIXELS_X = TILE_X + 2;
__device__ constexpr int place_in_row(int x) { return x; }
constexpr int PRODUCER_REGISTERS = 104;

#include "loading.cuh"
#include "moments.cuh"

constexpr int OUT = 32, COLUMNS = 3 * OUT;  // channels of a program, and columns of its products
constexpr int WEIGHT_CHUNK = COLUMNS * 16, WEIGHT_SLAB = 9 * CHUNKS * WEIGHT_CHUNK, WEIGHTS = SLABS * WEIGHT_SLAB;
#ifdef INT8
constexpr bool ZEROS_COUNT = true;  // a plane outside the volume is made of the bytes of zero, which are not 0
#else
constexpr bool ZEROS_COUNT = false;
#endif
#ifdef TAKES_SUMS
constexpr int AHEAD = 2;  // planes of sums that are on their way from device memory to the second-level cache
#endif

// A program's blocks of 8 x 8 pixels, two of each warpgroup that multiplies, from the tile's first pixel.
constexpr int ACROSS = TILE_X / 8;
__device__ constexpr int block_y(int block) { return block / ACROSS * 8; }
__device__ constexpr int block_x(int block) { return block % ACROSS * 8; }

// What a program works off: output planes [first, last) of a tile at (y, x).
struct Segment {
    int y, x, first, last;

    __device__ Segment(int position, int end, int depth, int tiles_x) {
        const int tile = position / depth;
        first = position - tile * depth;
        last = min(depth, first + end - position);
        y = tile / tiles_x * TILE_Y;
        x = tile % tiles_x * TILE_X;
    }
};

// Of which pixel a thread holds the sums of 8 channels, in half `half` of the warpgroup's block `block`.
struct Pixel {
    int y, x;

    __device__ Pixel(const Segment& at, int group, int block, int half, int warp, int lane)
        : y(at.y + block_y(2 * group) + block * block_y(1) + 2 * warp + half),
          x(at.x + block_x(2 * group) + block * block_x(1) + lane / 4) {}
};

// Adds a slab's products to the sums of a warpgroup's two blocks, when it is its turn.
__device__ __forceinline__ void multiply(Sum (&sums)[2][48], u32 slab, u32 weights, const Turns& turns) {
    constexpr int APART = (block_y(1) * PIXELS_X + block_x(1)) * 16;
    const u64 all_pixels = operand(slab, CHUNK, PIXELS_X * 16), all_weights = operand(weights, WEIGHT_CHUNK, 128);
    turns.wait();
    hold(sums[0]);
    hold(sums[1]);
    wgmma_fence();
#pragma unroll
    for (int tap = 0; tap < 9; tap++)
#pragma unroll
        for (int k = 0; k < CHUNKS; k += 2) {
            const u64 b = further(all_weights, (tap * CHUNKS + k) * WEIGHT_CHUNK);
#pragma unroll
            for (int block = 0; block < 2; block++) {
                const int start = k * CHUNK + (tap / 3 * PIXELS_X + tap % 3) * 16 + block * APART;
                wgmma_96(sums[block], further(all_pixels, start), b);
            }
            // In two parts, the last of which the other warpgroup does not wait for.
            if ((tap == 6 || tap == 8) && k + 2 >= CHUNKS) wgmma_commit();
        }
    turns.finish();
    hold(sums[0]);
    hold(sums[1]);
}

// Grid: (programs, blocks of 32 output channels, N).
//
// Volumes, channels innermost:
//     a, b: sources, 16-bit [N, D, H, W, channels]; b is read where a's channels are not all of SLABS * 32
//     y: raw output, the same type [N, D, H, W, channels]; of the first of two walks null
//     between: sums of the first of two walks, 32-bit [N, D, H, W, channels]; otherwise null
// Normalisation of the sources: float32 [N, channels], or null
// Weights:
//     w: of `pack_walk_weight` [blocks, SLABS, 9, CHUNKS, 96, 16 bytes]
//     quantised: with INT8, float32 [2 * channels + 4]: factors and offsets that turn sums of bytes into numbers, the
//     steps of a and b, and their zeros; otherwise null
// Moments:
//     part: count, mean, M2 of each program, float32 [N, programs, 3, channels]; of the first of two walks null
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    walk(const char* a, const float* a_scale, const float* a_shift, int a_channels, const char* b, const float* b_scale,
         const float* b_shift, int b_channels, const char* w, const float* quantised, char* y, Sum* between, float* part,
         int depth, int height, int width, float slope) {
    extern __shared__ __align__(128) char shared[];
    const int n = blockIdx.z, channels = gridDim.y * OUT;
    const int group = __shfl_sync(~0u, threadIdx.x / GROUP, 0), thread = threadIdx.x % GROUP;
    const u32 weights = shared_address(shared);
    Ring ring(weights + WEIGHTS, threadIdx.x == 0);
    bring_weights<WEIGHTS>(shared, w, blockIdx.y);
    __syncthreads();

    const long long voxels = (long long)depth * height * width;
    const int tiles_x = (width + TILE_X - 1) / TILE_X, tiles = (height + TILE_Y - 1) / TILE_Y * tiles_x;
    const long long work = (long long)tiles * depth;
    const int begin = work * blockIdx.x / gridDim.x, end = work * (blockIdx.x + 1) / gridDim.x;

    if (group >= CONSUMERS) {
        become_producer();
        Source first(a, a_scale, a_shift, a_channels, n, voxels), second(b, b_scale, b_shift, b_channels, n, voxels);
#ifdef INT8
        const float* steps = quantised + 2 * channels;
#ifdef TAKES_SUMS
        constexpr int OWN = 1;  // of the two sources of both walks
#else
        constexpr int OWN = 0;
#endif
        first.inverse = 1 / steps[OWN];
        second.inverse = 1 / steps[1];
        first.zero = steps[2 + OWN];
        second.zero = steps[3];
#endif
        // Groups take turns: slab number `s` of a segment is the next one of this group.
        int s = group - CONSUMERS;
        ring.next(s);
        Affine affine;
        float own_slope = slope, zero = 0;
        // How a slab is activated; where this group's are all of the same channels, that is found once.
        const auto prepare = [&](int slab) {
            const bool other = slab * 32 >= a_channels;
            const Source& source = other ? second : first;
            own_slope = source.activation(affine, slab * 32 - (other ? a_channels : 0) + 8 * (thread % 4), slope);
            zero = source.zero;
        };
        if (PRODUCERS % SLABS == 0) prepare(s % SLABS);
        Loader loader(ring, s, thread);
        for (int position = begin; position < end;) {
            const Segment at(position, end, depth, tiles_x);
            loader.place(at.y - 1, at.x - 1, height, width, thread);
            const int low = ZEROS_COUNT ? at.first - 1 : max(at.first - 1, 0);
            const int slabs = ((ZEROS_COUNT ? at.last : min(at.last, depth - 1)) - low + 1) * SLABS;
            const auto piece = [&](int s) {
                const int z = low + s / SLABS, channel = s % SLABS * 32;
                const bool other = channel >= a_channels;
                return loader.piece(other ? second : first, channel - (other ? a_channels : 0), (long long)z * height * width,
                                    z >= 0 && z < depth, width, thread);
            };
            const auto prepare_next = [&](int s) {
                if (PRODUCERS % SLABS) prepare(s % SLABS);
            };
            s = loader.bring_segment(ring, s, slabs, piece, prepare_next, affine, zero, own_slope, thread);
            position += at.last - at.first;
        }
    } else {
        become_consumer();
        const int lane = thread % 32, warp = thread / 32, first_channel = blockIdx.y * OUT + 8 * (lane % 4);
        y += (n * voxels * channels + first_channel) * 2;
        between += n * voxels * channels + first_channel;
        const u32 own = (block_y(2 * group) * PIXELS_X + block_x(2 * group)) * 16;  // of the group's blocks in a slab
#ifndef GIVES_SUMS
#if defined(INT8) && !defined(TAKES_SUMS)
        float factor[8], offset[8];
        load_8(factor, quantised + first_channel);
        load_8(offset, quantised + channels + first_channel);
#endif
        Moments moments;
#endif
        const Turns turns(group);
        Sum sums[2][48];
        // The plane in front begins: with nothing, or with the sums of the first walk.
        const auto enter = [&](int z, const Segment& at) {
#ifdef TAKES_SUMS
#pragma unroll
            for (int block = 0; block < 2; block++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const Pixel pixel(at, group, block, half, warp, lane);
                    if (z >= at.last || pixel.y >= height || pixel.x >= width) continue;
                    const Sum* from = between + ((long long)z * height * width + pixel.y * width + pixel.x) * channels;
                    Sum value[8];
                    load_8(value, from);
#pragma unroll
                    for (int i = 0; i < 8; i++) sums[block][32 + i / 2 * 4 + half * 2 + i % 2] = value[i];
                    if (z + AHEAD < at.last) prefetch(from + (long long)AHEAD * height * width * channels);
                }
#endif
        };
        for (int position = begin; position < end;) {
            const Segment at(position, end, depth, tiles_x);
#pragma unroll
            for (int i = 0; i < 48; i++) sums[0][i] = sums[1][i] = 0;
            enter(at.first, at);
            for (int z = at.first - 1; z <= at.last; z++) {
                if (ZEROS_COUNT || (z >= 0 && z < depth))
                    for (int slab = 0; slab < SLABS; slab++) {
                        ring.wait_full();
                        multiply(sums, ring.slab() + own, weights + slab * WEIGHT_SLAB, turns);
                        if (lane == 0) ring.give_empty();
                        ring.next();
                    }
                const long long plane = (long long)(z - 1) * height * width;
#if defined(INT8) && defined(TAKES_SUMS)
                float factor[8], offset[8];
                load_8_again(factor, quantised + first_channel);
                load_8_again(offset, quantised + channels + first_channel);
#endif
#pragma unroll
                for (int block = 0; block < 2; block++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const Pixel pixel(at, group, block, half, warp, lane);
                        if (z <= at.first || pixel.y >= height || pixel.x >= width) continue;
                        const long long voxel = plane + pixel.y * width + pixel.x;
                        Sum sum[8];
#pragma unroll
                        for (int i = 0; i < 8; i++) sum[i] = sums[block][i / 2 * 4 + half * 2 + i % 2];
#ifdef GIVES_SUMS
                        store_8(between + voxel * channels, sum);
#else
                        float value[8];
#pragma unroll
                        for (int i = 0; i < 8; i++) {
                            value[i] = sum[i];
#ifdef INT8
                            value[i] = fmaf(value[i], factor[i], offset[i]);
#endif
                        }
                        moments.add(value);
                        *reinterpret_cast<uint4*>(y + voxel * channels * 2) = pack(value);
#endif
                    }
#pragma unroll
                for (int block = 0; block < 2; block++)
#pragma unroll
                    for (int i = 0; i < 48; i++) sums[block][i] = i < 32 ? sums[block][i + 16] : 0;
                enter(z + 2, at);
            }
            position += at.last - at.first;
        }
        turns.end();
#ifndef GIVES_SUMS
        consumers_meet();  // the weights' memory is free then
        float* rows = reinterpret_cast<float*>(shared);
        moments.store(rows + (group * 4 + warp) * 3 * OUT, OUT, lane);
        consumers_meet();
        merge_rows<CONSUMERS * 4, OUT>(rows, part + (long long)(n * gridDim.x + blockIdx.x) * 3 * channels + blockIdx.y * OUT,
                                       channels, threadIdx.x);
#endif
    }
}

// 3x3x3 convolution, stride 1, that normalises and activates its input while loading and gives the moments of its output.
//
// A program owns 16 x 16 pixels of the (y, x) plane and 32 output channels, and walks along z. Producers bring the
// pixels and their neighbours, a plane and 32 channels at a time (a slab), from device memory through scale, shift and
// LeakyReLU into a ring in shared memory. Consumers multiply each slab by all its weights at once, 96 columns: what it
// gives to the output planes behind, at and in front of it. The neighbours of a pixel are the same slab read from another
// start, so nothing is gathered; the weights stay in shared memory for the whole walk.
//
//     planes in              columns of the sums, 32 channels each
//                       |  o = z - 1 |   o = z    |  o = z + 1 |
//        z ------------>| + x * w[2] | + x * w[1] | + x * w[0] |
//                             '--- done: counted, stored; the others move one to the left
//
// Two tensors are read as if they were one behind the other in channels: nothing is concatenated. The bias is left out:
// the normalisation that follows subtracts it again.
//
// To be defined when compiled: SLABS, 32 input channels each; STAGES of the ring; BFLOAT16 for bf16 instead of fp16; INT8
// for 8-bit products.
constexpr int SIDE = 16, PIXELS_Y = SIDE + 2, PIXELS_X = SIDE + 2;
__device__ constexpr int column(int place) { return place; }

#include "loading.cuh"
#include "moments.cuh"

constexpr int OUT = 32, COLUMNS = 3 * OUT;  // channels of a program, and columns of its products
constexpr int WEIGHT_CHUNK = COLUMNS * 16, WEIGHT_SLAB = 9 * CHUNKS * WEIGHT_CHUNK, WEIGHTS = SLABS * WEIGHT_SLAB;
#ifdef INT8
constexpr bool ZEROS_COUNT = true;  // a plane outside the volume is made of the bytes of zero, which are not 0
#else
constexpr bool ZEROS_COUNT = false;
#endif

// What a program works off: output planes [first, last) of a tile at (y, x).
struct Segment {
    int y, x, first, last;

    __device__ Segment(int position, int end, int depth, int tiles_x) {
        const int tile = position / depth;
        first = position - tile * depth;
        last = min(depth, first + end - position);
        y = tile / tiles_x * SIDE;
        x = tile % tiles_x * SIDE;
    }
};

// Adds a slab's products to the sums of two blocks of 64 pixels, 8 x 8 beside each other.
__device__ __forceinline__ void multiply(Sum (&sums)[2][48], u32 slab, u32 weights) {
    hold(sums[0]);
    hold(sums[1]);
    wgmma_fence();
#pragma unroll
    for (int tap = 0; tap < 9; tap++)
#pragma unroll
        for (int k = 0; k < CHUNKS; k += 2) {
            const u64 b = operand(weights + (tap * CHUNKS + k) * WEIGHT_CHUNK, WEIGHT_CHUNK, 128);
#pragma unroll
            for (int block = 0; block < 2; block++) {
                const u32 start = slab + k * CHUNK + (tap / 3 * PIXELS_X + tap % 3 + 8 * block) * 16;
                wgmma_96(sums[block], operand(start, CHUNK, PIXELS_X * 16), b);
            }
        }
    wgmma_commit();
    wgmma_wait();
    hold(sums[0]);
    hold(sums[1]);
}

// Grid: (programs, blocks of 32 output channels, N).
//
// Volumes, channels innermost:
//     a, b: sources, 16-bit [N, D, H, W, channels]; b is read where a's channels are not all of SLABS * 32
//     y: raw output, the same type [N, D, H, W, channels]
// Normalisation of the sources: float32 [N, channels], or null
// Weights:
//     w: of `pack_walk_weight` [blocks, SLABS, 9, CHUNKS, 96, 16 bytes]
//     quantised: with INT8, float32 [2 * channels + 4]: factors and offsets that turn sums of bytes into numbers, the
//     steps of a and b, and their zeros; otherwise null
// Moments:
//     part: count, mean, M2 of each consumers' warp, float32 [N, programs * 8, 3, channels]
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    walk(const char* a, const float* a_scale, const float* a_shift, int a_channels, const char* b, const float* b_scale,
         const float* b_shift, int b_channels, const char* w, const float* quantised, char* y, float* part, int depth,
         int height, int width, float slope) {
    extern __shared__ __align__(128) char shared[];
    const int n = blockIdx.z, channels = gridDim.y * OUT;
    const int group = __shfl_sync(~0u, threadIdx.x / GROUP, 0), thread = threadIdx.x % GROUP;
    const u32 weights = shared_address(shared);
    Ring ring(weights + WEIGHTS, threadIdx.x == 0);
    bring_weights<WEIGHTS>(shared, w, blockIdx.y);
    __syncthreads();

    const long long voxels = (long long)depth * height * width;
    const int tiles_x = (width + SIDE - 1) / SIDE, tiles = (height + SIDE - 1) / SIDE * tiles_x;
    const long long work = (long long)tiles * depth;
    const int begin = work * blockIdx.x / gridDim.x, end = work * (blockIdx.x + 1) / gridDim.x;

    if (group >= CONSUMERS) {
        become_producer();
        Source first(a, a_scale, a_shift, a_channels, n, voxels), second(b, b_scale, b_shift, b_channels, n, voxels);
#ifdef INT8
        const float* steps = quantised + 2 * channels;
        first.inverse = 1 / steps[0];
        second.inverse = 1 / steps[1];
        first.zero = steps[2];
        second.zero = steps[3];
#endif
        Loader loader;
        int turn = group - CONSUMERS;
        for (int position = begin; position < end;) {
            const Segment at(position, end, depth, tiles_x);
            loader.place(at.y - 1, at.x - 1, height, width, thread);
            for (int z = at.first - 1; z <= at.last; z++) {
                const bool exists = z >= 0 && z < depth;
                if (!exists && !ZEROS_COUNT) continue;
                for (int slab = 0; slab < SLABS; slab++) {
                    if (turn == 0) {
                        const long long voxel = (long long)z * height * width;
                        ring.wait_empty();
                        const bool other = slab * 32 >= a_channels;
                        loader.load(other ? second : first, slab * 32 - (other ? a_channels : 0), voxel, exists, slope,
                                    ring.slab(), thread);
                        shared_fence();
                        ring.give_full();
                    }
                    turn = turn == 0 ? PRODUCERS - 1 : turn - 1;
                    ring.next();
                }
            }
            position += at.last - at.first;
        }
    } else {
        become_consumer();
        const int lane = thread % 32, warp = thread / 32, first_channel = blockIdx.y * OUT + 8 * (lane % 4);
        y += (n * voxels * channels + first_channel) * 2;
#ifdef INT8
        float factor[8], offset[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            factor[i] = quantised[first_channel + i];
            offset[i] = quantised[channels + first_channel + i];
        }
#endif
        Moments moments;
        Sum sums[2][48];
        for (int position = begin; position < end;) {
            const Segment at(position, end, depth, tiles_x);
#pragma unroll
            for (int i = 0; i < 48; i++) sums[0][i] = sums[1][i] = 0;
            for (int z = at.first - 1; z <= at.last; z++) {
                if (ZEROS_COUNT || (z >= 0 && z < depth))
                    for (int slab = 0; slab < SLABS; slab++) {
                        ring.wait_full();
                        multiply(sums, ring.slab() + 8 * group * PIXELS_X * 16, weights + slab * WEIGHT_SLAB);
                        if (lane == 0) ring.give_empty();
                        ring.next();
                    }
                const long long plane = (long long)(z - 1) * height * width;
#pragma unroll
                for (int block = 0; block < 2; block++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const int row = at.y + 8 * group + 2 * warp + half, column = at.x + 8 * block + lane / 4;
                        if (z <= at.first || row >= height || column >= width) continue;
                        float value[8];
#pragma unroll
                        for (int i = 0; i < 8; i++) {
                            value[i] = sums[block][i / 2 * 4 + half * 2 + i % 2];
#ifdef INT8
                            value[i] = fmaf(value[i], factor[i], offset[i]);
#endif
                        }
                        moments.add(value);
                        *reinterpret_cast<uint4*>(y + (plane + row * width + column) * channels * 2) = pack(value);
                    }
#pragma unroll
                for (int block = 0; block < 2; block++)
#pragma unroll
                    for (int i = 0; i < 48; i++) sums[block][i] = i < 32 ? sums[block][i + 16] : 0;
            }
            position += at.last - at.first;
        }
        const int row = (n * gridDim.x + blockIdx.x) * CONSUMERS * 4 + group * 4 + warp;
        moments.store(part + (long long)row * 3 * channels + blockIdx.y * OUT, channels, lane);
    }
}

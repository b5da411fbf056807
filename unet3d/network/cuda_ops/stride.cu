// 3x3x3 convolution, stride 2, of 32 channels, that normalises and activates its input while loading and gives the
// moments of its output.
//
// As walk.cu: a program owns 8 x 16 output pixels and 64 output channels and walks along z. Pixels of even and odd x lie
// apart in a slab, so that the inputs of neighbouring outputs are neighbours again. An input plane of odd z gives to two
// output planes, one of even z to one:
//
//     planes in                     columns of the sums, 64 channels each
//                              |     o      |    o + 1   |
//     z = 2o      ------------>| + x * w[1] |            |
//     z = 2o + 1  ------------>| + x * w[2] | + x * w[0] |
//                                    '--- done: counted, stored; the other moves to the left
//
// To be defined when compiled: STAGES of the ring; BFLOAT16 for bf16 instead of fp16.
constexpr int TILE_Y = 8, TILE_X = 16, PIXELS_Y = 2 * TILE_Y + 1, PIXELS_X = 2 * TILE_X + 1;
constexpr int EVEN = TILE_X + 1;  // columns of even x, which come first in a row
__device__ constexpr int place_in_row(int x) { return x / 2 + x % 2 * EVEN; }
constexpr int PRODUCER_REGISTERS = 112;  // two batches of loads find room, and 64 sums need fewer than those of walk.cu

#include "loading.cuh"
#include "moments.cuh"

constexpr int OUT = 64, COLUMNS = 3 * OUT;  // channels of a program; those of its weights w[2], w[0] and w[1]
constexpr int WEIGHT_CHUNK = COLUMNS * 16, WEIGHTS = 9 * CHUNKS * WEIGHT_CHUNK;

// Adds a slab's products to the sums of 8 x 8 pixels, when it is its turn.
template <bool ODD>
__device__ __forceinline__ void multiply(Sum (&sums)[64], u32 slab, u32 weights, const Turns& turns) {
    turns.wait();
    hold(sums);
    const u64 all_pixels = operand(slab, CHUNK, 2 * PIXELS_X * 16);
    const u64 all_weights = operand(weights + (ODD ? 0 : 2 * OUT * 16), WEIGHT_CHUNK, 128);
    wgmma_fence();
#pragma unroll
    for (int tap = 0; tap < 9; tap++)
#pragma unroll
        for (int k = 0; k < CHUNKS; k += 2) {
            const int start = k * CHUNK + (tap / 3 * PIXELS_X + tap % 3 % 2 * EVEN + tap % 3 / 2) * 16;
            const u64 a = further(all_pixels, start), b = further(all_weights, (tap * CHUNKS + k) * WEIGHT_CHUNK);
            if (ODD)
                wgmma_128(sums, a, b);
            else
                wgmma_64(sums, a, b);
            // In two parts, the last of which the other warpgroup does not wait for.
            if ((tap == 6 || tap == 8) && k + 2 >= CHUNKS) wgmma_commit();
        }
    turns.finish();
    hold(sums);
}

// Grid: (programs, blocks of 64 output channels, N).
//
// Volumes, channels innermost:
//     x: source, 16-bit [N, D, H, W, 32]
//     y: raw output, the same type [N, (D + 1) / 2, (H + 1) / 2, (W + 1) / 2, channels]
// Normalisation of the source: scale, shift, float32 [N, 32], or null
// Weights:
//     w: of `pack_stride_weight` [blocks, 9, CHUNKS, 192, 16 bytes]
// Moments:
//     part: count, mean, M2 of each program, float32 [N, programs, 3, channels]
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    stride(const char* x, const float* scale, const float* shift, const char* w, char* y, float* part, int depth, int height,
           int width, float slope) {
    extern __shared__ __align__(128) char shared[];
    const int n = blockIdx.z, channels = gridDim.y * OUT;
    const int group = __shfl_sync(~0u, threadIdx.x / GROUP, 0), thread = threadIdx.x % GROUP;
    const u32 weights = shared_address(shared);
    Ring ring(weights + WEIGHTS, threadIdx.x == 0);
    bring_weights<WEIGHTS>(shared, w, blockIdx.y);
    __syncthreads();

    const int planes = (depth + 1) / 2, rows = (height + 1) / 2, columns = (width + 1) / 2;  // of the output
    const int tiles_x = (columns + TILE_X - 1) / TILE_X, tiles = (rows + TILE_Y - 1) / TILE_Y * tiles_x;
    const long long work = (long long)tiles * planes;
    const int begin = work * blockIdx.x / gridDim.x, end = work * (blockIdx.x + 1) / gridDim.x;

    if (group >= CONSUMERS) {
        become_producer();
        const Source source(x, scale, shift, 32, n, (long long)depth * height * width);
        int s = group - CONSUMERS;  // as in walk.cu: which of a segment's slabs is the next one of this group
        ring.next(s);
        Affine affine;
        const float own_slope = source.activation(affine, 8 * (thread % 4), slope);
        Loader loader(ring, s, thread);
        for (int position = begin; position < end;) {
            const int tile = position / planes, first = position - tile * planes, last = min(planes, first + end - position);
            loader.place(tile / tiles_x * TILE_Y * 2 - 1, tile % tiles_x * TILE_X * 2 - 1, height, width, thread);
            const int low = max(2 * first - 1, 0), slabs = min(2 * last - 1, depth - 1) - low + 1;
            const auto piece = [&](int s) {
                return loader.piece(source, 0, (long long)(low + s) * height * width, true, width, thread);
            };
            s = loader.bring_segment(ring, s, slabs, piece, [](int) {}, affine, 0, own_slope, thread);
            position += last - first;
        }
    } else {
        become_consumer();
        const int lane = thread % 32, warp = thread / 32, first_channel = blockIdx.y * OUT + 8 * (lane % 4);
        y += ((long long)n * planes * rows * columns * channels + first_channel) * 2;
        const Turns turns(group);
        Moments moments[2];  // of 32 channels each
        Sum sums[64];
        for (int position = begin; position < end;) {
            const int tile = position / planes, first = position - tile * planes, last = min(planes, first + end - position);
            const int at_y = tile / tiles_x * TILE_Y, at_x = tile % tiles_x * TILE_X;
#pragma unroll
            for (int i = 0; i < 64; i++) sums[i] = 0;
            for (int z = 2 * first - 1; z < 2 * last; z++) {
                if (z >= 0 && z < depth) {
                    ring.wait_full();
                    const u32 slab = ring.slab() + 8 * group * 16;
                    if (z % 2)
                        multiply<true>(sums, slab, weights, turns);
                    else
                        multiply<false>(sums, slab, weights, turns);
                    if (lane == 0) ring.give_empty();
                    ring.next();
                }
                if (z % 2 == 0) continue;
                const long long plane = (long long)(z / 2) * rows * columns;
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int row = at_y + 2 * warp + half, column = at_x + 8 * group + lane / 4;
                    if (z < 2 * first || row >= rows || column >= columns) continue;
#pragma unroll
                    for (int part32 = 0; part32 < 2; part32++) {
                        float value[8];
#pragma unroll
                        for (int i = 0; i < 8; i++) value[i] = sums[part32 * 16 + i / 2 * 4 + half * 2 + i % 2];
                        moments[part32].add(value);
                        *reinterpret_cast<uint4*>(y + ((plane + row * columns + column) * channels + 32 * part32) * 2) =
                            pack(value);
                    }
                }
#pragma unroll
                for (int i = 0; i < 64; i++) sums[i] = i < 32 ? sums[i + 32] : 0;
            }
            position += last - first;
        }
        turns.end();
        consumers_meet();  // the weights' memory is free then
        float* merged = reinterpret_cast<float*>(shared);
#pragma unroll
        for (int part32 = 0; part32 < 2; part32++)
            moments[part32].store(merged + (group * 4 + warp) * 3 * OUT + 32 * part32, OUT, lane);
        consumers_meet();
        merge_rows<CONSUMERS * 4, OUT>(merged, part + (long long)(n * gridDim.x + blockIdx.x) * 3 * channels + blockIdx.y * OUT,
                                       channels, threadIdx.x);
    }
}

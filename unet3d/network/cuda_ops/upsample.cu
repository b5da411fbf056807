// Transposed convolution 2x2x2 with stride 2 that normalises and activates its input while loading.
//
// A product of [voxels, CIN] and [CIN, 8 * 32]: each warp has one of the 8 voxels that an input voxel spreads to, and its
// weights in registers. A program brings 64 voxels at a time into shared memory, which all its warps read.
//
// To be defined when compiled: CIN, 32, 64, 128 or 256; PROGRAMS of a multiprocessor, whose registers the weights fill;
// BFLOAT16 for bf16 instead of fp16.
#include "numbers.cuh"

constexpr int THREADS = 256, TILE = 64, CHUNKS = CIN / 8;
constexpr int PITCH = CIN * 2 + 16;  // bytes of a row: rows 16 bytes further fall into other banks
constexpr int ROUNDS = TILE * CHUNKS / THREADS;

// Grid: (programs, blocks of 32 output channels, N).
//
// Volumes, channels innermost:
//     x: raw input, 16-bit [N, D, H, W, CIN]
//     y: output, the same type [N, 2D, 2H, 2W, channels]
// Normalisation of the input: scale, shift, float32 [N, CIN]
// Weights:
//     w: of `pack_upsample_weight`, pairs of 16-bit numbers [blocks, 8 voxels, CIN / 16, 4, 2, 32 lanes]
extern "C" __global__ void __launch_bounds__(THREADS, PROGRAMS)
    upsample(const char* x, const float* scale, const float* shift, const u32* w, char* y, int depth, int height, int width,
             float slope) {
    __shared__ __align__(16) char shared[TILE * PITCH];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n = blockIdx.z, channels = gridDim.y * 32;
    const int voxels = depth * height * width, chunk = threadIdx.x % CHUNKS;
    x += ((long long)n * voxels * CIN + 8 * chunk) * 2;
    y += ((long long)n * voxels * 8 * channels + blockIdx.y * 32 + 8 * (lane % 4)) * 2;
    Affine affine;
    affine.load(scale + n * CIN + 8 * chunk, shift + n * CIN + 8 * chunk);
    u32 weights[CIN / 16][4][2];
    w += (blockIdx.y * 8 + warp) * (CIN / 16) * 8 * 32;
#pragma unroll
    for (int i = 0; i < CIN / 16 * 8; i++) weights[i / 8][i / 2 % 4][i % 2] = w[i * 32 + lane];
    const u32 rows = shared_address(shared);
    uint4 raw[ROUNDS];
    const auto fetch = [&](int tile) {
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            const int v = tile * TILE + threadIdx.x / CHUNKS + i * (THREADS / CHUNKS);
            if (v < voxels) raw[i] = __ldg(reinterpret_cast<const uint4*>(x + (long long)v * CIN * 2));
        }
    };
    const int tiles = (voxels + TILE - 1) / TILE, tap_z = warp / 4, tap_y = warp / 2 % 2, tap_x = warp % 2;
    if (blockIdx.x < tiles) fetch(blockIdx.x);
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < ROUNDS; i++)
            *reinterpret_cast<uint4*>(shared + (threadIdx.x / CHUNKS + i * (THREADS / CHUNKS)) * PITCH + chunk * 16) =
                affine(raw[i], slope);
        __syncthreads();
        if (tile + gridDim.x < tiles) fetch(tile + gridDim.x);
        // The place of a voxel by divisions only once; the next one of this thread is 8 further.
        int v = tile * TILE + lane / 4, xx = v % width, yy = v / width % height, zz = v / (width * height);
#pragma unroll
        for (int block = 0; block < TILE / 16; block++) {
            float sums[4][4] = {};
            const u32 here = rows + (block * 16 + lane % 16) * PITCH + lane / 16 * 16;
#pragma unroll
            for (int k = 0; k < CIN / 16; k++) {
                u32 a[4];
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                             : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                             : "r"(here + k * 32));
#pragma unroll
                for (int column = 0; column < 4; column++)
                    product(sums[column], a, weights[k][column]);
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const long long row = (2ll * zz + tap_z) * 2 * height + 2 * yy + tap_y;
                if (v < voxels)
                    *reinterpret_cast<uint4*>(y + (row * 2 * width + 2 * xx + tap_x) * channels * 2) = make_uint4(
                        pack(sums[0][half * 2], sums[0][half * 2 + 1]), pack(sums[1][half * 2], sums[1][half * 2 + 1]),
                        pack(sums[2][half * 2], sums[2][half * 2 + 1]), pack(sums[3][half * 2], sums[3][half * 2 + 1]));
                v += 8;
                for (xx += 8; xx >= width; xx -= width)
                    if (++yy == height) {
                        yy = 0;
                        zz++;
                    }
            }
        }
    }
}

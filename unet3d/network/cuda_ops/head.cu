// The 1x1x1 convolution of 32 channels to classes, which normalises and activates its input while loading.
//
// A product of [voxels, 32] and [32, 8]: each warp makes 32 voxels at a time, and fetches the next ones meanwhile. A thread
// reads 8 channels of a voxel at once, and takes them as those that a matrix instruction wants of it: the order of the
// channels in a product is free, as long as the weights have the same.
//
// To be defined when compiled: BFLOAT16 for bf16 instead of fp16.
#include "numbers.cuh"

constexpr int THREADS = 256, CIN = 32, VOXELS = 32, ROWS = VOXELS / 8;  // of a warp; rows of them that a thread has

// Grid: (programs, 1, N).
//
// Volumes, channels innermost:
//     x: raw input, 16-bit [N, voxels, 32]
//     y: logits, the same type [N, voxels, classes]
// Normalisation of the input: scale, shift, float32 [N, 32]
// Weights:
//     w: 16-bit [32, classes], an even number up to 8
//     bias: 16-bit [classes], or null
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    head(const char* x, const float* scale, const float* shift, const unsigned short* w, const unsigned short* bias, char* y,
         int voxels, int classes, float slope) {
    const int lane = threadIdx.x % 32, part = lane % 4, n = blockIdx.z;
    const int warp = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, warps = gridDim.x * (THREADS / 32);
    x += ((long long)n * voxels * CIN + 8 * part) * 2;
    y += ((long long)n * voxels * classes + 2 * part) * 2;
    Affine affine;
    affine.load(scale + n * CIN + 8 * part, shift + n * CIN + 8 * part);
    // Of channels 8 * part and on; column lane / 4.
    u32 weights[2][2];
#pragma unroll
    for (int pair = 0; pair < 4; pair++) {
        const int channel = 8 * part + 2 * pair, column = lane / 4;
        const u32 low = column < classes ? w[channel * classes + column] : 0;
        const u32 high = column < classes ? w[(channel + 1) * classes + column] : 0;
        weights[pair / 2][pair % 2] = low | high << 16;
    }
    const bool writes = 2 * part < classes;
    const float2 added = bias && writes ? unpack(bias[2 * part] | u32(bias[2 * part + 1]) << 16) : make_float2(0, 0);
    uint4 raw[ROWS];
    const auto fetch = [&](long long first) {
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const long long v = first + lane / 4 + 8 * i;
            raw[i] = v < voxels ? __ldg(reinterpret_cast<const uint4*>(x + v * CIN * 2)) : make_uint4(0, 0, 0, 0);
        }
    };
    fetch((long long)warp * VOXELS);
    for (long long first = (long long)warp * VOXELS; first < voxels; first += (long long)warps * VOXELS) {
        uint4 rows[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++) rows[i] = affine(raw[i], slope);
        fetch(first + (long long)warps * VOXELS);
#pragma unroll
        for (int i = 0; i < ROWS; i += 2) {
            float sums[4] = {added.x, added.y, added.x, added.y};
            product(sums, {rows[i].x, rows[i + 1].x, rows[i].y, rows[i + 1].y}, weights[0]);
            product(sums, {rows[i].z, rows[i + 1].z, rows[i].w, rows[i + 1].w}, weights[1]);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const long long v = first + lane / 4 + 8 * (i + half);
                if (writes && v < voxels)
                    *reinterpret_cast<u32*>(y + v * classes * 2) = pack(sums[2 * half], sums[2 * half + 1]);
            }
        }
    }
}

// Moments of a convolution's output from its float32 sums: what the next normalisation needs.
#pragma once

#include "numbers.cuh"

// Of 8 channels and the voxels that one thread made. A thread's few hundred voxels lose less in sums of squares than
// the output loses by its rounding; rows of warps and of programs are merged by their means (`merge_rows`, `norm.fold`).
struct Moments {
    float sum[8] = {}, square[8] = {};
    int count = 0;

    __device__ void add(const float (&value)[8]) {
        count++;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            sum[i] += value[i];
            square[i] = fmaf(value[i], value[i], square[i]);
        }
    }

    // Count, mean and M2 of a warp's voxels into row [3, channels] of `part`; lane % 4 says which 8 of 32 channels.
    __device__ void store(float* row, int channels, int lane) {
#pragma unroll
        for (int apart = 4; apart < 32; apart *= 2) {
            count += __shfl_xor_sync(~0u, count, apart);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                sum[i] += __shfl_xor_sync(~0u, sum[i], apart);
                square[i] += __shfl_xor_sync(~0u, square[i], apart);
            }
        }
        if (lane >= 4) return;
        const float n = count, whole = fmaxf(n, 1.0f);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float mean = sum[i] / whole;
            row[8 * lane + i] = n;
            row[channels + 8 * lane + i] = mean;
            row[2 * channels + 8 * lane + i] = fmaxf(square[i] - sum[i] * mean, 0.0f);
        }
    }
};

// Rows [ROWS, 3, CHANNELS] of count, mean and M2 become one, [3, channels] of `part`; by the first CHANNELS threads.
template <int ROWS, int CHANNELS>
__device__ __forceinline__ void merge_rows(const float* rows, float* part, int channels, int thread) {
    if (thread >= CHANNELS) return;
    float count = 0, mean = 0, m2 = 0;
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        const float* here = rows + row * 3 * CHANNELS + thread;
        const float more = here[0], delta = here[CHANNELS] - mean, both = count + more;
        const float share = more / fmaxf(both, 1.0f);
        mean = fmaf(delta, share, mean);
        m2 += here[2 * CHANNELS] + delta * delta * count * share;
        count = both;
    }
    part[thread] = count;
    part[channels + thread] = mean;
    part[2 * channels + thread] = m2;
}

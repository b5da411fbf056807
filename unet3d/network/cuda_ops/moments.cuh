// Moments of a convolution's output from its float32 sums: what the next normalisation needs.
#pragma once

#include "numbers.cuh"

// Of 8 channels and the voxels that one thread made. A thread's few hundred voxels lose less in sums of squares than
// the output loses by its rounding; rows of many threads are merged by their means (`norm.fold`).
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

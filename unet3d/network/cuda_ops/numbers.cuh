// Numbers of 16 bits in pairs, and what is done to an activation while it is loaded. No header of CUDA's is needed.
#pragma once

using u32 = unsigned int;
using u64 = unsigned long long;

#ifdef BFLOAT16
#define HALF_TYPE "bf16"
#else
#define HALF_TYPE "f16"
#endif

__device__ __forceinline__ float2 unpack(u32 pair) {
#ifdef BFLOAT16
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
#else
    float2 f;
    asm("{.reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}" : "=f"(f.x), "=f"(f.y) : "r"(pair));
    return f;
#endif
}

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 pair;
    asm("cvt.rn." HALF_TYPE "x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ uint4 pack(const float (&v)[8]) {
    return make_uint4(pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7]));
}

// 8 numbers of 32 bits that follow each other in memory.
template <class T>
__device__ __forceinline__ void load_8(T (&v)[8], const T* from) {
    reinterpret_cast<uint4*>(v)[0] = reinterpret_cast<const uint4*>(from)[0];
    reinterpret_cast<uint4*>(v)[1] = reinterpret_cast<const uint4*>(from)[1];
}
// The same where they are read each time anew, from a cache, for want of registers.
__device__ __forceinline__ void load_8_again(float (&v)[8], const float* from) {
#pragma unroll
    for (int i = 0; i < 8; i += 4)
        asm volatile("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
                     : "=f"(v[i]), "=f"(v[i + 1]), "=f"(v[i + 2]), "=f"(v[i + 3])
                     : "l"(from + i));
}
// Towards the second-level cache.
__device__ __forceinline__ void prefetch(const void* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }

template <class T>
__device__ __forceinline__ void store_8(T* to, const T (&v)[8]) {
    reinterpret_cast<uint4*>(to)[0] = reinterpret_cast<const uint4*>(v)[0];
    reinterpret_cast<uint4*>(to)[1] = reinterpret_cast<const uint4*>(v)[1];
}

// d [16, 8] += a [16, 16] * b [16, 8], of a warp.
__device__ __forceinline__ void product(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." HALF_TYPE "." HALF_TYPE
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// leaky_relu(x * scale + shift) in float32, for a slope from 0 to 1.
__device__ __forceinline__ float activate(float x, float scale, float shift, float slope) {
    const float y = fmaf(x, scale, shift);
    return fmaxf(y, y * slope);
}

// Scale and shift of 8 channels that follow each other.
struct Affine {
    float scale[8], shift[8];

    __device__ void load(const float* scales, const float* shifts) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            scale[i] = scales[i];
            shift[i] = shifts[i];
        }
    }

    __device__ void none() {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            scale[i] = 1;
            shift[i] = 0;
        }
    }

    __device__ uint4 operator()(uint4 raw, float slope) const {
        u32 pairs[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 f = unpack(pairs[i]);
            pairs[i] = pack(activate(f.x, scale[2 * i], shift[2 * i], slope),
                            activate(f.y, scale[2 * i + 1], shift[2 * i + 1], slope));
        }
        return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
};

__device__ __forceinline__ u32 shared_address(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

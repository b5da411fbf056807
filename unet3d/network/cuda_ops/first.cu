// 3x3x3 convolution of the network's input, 4 modalities, to 32 channels, and the moments of its output.
//
// The 27 neighbours of a voxel and their 4 modalities are the depth of the product, 108 numbers and 4 zeros: a matrix
// instruction takes 4 neighbours at once. A program brings a tile with its neighbours into shared memory while it
// multiplies the one before; its weights stay in registers.
//
// To be defined when compiled: BFLOAT16 for bf16 instead of fp16.
#include "moments.cuh"

constexpr int DEPTH = 4, HEIGHT = 8, WIDTH = 32;  // of a tile
constexpr int ROW = WIDTH + 2, PLANE = (HEIGHT + 2) * ROW, UNITS = (DEPTH + 2) * PLANE;  // with neighbours; 8 bytes each
constexpr int STEPS = 7, THREADS = 256;

// The place of neighbour t of 27 in a tile; the 28th has zero weights.
__device__ constexpr int neighbour(int t) { return t < 27 ? t / 9 * PLANE + t / 3 % 3 * ROW + t % 3 : 0; }

struct Tile {
    int z, y, x;
    __device__ Tile(int index, int tiles_y, int tiles_x)
        : z(index / (tiles_y * tiles_x) * DEPTH), y(index / tiles_x % tiles_y * HEIGHT), x(index % tiles_x * WIDTH) {}
};

// Begins to copy a tile with its neighbours, zeros outside the volume.
__device__ __forceinline__ void fetch(u32 to, const char* x, const Tile& at, int depth, int height, int width) {
    for (int unit = threadIdx.x; unit < UNITS; unit += THREADS) {
        const int z = at.z + unit / PLANE - 1, yy = at.y + unit / ROW % (HEIGHT + 2) - 1, xx = at.x + unit % ROW - 1;
        const bool ok = z >= 0 && z < depth && yy >= 0 && yy < height && xx >= 0 && xx < width;
        const char* from = x + (ok ? ((long long)z * height + yy) * width + xx : 0) * 8;
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to + unit * 8), "l"(from), "r"(ok ? 8 : 0) : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Grid: (programs, 1, N).
//
// Volumes, channels innermost:
//     x: input, 16-bit [N, D, H, W, 4]
//     y: raw output, the same type [N, D, H, W, 32]
// Weights:
//     w: of `pack_first_weight`, pairs of 16-bit numbers [7 steps, 4 blocks of columns, 2, 32 lanes]
// Moments:
//     part: count, mean, M2 of each program, float32 [N, programs, 3, 32]
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    first(const char* x, const u32* w, char* y, float* part, int depth, int height, int width) {
    __shared__ __align__(16) char shared[2][UNITS * 8];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n = blockIdx.z;
    const int tiles_y = (height + HEIGHT - 1) / HEIGHT, tiles_x = (width + WIDTH - 1) / WIDTH;
    const int tiles = (depth + DEPTH - 1) / DEPTH * tiles_y * tiles_x;
    const long long voxels = (long long)depth * height * width;
    x += n * voxels * 8;
    y += (n * voxels * 32 + 8 * (lane % 4)) * 2;
    u32 weights[STEPS][4][2];
#pragma unroll
    for (int i = 0; i < STEPS * 8; i++) weights[i / 8][i / 2 % 4][i % 2] = w[i * 32 + lane];
    // A lane reads neighbours 4s + lane % 4 / 2 and two further, modalities 2 * (lane % 2) and the next.
    int near[STEPS][2];
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            near[s][i] = (lane / 2 % 2 ? neighbour(4 * s + 2 * i + 1) : neighbour(4 * s + 2 * i)) * 8 + lane % 2 * 4;
    Moments moments;
    const u32 buffers[2] = {shared_address(shared[0]), shared_address(shared[1])};
    if (blockIdx.x < tiles) fetch(buffers[0], x, Tile(blockIdx.x, tiles_y, tiles_x), depth, height, width);
    for (int index = blockIdx.x, turn = 0; index < tiles; index += gridDim.x, turn ^= 1) {
        const Tile at(index, tiles_y, tiles_x);
        asm volatile("cp.async.wait_group 0;" ::: "memory");
        __syncthreads();
        if (index + gridDim.x < tiles)
            fetch(buffers[turn ^ 1], x, Tile(index + gridDim.x, tiles_y, tiles_x), depth, height, width);
        for (int unit = 0; unit < DEPTH * WIDTH / 16; unit++) {
            const int dz = unit / (WIDTH / 16), dx = unit % (WIDTH / 16) * 16 + lane / 4;
            const u32 here = buffers[turn] + (dz * PLANE + warp * ROW + dx) * 8;
            float sums[4][4] = {};
#pragma unroll
            for (int s = 0; s < STEPS; s++) {
                u32 a[4];
#pragma unroll
                for (int i = 0; i < 4; i++)  // rows lane / 4 and 8 further of the first two neighbours, then of the others
                    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(a[i]) : "r"(here + near[s][i / 2] + i % 2 * 64));
#pragma unroll
                for (int block = 0; block < 4; block++) product(sums[block], a, weights[s][block]);
            }
            const int z = at.z + dz, yy = at.y + warp;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int xx = at.x + dx + 8 * half;
                if (z >= depth || yy >= height || xx >= width) continue;
                float value[8];
#pragma unroll
                for (int i = 0; i < 8; i++) value[i] = sums[i / 2][half * 2 + i % 2];
                moments.add(value);
                *reinterpret_cast<uint4*>(y + (((long long)z * height + yy) * width + xx) * 64) = pack(value);
            }
        }
    }
    __syncthreads();  // nobody reads the tiles any more
    float* rows = reinterpret_cast<float*>(shared[0]);
    moments.store(rows + warp * 3 * 32, 32, lane);
    __syncthreads();
    merge_rows<THREADS / 32, 32>(rows, part + (long long)(n * gridDim.x + blockIdx.x) * 3 * 32, 32, threadIdx.x);
}

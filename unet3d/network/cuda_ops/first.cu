// 3x3x3 convolution of the network's input, 4 modalities, to 32 channels, and the moments of its output.
//
// The 27 neighbours of a voxel and their 4 modalities are the depth of the product, 108 numbers and 4 zeros: a matrix
// instruction takes 4 neighbours at once. A program brings a tile with its neighbours into shared memory while it
// multiplies the one before; its weights stay in registers.
//
// To be defined when compiled: BFLOAT16 for bf16 instead of fp16.
#include "moments.cuh"

constexpr int DEPTH = 4, HEIGHT = 8, WIDTH = 32;  // of a tile
// With neighbours, in shared memory: how many rows and planes, and voxels of 8 bytes from a row to the next and from a plane
// to the next. 8 of a row and 10 of a plane are never read: they keep neighbours in different banks.
constexpr int ROWS = HEIGHT + 2, ROW = WIDTH + 10, PLANE = ROWS * ROW + 10, PLANES = DEPTH + 2;
constexpr int STEPS = 7, WARPS = 8, THREADS = 32 * WARPS;

// The place of neighbour t of 27 in a tile. The 28th has zero weights; it is the last one again.
__device__ constexpr int neighbour(int t) { return t < 27 ? t / 9 * PLANE + t / 3 % 3 * ROW + t % 3 : neighbour(26); }

// A warp reads a neighbour t and t + 1 of 8 voxels at once, 64 bytes each: they are to overlap or to fill all the banks.
__device__ constexpr bool without_conflicts(int t) {
    const int apart = neighbour(t + 1) - neighbour(t);
    return t == 28 || (((apart >= 0 && apart < 2) || apart % 16 == 8) && without_conflicts(t + 2));
}
static_assert(without_conflicts(0), "two neighbours that are read at once lie in the same banks");

struct Tile {
    int z, y, x;
    __device__ Tile(int index, int tiles_y, int tiles_x)
        : z(index / (tiles_y * tiles_x) * DEPTH), y(index / tiles_x % tiles_y * HEIGHT), x(index % tiles_x * WIDTH) {}
};

// Begins to copy a tile with its neighbours, zeros outside the volume.
__device__ __forceinline__ void fetch(u32 to, const char* x, const Tile& at, int depth, int height, int width) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Voxel (row, column) of planes from `plane` on, so many of them.
    const auto copy = [&](int plane, int row, int column, int planes) {
        const int z = at.z - 1 + plane, yy = at.y - 1 + row, xx = at.x - 1 + column;
        const bool inside = yy >= 0 && yy < height && xx >= 0 && xx < width;
        const char* from = x + (((long long)z * height + yy) * width + xx) * 8;
        const u32 here = to + (plane * PLANE + row * ROW + column) * 8;
#pragma unroll
        for (int i = 0; i < planes; i++) {
            const int bytes = inside && z + i >= 0 && z + i < depth ? 8 : 0;
            asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(here + i * PLANE * 8),
                         "l"(from + (long long)i * height * width * 8), "r"(bytes)
                         : "memory");
        }
    };
    // A warp copies 32 voxels of its row of each plane, then of the two rows that are left of a plane. Two threads copy what is
    // right of these in a row.
    copy(0, warp, lane, PLANES);
    if (warp < PLANES) {
        copy(warp, WARPS, lane, 1);
        copy(warp, WARPS + 1, lane, 1);
    }
    const int row = threadIdx.x / 2;
    if (row < PLANES * ROWS) copy(row / ROWS, row % ROWS, 32 + lane % 2, 1);
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
    __shared__ __align__(16) char shared[2][PLANES * PLANE * 8];
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
    Tile at(blockIdx.x, tiles_y, tiles_x);
    if (blockIdx.x < tiles) fetch(buffers[0], x, at, depth, height, width);
    for (int index = blockIdx.x, turn = 0; index < tiles; index += gridDim.x, turn ^= 1) {
        const Tile next(index + gridDim.x, tiles_y, tiles_x);
        asm volatile("cp.async.wait_group 0;" ::: "memory");
        __syncthreads();
        if (index + gridDim.x < tiles) fetch(buffers[turn ^ 1], x, next, depth, height, width);
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
        at = next;
    }
    __syncthreads();  // nobody reads the tiles any more
    float* rows = reinterpret_cast<float*>(shared[0]);
    moments.store(rows + warp * 3 * 32, 32, lane);
    __syncthreads();
    merge_rows<THREADS / 32, 32>(rows, part + (long long)(n * gridDim.x + blockIdx.x) * 3 * 32, 32, threadIdx.x);
}

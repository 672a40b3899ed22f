// Many tokens on Hopper: every weight is decoded once for up to MAX_ROWS rows of its expert and goes from the
// registers of the lane that decoded it into the matrix unit. Class half.
//
//   route   sorts the pairs by expert into tiles (block 0), and rotates every pair's activations (the others)
//   gate_up a tile of rows times 128 columns of gate (first warpgroup) and of up (second), SwiGLU and the rotation
//           for down
//   level   gives every row of intermediate activations one scale
//   down    a tile of rows times 256 columns of down, 128 a warpgroup: its share of the output
//
// Geometry: 256 threads; gate_up and down take SHARED_BYTES of dynamic shared memory.
//   route    grid 1 + pairs
//   gate_up  grid (INTERMEDIATE / 128, most tiles)
//   level    grid ceil(pairs / 8)
//   down     grid (ceil(HIDDEN / 256), most tiles)
// Most tiles: min(pairs, num_experts + pairs / MAX_ROWS). All are made for programmatic dependent launch.
// Given when compiled: MAX_ROWS (64 or 160), BLOCKS_PER_SM.
#include "route.cuh"
#include "wgmma.cuh"

enum {
    STEP = 64,  // rows of W that one stage of activations serves
    STAGES = 4,
    STAGE_BYTES = MAX_ROWS * STEP * 2,
    SUMS_STRIDE = HADAMARD + 4,  // keeps the lanes of a warp on different banks
    SHARED_BYTES = 1024 + (2 * STAGES * STAGE_BYTES > 2 * MAX_ROWS * SUMS_STRIDE * 4 ? 2 * STAGES * STAGE_BYTES
                                                                                    : 2 * MAX_ROWS * SUMS_STRIDE * 4),
};

// The workspace.
struct LargeBatch {
    u16* x;                // [2][pairs][HIDDEN]: f16 activations of gate and up
    float* x_scale;        // [2][pairs]
    u16* h;                // [pairs][INTERMEDIATE]: f16 activations of down
    float* h_block_scale;  // [pairs][INTERMEDIATE / 128]
    float* h_scale;        // [pairs]
    int* sorted;           // [pairs]
    Tile* tiles;           // [most tiles], 16 bytes each
    int* tile_count;       // [1]
};

__device__ __forceinline__ void store_half4(u16* to, float4 v) {
    *(uint2*)to = make_uint2(pack_half2(v.x, v.y), pack_half2(v.z, v.w));
}

extern "C" __global__ void __launch_bounds__(THREADS) route(Layer layer, Call call, LargeBatch batch) {
    route_pairs<MAX_ROWS, 1>(layer, call, batch.sorted, batch.tiles, batch.tile_count, batch.x_scale, true,
                          [&](int row, int at, float4 v) { store_half4(batch.x + (u64)row * HIDDEN + at, v); });
}

__device__ __forceinline__ void copy_async(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
template <int PENDING>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Barrier of one warpgroup.
__device__ __forceinline__ void sync_group(int id) { asm volatile("bar.sync %0, 128;" ::"r"(id + 1) : "memory"); }

// acc = 128 columns of a linear times N rows of activations. A warpgroup's own: its stages in shared memory, its
// barrier. `from[i]` is where the thread's i-th row of a stage starts; thread t copies 16-byte piece t % 8 of rows
// t / 8, t / 8 + 16, and so on. DEPTH chunks of weights are on their way at a time.
template <int K, int CODEBOOK, int N, int IN>
__device__ __forceinline__ void multiply(float (&acc)[2][N / 2], const u32* chunk, const u16* activations, const int* rows, int count,
                                         u32 stages, int group, int thread) {
    constexpr int STEPS = IN / STEP, COPIES = N / 16, DEPTH = K > 5 ? 2 : 4, STRIDE = 4 * 32 * K, CHUNKS = IN / 32;
    const int lane = thread % 32, piece = thread % 8;
    u32 to[COPIES];
    const u16* from[COPIES];
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
        const int row = thread / 8 + 16 * i;
        to[i] = stages + row * 128 + ((piece ^ (row % 8)) * 16);
        // Rows past the last one are computed like the first, and dropped.
        from[i] = activations + (u64)rows[row < count ? row : 0] * IN + piece * 8;
    }
    const auto copy_step = [&](int step) {
        if (step < STEPS) {
#pragma unroll
            for (int i = 0; i < COPIES; i++) copy_async(to[i] + step % STAGES * STAGE_BYTES, from[i] + step * STEP);
        }
        commit_copies();
    };
    u32 ring[DEPTH][K];
#pragma unroll
    for (int d = 0; d < DEPTH; d++) load_chunk<K>(ring[d], chunk + d * STRIDE, lane);
    copy_step(0);
    copy_step(1);
    u32 a[2][4][4];
    for (int step0 = 0; step0 < STEPS; step0 += 2) {
#pragma unroll
        for (int sub = 0; sub < 4; sub++) {
            const int step = step0 + sub / 2, half = sub % 2;
            if (half == 0) {
                wait_copies<1>();
                fence_shared();
                sync_group(group);
                // Its stage was last read two steps ago; every warp has waited for that.
                copy_step(step + 2);
            }
            u32 w[K];
#pragma unroll
            for (int j = 0; j < K; j++) w[j] = ring[sub % DEPTH][j];
            const int next = step0 * 2 + sub + DEPTH;
            if (next < CHUNKS) load_chunk<K>(ring[sub % DEPTH], chunk + next * STRIDE, lane);
            // The group that read these registers is the one before the last.
            wgmma_wait<1>();
            u32 context[2];
            contexts(context, w, lane);
            decode_tile<0, K, CODEBOOK>(a[half][0], w, context);
            decode_tile<1, K, CODEBOOK>(a[half][1], w, context);
            decode_tile<2, K, CODEBOOK>(a[half][2], w, context);
            decode_tile<3, K, CODEBOOK>(a[half][3], w, context);
            const u64 b = swizzled_matrix(stages + step % STAGES * STAGE_BYTES + half * 64);
            wgmma_fence();
            wgmma<N>(acc[0], a[half][0], b);
            wgmma<N>(acc[1], a[half][2], b);
            wgmma<N>(acc[0], a[half][1], b + 2);
            wgmma<N>(acc[1], a[half][3], b + 2);
            wgmma_commit();
        }
    }
    wgmma_wait<0>();
    wait_copies<0>();
}

// Multiplies, and leaves the sums at `sums` as [row][SUMS_STRIDE] once all threads are done with the stages.
template <int IN, u32 WIDTHS>
__device__ __forceinline__ void multiply_tile(float* sums, const Linear& linear, int column_group, const u16* activations, const int* rows,
                                              int count, u32 stages, int group, int thread) {
    const int lane = thread % 32, warp = thread / 32;
    const auto run = [&]<int K, int CODEBOOK, int N>() {
        float acc[2][N / 2];
#pragma unroll
        for (int i = 0; i < N / 2; i++) acc[0][i] = acc[1][i] = 0.f;
        const u32* chunk = linear.trellis + chunk_words(column_group, IN, 0, K) + warp * 32 * K;
        multiply<K, CODEBOOK, N, IN>(acc, chunk, activations, rows, count, stages, group, thread);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const int row = i / 4 * 8 + lane % 4 * 2 + i % 2, column = warp * 32 + i % 4 / 2 * 8 + lane / 4;
            sums[row * SUMS_STRIDE + column] = acc[0][i];
            sums[row * SUMS_STRIDE + column + 16] = acc[1][i];
        }
        __syncthreads();
    };
    with_linear_type<WIDTHS>(linear.bits, linear.codebook, [&]<int K, int CODEBOOK>() {
#if MAX_ROWS == 64
        run.template operator()<K, CODEBOOK, 64>();
#else
        if (count <= 128) run.template operator()<K, CODEBOOK, 128>();
        else run.template operator()<K, CODEBOOK, 160>();
#endif
    });
}

// As half_scale, in steps of 2^8: blocks of one row mostly get equal scales, and f16 has the range to spare.
__device__ __forceinline__ Scale coarse_scale(float largest) {
    const int exponent = min(max((int)(__float_as_uint(largest) >> 23), 24), 240) / 8 * 8 + 7;
    return {__uint_as_float((u32)(268 - exponent) << 23), __uint_as_float((u32)(exponent - 14) << 23)};
}

extern __shared__ unsigned char dynamic_shared[];

// The stages start where the swizzle's pattern does.
__device__ __forceinline__ unsigned char* aligned_shared() {
    return (unsigned char*)(((u64)dynamic_shared + 1023) / 1024 * 1024);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM) gate_up(Layer layer, Call call, LargeBatch batch) {
    __shared__ int rows[MAX_ROWS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, up = warp / 4, pairs = call.num_tokens * call.top_k;
    wait_for_previous();
    launch_dependents();
    if (blockIdx.y >= *batch.tile_count) return;
    const Tile tile = batch.tiles[blockIdx.y];
    const Expert& expert = layer.experts[tile.expert];
    for (int row = threadIdx.x; row < tile.count; row += THREADS) rows[row] = batch.sorted[tile.first + row];
    __syncthreads();
    unsigned char* shared = aligned_shared();
    float* sums = (float*)shared;
    const u32 stages = (u32)__cvta_generic_to_shared(shared) + up * STAGES * STAGE_BYTES;
    if (up) {
        multiply_tile<HIDDEN, UP_WIDTHS>(sums + MAX_ROWS * SUMS_STRIDE, expert.up, blockIdx.x, batch.x + (u64)pairs * HIDDEN, rows, tile.count,
                                         stages, 1, threadIdx.x % 128);
    } else {
        multiply_tile<HIDDEN, GATE_WIDTHS>(sums, expert.gate, blockIdx.x, batch.x, rows, tile.count, stages, 0, threadIdx.x % 128);
    }
    const int at = blockIdx.x * HADAMARD + 4 * lane;
    const float4 gate_svh = load_scales(expert.gate.svh + at), up_svh = load_scales(expert.up.svh + at), suh = load_scales(expert.down.suh + at);
    for (int row = warp; row < tile.count; row += WARPS) {
        const int pair = rows[row];
        const float* from = sums + row * SUMS_STRIDE + 4 * lane;
        const float4 gate = finish(*(const float4*)from * batch.x_scale[pair], gate_svh, expert.gate.bias, at, lane);
        const float4 up = finish(*(const float4*)(from + MAX_ROWS * SUMS_STRIDE) * batch.x_scale[pairs + pair], up_svh, expert.up.bias, at, lane);
        const float4 h = activate(gate, up, suh, at, layer.intermediate_logical, lane);
        const Scale scale = coarse_scale(warp_max(max_abs(h)));
        store_half4(batch.h + (u64)pair * INTERMEDIATE + at, h * scale.up);
        if (lane == 0) batch.h_block_scale[pair * (INTERMEDIATE / HADAMARD) + blockIdx.x] = scale.down;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) level(Layer layer, Call call, LargeBatch batch) {
    constexpr int BLOCKS = INTERMEDIATE / HADAMARD;
    const int lane = threadIdx.x % 32, pair = blockIdx.x * WARPS + threadIdx.x / 32;
    wait_for_previous();
    launch_dependents();
    if (pair >= call.num_tokens * call.top_k) return;
    const float* scales = batch.h_block_scale + pair * BLOCKS;
    float largest = 0.f;
    for (int block = 0; block < BLOCKS; block++) largest = fmaxf(largest, scales[block]);
    for (int block = 0; block < BLOCKS; block++) {
        const float ratio = scales[block] / largest;
        if (ratio == 1.f) continue;
        u16* to = batch.h + (u64)pair * INTERMEDIATE + block * HADAMARD + 4 * lane;
        store_half4(to, load_scales(to) * ratio);
    }
    if (lane == 0) batch.h_scale[pair] = largest;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM) down(Layer layer, Call call, LargeBatch batch) {
    __shared__ int rows[MAX_ROWS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = warp / 4;
    // The list of tiles is older than the kernel before this one.
    if (blockIdx.y >= *batch.tile_count) return;
    const Tile tile = batch.tiles[blockIdx.y];
    const Linear& linear = layer.experts[tile.expert].down;
    for (int row = threadIdx.x; row < tile.count; row += THREADS) rows[row] = batch.sorted[tile.first + row];
    __syncthreads();
    wait_for_previous();
    launch_dependents();
    unsigned char* shared = aligned_shared();
    float* sums = (float*)shared;
    // With an odd number of column groups the last block's second warpgroup repeats the first's.
    const int column_group = min((int)blockIdx.x * 2 + group, HIDDEN / HADAMARD - 1);
    multiply_tile<INTERMEDIATE, DOWN_WIDTHS>(sums + group * MAX_ROWS * SUMS_STRIDE, linear, column_group, batch.h, rows, tile.count,
                                             (u32)__cvta_generic_to_shared(shared) + group * STAGES * STAGE_BYTES, group, threadIdx.x % 128);
    if ((int)blockIdx.x * 2 + group != column_group) return;
    const int at = column_group * HADAMARD + 4 * lane;
    const float4 svh = load_scales(linear.svh + at);
    for (int row = warp % 4; row < tile.count; row += 4) {
        const int pair = rows[row];
        const float* from = sums + (group * MAX_ROWS + row) * SUMS_STRIDE + 4 * lane;
        const float4 sum = finish(*(const float4*)from * batch.h_scale[pair], svh, linear.bias, at, lane);
        add_output(call, layer.hidden_logical, pair / call.top_k, at, sum * call.topk_weights[pair]);
    }
}

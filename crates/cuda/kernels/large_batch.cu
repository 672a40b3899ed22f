// Many tokens on Hopper: every weight is decoded once for up to MAX_ROWS rows of its expert and goes from the
// registers of the lane that decoded it into the matrix unit. Class half.
//
//   route   sorts the pairs by expert into tiles (block 0), and rotates every pair's activations (the others)
//   gate_up a tile of rows times 128 columns of gate (first two warpgroups) and of up, SwiGLU and the rotation for down
//   level   gives every row of intermediate activations one scale
//   down    a tile of rows times 256 columns of down: its share of the output
//
// Geometry: route and level 256 threads; gate_up and down 512, and SHARED_BYTES of dynamic shared memory.
//   route    grid 1 + pairs
//   gate_up  grid (INTERMEDIATE / 128, most tiles)
//   level    grid ceil(pairs / 8)
//   down     grid (ceil(HIDDEN / 256), most tiles)
// Most tiles: min(pairs, num_experts + pairs / MAX_ROWS). All are made for programmatic dependent launch.
#include "route.cuh"
#include "wgmma.cuh"

enum {
    MAX_ROWS = 128,
    GEMM_THREADS = 512,
    STEP = 64,  // rows of W that one stage of activations serves
    STAGES = 4,
    STAGE_BYTES = MAX_ROWS * STEP * 2,
    SUMS_STRIDE = HADAMARD + 4,  // keeps the lanes of a warp on different banks
    SUMS = MAX_ROWS * SUMS_STRIDE,
    // Stages of two teams, later sums of two column groups; and what aligning takes.
    SHARED_BYTES = 1024 + (STAGES * STAGE_BYTES > SUMS * 4 ? 2 * STAGES * STAGE_BYTES : 2 * SUMS * 4),
};

// The workspace.
struct LargeBatch {
    u16* x;          // [2][pairs][HIDDEN]: f16 activations of gate and up
    float* x_scale;  // [2][pairs]
    u16* h;          // [pairs][INTERMEDIATE]: f16 activations of down
    float* h_block_scale;  // [pairs][INTERMEDIATE / 128]
    float* h_scale;  // [pairs]
    int* sorted;     // [pairs]
    Tile* tiles;     // [most tiles], 16 bytes each
    int* tile_count; // [1]
};

__device__ __forceinline__ void store_half4(u16* to, float4 v) {
    *(uint2*)to = make_uint2(pack_half2(v.x, v.y), pack_half2(v.z, v.w));
}

extern "C" __global__ void __launch_bounds__(THREADS) route(Layer layer, Call call, LargeBatch batch) {
    route_pairs<MAX_ROWS>(layer, call, batch.sorted, batch.tiles, batch.tile_count, batch.x_scale, true,
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

template <int THREADS_OF_TEAM>
__device__ __forceinline__ void sync_team(int team) {
    asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"(THREADS_OF_TEAM) : "memory");
}

// acc = 64 columns of a linear times N rows of activations, for one warpgroup. A chunk's two column tiles go to two
// warpgroups, of which this is number HALF. TEAM threads, of which this is number `thread`, share the stages of
// activations in shared memory: each copies 16-byte piece thread % 8 of rows thread / 8, thread / 8 + TEAM / 8, ...
template <int K, int CODEBOOK, int N, int IN, int TEAM, int HALF>
__device__ __forceinline__ void multiply(float (&acc)[N / 2], const u32* chunk, const u16* activations, const int* rows, int count,
                                         u32 stages, int team, int thread) {
    constexpr int STEPS = IN / STEP, COPIES = (N * 8 + TEAM - 1) / TEAM, DEPTH = K > 5 ? 2 : 4, STRIDE = 4 * 32 * K, CHUNKS = IN / 32;
    const int lane = thread % 32, piece = thread % 8;
    u32 to[COPIES];
    const u16* from[COPIES];
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
        const int row = thread / 8 + TEAM / 8 * i;
        to[i] = stages + row * 128 + ((piece ^ (row % 8)) * 16);
        // Rows past the last one are computed like the first, and dropped.
        from[i] = activations + (u64)rows[row < count ? row : 0] * IN + piece * 8;
    }
    const auto copy_step = [&](int step) {
        if (step < STEPS) {
#pragma unroll
            for (int i = 0; i < COPIES; i++) {
                if (N * 8 % TEAM == 0 || thread / 8 + TEAM / 8 * i < N) copy_async(to[i] + step % STAGES * STAGE_BYTES, from[i] + step * STEP);
            }
        }
        commit_copies();
    };
    // DEPTH chunks of weights are on their way at a time.
    u32 ring[DEPTH][K];
#pragma unroll
    for (int d = 0; d < DEPTH; d++) load_chunk<K>(ring[d], chunk + d * STRIDE, lane);
    copy_step(0);
    copy_step(1);
    u32 a[2][2][4];
    for (int step0 = 0; step0 < STEPS; step0 += 2) {
#pragma unroll
        for (int sub = 0; sub < 4; sub++) {
            const int step = step0 + sub / 2, odd = sub % 2;
            if (!odd) {
                wait_copies<1>();
                fence_shared();
                sync_team<TEAM>(team);
                // Its stage was last read two steps ago, and every warp has waited for that.
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
            decode_tile<2 * HALF, K, CODEBOOK>(a[odd][0], w, context);
            decode_tile<2 * HALF + 1, K, CODEBOOK>(a[odd][1], w, context);
            const u64 b = swizzled_matrix(stages + step % STAGES * STAGE_BYTES + odd * 64);
            wgmma_fence();
            wgmma<N>(acc, a[odd][0], b);
            wgmma<N>(acc, a[odd][1], b + 2);
            wgmma_commit();
        }
    }
    wgmma_wait<0>();
    wait_copies<0>();
}

// Multiplies the column group of this thread's 256 neighbours, and leaves the sums at `sums` as [row][SUMS_STRIDE]
// once all threads of the block are done with the stages.
template <int IN, int TEAM, u32 WIDTHS>
__device__ __forceinline__ void multiply_tile(float* sums, const Linear& linear, int column_group, const u16* activations, const int* rows,
                                              int count, u32 stages, int team, int thread) {
    const int lane = thread % 32, member = thread / 32 % 4, half = thread / 128 % 2;
    const auto run = [&]<int K, int CODEBOOK, int N, int HALF>() {
        float acc[N / 2];
#pragma unroll
        for (int i = 0; i < N / 2; i++) acc[i] = 0.f;
        const u32* chunk = linear.trellis + chunk_words(column_group, IN, 0, K) + member * 32 * K;
        multiply<K, CODEBOOK, N, IN, TEAM, HALF>(acc, chunk, activations, rows, count, stages, team, thread);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const int row = i / 4 * 8 + lane % 4 * 2 + i % 2, column = member * 32 + HALF * 16 + i % 4 / 2 * 8 + lane / 4;
            sums[row * SUMS_STRIDE + column] = acc[i];
        }
        __syncthreads();
    };
    const auto run_half = [&]<int K, int CODEBOOK, int N>() {
        if (half) run.template operator()<K, CODEBOOK, N, 1>();
        else run.template operator()<K, CODEBOOK, N, 0>();
    };
    with_linear_type<WIDTHS>(linear.bits, linear.codebook, [&]<int K, int CODEBOOK>() {
        if (count <= 32) run_half.template operator()<K, CODEBOOK, 32>();
        else if (count <= 64) run_half.template operator()<K, CODEBOOK, 64>();
        else if (count <= 96) run_half.template operator()<K, CODEBOOK, 96>();
        else run_half.template operator()<K, CODEBOOK, 128>();
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

extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1) gate_up(Layer layer, Call call, LargeBatch batch) {
    __shared__ int rows[MAX_ROWS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, up = warp / 8, pairs = call.num_tokens * call.top_k;
    wait_for_previous();
    launch_dependents();
    if (blockIdx.y >= *batch.tile_count) return;
    const Tile tile = batch.tiles[blockIdx.y];
    const Expert& expert = layer.experts[tile.expert];
    for (int row = threadIdx.x; row < tile.count; row += GEMM_THREADS) rows[row] = batch.sorted[tile.first + row];
    __syncthreads();
    unsigned char* shared = aligned_shared();
    float* sums = (float*)shared;
    const u32 stages = (u32)__cvta_generic_to_shared(shared) + up * STAGES * STAGE_BYTES;
    const int thread = threadIdx.x % 256;
    if (up) multiply_tile<HIDDEN, 256, UP_WIDTHS>(sums + SUMS, expert.up, blockIdx.x, batch.x + (u64)pairs * HIDDEN, rows, tile.count, stages, 1, thread);
    else multiply_tile<HIDDEN, 256, GATE_WIDTHS>(sums, expert.gate, blockIdx.x, batch.x, rows, tile.count, stages, 0, thread);
    const int at = blockIdx.x * HADAMARD + 4 * lane;
    const float4 gate_svh = load_scales(expert.gate.svh + at), up_svh = load_scales(expert.up.svh + at), suh = load_scales(expert.down.suh + at);
    for (int row = warp; row < tile.count; row += GEMM_THREADS / 32) {
        const int pair = rows[row];
        const float* from = sums + row * SUMS_STRIDE + 4 * lane;
        float4 gate = hadamard128(*(const float4*)from * batch.x_scale[pair], lane) * gate_svh;
        float4 up = hadamard128(*(const float4*)(from + SUMS) * batch.x_scale[pairs + pair], lane) * up_svh;
        if (expert.gate.bias) gate = gate + *(const float4*)(expert.gate.bias + at);
        if (expert.up.bias) up = up + *(const float4*)(expert.up.bias + at);
        float4 h = make_float4(silu(gate.x), silu(gate.y), silu(gate.z), silu(gate.w)) * up;
        h = hadamard128(keep_logical(h, at, layer.intermediate_logical) * suh, lane);
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

extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1) down(Layer layer, Call call, LargeBatch batch) {
    __shared__ int rows[MAX_ROWS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = warp / 8;
    // The list of tiles is older than the kernel before this one.
    if (blockIdx.y >= *batch.tile_count) return;
    const Tile tile = batch.tiles[blockIdx.y];
    const Linear& linear = layer.experts[tile.expert].down;
    for (int row = threadIdx.x; row < tile.count; row += GEMM_THREADS) rows[row] = batch.sorted[tile.first + row];
    __syncthreads();
    wait_for_previous();
    launch_dependents();
    unsigned char* shared = aligned_shared();
    float* sums = (float*)shared;
    // With an odd number of column groups the last block computes its first one twice.
    const int column_group = min((int)blockIdx.x * 2 + group, HIDDEN / HADAMARD - 1);
    multiply_tile<INTERMEDIATE, GEMM_THREADS, DOWN_WIDTHS>(sums + group * SUMS, linear, column_group, batch.h, rows, tile.count,
                                                           (u32)__cvta_generic_to_shared(shared), 0, threadIdx.x);
    if ((int)blockIdx.x * 2 + group != column_group) return;
    const int at = column_group * HADAMARD + 4 * lane;
    const float4 svh = load_scales(linear.svh + at);
    for (int row = warp % 8; row < tile.count; row += 8) {
        const int pair = rows[row];
        const float* from = sums + group * SUMS + row * SUMS_STRIDE + 4 * lane;
        float4 sum = hadamard128(*(const float4*)from * batch.h_scale[pair], lane) * svh;
        if (linear.bias) sum = sum + *(const float4*)(linear.bias + at);
        add_output(call, layer.hidden_logical, pair / call.top_k, at, sum * call.topk_weights[pair]);
    }
}

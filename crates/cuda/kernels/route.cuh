// Pairs sorted by expert, and rows of activations.
#pragma once
#include "activations.cuh"

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    MAX_EXPERTS = 1024,
};

// Rows `first .. first+count-1` of the sorted pairs, all of one expert.
struct Tile {
    int expert, first, count, unused;
};

// Exclusive sum over the block's threads.
__device__ __forceinline__ int scan(int value, int* total) {
    __shared__ int sums[WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int sum = value;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int before = __shfl_up_sync(~0u, sum, step);
        if (lane >= step) sum += before;
    }
    __syncthreads();
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    int offset = 0, all = 0;
    for (int w = 0; w < WARPS; w++) {
        if (w < warp) offset += sums[w];
        all += sums[w];
    }
    *total = all;
    return offset + sum - value;
}

// Sorts the pairs by expert into tiles of at most ROWS rows of one expert each, in the order of GROUPS groups of
// experts with equal tuples: those of group i end before tile_ends[i]. One group has all.
template <int ROWS, int GROUPS>
__device__ __forceinline__ void sort_pairs(const Layer& layer, const Call& call, int* sorted, Tile* tiles, int* tile_ends) {
    __shared__ int cursor[MAX_EXPERTS];
    const int pairs = call.num_tokens * call.top_k, t = threadIdx.x;
    for (int e = t; e < layer.num_experts; e += THREADS) cursor[e] = 0;
    __syncthreads();
    for (int p = t; p < pairs; p += THREADS) atomicAdd(&cursor[call.topk_ids[p]], 1);
    __syncthreads();
    int first_pair = 0, first_tile = 0;
    for (int group = 0; group < GROUPS; group++) {
        for (int base = 0; base < layer.num_experts; base += THREADS) {
            const int e = base + t;
            const bool mine = e < layer.num_experts && (GROUPS == 1 || layer.experts[e].tuple == group);
            const int count = mine ? cursor[e] : 0;
            int pairs_here, tiles_here;
            const int at = first_pair + scan(count, &pairs_here);
            int tile = first_tile + scan((count + ROWS - 1) / ROWS, &tiles_here);
            // Tiles of about equal height.
            const int parts = max(1, (count + ROWS - 1) / ROWS), height = min(ROWS, ((count + parts - 1) / parts + 7) / 8 * 8);
            for (int row = 0; row < count; row += height) tiles[tile++] = {e, at + row, min(height, count - row), 0};
            if (mine) cursor[e] = at;
            first_pair += pairs_here, first_tile += tiles_here;
        }
        if (t == 0) tile_ends[group] = first_tile;
    }
    __syncthreads();
    for (int p = t; p < pairs; p += THREADS) sorted[atomicAdd(&cursor[call.topk_ids[p]], 1)] = p;
}

// Scales a rotated row of LENGTH values, given by value(block), to the range of f16 and hands it on by
// store(block, values); the scale's inverse is returned. TEAM warps share a row, and all warps of the block take
// part at once.
template <int LENGTH, int TEAM, class Value, class Store>
__device__ __forceinline__ float scale_row(int warp, int lane, Value&& value, Store&& store) {
    constexpr int BLOCKS = LENGTH / HADAMARD, MINE = (BLOCKS + TEAM - 1) / TEAM;
    __shared__ float largest[WARPS];
    const int member = warp % TEAM;
    float4 v[MINE];
    float m = 0.f;
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        const int block = i * TEAM + member;
        if (block < BLOCKS) {
            v[i] = value(block);
            m = fmaxf(m, max_abs(v[i]));
        }
    }
    m = warp_max(m);
    if (lane == 0) largest[warp] = m;
    __syncthreads();
    for (int w = 0; w < TEAM; w++) m = fmaxf(m, largest[warp - member + w]);
    const Scale scale = half_scale(m);
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        const int block = i * TEAM + member;
        if (block < BLOCKS) store(block, v[i] * scale.up);
    }
    return scale.down;
}

// The kernel `route` but for how activations are laid out: block 0 sorts the pairs, block 1 + p rotates the
// activations of pair p for gate (first half of the warps) and for up, which store(row, block, values) takes; row p
// is gate's, row pairs + p is up's.
template <int ROWS, int GROUPS, class Store>
__device__ __forceinline__ void route_pairs(const Layer& layer, const Call& call, int* sorted, Tile* tiles, int* tile_ends,
                                            float* x_scale, bool clear_output, Store&& store) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pairs = call.num_tokens * call.top_k;
    wait_for_previous();
    launch_dependents();
    if (blockIdx.x == 0) return sort_pairs<ROWS, GROUPS>(layer, call, sorted, tiles, tile_ends);
    const int pair = blockIdx.x - 1, token = pair / call.top_k, up = warp / (WARPS / 2), row = up * pairs + pair;
    if (clear_output && pair % call.top_k == 0) {
        for (int i = threadIdx.x; i < layer.hidden_logical; i += THREADS) call.out[(u64)token * layer.hidden_logical + i] = 0.f;
    }
    const Expert& expert = layer.experts[call.topk_ids[pair]];
    const u16* suh = up ? expert.up.suh : expert.gate.suh;
    const auto rotate = [&](int block) {
        const int at = block * HADAMARD + 4 * lane;
        return hadamard128(load_hidden(call, layer.hidden_logical, token, at) * load_scales(suh + at), lane);
    };
    const float scale = scale_row<HIDDEN, WARPS / 2>(warp, lane, rotate, [&](int block, float4 v) { store(row, block * HADAMARD + 4 * lane, v); });
    if (threadIdx.x % (THREADS / 2) == 0) x_scale[row] = scale;
}

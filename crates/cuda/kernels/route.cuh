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

// Sorts the pairs by expert into tiles of at most ROWS rows of one expert each.
template <int ROWS>
__device__ __forceinline__ void sort_pairs(const Layer& layer, const Call& call, int* sorted, Tile* tiles, int* tile_count) {
    __shared__ int cursor[MAX_EXPERTS];
    const int pairs = call.num_tokens * call.top_k, t = threadIdx.x;
    for (int e = t; e < layer.num_experts; e += THREADS) cursor[e] = 0;
    __syncthreads();
    for (int p = t; p < pairs; p += THREADS) atomicAdd(&cursor[call.topk_ids[p]], 1);
    __syncthreads();
    int first_pair = 0, first_tile = 0;
    for (int base = 0; base < layer.num_experts; base += THREADS) {
        const int e = base + t, count = e < layer.num_experts ? cursor[e] : 0;
        int pairs_here, tiles_here;
        const int at = first_pair + scan(count, &pairs_here);
        int tile = first_tile + scan((count + ROWS - 1) / ROWS, &tiles_here);
        for (int row = 0; row < count; row += ROWS) tiles[tile++] = {e, at + row, min(ROWS, count - row), 0};
        if (e < layer.num_experts) cursor[e] = at;
        first_pair += pairs_here, first_tile += tiles_here;
    }
    __syncthreads();
    for (int p = t; p < pairs; p += THREADS) sorted[atomicAdd(&cursor[call.topk_ids[p]], 1)] = p;
    if (t == 0) *tile_count = first_tile;
}

// Scales a rotated row of LENGTH values, given by value(block), to the range of f16 and hands it on by
// store(block, values); the scale's inverse is returned. All warps of the block take part.
template <int LENGTH, class Value, class Store>
__device__ __forceinline__ float scale_row(int warp, int lane, Value&& value, Store&& store) {
    constexpr int BLOCKS = LENGTH / HADAMARD, MINE = (BLOCKS + WARPS - 1) / WARPS;
    __shared__ float largest[WARPS];
    float4 v[MINE];
    float max_abs = 0.f;
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        const int block = i * WARPS + warp;
        if (block < BLOCKS) {
            v[i] = value(block);
            max_abs = fmaxf(max_abs, warp_max_abs(v[i]));
        }
    }
    if (lane == 0) largest[warp] = max_abs;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) max_abs = fmaxf(max_abs, largest[w]);
    const Scale scale = half_scale(max_abs);
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        const int block = i * WARPS + warp;
        if (block < BLOCKS) store(block, v[i] * scale.up);
    }
    return scale.down;
}

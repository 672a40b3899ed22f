// Activations on their way into the matrix unit, and sums on their way out.
#pragma once
#include "trellis.cuh"

enum {
    // The matrix unit takes eight rows; class exact splits each activation into a high and a low f16.
    PARTS = EXACT ? 2 : 1,
    ROWS_PER_TILE = 8 / PARTS,
    LOW_BITS = 11,
};

// Four values of a row, from index `at` on (a multiple of 4), to their place in the order of the B operand: 16
// bytes for every k-pair and lane column, k-pairs STRIDE apart. Class exact has a second row for the low parts.
template <int STRIDE>
__device__ __forceinline__ void store_activations(uint4* row, uint4* low_row, int at, float4 v) {
    // Element k is in row tile k / 16, register (k % 16) / 8 and lane column (k % 8) / 2.
    const int word = at / 32 * 4 * STRIDE + at % 8 * 2 + at % 32 / 8;
    const u32 high0 = pack_half2(v.x, v.y), high1 = pack_half2(v.z, v.w);
    ((u32*)row)[word] = high0;
    ((u32*)row)[word + 4] = high1;
#if EXACT
    float4 high;
    unpack_half2(high.x, high.y, high0);
    unpack_half2(high.z, high.w, high1);
    const float low = 1 << LOW_BITS;
    ((u32*)low_row)[word] = pack_half2((v.x - high.x) * low, (v.y - high.y) * low);
    ((u32*)low_row)[word + 4] = pack_half2((v.z - high.z) * low, (v.w - high.w) * low);
#endif
}

// Hands the sums of a warp's 32 columns for a tile of rows to put(row, column, value).
template <int NT, class Put>
__device__ __forceinline__ void each_sum(const float (&acc)[2][NT][4], int count, int lane, Put&& put) {
    const int t = lane % 4;
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int column = i * 8 + lane / 4;
            const float first = acc[i / 2][n][i % 2 * 2], second = acc[i / 2][n][i % 2 * 2 + 1];
#if EXACT
            const int row = n * 4 + t;
            if (row < count) put(row, column, fmaf(second, 1.f / (1 << LOW_BITS), first));
#else
            const int row = n * 8 + 2 * t;
            if (row < count) put(row, column, first);
            if (row + 1 < count) put(row + 1, column, second);
#endif
        }
    }
}

// The sum of a projection's slices, `stride` floats apart.
__device__ __forceinline__ float4 add_slices(const float* partial, u64 stride, int slices) {
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 8
    for (int slice = 0; slice < slices; slice++) sum = sum + *(const float4*)(partial + slice * stride);
    return sum;
}

// The value of a projection: output rotation, scale and bias (null: none) of a warp's 128 columns.
__device__ __forceinline__ float4 finish(float4 sum, float4 svh, const float* bias, int at, int lane) {
    sum = hadamard128(sum, lane) * svh;
    return bias ? sum + *(const float4*)(bias + at) : sum;
}

// Elements past a row's logical end are zero.
__device__ __forceinline__ float4 keep_logical(float4 v, int at, int logical) {
    if (at >= logical) v.x = 0.f;
    if (at + 1 >= logical) v.y = 0.f;
    if (at + 2 >= logical) v.z = 0.f;
    if (at + 3 >= logical) v.w = 0.f;
    return v;
}

// SwiGLU of finished projections, 128 values a warp from `at - 4 * lane` on, rotated for down. Past the row's
// logical end they are zero.
__device__ __forceinline__ float4 activate(float4 gate, float4 up, float4 down_suh, int at, int logical, int lane) {
    const float4 h = make_float4(silu(gate.x), silu(gate.y), silu(gate.z), silu(gate.w)) * up;
    return hadamard128(keep_logical(h, at, logical) * down_suh, lane);
}

// The same from the partial sums of both projections, up's INTERMEDIATE floats behind gate's. `partial` points to the
// lane's first.
__device__ __forceinline__ float4 activate_slices(const Expert& expert, const float* partial, u64 stride, int slices, int at, int logical, int lane) {
    // All sums are on their way before the first is waited for.
    const float4 gate_sum = add_slices(partial, stride, slices), up_sum = add_slices(partial + INTERMEDIATE, stride, slices);
    const float4 gate = finish(gate_sum, load_scales(expert.gate.svh + at), expert.gate.bias, at, lane);
    const float4 up = finish(up_sum, load_scales(expert.up.svh + at), expert.up.bias, at, lane);
    return activate(gate, up, load_scales(expert.down.suh + at), at, logical, lane);
}

// Word of a linear's trellis where the chunks of a column group start, `first` rows down.
__device__ __forceinline__ u64 chunk_words(u64 group, int in_features, int first, u32 bits) {
    return (group * (in_features / 32) + first / 32) * 4 * 32 * bits;
}


// What a kernel is handed. Twins of these structs live in the host's `layer.rs`.
#pragma once

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

// One projection of one expert: y = H(W^T(H(x * suh))) * svh + bias.
struct Linear {
    const u32* trellis;  // chunks, see trellis.cuh
    const u16* suh;      // f16 [in]
    const u16* svh;      // f16 [out]
    const float* bias;   // f32 [out] or null
    u32 bits;            // 1 to 8
    u32 codebook;        // 0 3inst, 1 mcg, 2 mul1
};

struct Expert {
    Linear gate, up, down;
    int tuple;  // number of its widths among the layer's, in ascending order
};

// HIDDEN and INTERMEDIATE, the sizes padded to 128, are given when a kernel is compiled.
struct Layer {
    const Expert* experts;
    int num_experts;
    int hidden_logical;  // row length of the caller's hidden states and output
    int intermediate_logical;
};

struct Call {
    const void* hidden;         // [num_tokens, hidden_logical] of `dtype`
    const int* topk_ids;        // [num_tokens, top_k]
    const float* topk_weights;  // [num_tokens, top_k]
    float* out;                 // [num_tokens, hidden_logical]
    int num_tokens;
    int top_k;
    int dtype;  // 0 f32, 1 f16, 2 bf16
    int tuple;  // of a launch for one tuple: its number
};

enum { HADAMARD = 128 };

__device__ __forceinline__ float half_to_float(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

// Two floats, rounded to f16, the first in the low half.
__device__ __forceinline__ u32 pack_half2(float lo, float hi) {
    u32 packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(hi), "f"(lo));
    return packed;
}

__device__ __forceinline__ void unpack_half2(float& lo, float& hi, u32 packed) {
    lo = half_to_float((u16)(packed & 0xffff));
    hi = half_to_float((u16)(packed >> 16));
}

// Elements `at .. at+3` of a row of hidden states; those past its logical end are zero.
__device__ __forceinline__ float4 load_hidden(const Call& call, int logical, int token, int at) {
    const u64 first = (u64)token * logical + at;
    if (at + 3 < logical && logical % 4 == 0 && ((u64)call.hidden & 15) == 0) {
        if (call.dtype == 0) return __ldg((const float4*)((const float*)call.hidden + first));
        const uint2 raw = __ldg((const uint2*)((const u16*)call.hidden + first));
        float4 v;
        if (call.dtype == 1) {
            unpack_half2(v.x, v.y, raw.x);
            unpack_half2(v.z, v.w, raw.y);
        } else {
            v = make_float4(__uint_as_float(raw.x << 16), __uint_as_float(raw.x & 0xffff0000u), __uint_as_float(raw.y << 16),
                            __uint_as_float(raw.y & 0xffff0000u));
        }
        return v;
    }
    float v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[i] = 0.f;
        if (at + i >= logical) continue;
        const u16* half = (const u16*)call.hidden + first + i;
        v[i] = call.dtype == 0 ? ((const float*)call.hidden)[first + i] : call.dtype == 1 ? half_to_float(*half) : __uint_as_float((u32)*half << 16);
    }
    return make_float4(v[0], v[1], v[2], v[3]);
}

// out[token][at .. at+3] += v, those past the row's logical end left out.
__device__ __forceinline__ void add_output(const Call& call, int logical, int token, int at, float4 v) {
    float* to = call.out + (u64)token * logical + at;
#if __CUDA_ARCH__ >= 900
    if (at + 3 < logical && ((u64)to & 15) == 0) {
        asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
        return;
    }
#endif
    if (at < logical) atomicAdd(to, v.x);
    if (at + 1 < logical) atomicAdd(to + 1, v.y);
    if (at + 2 < logical) atomicAdd(to + 2, v.z);
    if (at + 3 < logical) atomicAdd(to + 3, v.w);
}

// Four consecutive f16 scales.
__device__ __forceinline__ float4 load_scales(const u16* scales) {
    const uint2 raw = __ldg((const uint2*)scales);
    float4 v;
    unpack_half2(v.x, v.y, raw.x);
    unpack_half2(v.z, v.w, raw.y);
    return v;
}

__device__ __forceinline__ float4 operator*(float4 a, float4 b) {
    return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}
__device__ __forceinline__ float4 operator*(float4 a, float s) {
    return make_float4(a.x * s, a.y * s, a.z * s, a.w * s);
}
__device__ __forceinline__ float4 operator+(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// The orthonormal 128-wide Hadamard transform of a warp's 128 values, four consecutive ones a lane.
__device__ __forceinline__ float4 hadamard128(float4 v, int lane) {
    v = make_float4(v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w);
    v = make_float4(v.x + v.z, v.y + v.w, v.x - v.z, v.y - v.w);
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) {
        const float sign = lane & mask ? -1.f : 1.f;
        v.x = fmaf(sign, v.x, __shfl_xor_sync(~0u, v.x, mask));
        v.y = fmaf(sign, v.y, __shfl_xor_sync(~0u, v.y, mask));
        v.z = fmaf(sign, v.z, __shfl_xor_sync(~0u, v.z, mask));
        v.w = fmaf(sign, v.w, __shfl_xor_sync(~0u, v.w, mask));
    }
    return v * 0.08838834764831845f;
}

__device__ __forceinline__ float max_abs(float4 v) {
    return fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
}

__device__ __forceinline__ float warp_max(float m) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) m = fmaxf(m, __shfl_xor_sync(~0u, m, mask));
    return m;
}

// A power of two that brings values of at most `largest` to the top of f16's range, and its inverse:
// activations of any size keep f16's full precision.
struct Scale {
    float up, down;
};
__device__ __forceinline__ Scale half_scale(float largest) {
    const int exponent = min(max((int)(__float_as_uint(largest) >> 23), 20), 250);
    return {__uint_as_float((u32)(268 - exponent) << 23), __uint_as_float((u32)(exponent - 14) << 23)};
}

__device__ __forceinline__ float silu(float v) {
#if EXACT
    return v / (1.f + expf(-v));
#else
    return __fdividef(v, 1.f + __expf(-v));
#endif
}

// Starts bringing `bytes` (a multiple of 16) to the second-level cache; for one thread to call.
__device__ __forceinline__ void prefetch(const void* from, u32 bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes));
#else
    for (u32 at = 0; at < bytes; at += 128) asm volatile("prefetch.global.L2 [%0];" ::"l"((const char*)from + at));
#endif
}

// Programmatic dependent launch: lets the next kernel of the stream start, and waits for the one before.
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

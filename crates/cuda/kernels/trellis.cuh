// Trellis bits to f16 weights, in registers.
//
// A chunk is 32 output columns (two column tiles) of 32 rows of W (two row tiles). Lane L of a warp
// owns eight consecutive states of each of the four tiles, which are its registers of the A operand of
// mma.m16n8k16 for W^T: no weight ever leaves the lane that decoded it. Its bits come as K words.
#pragma once
#include "layer.cuh"

// As __byte_perm, but left as it is written: the compiler would turn some into a shift and a mask.
template <u32 SELECTOR>
__device__ __forceinline__ u32 prmt(u32 a, u32 b) {
    u32 result;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "n"(SELECTOR));
    return result;
}

// The words of one lane of a chunk, in planes of 4, 2 and 1 words so that every load is as wide as can be.
template <int K>
__device__ __forceinline__ void load_chunk(u32 (&w)[K], const u32* chunk, int lane) {
    constexpr int quads = K / 4, pairs = (K % 4) / 2;
#pragma unroll
    for (int q = 0; q < quads; q++) {
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(w[4 * q]), "=r"(w[4 * q + 1]), "=r"(w[4 * q + 2]), "=r"(w[4 * q + 3])
                     : "l"(chunk + 128 * q + 4 * lane));
    }
    if constexpr (pairs) {
        asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];"
                     : "=r"(w[4 * quads]), "=r"(w[4 * quads + 1])
                     : "l"(chunk + 128 * quads + 2 * lane));
    }
    if constexpr (K % 2) {
        asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];"
                     : "=r"(w[K - 1])
                     : "l"(chunk + 32 * (K - 1) + lane));
    }
}

// Bits [P, P+32) of a lane's string, most significant first; what lies past its end is anything.
template <int P, int K>
__device__ __forceinline__ u32 window(const u32 (&w)[K]) {
    constexpr int word = P / 32, offset = P % 32;
    if constexpr (offset == 0) return w[word];
    else if constexpr (word + 1 >= K) return w[word] << offset;
    else return __funnelshift_l(w[word + 1], w[word], offset);
}

// The 16 bits of `v` that start `P` bits below its top, 0 <= P <= 16.
template <int P>
__device__ __forceinline__ u32 field(u32 v) {
    if constexpr (P == 0) return prmt<0x4432>(v, 0);
    else if constexpr (P == 8) return prmt<0x4421>(v, 0);
    else if constexpr (P == 16) return prmt<0x4410>(v, 0);
    else return (v >> (16 - P)) & 0xffffu;
}

// State J of tile I: the 16 bits that end with its symbol. `head` holds the 16 bits before the tile's
// own, then its first 16.
template <int I, int J, int K>
__device__ __forceinline__ u32 state(const u32 (&w)[K], u32 head) {
    constexpr int p = K * (J + 1);
    if constexpr (p <= 16) {
        return field<p>(head);
    } else {
        constexpr int q = 8 * K * I + p - 16;
        if constexpr (q % 32 <= 16) return field<q % 32>(w[q / 32]);
        else return field<16>(__funnelshift_r(w[q / 32 + 1], w[q / 32], 48 - q % 32));
    }
}

// All eight states of a tile. Where two states lie eight bits apart, one shift serves both.
template <int I, int K>
__device__ __forceinline__ void states(u32 (&s)[8], const u32 (&w)[K], u32 head) {
    if constexpr (K == 2) {
        const u32 by2 = head << 2, by4 = head << 4, by6 = head << 6;
        s[0] = field<0>(by2), s[4] = field<8>(by2);
        s[1] = field<0>(by4), s[5] = field<8>(by4);
        s[2] = field<0>(by6), s[6] = field<8>(by6);
        s[3] = field<8>(head), s[7] = field<16>(head);
    } else if constexpr (K == 4) {
        const u32 head4 = head << 4, w4 = w[I] << 4;
        s[0] = field<0>(head4), s[2] = field<8>(head4);
        s[1] = field<8>(head), s[3] = field<0>(w[I]);
        s[4] = field<0>(w4), s[6] = field<8>(w4);
        s[5] = field<8>(w[I]), s[7] = field<16>(w[I]);
    } else {
        s[0] = state<I, 0>(w, head), s[1] = state<I, 1>(w, head);
        s[2] = state<I, 2>(w, head), s[3] = state<I, 3>(w, head);
        s[4] = state<I, 4>(w, head), s[5] = state<I, 5>(w, head);
        s[6] = state<I, 6>(w, head), s[7] = state<I, 7>(w, head);
    }
}

enum { THREE_INST = 0, MCG = 1, MUL1 = 2 };

// Two states to two f16 weights, the first in the low half.
template <int CODEBOOK>
__device__ __forceinline__ u32 weights(u32 s0, u32 s1) {
    u32 result;
    if constexpr (CODEBOOK == MUL1) {
        // 0x6400 + S is the f16 number 1024 + S.
        const u32 sum0 = __dp4a(s0 * 0x83DCD12Du, 0x01010101u, 0x6400u);
        const u32 sum1 = __dp4a(s1 * 0x83DCD12Du, 0x01010101u, 0x6400u);
        asm("fma.rn.f16x2 %0, %1, %2, %3;"
            : "=r"(result)
            : "r"(prmt<0x5410>(sum0, sum1)), "r"(0x1EEE1EEEu), "r"(0xC931C931u));
    } else {
        const u32 factor = CODEBOOK == MCG ? 0xCBAC1FEDu : 89226354u;
        const u32 offset = CODEBOOK == MCG ? 0u : 64248484u;
        const u32 z0 = ((s0 * factor + offset) & 0x8FFF8FFFu) ^ 0x3B603B60u;
        const u32 z1 = ((s1 * factor + offset) & 0x8FFF8FFFu) ^ 0x3B603B60u;
        asm("add.rn.f16x2 %0, %1, %2;"
            : "=r"(result)
            : "r"(prmt<0x5410>(z0, z1)), "r"(prmt<0x7632>(z0, z1)));
    }
    return result;
}

// The 16 bits before each tile's own: the last 16 of the lane before (the tile's bits are a circle).
// Two tiles a register, the first in the high half.
template <int K>
__device__ __forceinline__ void contexts(u32 (&context)[2], const u32 (&w)[K], int lane) {
    if constexpr (K == 1) {
        // A lane has but eight bits of a tile: the context comes from two lanes.
        const u32 one = __shfl_sync(~0u, w[0], (lane + 31) & 31), two = __shfl_sync(~0u, w[0], (lane + 30) & 31);
        context[0] = prmt<0x7362>(one, two), context[1] = prmt<0x5140>(one, two);
    } else {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            u32 last;
            if (half == 0) last = prmt<0x3276>(window<8 * K - 16>(w), window<16 * K - 16>(w));
            else last = prmt<0x3276>(window<24 * K - 16>(w), window<32 * K - 16>(w));
            context[half] = __shfl_sync(~0u, last, (lane + 31) & 31);
        }
    }
}

// Tile I of a chunk as a lane's four registers of the A operand of mma.m16n8k16.
template <int I, int K, int CODEBOOK>
__device__ __forceinline__ void decode_tile(u32 (&a)[4], const u32 (&w)[K], const u32 (&context)[2]) {
    const u32 first = window<8 * K * I>(w);
    const u32 head = prmt<I % 2 ? 0x1076 : 0x3276>(context[I / 2], first);
    u32 s[8];
    states<I>(s, w, head);
    a[0] = weights<CODEBOOK>(s[0], s[1]);
    a[2] = weights<CODEBOOK>(s[2], s[3]);
    a[1] = weights<CODEBOOK>(s[4], s[5]);
    a[3] = weights<CODEBOOK>(s[6], s[7]);
}

// d += a * b, 16 x 8 x 16, f16 operands, f32 sums.
__device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// acc += chunk * activations: `b[n]` are the lane's B registers of tile n of eight rows, for the first row tile
// of the chunk (x, y) and for the second (z, w). Tiles past `tiles` are left out.
template <int K, int CODEBOOK, int NT>
__device__ __forceinline__ void multiply_chunk(float (&acc)[2][NT][4], const u32 (&w)[K], const uint4 (&b)[NT], int tiles, int lane) {
    u32 context[2], a[2][4];
    contexts(context, w, lane);
    decode_tile<0, K, CODEBOOK>(a[0], w, context);
    decode_tile<1, K, CODEBOOK>(a[1], w, context);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        if (n > 0 && n >= tiles) break;
        mma(acc[0][n], a[0], b[n].x, b[n].y);
        mma(acc[0][n], a[1], b[n].z, b[n].w);
    }
    decode_tile<2, K, CODEBOOK>(a[0], w, context);
    decode_tile<3, K, CODEBOOK>(a[1], w, context);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        if (n > 0 && n >= tiles) break;
        mma(acc[1][n], a[0], b[n].x, b[n].y);
        mma(acc[1][n], a[1], b[n].z, b[n].w);
    }
}

// Calls body.template operator()<K, CODEBOOK>() for the width and the codebook of a linear, among those
// of the masks WIDTHS (bit K) and CODEBOOKS: with one of each there is no branch.
template <u32 WIDTHS, int K = 1, class Body>
__device__ __forceinline__ void with_linear_type(u32 bits, u32 codebook, Body&& body) {
    if constexpr (K <= 8) {
        if constexpr (WIDTHS >> K & 1) {
            if ((WIDTHS >> (K + 1)) == 0 || bits == K) {
                if constexpr ((CODEBOOKS & (CODEBOOKS - 1)) == 0) {
                    body.template operator()<K, CODEBOOKS == 1 ? THREE_INST : CODEBOOKS == 2 ? MCG : MUL1>();
                } else {
                    if (CODEBOOKS & 4 && codebook == MUL1) body.template operator()<K, MUL1>();
                    else if (CODEBOOKS & 2 && codebook == MCG) body.template operator()<K, MCG>();
                    else body.template operator()<K, THREE_INST>();
                }
                return;
            }
        }
        with_linear_type<WIDTHS, K + 1>(bits, codebook, (Body&&)body);
    }
}

// One to a few tokens: two launches, no list of work.
//
// Block z belongs to pair z (a token's choice of an expert) and computes every pair of that expert, unless
// an earlier pair names it too. `gate_up` leaves partial sums per slice of the hidden dimension; `down` adds
// them up, applies SwiGLU, and adds its share of the output.
//
// Geometry: 256 threads; partial is f32 [splits][pairs][2][intermediate], splits = ceil(hidden / GATE_UP_SLICE).
//   gate_up  grid (intermediate / 128, splits, pairs)
//   down     grid (hidden / 128, ceil(intermediate / DOWN_SLICE), pairs)
// At most MAX_PAIRS pairs. Both are made for programmatic dependent launch. Given when compiled: ONE_TOKEN (calls
// have no more), and GATE_UP_SLICE and DOWN_SLICE, the rows of W that one block multiplies (multiples of 128).
#include "activations.cuh"

enum {
    THREADS = 256,
    MAX_PAIRS = 256,
    ROWS = ONE_TOKEN ? 1 : ROWS_PER_TILE,
};

struct SmallBatch {
    float* partial;
};

// The pairs of one expert, in order.
struct Rows {
    int count;
    u16 pair[MAX_PAIRS];
};

// Fills `rows` with the pairs of `expert`; false, for the whole block, if a pair before `mine` names it.
__device__ __forceinline__ bool collect_rows(Rows& rows, const Call& call, int mine, int expert) {
    if (ONE_TOKEN || call.num_tokens == 1) {
        // A token that names an expert twice is computed twice.
        if (threadIdx.x == 0) rows.count = 1, rows.pair[0] = (u16)mine;
        __syncthreads();
        return true;
    }
    __shared__ int matches[THREADS / 32];
    const int t = threadIdx.x, lane = t % 32, warp = t / 32;
    const bool match = t < call.num_tokens * call.top_k && call.topk_ids[t] == expert;
    const u32 ballot = __ballot_sync(~0u, match);
    if (lane == 0) matches[warp] = __popc(ballot);
    if (__syncthreads_or(match && t < mine)) return false;
    int at = __popc(ballot & ((1u << lane) - 1));
    for (int w = 0; w < warp; w++) at += matches[w];
    if (match) rows.pair[at] = (u16)t;
    if (t == THREADS - 1) rows.count = at + match;
    __syncthreads();
    return true;
}

template <int BLOCKS>
__device__ __forceinline__ float row_max(const float (&largest)[ROWS][BLOCKS], int row, int blocks) {
    float m = 0.f;
    for (int block = 0; block < blocks; block++) m = fmaxf(m, largest[row][block]);
    return m;
}

// Scales `count` rows of rotated values, given by value(row, block) to a warp at a time, to f16 activations.
// TEAM warps share the work; all threads of the block take part.
template <int BLOCKS, int TEAM, class Value>
__device__ __forceinline__ void stage(uint4* fragments, float (&largest)[ROWS][BLOCKS], int count, int blocks, int member,
                                      int lane, Value&& value) {
    constexpr int TASKS = (ROWS * BLOCKS + TEAM - 1) / TEAM;
    float4 v[TASKS];
#pragma unroll
    for (int i = 0; i < TASKS; i++) {
        const int row = (i * TEAM + member) / BLOCKS, block = (i * TEAM + member) % BLOCKS;
        if (row < count && block < blocks) {
            v[i] = value(row, block);
            const float m = warp_max(max_abs(v[i]));
            if (lane == 0) largest[row][block] = m;
        }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TASKS; i++) {
        const int row = (i * TEAM + member) / BLOCKS, block = (i * TEAM + member) % BLOCKS;
        if (row < count && block < blocks) {
            const float up = half_scale(row_max(largest, row, blocks)).up;
            uint4* to = fragments + row * PARTS * 4;
            store_activations<32>(to, to + 4, block * HADAMARD + 4 * lane, v[i] * up);
        }
    }
    __syncthreads();
}

// acc = `count` chunks times activations, which stage_rows() prepares; DEPTH chunks are on their way at a time. For one
// token the first of them are on their way meanwhile; for more, staging needs the registers.
template <int K, int CODEBOOK, class Stage>
__device__ __forceinline__ void multiply(float (&acc)[2][1][4], const u32* chunk, int count, const uint4* fragments, int lane,
                                         Stage&& stage_rows) {
    constexpr int DEPTH = K > 5 ? 3 : 4, STRIDE = 4 * 32 * K;
    u32 ring[DEPTH][K];
    if (!ONE_TOKEN) stage_rows();
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
        if (d < count) load_chunk<K>(ring[d], chunk + d * STRIDE, lane);
    }
    if (ONE_TOKEN) stage_rows();
#pragma unroll
    for (int i = 0; i < 8; i++) acc[i / 4][0][i % 4] = 0.f;
    for (int i = 0; i < count; i += DEPTH) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            if (i + d >= count) break;
            u32 w[K];
#pragma unroll
            for (int j = 0; j < K; j++) w[j] = ring[d][j];
            if (i + d + DEPTH < count) load_chunk<K>(ring[d], chunk + (i + d + DEPTH) * STRIDE, lane);
            const uint4 b[1] = {fragments[(i + d) * 32 + lane]};
            multiply_chunk<K, CODEBOOK, 1>(acc, w, b, 1, lane);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 3) gate_up(Layer layer, Call call, SmallBatch small) {
    constexpr int BLOCKS = GATE_UP_SLICE / HADAMARD;
    __shared__ uint4 fragments[2][GATE_UP_SLICE];
    __shared__ float largest[2][ROWS][BLOCKS];
    __shared__ Rows rows;

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int group = blockIdx.x, split = blockIdx.y, mine = blockIdx.z;
    const int first = split * GATE_UP_SLICE, length = min(GATE_UP_SLICE, HIDDEN - first);
    const int pairs = call.num_tokens * call.top_k;
    // Warps 0 to 3 compute 32 columns each of gate, the others of up.
    const int up = warp / 4, member = warp % 4;

    wait_for_previous();
    launch_dependents();
    const int expert = call.topk_ids[mine];
    const Linear* linear = up ? &layer.experts[expert].up : &layer.experts[expert].gate;
    const u32 bits = linear->bits;
    const u32* chunk = linear->trellis + chunk_words(group, HIDDEN, first, bits);
    const u16* suh = linear->suh;
    if (member == 0 && lane == 0) prefetch(chunk, length * 16 * bits);

    // `down` adds to the output.
    const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const int blocks = gridDim.x * gridDim.y * gridDim.z, elements = call.num_tokens * layer.hidden_logical;
    for (int i = block * THREADS + threadIdx.x; i < elements; i += blocks * THREADS) call.out[i] = 0.f;

    if (!collect_rows(rows, call, mine, expert)) return;
    for (int row0 = 0; row0 < rows.count; row0 += ROWS) {
        const int count = ONE_TOKEN ? 1 : min((int)ROWS, rows.count - row0), blocks = length / HADAMARD;
        const auto rotate = [&](int row, int block) {
            const int at = first + block * HADAMARD + 4 * lane, token = rows.pair[row0 + row] / call.top_k;
            return hadamard128(load_hidden(call, layer.hidden_logical, token, at) * load_scales(suh + at), lane);
        };
        float acc[2][1][4];
        const auto run = [&]<int K, int CODEBOOK>() {
            multiply<K, CODEBOOK>(acc, chunk + member * 32 * K, length / 32, fragments[up], lane,
                                  [&] { stage<BLOCKS, 4>(fragments[up], largest[up], count, blocks, member, lane, rotate); });
        };
        if (up) with_linear_type<UP_WIDTHS>(bits, linear->codebook, run);
        else with_linear_type<GATE_WIDTHS>(bits, linear->codebook, run);
        each_sum<1>(acc, count, lane, [&](int row, int column, float sum) {
            const u64 at = ((u64)split * pairs + rows.pair[row0 + row]) * 2 + up;
            const float scale = half_scale(row_max(largest[up], row, blocks)).down;
            small.partial[at * INTERMEDIATE + group * HADAMARD + member * 32 + column] = sum * scale;
        });
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 3) down(Layer layer, Call call, SmallBatch small) {
    constexpr int BLOCKS = DOWN_SLICE / HADAMARD;
    __shared__ uint4 fragments[DOWN_SLICE];
    __shared__ float sums[2][ROWS][HADAMARD];
    __shared__ float largest[ROWS][BLOCKS];
    __shared__ Rows rows;

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int group = blockIdx.x, split = blockIdx.y, mine = blockIdx.z;
    const int first = split * DOWN_SLICE, length = min(DOWN_SLICE, INTERMEDIATE - first);
    constexpr int splits = (HIDDEN + GATE_UP_SLICE - 1) / GATE_UP_SLICE;
    const int pairs = call.num_tokens * call.top_k;
    // Warps 0 to 3 compute 32 columns each of the first half of the slice, the others of the second.
    const int half = warp / 4, member = warp % 4;

    // The routing is older than the kernel before this one, whose sums alone are waited for.
    const int expert = call.topk_ids[mine];
    const Expert& weights = layer.experts[expert];
    const u32 bits = weights.down.bits;
    const u32* chunk = weights.down.trellis + chunk_words(group, INTERMEDIATE, first, bits);
    if (threadIdx.x == 0) prefetch(chunk, length * 16 * bits);
    if (!collect_rows(rows, call, mine, expert)) return;

    for (int row0 = 0; row0 < rows.count; row0 += ROWS) {
        const int count = ONE_TOKEN ? 1 : min((int)ROWS, rows.count - row0), blocks = length / HADAMARD, chunks = length / 64;
        const auto activate = [&](int row, int block) {
            const int at = first + block * HADAMARD + 4 * lane;
            const u64 stride = (u64)pairs * 2 * INTERMEDIATE;
            const float* partial = small.partial + (u64)rows.pair[row0 + row] * 2 * INTERMEDIATE + at;
            const float4 gate = finish(partial, stride, splits, weights.gate, at, lane);
            const float4 up = finish(partial + INTERMEDIATE, stride, splits, weights.up, at, lane);
            float4 h = make_float4(silu(gate.x), silu(gate.y), silu(gate.z), silu(gate.w)) * up;
            h = keep_logical(h, at, layer.intermediate_logical);
            return hadamard128(h * load_scales(weights.down.suh + at), lane);
        };
        float acc[2][1][4];
        with_linear_type<DOWN_WIDTHS>(bits, weights.down.codebook, [&]<int K, int CODEBOOK>() {
            multiply<K, CODEBOOK>(acc, chunk + (half * chunks * 4 + member) * 32 * K, chunks, fragments + half * chunks * 32, lane, [&] {
                wait_for_previous();
                launch_dependents();
                stage<BLOCKS, 8>(fragments, largest, count, blocks, warp, lane, activate);
            });
        });
        each_sum<1>(acc, count, lane, [&](int row, int column, float sum) { sums[half][row][member * 32 + column] = sum; });
        __syncthreads();
        if (warp < count) {
            const int pair = rows.pair[row0 + warp], at = group * HADAMARD + 4 * lane;
            float4 sum = *(const float4*)&sums[0][warp][4 * lane] + *(const float4*)&sums[1][warp][4 * lane];
            sum = hadamard128(sum * half_scale(row_max(largest, warp, blocks)).down, lane) * load_scales(weights.down.svh + at);
            if (weights.down.bias && split == 0) sum = sum + *(const float4*)(weights.down.bias + at);
            add_output(call, layer.hidden_logical, pair / call.top_k, at, sum * call.topk_weights[pair]);
        }
        __syncthreads();
    }
}

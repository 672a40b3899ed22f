// One to a few tokens: two launches, no list of work.
//
// Block z belongs to pair z (a token's choice of an expert) and computes every pair of that expert, unless
// an earlier pair names it too. `gate_up` leaves partial sums per slice of the hidden dimension; `down` adds
// them up, applies SwiGLU, and adds its share of the output.
//
// Geometry: 256 threads; partial is f32 [splits][pairs][2][INTERMEDIATE], splits = ceil(HIDDEN / GATE_UP_SLICE).
//   gate_up  grid (INTERMEDIATE / 128, splits, pairs)
//   down     grid (HIDDEN / 128, ceil(INTERMEDIATE / DOWN_SLICE), pairs)
// At most MAX_PAIRS pairs. Both are made for programmatic dependent launch. Given when compiled: ONE_TOKEN (calls
// have no more), and GATE_UP_SLICE and DOWN_SLICE, the rows of W that one block multiplies (multiples of 128).
#include "activations.cuh"

enum {
    THREADS = 256,
    MAX_PAIRS = 256,
    ROWS = ONE_TOKEN ? 1 : ROWS_PER_TILE,
    CHUNKS_PER_BLOCK = HADAMARD / 32,
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

// `count` rows of rotated values, given by value(row, block) to a warp at a time, as f16 activations in shared memory.
// Every block of 128 values has a scale of its own. TEAM warps share the work; all threads of the block take part.
template <int BLOCKS, int TEAM, class Value>
__device__ __forceinline__ void stage(uint4* fragments, float (&scales)[ROWS_PER_TILE][BLOCKS], int count, int blocks, int member,
                                      int lane, Value&& value) {
    constexpr int TASKS = (ROWS * BLOCKS + TEAM - 1) / TEAM;
#pragma unroll
    for (int i = 0; i < TASKS; i++) {
        const int row = (i * TEAM + member) / BLOCKS, block = (i * TEAM + member) % BLOCKS;
        if (row >= count || block >= blocks) continue;
        const float4 v = value(row, block);
        const Scale scale = half_scale(warp_max(max_abs(v)));
        uint4* to = fragments + row * PARTS * 4;
        store_activations<32>(to, to + 4, block * HADAMARD + 4 * lane, v * scale.up);
        if (lane == 0) scales[row][block] = scale.down;
    }
    __syncthreads();
}

// acc = `count` chunks times a tile of activations, which prepare() waits for while the first chunks are on their
// way; the first of them is the `lead`-th of its block of 128 rows of W. fragment(i) are the lane's B registers of chunk
// i, scale(i, row) the scale of a row in the block that chunk i is of.
template <int K, int CODEBOOK, class Prepare, class Fragment, class RowScale>
__device__ __forceinline__ void multiply(float (&acc)[2][1][4], const u32* chunk, int count, int lead, int lane, Prepare&& prepare,
                                         Fragment&& fragment, RowScale&& scale) {
    constexpr int DEPTH = K > 5 ? 2 : 4, STRIDE = 4 * 32 * K;
    u32 ring[DEPTH][K];
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
        if (d >= lead && d - lead < count) load_chunk<K>(ring[d], chunk + (d - lead) * STRIDE, lane);
    }
    prepare();
#pragma unroll
    for (int i = 0; i < 8; i++) acc[i / 4][0][i % 4] = 0.f;
    for (int i = -lead; i < count; i += CHUNKS_PER_BLOCK) {
        float sums[2][1][4] = {};
#pragma unroll
        for (int d = 0; d < CHUNKS_PER_BLOCK; d++) {
            if (i + d >= count) break;
            u32 w[K];
#pragma unroll
            for (int j = 0; j < K; j++) w[j] = ring[d % DEPTH][j];
            if (i + d + DEPTH < count) load_chunk<K>(ring[d % DEPTH], chunk + (i + d + DEPTH) * STRIDE, lane);
            if (i + d < 0) continue;
            const uint4 b[1] = {fragment(i + d)};
            multiply_chunk<K, CODEBOOK, 1>(sums, w, b, 1, lane);
        }
        // Columns 2t and 2t + 1 of the matrix unit: two rows, or the high and low parts of one.
        const int row = lane % 4 * (2 / PARTS);
        const float first = scale(i, row), second = PARTS == 2 ? first : scale(i, row + 1);
#pragma unroll
        for (int j = 0; j < 8; j++) acc[j / 4][0][j % 4] += sums[j / 4][0][j % 4] * (j % 2 ? second : first);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 3) gate_up(Layer layer, Call call, SmallBatch small) {
    constexpr int BLOCKS = GATE_UP_SLICE / HADAMARD;
    __shared__ uint4 fragments[2][GATE_UP_SLICE];
    __shared__ float scales[2][ROWS_PER_TILE][BLOCKS];
    __shared__ Rows rows;

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int group = blockIdx.x, split = blockIdx.y, mine = blockIdx.z;
    const int first = split * GATE_UP_SLICE, length = min(GATE_UP_SLICE, HIDDEN - first);
    // Warps 0 to 3 compute 32 columns each of gate, the others of up.
    const int up = warp / 4, member = warp % 4;

    wait_for_previous();
    launch_dependents();
    const Expert& expert = layer.experts[call.topk_ids[mine]];
    const Linear* linear = up ? &expert.up : &expert.gate;
    const u32 bits = linear->bits;
    const u32* chunk = linear->trellis + chunk_words(group, HIDDEN, first, bits);
    const u16* suh = linear->suh;
    if (member == 0 && lane == 0) prefetch(chunk, length * 16 * bits);

    // `down` adds to the output.
    const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const int blocks = gridDim.x * gridDim.y * gridDim.z, elements = call.num_tokens * layer.hidden_logical;
    for (int i = block * THREADS + threadIdx.x; i < elements; i += blocks * THREADS) call.out[i] = 0.f;

    if (!collect_rows(rows, call, mine, call.topk_ids[mine])) return;
    for (int row0 = 0; row0 < rows.count; row0 += ROWS) {
        const int count = ONE_TOKEN ? 1 : min((int)ROWS, rows.count - row0);
        const auto rotate = [&](int row, int block) {
            const int at = first + block * HADAMARD + 4 * lane, token = rows.pair[row0 + row] / call.top_k;
            return hadamard128(load_hidden(call, layer.hidden_logical, token, at) * load_scales(suh + at), lane);
        };
        float acc[2][1][4];
        const auto run = [&]<int K, int CODEBOOK>() {
            multiply<K, CODEBOOK>(
                acc, chunk + member * 32 * K, length / 32, 0, lane,
                [&] { stage<BLOCKS, 4>(fragments[up], scales[up], count, length / HADAMARD, member, lane, rotate); },
                [&](int i) { return fragments[up][i * 32 + lane]; }, [&](int i, int row) { return scales[up][row][i / CHUNKS_PER_BLOCK]; });
        };
        if (up) with_linear_type<UP_WIDTHS>(bits, linear->codebook, run);
        else with_linear_type<GATE_WIDTHS>(bits, linear->codebook, run);
        const int pairs = call.num_tokens * call.top_k;
        each_sum<1>(acc, count, lane, [&](int row, int column, float sum) {
            const u64 at = ((u64)split * pairs + rows.pair[row0 + row]) * 2 + up;
            small.partial[at * INTERMEDIATE + group * HADAMARD + member * 32 + column] = sum;
        });
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 3) down(Layer layer, Call call, SmallBatch small) {
    constexpr int BLOCKS = DOWN_SLICE / HADAMARD, SPLITS = (HIDDEN + GATE_UP_SLICE - 1) / GATE_UP_SLICE;
    __shared__ uint4 fragments[DOWN_SLICE];
    __shared__ float scales[ROWS_PER_TILE][BLOCKS];
    __shared__ __align__(16) float sums[2][ROWS][HADAMARD];
    __shared__ Rows rows;

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int group = blockIdx.x, split = blockIdx.y, mine = blockIdx.z;
    const int first = split * DOWN_SLICE, length = min(DOWN_SLICE, INTERMEDIATE - first);
    // Warps 0 to 3 compute 32 columns each of the first half of the slice, the others of the second.
    const int half = warp / 4, member = warp % 4, chunks = length / 64;

    // The routing is older than the kernel before this one, whose results alone are waited for.
    const int expert = call.topk_ids[mine];
    const Expert& weights = layer.experts[expert];
    const u32 bits = weights.down.bits;
    const u32* chunk = weights.down.trellis + chunk_words(group, INTERMEDIATE, first, bits);
    if (threadIdx.x == 0) prefetch(chunk, length * 16 * bits);
    if (!collect_rows(rows, call, mine, expert)) return;

    for (int row0 = 0; row0 < rows.count; row0 += ROWS) {
        const int count = ONE_TOKEN ? 1 : min((int)ROWS, rows.count - row0);
        // Where there is a slice of an odd number of blocks, its second half starts within a block.
        const int lead = INTERMEDIATE / HADAMARD % 2 || DOWN_SLICE / HADAMARD % 2 ? half * chunks % CHUNKS_PER_BLOCK : 0;
        // The block of the slice that chunk i of the warp is of.
        const auto block_of = [&](int i) { return (half * chunks + i) / CHUNKS_PER_BLOCK; };
        const auto value = [&](int row, int block) {
            const int at = first + block * HADAMARD + 4 * lane;
            const u64 stride = (u64)call.num_tokens * call.top_k * 2 * INTERMEDIATE;
            const float* partial = small.partial + (u64)rows.pair[row0 + row] * 2 * INTERMEDIATE + at;
            return activate_slices(weights, partial, stride, SPLITS, at, layer.intermediate_logical, lane);
        };
        const auto prepare = [&] {
            wait_for_previous();
            launch_dependents();
            stage<BLOCKS, 8>(fragments, scales, count, length / HADAMARD, warp, lane, value);
        };
        const auto fragment = [&](int i) { return fragments[(half * chunks + i) * 32 + lane]; };
        const auto scale = [&](int i, int row) { return scales[row][block_of(i)]; };
        float acc[2][1][4];
        with_linear_type<DOWN_WIDTHS>(bits, weights.down.codebook, [&]<int K, int CODEBOOK>() {
            multiply<K, CODEBOOK>(acc, chunk + (half * chunks * 4 + member) * 32 * K, chunks, lead, lane, prepare, fragment, scale);
        });
        each_sum<1>(acc, count, lane, [&](int row, int column, float sum) { sums[half][row][member * 32 + column] = sum; });
        __syncthreads();
        if (warp < count) {
            const int pair = rows.pair[row0 + warp], at = group * HADAMARD + 4 * lane;
            const float4 sum = *(const float4*)&sums[0][warp][4 * lane] + *(const float4*)&sums[1][warp][4 * lane];
            const float* bias = split == 0 ? weights.down.bias : nullptr;
            const float4 y = finish(sum, load_scales(weights.down.svh + at), bias, at, lane);
            add_output(call, layer.hidden_logical, pair / call.top_k, at, y * call.topk_weights[pair]);
        }
        __syncthreads();
    }
}

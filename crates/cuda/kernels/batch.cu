// Any number of tokens, grouped by expert: four launches, nothing read by the host.
//
//   route   sorts the pairs by expert into tiles of at most ROWS rows (block 0), and rotates every pair's
//           activations for gate and up (the others)
//   gate_up a tile of rows times 128 columns of gate and of up: partial sums per slice of the hidden dimension
//   swiglu  adds the slices up, applies SwiGLU, rotates for down
//   down    a tile of rows times 128 columns of down: its share of the output
//
//   combine (ORDERED only) adds the shares up in a fixed order, so that equal input gives equal bits
//
// With TUPLES > 1, gate_up and down are launched once for each tuple of widths among the experts, `call.tuple`, each
// compiled for that tuple alone. Such launches run beside each other.
//
// Geometry: 256 threads.
//   route    grid 1 + pairs
//   gate_up  grid (INTERMEDIATE / 128, gate-up slices, most tiles)
//   swiglu   grid pairs
//   down     grid (HIDDEN / 128, down slices, most tiles)
//   combine  grid (HIDDEN / 128, tokens), 128 threads
// Most tiles: min(pairs, num_experts + pairs / ROWS), of the tuple's experts. All are made for programmatic dependent
// launch. Given when compiled: ROW_TILES, BLOCKS_PER_SM, ORDERED, TUPLES, and GATE_UP_SLICE, DOWN_SLICE, the rows of W
// that one block multiplies (multiples of 128): there are ceil(HIDDEN / GATE_UP_SLICE) slices, and so on.
#include "route.cuh"

enum {
    ROWS = ROW_TILES * ROWS_PER_TILE,
    GATE_UP_SLICES = (HIDDEN + GATE_UP_SLICE - 1) / GATE_UP_SLICE,
    DOWN_SLICES = (INTERMEDIATE + DOWN_SLICE - 1) / DOWN_SLICE,
};

// The workspace.
struct Batch {
    uint4* x;         // [2][pairs][PARTS][HIDDEN / 32][4]: f16 activations of gate and up
    float* x_scale;   // [2][pairs]
    float* partial;   // [GATE_UP_SLICES][pairs][2][INTERMEDIATE]
    uint4* h;         // [pairs][PARTS][INTERMEDIATE / 32][4]: f16 activations of down
    float* h_scale;   // [pairs]
    int* sorted;      // [pairs]
    Tile* tiles;      // [most tiles], 16 bytes each
    int* tile_ends;   // [TUPLES]
    float* shares;    // ORDERED: [DOWN_SLICES][pairs][HIDDEN]
};

extern "C" __global__ void __launch_bounds__(THREADS) route(Layer layer, Call call, Batch batch) {
    route_pairs<ROWS, TUPLES>(layer, call, batch.sorted, batch.tiles, batch.tile_ends, batch.x_scale, !ORDERED, [&](int row, int at, float4 v) {
        uint4* to = batch.x + (u64)row * PARTS * (HIDDEN / 8);
        store_activations<4>(to, to + HIDDEN / 8, at, v);
    });
}

// acc += `count` chunks times the activations of ROW_TILES tiles of rows; DEPTH chunks are on their way at a time.
template <int K, int CODEBOOK>
__device__ __forceinline__ void multiply(float (&acc)[2][ROW_TILES][4], const u32* chunk, int count, const uint4* (&rows)[ROW_TILES], int tiles, int lane) {
    constexpr int DEPTH = K > 5 ? 2 : 4, STRIDE = 4 * 32 * K;
    u32 ring[DEPTH][K];
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
        if (d < count) load_chunk<K>(ring[d], chunk + d * STRIDE, lane);
    }
    for (int i = 0; i < count; i += DEPTH) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            if (i + d >= count) break;
            uint4 b[ROW_TILES];
#pragma unroll
            for (int n = 0; n < ROW_TILES; n++) {
                if (n == 0 || n < tiles) b[n] = __ldg(rows[n] + (i + d) * 4);
            }
            u32 w[K];
#pragma unroll
            for (int j = 0; j < K; j++) w[j] = ring[d][j];
            if (i + d + DEPTH < count) load_chunk<K>(ring[d], chunk + (i + d + DEPTH) * STRIDE, lane);
            multiply_chunk<K, CODEBOOK, ROW_TILES>(acc, w, b, tiles, lane);
        }
    }
}

// The lane's row of every tile of rows: the pairs of `tile`, `words` of 16 bytes a row.
__device__ __forceinline__ void find_rows(const uint4* (&rows)[ROW_TILES], const Batch& batch, const Tile& tile, const uint4* from, int words, int lane) {
#pragma unroll
    for (int n = 0; n < ROW_TILES; n++) {
        const int row = n * 8 + lane / 4;
        // Rows past the last one are computed like the first, and dropped.
        const int pair = batch.sorted[tile.first + (row / PARTS < tile.count ? row / PARTS : 0)];
        rows[n] = from + ((u64)pair * PARTS + row % PARTS) * words + lane % 4;
    }
}

// The first launch of several for a tuple each waits for the kernel before. The others start once all blocks of the
// first have, or left after it: they need not wait to read. So that who waits for the last one waits for all, every
// launch waits for the one before it when it ends.
__device__ __forceinline__ void wait_for_input(const Call& call) {
    if (TUPLES == 1 || call.tuple == 0) wait_for_previous();
}
__device__ __forceinline__ void wait_for_launches() {
    if (TUPLES > 1) wait_for_previous();
}

// The block's tile, among those of the launch's tuple; false: there are fewer.
__device__ __forceinline__ bool find_tile(Tile& tile, const Call& call, const Batch& batch) {
    const int tuple = TUPLES > 1 ? call.tuple : 0, index = (tuple ? batch.tile_ends[tuple - 1] : 0) + blockIdx.z;
    if (index >= batch.tile_ends[tuple]) return false;
    tile = batch.tiles[index];
    return true;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM) gate_up(Layer layer, Call call, Batch batch) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, up = warp / 4, member = warp % 4;
    const int group = blockIdx.x, split = blockIdx.y, pairs = call.num_tokens * call.top_k;
    const int first = split * GATE_UP_SLICE, length = min(GATE_UP_SLICE, HIDDEN - first);
    wait_for_input(call);
    launch_dependents();
    Tile tile;
    if (!find_tile(tile, call, batch)) return wait_for_launches();
    const Linear& linear = up ? layer.experts[tile.expert].up : layer.experts[tile.expert].gate;
    const uint4* rows[ROW_TILES];
    find_rows(rows, batch, tile, batch.x + (u64)up * pairs * PARTS * (HIDDEN / 8) + first / 8, HIDDEN / 8, lane);
    const int tiles = (tile.count + ROWS_PER_TILE - 1) / ROWS_PER_TILE;
    float acc[2][ROW_TILES][4] = {};
    auto run = [&]<int K, int CODEBOOK>() {
        const u32* chunk = linear.trellis + chunk_words(group, HIDDEN, first, K) + member * 32 * K;
        multiply<K, CODEBOOK>(acc, chunk, length / 32, rows, tiles, lane);
    };
    if (up) with_linear_type<UP_WIDTHS>(linear.bits, linear.codebook, run);
    else with_linear_type<GATE_WIDTHS>(linear.bits, linear.codebook, run);
    each_sum<ROW_TILES>(acc, tile.count, lane, [&](int row, int column, float sum) {
        const int pair = batch.sorted[tile.first + row];
        const u64 at = ((u64)split * pairs + pair) * 2 + up;
        batch.partial[at * INTERMEDIATE + group * HADAMARD + member * 32 + column] = sum * batch.x_scale[up * pairs + pair];
    });
    wait_for_launches();
}

extern "C" __global__ void __launch_bounds__(THREADS) swiglu(Layer layer, Call call, Batch batch) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = blockIdx.x, pairs = call.num_tokens * call.top_k;
    const Expert& expert = layer.experts[call.topk_ids[pair]];
    wait_for_previous();
    launch_dependents();
    const auto value = [&](int block) {
        const int at = block * HADAMARD + 4 * lane;
        const u64 stride = (u64)pairs * 2 * INTERMEDIATE;
        const float* partial = batch.partial + (u64)pair * 2 * INTERMEDIATE + at;
        return activate_slices(expert, partial, stride, GATE_UP_SLICES, at, layer.intermediate_logical, lane);
    };
    uint4* to = batch.h + (u64)pair * PARTS * (INTERMEDIATE / 8);
    const float scale = scale_row<INTERMEDIATE, WARPS>(warp, lane, value, [&](int block, float4 v) {
        store_activations<4>(to, to + INTERMEDIATE / 8, block * HADAMARD + 4 * lane, v);
    });
    if (threadIdx.x == 0) batch.h_scale[pair] = scale;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM) down(Layer layer, Call call, Batch batch) {
    __shared__ __align__(16) float sums[ROWS][HADAMARD];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, half = warp / 4, member = warp % 4;
    const int group = blockIdx.x, split = blockIdx.y;
    const int first = split * DOWN_SLICE, length = min(DOWN_SLICE, INTERMEDIATE - first);
    // The list of tiles is older than the kernel before this one.
    Tile tile;
    if (!find_tile(tile, call, batch)) return wait_for_launches();
    const Linear& linear = layer.experts[tile.expert].down;
    const int chunks = length / 64;
    const u32* slice = linear.trellis + chunk_words(group, INTERMEDIATE, first, linear.bits);
    if (threadIdx.x == 0) prefetch(slice, length * 16 * linear.bits);
    const uint4* rows[ROW_TILES];
    find_rows(rows, batch, tile, batch.h + first / 8 + half * chunks * 4, INTERMEDIATE / 8, lane);
    const int tiles = (tile.count + ROWS_PER_TILE - 1) / ROWS_PER_TILE;
    wait_for_input(call);
    launch_dependents();
    float acc[2][ROW_TILES][4] = {};
    with_linear_type<DOWN_WIDTHS>(linear.bits, linear.codebook, [&]<int K, int CODEBOOK>() {
        multiply<K, CODEBOOK>(acc, slice + (half * chunks * 4 + member) * 32 * K, chunks, rows, tiles, lane);
    });
    // The two halves of the slice meet in shared memory.
    if (half) each_sum<ROW_TILES>(acc, tile.count, lane, [&](int row, int column, float sum) { sums[row][member * 32 + column] = sum; });
    __syncthreads();
    if (!half) each_sum<ROW_TILES>(acc, tile.count, lane, [&](int row, int column, float sum) { sums[row][member * 32 + column] += sum; });
    __syncthreads();
    const int at = group * HADAMARD + 4 * lane;
    const float4 svh = load_scales(linear.svh + at);
    const float* bias = split == 0 ? linear.bias : nullptr;
    for (int row = warp; row < tile.count; row += WARPS) {
        const int pair = batch.sorted[tile.first + row];
        float4 sum = *(const float4*)&sums[row][4 * lane] * batch.h_scale[pair];
        sum = finish(sum, svh, bias, at, lane) * call.topk_weights[pair];
#if ORDERED
        *(float4*)(batch.shares + ((u64)split * call.num_tokens * call.top_k + pair) * HIDDEN + at) = sum;
#else
        add_output(call, layer.hidden_logical, pair / call.top_k, at, sum);
#endif
    }
    wait_for_launches();
}

#if ORDERED
extern "C" __global__ void __launch_bounds__(HADAMARD) combine(Layer layer, Call call, Batch batch) {
    const int token = blockIdx.y, at = blockIdx.x * HADAMARD + threadIdx.x;
    wait_for_previous();
    launch_dependents();
    if (at >= layer.hidden_logical) return;
    float sum = 0.f;
    for (int slot = 0; slot < call.top_k; slot++) {
        for (int split = 0; split < DOWN_SLICES; split++) {
            sum += batch.shares[((u64)(split * call.num_tokens + token) * call.top_k + slot) * HIDDEN + at];
        }
    }
    call.out[(u64)token * layer.hidden_logical + at] = sum;
}
#endif

//! One driver for every family: which experts, rows and columns a micro-kernel gets, and when.
//!
//! A call is cut into *chunks* of (token, expert) pairs that fit the workspace, a chunk into
//! *blocks* of rows that go to one expert. A chunk passes five phases, each a parallel region:
//!
//! 1. rotate: every pair's token, for its expert's gate and up projection;
//! 2. gate and up: items are (block, 128 intermediate channels); SwiGLU and the rotation for the
//!    down projection follow at once, since both stay within the 128 channels;
//! 3. quantise: every pair's rotated intermediate activations;
//! 4. down: items are (block, 128 hidden channels);
//! 5. combine: items are 128 hidden channels; pairs are added in chunk order, so the result does
//!    not depend on the number of threads.
//!
//! Families differ only in their [`Plan`].

use trellect_core::{
    BitTuple, Call, HADAMARD, LayerShape, NumericClass, Projection, Routing, TILE, WorkspaceModel,
};

use crate::buffer::{Arena, arena_bytes};
use crate::disjoint::Disjoint;
use crate::micro::{Micro, Product, RowsRef, any_width_product, constant_width_product, prefetch};
use crate::prepared::{Matrix, Weights};
use crate::rows::Rows;
use crate::team::Team;

/// How a family cuts a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Most rows of a block: how many tokens a weight serves once decoded.
    pub(crate) block_rows: usize,
    /// Most pairs of a chunk: what the workspace is made for.
    pub(crate) chunk_pairs: usize,
    /// Whether a chunk holds experts of one tuple only.
    pub(crate) by_tuple: bool,
    /// Whether bit widths are compile-time constants.
    pub(crate) constant_widths: bool,
}

/// A kernel: a micro-kernel for gate and up, one for down, and a plan.
pub(crate) struct Driver<M, D> {
    pub(crate) micro: M,
    pub(crate) down: D,
    pub(crate) plan: Plan,
}

/// Everything a launch works with; the workspace comes from the queue.
pub(crate) struct Launch<'a> {
    pub(crate) weights: &'a Weights,
    pub(crate) team: &'a Team,
    pub(crate) call: &'a Call<'a>,
    pub(crate) out: &'a mut [f32],
    pub(crate) workspace: &'a mut [u8],
    pub(crate) chunk: &'a mut Chunk,
}

/// A driver without its type.
pub(crate) trait Run: Send + Sync {
    fn plan(&self) -> Plan;
    fn class(&self) -> NumericClass;
    /// What [`Launch::workspace`] must hold.
    fn workspace(&self, shape: &LayerShape, threads: usize) -> WorkspaceModel;
    fn run(&self, launch: Launch<'_>);
}

/// Pairs that pass the phases together.
#[derive(Default)]
pub(crate) struct Chunk {
    pairs: Vec<u32>,
    blocks: Vec<Block>,
}

/// Rows of one expert within a chunk.
#[derive(Clone, Copy)]
struct Block {
    expert: usize,
    start: usize,
    rows: usize,
}

impl Chunk {
    /// Makes room, so that filling allocates nothing.
    pub(crate) fn reserve(&mut self, pairs: usize) {
        self.pairs.clear();
        self.blocks.clear();
        self.pairs.reserve(pairs);
        self.blocks.reserve(pairs);
    }

    fn push(&mut self, expert: usize, pairs: &[u32]) {
        self.blocks.push(Block { expert, start: self.pairs.len(), rows: pairs.len() });
        self.pairs.extend_from_slice(pairs);
    }

    fn clear(&mut self) {
        self.pairs.clear();
        self.blocks.clear();
    }
}

/// The buffers of one chunk.
struct Buffers<'a, M: Micro, D: Micro> {
    gate: Rows<'a, M>,
    up: Rows<'a, M>,
    down: Rows<'a, D>,
    /// Rotated intermediate activations, `[pairs, padded_intermediate]`.
    middle: &'a mut [f32],
    /// Expert outputs, `[pairs, padded_hidden]`.
    outputs: &'a mut [f32],
    /// [`Sizes::thread_bytes`] per thread.
    scratch: &'a mut [u8],
}

/// Sizes of the buffers.
struct Sizes {
    pairs: usize,
    hidden: usize,
    intermediate: usize,
    /// Raw outputs of one projection, `[block_rows, 128]`.
    raw: usize,
    /// What the products ask for.
    product_bytes: usize,
    threads: usize,
}

impl Sizes {
    fn new<M: Micro, D: Micro>(
        plan: Plan,
        shape: &LayerShape,
        threads: usize,
        num_pairs: usize,
    ) -> Self {
        let (hidden, intermediate) = (shape.padded_hidden(), shape.padded_intermediate());
        Self {
            pairs: num_pairs.min(plan.chunk_pairs),
            hidden,
            intermediate,
            raw: plan.block_rows * HADAMARD,
            product_bytes: M::scratch_bytes(plan.block_rows).max(D::scratch_bytes(plan.block_rows)),
            threads,
        }
    }

    /// A thread's own memory: a rotated row, or the raw outputs of gate and up and the product's.
    fn thread_bytes(&self) -> usize {
        let product = 2 * arena_bytes::<f32>(self.raw) + self.product_bytes;
        product.max(arena_bytes::<f32>(self.hidden))
    }

    fn model<M: Micro, D: Micro>(plan: Plan, shape: &LayerShape, threads: usize) -> WorkspaceModel {
        let sizes = Self::new::<M, D>(plan, shape, threads, 0);
        let per_pair = 2 * Rows::<M>::bytes_per_row(sizes.hidden)
            + Rows::<D>::bytes_per_row(sizes.intermediate)
            + arena_bytes::<f32>(sizes.intermediate)
            + arena_bytes::<f32>(sizes.hidden);
        WorkspaceModel {
            fixed_bytes: (threads * sizes.thread_bytes()) as u64,
            bytes_per_pair: per_pair as u64,
            max_pairs: Some(plan.chunk_pairs as u64),
        }
    }

    fn take<'a, M: Micro, D: Micro>(&self, workspace: &'a mut [u8]) -> Buffers<'a, M, D> {
        let mut arena = Arena::new(workspace);
        Buffers {
            gate: Rows::take(&mut arena, self.pairs, self.hidden),
            up: Rows::take(&mut arena, self.pairs, self.hidden),
            down: Rows::take(&mut arena, self.pairs, self.intermediate),
            middle: arena.take(self.pairs * self.intermediate),
            outputs: arena.take(self.pairs * self.hidden),
            scratch: arena.take_bytes(self.threads * self.thread_bytes()),
        }
    }
}

impl<M: Micro, D: Micro> Run for Driver<M, D> {
    fn plan(&self) -> Plan {
        self.plan
    }

    fn class(&self) -> NumericClass {
        M::CLASS.max(D::CLASS)
    }

    fn workspace(&self, shape: &LayerShape, threads: usize) -> WorkspaceModel {
        Sizes::model::<M, D>(self.plan, shape, threads)
    }

    fn run(&self, launch: Launch<'_>) {
        let Launch { weights, team, call, out, workspace, chunk } = launch;
        let routing = call.routing();
        let sizes =
            Sizes::new::<M, D>(self.plan, weights.shape(), team.threads(), routing.num_pairs());
        let mut buffers = sizes.take::<M, D>(workspace);
        let Self { micro, down, plan } = *self;
        let phases = Phases { micro, down, plan, sizes, weights, team, call };
        out.fill(0.0);
        for_each_chunk(self.plan, weights.tuples(), routing, chunk, |chunk| {
            phases.rotate(chunk, &mut buffers);
            phases.gate_up(chunk, &mut buffers);
            phases.quantise(chunk, &mut buffers);
            phases.down(chunk, &mut buffers);
            phases.combine(chunk, buffers.outputs, out);
        });
    }
}

/// Fills `chunk` again and again with blocks of the active experts, in ascending order (within one
/// tuple, if the plan asks so), and calls `run` on it.
fn for_each_chunk(
    plan: Plan,
    tuples: &[BitTuple],
    routing: &Routing,
    chunk: &mut Chunk,
    mut run: impl FnMut(&Chunk),
) {
    let active = || routing.active_experts().iter().map(|&expert| expert as usize);
    let mut flush = |chunk: &mut Chunk| {
        if !chunk.pairs.is_empty() {
            run(chunk);
            chunk.clear();
        }
    };
    chunk.clear();
    // Without `by_tuple` one pass takes all; with it, an expert opens a pass for its tuple unless
    // an expert before it did.
    for (at, first) in active().enumerate() {
        let opens = match plan.by_tuple {
            true => active().take(at).all(|earlier| tuples[earlier] != tuples[first]),
            false => at == 0,
        };
        if !opens {
            continue;
        }
        for expert in active().skip(at) {
            if plan.by_tuple && tuples[expert] != tuples[first] {
                continue;
            }
            for rows in routing.pairs_of(expert).chunks(plan.block_rows) {
                if chunk.pairs.len() + rows.len() > plan.chunk_pairs {
                    flush(chunk);
                }
                chunk.push(expert, rows);
            }
        }
        flush(chunk);
    }
}

struct Phases<'a, M, D> {
    micro: M,
    down: D,
    plan: Plan,
    sizes: Sizes,
    weights: &'a Weights,
    team: &'a Team,
    call: &'a Call<'a>,
}

impl<M: Micro, D: Micro> Phases<'_, M, D> {
    fn rotate(&self, chunk: &Chunk, buffers: &mut Buffers<'_, M, D>) {
        let Buffers { gate, up, scratch, .. } = buffers;
        let (gate, up) = (gate.writer(), up.writer());
        let scratch = Scratch::new(self.sizes.thread_bytes(), scratch);
        self.team.for_each(chunk.pairs.len(), |worker, row| {
            // SAFETY: a worker's items follow one another.
            let mut scratch = unsafe { scratch.of(worker) };
            let rotated = scratch.take(self.sizes.hidden);
            let expert = expert_of_row(chunk, row);
            for (projection, rows) in [(Projection::Gate, &gate), (Projection::Up, &up)] {
                self.rotate_token(
                    chunk.pairs[row],
                    self.weights.matrix(expert, projection),
                    rotated,
                );
                // SAFETY: this item is the only one with this row.
                self.micro.quantise(rotated, unsafe { rows.row(row) });
            }
        });
    }

    fn rotate_token(&self, pair: u32, matrix: &Matrix, rotated: &mut [f32]) {
        let hidden_size = self.weights.shape().hidden_size;
        let token = pair as usize / self.call.routing().top_k();
        for (block, x) in wide_rows(rotated).enumerate() {
            let start = block * HADAMARD;
            let (logical, padding) = x.split_at_mut(HADAMARD.min(hidden_size - start));
            self.call.hidden().read_f32(token * hidden_size + start, logical);
            padding.fill(0.0);
            self.micro.rotate(x, matrix.input_block(block));
        }
    }

    fn gate_up(&self, chunk: &Chunk, buffers: &mut Buffers<'_, M, D>) {
        let groups = self.sizes.intermediate / HADAMARD;
        let Buffers { gate, up, middle, scratch, .. } = buffers;
        let middle = Disjoint::new(middle);
        let scratch = Scratch::new(self.sizes.thread_bytes(), scratch);
        self.team.for_each(chunk.blocks.len() * groups, |worker, item| {
            let (block, group) = (chunk.blocks[item / groups], item % groups);
            let [gate_matrix, up_matrix, down_matrix] =
                Projection::ALL.map(|projection| self.weights.matrix(block.expert, projection));
            // SAFETY: a worker's items follow one another.
            let mut scratch = unsafe { scratch.of(worker) };
            let (raw_gate, raw_up) = (scratch.take(self.sizes.raw), scratch.take(self.sizes.raw));
            let product = scratch.take_bytes(self.sizes.product_bytes);
            self.multiply(
                self.micro,
                gate_matrix,
                group,
                gate.range(block.start, block.rows),
                product,
                raw_gate,
                self.weights.start_of_group(up_matrix, group),
            );
            self.multiply(
                self.micro,
                up_matrix,
                group,
                up.range(block.start, block.rows),
                product,
                raw_up,
                self.likely_next(chunk, item, groups, Projection::Gate),
            );
            let first = group * HADAMARD;
            let logical =
                self.weights.shape().intermediate_size.saturating_sub(first).min(HADAMARD);
            let outputs = wide_rows(raw_gate).zip(wide_rows(raw_up)).take(block.rows);
            for (row, (gate, up)) in outputs.enumerate() {
                let (svh, bias) = gate_matrix.output_group(group);
                self.micro.unrotate(gate, svh, bias);
                let (svh, bias) = up_matrix.output_group(group);
                self.micro.unrotate(up, svh, bias);
                self.micro.swiglu(gate, up);
                gate[logical..].fill(0.0);
                self.micro.rotate(gate, down_matrix.input_block(group));
                let start = (block.start + row) * self.sizes.intermediate + first;
                // SAFETY: this item is the only one with these rows and this group.
                let out = unsafe { middle.part(start..start + HADAMARD) };
                out.copy_from_slice(gate);
            }
        });
    }

    fn quantise(&self, chunk: &Chunk, buffers: &mut Buffers<'_, M, D>) {
        let Buffers { down, middle, .. } = buffers;
        let down = down.writer();
        self.team.for_each(chunk.pairs.len(), |_, row| {
            let rotated = &middle[row * self.sizes.intermediate..][..self.sizes.intermediate];
            // SAFETY: this item is the only one with this row.
            self.down.quantise(rotated, unsafe { down.row(row) });
        });
    }

    fn down(&self, chunk: &Chunk, buffers: &mut Buffers<'_, M, D>) {
        let hidden = self.sizes.hidden;
        let groups = hidden / HADAMARD;
        let Buffers { down, outputs, scratch, .. } = buffers;
        let outputs = Disjoint::new(outputs);
        let scratch = Scratch::new(self.sizes.thread_bytes(), scratch);
        self.team.for_each(chunk.blocks.len() * groups, |worker, item| {
            let (block, group) = (chunk.blocks[item / groups], item % groups);
            let matrix = self.weights.matrix(block.expert, Projection::Down);
            // SAFETY: a worker's items follow one another.
            let mut scratch = unsafe { scratch.of(worker) };
            let raw = scratch.take(self.sizes.raw);
            let product = scratch.take_bytes(self.sizes.product_bytes);
            self.multiply(
                self.down,
                matrix,
                group,
                down.range(block.start, block.rows),
                product,
                raw,
                self.likely_next(chunk, item, groups, Projection::Down),
            );
            let (svh, bias) = matrix.output_group(group);
            for (row, raw) in wide_rows(raw).take(block.rows).enumerate() {
                self.micro.unrotate(raw, svh, bias);
                let start = (block.start + row) * hidden + group * HADAMARD;
                // SAFETY: this item is the only one with these rows and this group.
                let out = unsafe { outputs.part(start..start + HADAMARD) };
                out.copy_from_slice(raw);
            }
        });
    }

    fn combine(&self, chunk: &Chunk, outputs: &[f32], out: &mut [f32]) {
        let shape = self.weights.shape();
        let (hidden, padded) = (shape.hidden_size, shape.padded_hidden());
        let routing = self.call.routing();
        let out = Disjoint::new(out);
        self.team.for_each(padded / HADAMARD, |_, group| {
            let start = group * HADAMARD;
            let end = hidden.min(start + HADAMARD);
            for (row, &pair) in chunk.pairs.iter().enumerate() {
                let token = pair as usize / routing.top_k();
                let weight = routing.topk_weights()[pair as usize];
                // SAFETY: this item is the only one with these channels.
                let sum = unsafe { out.part(token * hidden + start..token * hidden + end) };
                for (sum, value) in sum.iter_mut().zip(&outputs[row * padded + start..]) {
                    *sum += weight * value;
                }
            }
        });
    }

    /// What this worker's next item will read, if the others take as long as this one.
    fn likely_next(
        &self,
        chunk: &Chunk,
        item: usize,
        groups: usize,
        projection: Projection,
    ) -> &[u8] {
        let item = (item + self.team.threads()).min(chunk.blocks.len() * groups - 1);
        let matrix = self.weights.matrix(chunk.blocks[item / groups].expert, projection);
        self.weights.start_of_group(matrix, item % groups)
    }

    /// Raw outputs of 128 channels for a block's rows: `raw` is `[rows, 128]`. `then` is what will be
    /// read after the weights.
    fn multiply<N: Micro>(
        &self,
        micro: N,
        matrix: &Matrix,
        group: usize,
        rows: RowsRef<'_, N::Lane>,
        scratch: &mut [u8],
        raw: &mut [f32],
        then: &[u8],
    ) {
        let product: Product<N> = match self.plan.constant_widths {
            true => constant_width_product::<N>(matrix.bits()),
            false => any_width_product::<N>(),
        };
        const COLUMNS: usize = HADAMARD / TILE;
        prefetch(self.weights.start_of_group(matrix, group));
        for tile in 0..COLUMNS {
            if tile + 1 == COLUMNS {
                prefetch(then);
            }
            let column = self.weights.column(matrix, group * COLUMNS + tile);
            product(micro, column, rows, Arena::new(scratch), &mut raw[tile * TILE..]);
        }
    }
}

/// The expert of a chunk's row.
fn expert_of_row(chunk: &Chunk, row: usize) -> usize {
    let block = chunk.blocks.partition_point(|block| block.start <= row) - 1;
    chunk.blocks[block].expert
}

fn wide_rows(raw: &mut [f32]) -> impl Iterator<Item = &mut [f32; HADAMARD]> {
    raw.as_chunks_mut().0.iter_mut()
}

/// Every thread's own memory.
struct Scratch<'a> {
    bytes: Disjoint<'a, u8>,
    thread_bytes: usize,
}

impl<'a> Scratch<'a> {
    fn new(thread_bytes: usize, bytes: &'a mut [u8]) -> Self {
        Self { bytes: Disjoint::new(bytes), thread_bytes }
    }

    /// # Safety
    /// No two parts of one worker are alive at once.
    unsafe fn of(&self, worker: usize) -> Arena<'_> {
        let range = worker * self.thread_bytes..(worker + 1) * self.thread_bytes;
        // SAFETY: workers' parts are disjoint, and the caller holds no worker's part twice.
        Arena::new(unsafe { self.bytes.part(range) })
    }
}

//! One driver for every family: which experts, rows and columns a micro-kernel gets, and when.
//!
//! A call is cut into *chunks* of (token, expert) pairs that fit the workspace, a chunk into
//! *blocks* of rows that go to one expert. A chunk passes four phases, each a parallel region:
//!
//! 1. rotate: every pair's token, for its expert's gate and up projection;
//! 2. gate and up: items are (block, 128 intermediate channels); SwiGLU and the rotation for the
//!    down projection follow at once, since both stay within the 128 channels;
//! 3. down: items are (block, 128 hidden channels);
//! 4. combine: items are 128 hidden channels; pairs are added in chunk order, so the result does
//!    not depend on the number of threads.
//!
//! Families differ only in their [`Plan`].

use trellect_core::{
    BitTuple, Call, HADAMARD, LayerShape, NumericClass, Projection, Routing, TILE, WorkspaceModel,
};

use crate::buffer::{Arena, arena_bytes};
use crate::disjoint::Disjoint;
use crate::micro::{
    Dot, MR, Micro, Outputs, RowRef, any_width_dot, constant_width_dot, dot_panel_rows,
};
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

/// A kernel: a micro-kernel and a plan.
pub(crate) struct Driver<M> {
    pub(crate) micro: M,
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
struct Buffers<'a, L> {
    gate: Rows<'a, L>,
    up: Rows<'a, L>,
    down: Rows<'a, L>,
    /// Expert outputs, `[pairs, padded_hidden]`.
    outputs: &'a mut [f32],
    /// Per thread: raw outputs of gate and up, `[2, block_rows, 128]`.
    raw: &'a mut [f32],
    /// Per thread: a decoded column.
    panel: &'a mut [L],
}

/// Sizes of the buffers, in elements.
struct Sizes {
    pairs: usize,
    hidden: usize,
    intermediate: usize,
    raw: usize,
    panel: usize,
    threads: usize,
}

impl Sizes {
    fn new(plan: Plan, shape: &LayerShape, threads: usize, num_pairs: usize) -> Self {
        let (hidden, intermediate) = (shape.padded_hidden(), shape.padded_intermediate());
        // Up to MR rows a weight is used while it is in a register: no panel.
        let panel = if plan.block_rows > MR { TILE * hidden.max(intermediate) } else { 0 };
        Self {
            pairs: num_pairs.min(plan.chunk_pairs),
            hidden,
            intermediate,
            raw: 2 * plan.block_rows * HADAMARD,
            panel,
            threads,
        }
    }

    fn model<M: Micro>(plan: Plan, shape: &LayerShape, threads: usize) -> WorkspaceModel {
        let sizes = Self::new(plan, shape, threads, 0);
        let fixed =
            arena_bytes::<f32>(threads * sizes.raw) + arena_bytes::<M::Lane>(threads * sizes.panel);
        let per_pair = 2 * Rows::<M::Lane>::bytes_per_row(sizes.hidden)
            + Rows::<M::Lane>::bytes_per_row(sizes.intermediate)
            + arena_bytes::<f32>(sizes.hidden);
        WorkspaceModel {
            fixed_bytes: fixed as u64,
            bytes_per_pair: per_pair as u64,
            max_pairs: Some(plan.chunk_pairs as u64),
        }
    }

    fn take<'a, M: Micro>(&self, workspace: &'a mut [u8]) -> Buffers<'a, M::Lane> {
        let mut arena = Arena::new(workspace);
        Buffers {
            gate: Rows::take(&mut arena, self.pairs, self.hidden),
            up: Rows::take(&mut arena, self.pairs, self.hidden),
            down: Rows::take(&mut arena, self.pairs, self.intermediate),
            outputs: arena.take(self.pairs * self.hidden),
            raw: arena.take(self.threads * self.raw),
            panel: arena.take(self.threads * self.panel),
        }
    }
}

impl<M: Micro> Run for Driver<M> {
    fn plan(&self) -> Plan {
        self.plan
    }

    fn class(&self) -> NumericClass {
        M::CLASS
    }

    fn workspace(&self, shape: &LayerShape, threads: usize) -> WorkspaceModel {
        Sizes::model::<M>(self.plan, shape, threads)
    }

    fn run(&self, launch: Launch<'_>) {
        let Launch { weights, team, call, out, workspace, chunk } = launch;
        let routing = call.routing();
        let sizes = Sizes::new(self.plan, weights.shape(), team.threads(), routing.num_pairs());
        let mut buffers = sizes.take::<M>(workspace);
        let phases = Phases { micro: self.micro, plan: self.plan, weights, team, call };
        out.fill(0.0);
        for_each_chunk(self.plan, weights.tuples(), routing, chunk, |chunk| {
            phases.rotate(chunk, &mut buffers);
            phases.gate_up(chunk, &mut buffers);
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

struct Phases<'a, M> {
    micro: M,
    plan: Plan,
    weights: &'a Weights,
    team: &'a Team,
    call: &'a Call<'a>,
}

impl<M: Micro> Phases<'_, M> {
    fn rotate(&self, chunk: &Chunk, buffers: &mut Buffers<'_, M::Lane>) {
        let shape = self.weights.shape();
        let (gate, up) = (buffers.gate.writer(), buffers.up.writer());
        let blocks = shape.padded_hidden() / HADAMARD;
        let top_k = self.call.routing().top_k();
        self.team.for_each(chunk.pairs.len(), |_, row| {
            let token = chunk.pairs[row] as usize / top_k;
            let expert = expert_of_row(chunk, row);
            let [gate_matrix, up_matrix] = [Projection::Gate, Projection::Up]
                .map(|projection| self.weights.matrix(expert, projection));
            for block in 0..blocks {
                let mut x = [0.0; HADAMARD];
                let start = block * HADAMARD;
                let len = HADAMARD.min(shape.hidden_size - start);
                self.call.hidden().read_f32(token * shape.hidden_size + start, &mut x[..len]);
                // SAFETY: this item is the only one with this row.
                let out = unsafe { gate.block(row, block) };
                self.micro.pack(&x, gate_matrix.input_block(block), out);
                // SAFETY: as for the gate.
                let out = unsafe { up.block(row, block) };
                self.micro.pack(&x, up_matrix.input_block(block), out);
            }
        });
    }

    fn gate_up(&self, chunk: &Chunk, buffers: &mut Buffers<'_, M::Lane>) {
        let shape = self.weights.shape();
        let groups = shape.padded_intermediate() / HADAMARD;
        let Buffers { gate, up, down, raw, panel, .. } = buffers;
        let down = down.writer();
        let scratch = Scratch::new(self.team.threads(), raw, panel);
        self.team.for_each(chunk.blocks.len() * groups, |worker, item| {
            let (block, group) = (chunk.blocks[item / groups], item % groups);
            let [gate_matrix, up_matrix, down_matrix] =
                Projection::ALL.map(|projection| self.weights.matrix(block.expert, projection));
            // SAFETY: a worker's items follow one another.
            let (raw, panel) = unsafe { scratch.of(worker) };
            let (raw_gate, raw_up) = raw.split_at_mut(raw.len() / 2);
            self.multiply(gate_matrix, group, block, gate, panel, raw_gate);
            self.multiply(up_matrix, group, block, up, panel, raw_up);
            let logical = shape.intermediate_size.saturating_sub(group * HADAMARD).min(HADAMARD);
            let outputs = wide_rows(raw_gate).zip(wide_rows(raw_up)).take(block.rows);
            for (row, (gate, up)) in outputs.enumerate() {
                let (svh, bias) = gate_matrix.output_group(group);
                self.micro.unrotate(gate, svh, bias);
                let (svh, bias) = up_matrix.output_group(group);
                self.micro.unrotate(up, svh, bias);
                self.micro.swiglu(gate, up);
                gate[logical..].fill(0.0);
                // SAFETY: this item is the only one with these rows and this group.
                let out = unsafe { down.block(block.start + row, group) };
                self.micro.pack(gate, down_matrix.input_block(group), out);
            }
        });
    }

    fn down(&self, chunk: &Chunk, buffers: &mut Buffers<'_, M::Lane>) {
        let hidden = self.weights.shape().padded_hidden();
        let groups = hidden / HADAMARD;
        let Buffers { down, outputs, raw, panel, .. } = buffers;
        let outputs = Disjoint::new(outputs);
        let scratch = Scratch::new(self.team.threads(), raw, panel);
        self.team.for_each(chunk.blocks.len() * groups, |worker, item| {
            let (block, group) = (chunk.blocks[item / groups], item % groups);
            let matrix = self.weights.matrix(block.expert, Projection::Down);
            // SAFETY: a worker's items follow one another.
            let (raw, panel) = unsafe { scratch.of(worker) };
            self.multiply(matrix, group, block, down, panel, raw);
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

    /// Raw outputs of 128 channels for a block's rows: `raw` is `[rows, 128]`. A block of more than
    /// [`MR`] rows decodes a column into `panel` once; for fewer, every weight is used from a
    /// register.
    fn multiply(
        &self,
        matrix: &Matrix,
        group: usize,
        block: Block,
        rows: &Rows<'_, M::Lane>,
        panel: &mut [M::Lane],
        raw: &mut [f32],
    ) {
        let dot: Dot<M> = match self.plan.constant_widths {
            true => constant_width_dot::<M>(matrix.bits()),
            false => any_width_dot::<M>(),
        };
        const COLUMNS: usize = HADAMARD / TILE;
        for tile in 0..COLUMNS {
            let column = self.weights.column(matrix, group * COLUMNS + tile);
            let mut panel = match block.rows > MR {
                true => Some(&mut panel[..TILE * TILE * column.k_tiles]),
                false => None,
            };
            if let Some(panel) = &mut panel {
                self.micro.unpack(column, panel);
            }
            for first in (0..block.rows).step_by(MR) {
                let len = MR.min(block.rows - first);
                let at = |r: usize| rows.row(block.start + first + r.min(len - 1));
                let four: [RowRef<'_, M::Lane>; MR] = std::array::from_fn(at);
                let mut out = [Outputs::default(); MR];
                match &panel {
                    Some(panel) => {
                        let codebook = matrix.codebook;
                        dot_panel_rows(self.micro, panel, codebook, &four[..len], &mut out);
                    }
                    None => dot(self.micro, column, &four[..len], &mut out),
                }
                for (row, out) in out[..len].iter().enumerate() {
                    raw[(first + row) * HADAMARD + tile * TILE..][..TILE].copy_from_slice(out);
                }
            }
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

/// Every thread's own part of `raw` and `panel`.
struct Scratch<'a, L> {
    raw: Disjoint<'a, f32>,
    panel: Disjoint<'a, L>,
    raw_len: usize,
    panel_len: usize,
}

impl<'a, L> Scratch<'a, L> {
    fn new(threads: usize, raw: &'a mut [f32], panel: &'a mut [L]) -> Self {
        let (raw_len, panel_len) = (raw.len() / threads, panel.len() / threads);
        Self { raw: Disjoint::new(raw), panel: Disjoint::new(panel), raw_len, panel_len }
    }

    /// # Safety
    /// No two parts of one worker are alive at once.
    #[expect(clippy::mut_from_ref, reason = "exclusive by the caller's promise")]
    unsafe fn of(&self, worker: usize) -> (&mut [f32], &mut [L]) {
        // SAFETY: workers' parts are disjoint, and the caller holds no worker's part twice.
        let raw = unsafe { self.raw.part(worker * self.raw_len..(worker + 1) * self.raw_len) };
        let range = worker * self.panel_len..(worker + 1) * self.panel_len;
        // SAFETY: as for `raw`.
        let panel = unsafe { self.panel.part(range) };
        (raw, panel)
    }
}

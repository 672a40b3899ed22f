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

mod buffers;
mod phases;

use trellect_core::{BitTuple, Call, LayerShape, NumericClass, Routing, WorkspaceModel};

use crate::micro::Micro;
use crate::prepared::Weights;
use crate::team::Team;
use buffers::Sizes;
use phases::Phases;

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

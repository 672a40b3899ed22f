//! A chunk's buffers within the workspace, and how large they are.

use trellect_core::{HADAMARD, LayerShape, WorkspaceModel};

use super::Plan;
use crate::buffer::{Arena, arena_bytes};
use crate::disjoint::Disjoint;
use crate::micro::Micro;
use crate::rows::Rows;

/// The buffers of one chunk.
pub(super) struct Buffers<'a, M: Micro, D: Micro> {
    pub(super) gate: Rows<'a, M>,
    pub(super) up: Rows<'a, M>,
    pub(super) down: Rows<'a, D>,
    /// Rotated intermediate activations, `[pairs, padded_intermediate]`.
    pub(super) middle: &'a mut [f32],
    /// Expert outputs, `[pairs, padded_hidden]`.
    pub(super) outputs: &'a mut [f32],
    /// [`Sizes::thread_bytes`] per thread.
    pub(super) scratch: &'a mut [u8],
}

/// Sizes of the buffers.
pub(super) struct Sizes {
    pairs: usize,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    /// Raw outputs of one projection, `[block_rows, 128]`.
    pub(super) raw: usize,
    /// What the products ask for.
    pub(super) product_bytes: usize,
    threads: usize,
}

impl Sizes {
    pub(super) fn new<M: Micro, D: Micro>(
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
    pub(super) fn thread_bytes(&self) -> usize {
        let product = 2 * arena_bytes::<f32>(self.raw) + self.product_bytes;
        product.max(arena_bytes::<f32>(self.hidden))
    }

    pub(super) fn model<M: Micro, D: Micro>(
        plan: Plan,
        shape: &LayerShape,
        threads: usize,
    ) -> WorkspaceModel {
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

    pub(super) fn take<'a, M: Micro, D: Micro>(
        &self,
        workspace: &'a mut [u8],
    ) -> Buffers<'a, M, D> {
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

/// Every thread's own memory.
pub(super) struct Scratch<'a> {
    bytes: Disjoint<'a, u8>,
    thread_bytes: usize,
}

impl<'a> Scratch<'a> {
    pub(super) fn new(thread_bytes: usize, bytes: &'a mut [u8]) -> Self {
        Self { bytes: Disjoint::new(bytes), thread_bytes }
    }

    /// # Safety
    /// No two parts of one worker are alive at once.
    pub(super) unsafe fn of(&self, worker: usize) -> Arena<'_> {
        let range = worker * self.thread_bytes..(worker + 1) * self.thread_bytes;
        // SAFETY: workers' parts are disjoint, and the caller holds no worker's part twice.
        Arena::new(unsafe { self.bytes.part(range) })
    }
}

//! The phases of a chunk, each a parallel region.

use trellect_core::{Call, HADAMARD, Projection, TILE};

use super::buffers::{Buffers, Scratch, Sizes};
use super::{Chunk, Plan};
use crate::buffer::Arena;
use crate::disjoint::Disjoint;
use crate::micro::{Micro, Product, RowsRef, any_width_product, constant_width_product, prefetch};
use crate::prepared::{Matrix, Weights};
use crate::team::Team;

/// What all phases of a launch work with.
pub(super) struct Phases<'a, M, D> {
    pub(super) micro: M,
    pub(super) down: D,
    pub(super) plan: Plan,
    pub(super) sizes: Sizes,
    pub(super) weights: &'a Weights,
    pub(super) team: &'a Team,
    pub(super) call: &'a Call<'a>,
}

/// 128 output channels of a projection.
#[derive(Clone, Copy)]
struct Group<'a> {
    matrix: &'a Matrix,
    index: usize,
}

impl<M: Micro, D: Micro> Phases<'_, M, D> {
    pub(super) fn rotate(&self, chunk: &Chunk, buffers: &mut Buffers<'_, M, D>) {
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

    pub(super) fn gate_up(&self, chunk: &Chunk, buffers: &mut Buffers<'_, M, D>) {
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
            let [gate_group, up_group] =
                [gate_matrix, up_matrix].map(|matrix| Group { matrix, index: group });
            self.multiply(
                self.micro,
                gate_group,
                gate.range(block.start, block.rows),
                product,
                raw_gate,
                up_group,
            );
            self.multiply(
                self.micro,
                up_group,
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

    pub(super) fn quantise(&self, chunk: &Chunk, buffers: &mut Buffers<'_, M, D>) {
        let Buffers { down, middle, .. } = buffers;
        let down = down.writer();
        self.team.for_each(chunk.pairs.len(), |_, row| {
            let rotated = &middle[row * self.sizes.intermediate..][..self.sizes.intermediate];
            // SAFETY: this item is the only one with this row.
            self.down.quantise(rotated, unsafe { down.row(row) });
        });
    }

    pub(super) fn down(&self, chunk: &Chunk, buffers: &mut Buffers<'_, M, D>) {
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
                Group { matrix, index: group },
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

    pub(super) fn combine(&self, chunk: &Chunk, outputs: &[f32], out: &mut [f32]) {
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
    ) -> Group<'_> {
        let item = (item + self.team.threads()).min(chunk.blocks.len() * groups - 1);
        let expert = chunk.blocks[item / groups].expert;
        Group { matrix: self.weights.matrix(expert, projection), index: item % groups }
    }

    /// Raw outputs of a group for a block's rows: `raw` is `[rows, 128]`. `then` is the group whose
    /// weights will be read next.
    fn multiply<N: Micro>(
        &self,
        micro: N,
        group: Group<'_>,
        rows: RowsRef<'_, N::Lane>,
        scratch: &mut [u8],
        raw: &mut [f32],
        then: Group<'_>,
    ) {
        let product: Product<N> = match self.plan.constant_widths {
            true => constant_width_product::<N>(group.matrix.bits()),
            false => any_width_product::<N>(),
        };
        const COLUMNS: usize = HADAMARD / TILE;
        self.prefetch(group);
        for tile in 0..COLUMNS {
            if tile + 1 == COLUMNS {
                self.prefetch(then);
            }
            let column = self.weights.column(group.matrix, group.index * COLUMNS + tile);
            product(micro, column, rows, Arena::new(scratch), &mut raw[tile * TILE..]);
        }
    }

    fn prefetch(&self, group: Group<'_>) {
        prefetch(self.weights.start_of_group(group.matrix, group.index));
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

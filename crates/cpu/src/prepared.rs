//! A layer's weights, laid out for the CPU: every column of 16 output channels is one contiguous
//! run of tiles along `k`, in the file's own bit order.

use std::sync::{Mutex, OnceLock};

use trellect_core::{
    BitTuple, Codebook, ExpertView, HADAMARD, LayerShape, LayerView, LinearView, PrepareError,
    PrepareProgress, Projection, TILE, VectorView,
};

use crate::buffer::Buffer;
use crate::micro::{Column, GUARD};
use crate::team::Team;

/// The weights of a prepared layer.
pub(crate) struct Weights {
    shape: LayerShape,
    experts: Vec<Expert>,
    tuples: Vec<BitTuple>,
    /// [`GUARD`] bytes, all columns of all linears, [`GUARD`] bytes.
    tiles: Buffer,
}

/// An expert's three linears: gate, up, down.
type Expert = [Matrix; 3];

/// One linear.
pub(crate) struct Matrix {
    /// Of the first tile within `tiles`.
    start: usize,
    k_tiles: usize,
    bits: u8,
    pub(crate) codebook: Codebook,
    pub(crate) suh: Box<[f32]>,
    pub(crate) svh: Box<[f32]>,
    pub(crate) bias: Option<Box<[f32]>>,
}

impl Weights {
    pub(crate) fn prepare(
        layer: &LayerView<'_>,
        team: &Team,
        progress: PrepareProgress<'_>,
    ) -> Result<Self, PrepareError> {
        let views = layer.experts();
        let len = usize::try_from(layer.trellis_bytes()).unwrap_or(usize::MAX);
        let len = len.saturating_add(2 * GUARD);
        let mut tiles =
            Buffer::zeroed(len).ok_or(PrepareError::OutOfMemory { needed: len as u64 })?;

        let mut rest = &mut tiles.bytes_mut()[GUARD..];
        let mut start = GUARD;
        let mut parts = Vec::with_capacity(views.len());
        for view in views {
            let bytes = Projection::ALL.map(|p| view.linear(p).trellis().len()).iter().sum();
            let (part, next) = rest.split_at_mut(bytes);
            parts.push(Mutex::new((start, part)));
            (rest, start) = (next, start + bytes);
        }
        let experts: Vec<OnceLock<Expert>> = views.iter().map(|_| OnceLock::new()).collect();
        let progress = Mutex::new(progress);
        team.for_each(views.len(), |_, expert| {
            let mut part = parts[expert].lock().expect("nobody else has this expert");
            let (start, bytes) = &mut *part;
            let prepared = prepare_expert(&views[expert], *start, bytes);
            assert!(experts[expert].set(prepared).is_ok(), "every expert is prepared once");
            progress.lock().expect("a panic in `progress` has ended this call")(expert);
        });

        let experts = experts.into_iter().map(|e| e.into_inner().expect("prepared above"));
        Ok(Self {
            shape: *layer.shape(),
            experts: experts.collect(),
            tuples: views.iter().map(ExpertView::tuple).collect(),
            tiles,
        })
    }

    pub(crate) fn shape(&self) -> &LayerShape {
        &self.shape
    }

    pub(crate) fn tuples(&self) -> &[BitTuple] {
        &self.tuples
    }

    pub(crate) fn matrix(&self, expert: usize, projection: Projection) -> &Matrix {
        &self.experts[expert][projection as usize]
    }

    /// Column `index` (16 output channels) of a linear.
    pub(crate) fn column(&self, matrix: &Matrix, index: usize) -> Column<'_> {
        let bytes = matrix.column_bytes();
        let start = matrix.start + index * bytes;
        Column {
            guarded: &self.tiles.bytes()[start - GUARD..start + bytes + GUARD],
            k_tiles: matrix.k_tiles,
            bits: matrix.bits,
            codebook: matrix.codebook,
        }
    }

    /// What the product of 128-channel output group `group` reads first: more than a decoder looks
    /// ahead, since nothing of that part of the memory is at hand, not even where its pages lie.
    pub(crate) fn start_of_group(&self, matrix: &Matrix, group: usize) -> &[u8] {
        const START_BYTES: usize = 4096;
        let start = matrix.start + group * (HADAMARD / TILE) * matrix.column_bytes();
        &self.tiles.bytes()[start..self.tiles.len().min(start + START_BYTES)]
    }

    /// Bytes of tiles, scales and biases.
    pub(crate) fn bytes(&self) -> u64 {
        let floats: usize = self
            .experts
            .iter()
            .flatten()
            .map(|m| m.suh.len() + m.svh.len() + m.bias.as_ref().map_or(0, |bias| bias.len()))
            .sum();
        (self.tiles.len() + floats * size_of::<f32>()) as u64
    }
}

impl Matrix {
    fn column_bytes(&self) -> usize {
        self.k_tiles * 32 * usize::from(self.bits)
    }

    pub(crate) fn bits(&self) -> u8 {
        self.bits
    }

    /// The scales and biases of 128-channel output group `group`.
    pub(crate) fn output_group(&self, group: usize) -> (&[f32], Option<&[f32]>) {
        let range = group * HADAMARD..(group + 1) * HADAMARD;
        (&self.svh[range.clone()], self.bias.as_deref().map(|bias| &bias[range]))
    }

    /// The scales of 128-row input block `block`.
    pub(crate) fn input_block(&self, block: usize) -> &[f32] {
        &self.suh[block * HADAMARD..(block + 1) * HADAMARD]
    }
}

fn prepare_expert(view: &ExpertView<'_>, start: usize, bytes: &mut [u8]) -> Expert {
    let (mut start, mut rest) = (start, bytes);
    Projection::ALL.map(|projection| {
        let linear = view.linear(projection);
        let (tiles, next) = std::mem::take(&mut rest).split_at_mut(linear.trellis().len());
        lay_columns(linear, tiles);
        let matrix = Matrix {
            start,
            k_tiles: linear.in_features() / TILE,
            bits: linear.bits().get(),
            codebook: linear.codebook(),
            suh: to_f32(linear.suh()),
            svh: to_f32(linear.svh()),
            bias: linear.bias().map(to_f32),
        };
        start += linear.trellis().len();
        rest = next;
        matrix
    })
}

fn to_f32(vector: VectorView<'_>) -> Box<[f32]> {
    vector.iter().collect()
}

/// Copies tiles from `[k/16, n/16]` to `[n/16, k/16]` order.
fn lay_columns(linear: &LinearView<'_>, out: &mut [u8]) {
    let tile = linear.tile_bytes();
    let (k_tiles, n_tiles) = (linear.in_features() / TILE, linear.out_features() / TILE);
    // 8 columns at a time: reads run on, and the writes stay within a few pages.
    const COLUMNS: usize = HADAMARD / TILE;
    for first in (0..n_tiles).step_by(COLUMNS) {
        for row in 0..k_tiles {
            let source = &linear.trellis()[(row * n_tiles + first) * tile..][..COLUMNS * tile];
            for (column, bytes) in source.chunks_exact(tile).enumerate() {
                let at = ((first + column) * k_tiles + row) * tile;
                out[at..at + tile].copy_from_slice(bytes);
            }
        }
    }
}

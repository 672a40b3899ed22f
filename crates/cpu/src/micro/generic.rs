//! Portable micro-kernels, in a form that compilers vectorise where they can.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::LazyLock;

use trellect_core::{Codebook, HADAMARD, NumericClass, TILE};

use super::codebook::{CodebookMath, apply_step, weight_f32, weight_i16, with_codebook};
use super::panel::{Panel, Segment, panel_scratch_bytes};
use super::rotate::{quantise_f32, quantise_integer, rotate, store_tile, swiglu, unrotate};
use super::{
    Column, GROUP_WEIGHTS, GROUPS, GUARD, Micro, Outputs, ROW_OF_LANE, RowMut, RowRef, RowsRef,
    TILE_WEIGHTS, width,
};
use crate::buffer::Arena;

/// How activations are held as integers.
pub(crate) trait Activations: Copy + Send + Sync + 'static {
    const CLASS: NumericClass;
    /// Largest magnitude. A register lane adds two products a tile over a segment, with weights of
    /// at most 4094: below 2³¹.
    const LARGEST: f32;
    const SEGMENT_TILES: usize;
}

/// 14-bit activations, one scale for 512 rows.
#[derive(Clone, Copy)]
pub(crate) struct HalfActivations;

/// 8-bit activations, one scale for 128 rows.
#[derive(Clone, Copy)]
pub(crate) struct Int8Activations;

impl Activations for HalfActivations {
    const CLASS: NumericClass = NumericClass::Half;
    const LARGEST: f32 = 8191.0;
    const SEGMENT_TILES: usize = 32;
}

impl Activations for Int8Activations {
    const CLASS: NumericClass = NumericClass::Int8;
    const LARGEST: f32 = 127.0;
    const SEGMENT_TILES: usize = HADAMARD / TILE;
}

/// Integer activations in portable code.
#[derive(Clone, Copy)]
pub(crate) struct GenericInteger<A>(pub(crate) PhantomData<A>);

/// Class `exact` in portable code.
#[derive(Clone, Copy)]
pub(crate) struct GenericExact;

/// Tiles of a panel of 16 KB.
pub(crate) const EXACT_SEGMENT_TILES: usize = 16;

/// Sums of a row over a column: eight pair sums of each of the 16 channels, group by group.
pub(crate) const PAIR_SUMS: usize = GROUPS * TILE;

/// Sums of a row over a column: one for every row of a tile and every channel.
pub(crate) const ROW_SUMS: usize = TILE_WEIGHTS;

/// The 32 states of group `g` of the tile at `start`, in lane order.
#[inline(always)]
fn group_states<const K: u8>(guarded: &[u8], start: usize, g: usize, bits: u8) -> [u16; 32] {
    let k = width::<K>(bits);
    let word = |index: usize| {
        let at = start + 4 * index;
        u32::from_le_bytes([guarded[at], guarded[at + 1], guarded[at + 2], guarded[at + 3]])
    };
    // The word before the group, which for the first group is the tile's last, then its K words.
    let mut words = [0u32; 9];
    words[0] = word(if g == 0 { 8 * k - 1 } else { g * k - 1 });
    for i in 0..k {
        words[i + 1] = word(g * k + i);
    }
    std::array::from_fn(|lane| {
        let position = 8 * (lane % TILE / 4) + 4 * (lane / TILE) + lane % 4;
        let end = 32 + (position + 1) * k;
        let high = u64::from(words[(end - 16) >> 5]) << 32;
        let low = u64::from(words[(end - 1) >> 5]);
        ((high | low) >> (end.wrapping_neg() & 31)) as u16
    })
}

#[inline(always)]
fn multiply_integer(sums: &mut [i32; TILE], weights: &[i16; GROUP_WEIGHTS], x: &[i16; TILE]) {
    for lane in 0..TILE {
        let at = 2 * (lane % 8);
        sums[lane] += i32::from(weights[2 * lane]) * i32::from(x[at])
            + i32::from(weights[2 * lane + 1]) * i32::from(x[at + 1]);
    }
}

#[inline(always)]
fn multiply_exact(
    sums: &mut [f32; GROUP_WEIGHTS],
    weights: &[f32; GROUP_WEIGHTS],
    x: &[f32; TILE],
) {
    for lane in 0..GROUP_WEIGHTS {
        sums[lane] += weights[lane] * x[lane % TILE];
    }
}

#[inline(always)]
fn weights_integer<C: CodebookMath>(states: &[u16; 32]) -> [i16; GROUP_WEIGHTS] {
    std::array::from_fn(|lane| weight_i16::<C>(states[lane]))
}

/// Every state's float16 value as f32.
fn exact_table(codebook: Codebook) -> &'static [f32] {
    static TABLES: [LazyLock<Vec<f32>>; 3] = [
        LazyLock::new(|| (0..=u16::MAX).map(weight_f32::<super::codebook::ThreeInst>).collect()),
        LazyLock::new(|| (0..=u16::MAX).map(weight_f32::<super::codebook::Mcg>).collect()),
        LazyLock::new(|| (0..=u16::MAX).map(weight_f32::<super::codebook::Mul1>).collect()),
    ];
    &TABLES[codebook as usize]
}

#[inline(always)]
fn weights_exact(table: &[f32], states: &[u16; 32]) -> [f32; GROUP_WEIGHTS] {
    std::array::from_fn(|lane| table[usize::from(states[lane])])
}

/// Decodes `tiles` into `panel`, group by group.
#[inline(always)]
fn unpack<L: Copy, const K: u8>(
    column: Column<'_>,
    tiles: Range<usize>,
    panel: &mut [L],
    weights: impl Fn(&[u16; 32]) -> [L; GROUP_WEIGHTS],
) {
    for (tile, out) in tiles.zip(panel.as_chunks_mut::<TILE_WEIGHTS>().0) {
        let start = GUARD + tile * column.tile_bytes::<K>();
        for (g, out) in out.as_chunks_mut::<GROUP_WEIGHTS>().0.iter_mut().enumerate() {
            *out = weights(&group_states::<K>(column.guarded, start, g, column.bits));
        }
    }
}

/// `totals += scale · sums`.
#[inline(always)]
fn add_scaled(totals: &mut [f32; PAIR_SUMS], sums: &[[i32; TILE]; GROUPS], scale: f32) {
    for (total, &sum) in totals.iter_mut().zip(sums.as_flattened()) {
        *total += scale * sum as f32;
    }
}

/// A row's outputs from its pair sums over integer weights.
#[inline(always)]
pub(crate) fn finish_integer<L>(
    codebook: Codebook,
    row: RowRef<'_, L>,
    totals: &[f32; PAIR_SUMS],
) -> Outputs {
    let mut out = sum_pairs(totals);
    apply_step(codebook, &mut out, row.sum);
    out
}

/// Every channel's pair sums, added up.
#[inline(always)]
pub(crate) fn sum_pairs(totals: &[f32; PAIR_SUMS]) -> Outputs {
    let mut out = [0.0; TILE];
    for (g, lanes) in totals.as_chunks::<TILE>().0.iter().enumerate() {
        out[g] = lanes[..8].iter().sum();
        out[g + 8] = lanes[8..].iter().sum();
    }
    out
}

/// A row's outputs from the sums of every row of a tile.
#[inline(always)]
pub(crate) fn finish_exact(totals: &[f32; ROW_SUMS]) -> Outputs {
    let mut out = [0.0; TILE];
    for (g, lanes) in totals.as_chunks::<GROUP_WEIGHTS>().0.iter().enumerate() {
        out[g] = lanes[..TILE].iter().sum();
        out[g + 8] = lanes[TILE..].iter().sum();
    }
    out
}

impl<A: Activations> Micro for GenericInteger<A> {
    type Lane = i16;
    const CLASS: NumericClass = A::CLASS;
    const LANES: usize = 1;
    const SEGMENT_TILES: usize = A::SEGMENT_TILES;

    fn rotate(self, x: &mut [f32; HADAMARD], suh: &[f32]) {
        rotate(x, suh);
    }

    fn quantise(self, rotated: &[f32], out: RowMut<'_, i16>) {
        quantise_integer(rotated, A::SEGMENT_TILES, A::LARGEST, out, store_tile);
    }

    fn unrotate(self, raw: &mut [f32; HADAMARD], svh: &[f32], bias: Option<&[f32]>) {
        unrotate(raw, svh, bias);
    }

    fn swiglu(self, gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]) {
        swiglu(gate, up);
    }

    fn scratch_bytes(rows: usize) -> usize {
        panel_scratch_bytes::<i16, PAIR_SUMS>(rows, A::SEGMENT_TILES)
    }

    fn product<const K: u8>(
        self,
        column: Column<'_>,
        rows: RowsRef<'_, i16>,
        scratch: Arena<'_>,
        out: &mut [f32],
    ) {
        let segment_tiles = A::SEGMENT_TILES;
        Panel { column, rows, segment_tiles, scratch, out }.product::<i16, PAIR_SUMS, 1>(
            |tiles, panel| {
                with_codebook!(column.codebook, C => {
                    unpack::<_, K>(column, tiles, panel, weights_integer::<C>);
                });
            },
            |panel: &[i16], segment: Segment<'_, i16>, totals| {
                let [(lanes, scale)] = segment.rows::<1>();
                let mut sums = [[0i32; TILE]; GROUPS];
                let tiles = panel.as_chunks::<TILE_WEIGHTS>().0;
                for (weights, x) in tiles.iter().zip(lanes.as_chunks::<TILE>().0) {
                    let groups = weights.as_chunks::<GROUP_WEIGHTS>().0;
                    for (sums, weights) in sums.iter_mut().zip(groups) {
                        multiply_integer(sums, weights, x);
                    }
                }
                add_scaled(&mut totals[0], &sums, scale);
            },
            |row, totals| finish_integer(column.codebook, row, totals),
        );
    }
}

impl Micro for GenericExact {
    type Lane = f32;
    const CLASS: NumericClass = NumericClass::Exact;
    const LANES: usize = 1;
    const SEGMENT_TILES: usize = EXACT_SEGMENT_TILES;

    fn rotate(self, x: &mut [f32; HADAMARD], suh: &[f32]) {
        rotate(x, suh);
    }

    fn quantise(self, rotated: &[f32], out: RowMut<'_, f32>) {
        quantise_f32(rotated, &ROW_OF_LANE, out);
    }

    fn unrotate(self, raw: &mut [f32; HADAMARD], svh: &[f32], bias: Option<&[f32]>) {
        unrotate(raw, svh, bias);
    }

    fn swiglu(self, gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]) {
        swiglu(gate, up);
    }

    fn scratch_bytes(rows: usize) -> usize {
        panel_scratch_bytes::<f32, ROW_SUMS>(rows, EXACT_SEGMENT_TILES)
    }

    fn product<const K: u8>(
        self,
        column: Column<'_>,
        rows: RowsRef<'_, f32>,
        scratch: Arena<'_>,
        out: &mut [f32],
    ) {
        let table = exact_table(column.codebook);
        let segment_tiles = EXACT_SEGMENT_TILES;
        Panel { column, rows, segment_tiles, scratch, out }.product::<f32, ROW_SUMS, 1>(
            |tiles, panel| {
                unpack::<_, K>(column, tiles, panel, |states| weights_exact(table, states));
            },
            |panel: &[f32], segment: Segment<'_, f32>, totals| {
                let [(lanes, _)] = segment.rows::<1>();
                let totals = totals[0].as_chunks_mut::<GROUP_WEIGHTS>().0;
                let tiles = panel.as_chunks::<TILE_WEIGHTS>().0;
                for (weights, x) in tiles.iter().zip(lanes.as_chunks::<TILE>().0) {
                    let groups = weights.as_chunks::<GROUP_WEIGHTS>().0;
                    for (sums, weights) in totals.iter_mut().zip(groups) {
                        multiply_exact(sums, weights, x);
                    }
                }
            },
            |_, totals| finish_exact(totals),
        );
    }
}

//! Portable micro-kernels, in a form that compilers vectorise where they can.

use std::sync::LazyLock;

use trellect_core::{Codebook, HADAMARD, NumericClass};

use super::codebook::{CodebookMath, apply_step, weight_f32, weight_i16, with_codebook};
use super::{
    BLOCK_LANES, BLOCK_TILES, BlockMut, Column, GROUPS, GUARD, Micro, Outputs, RowRef, TILE_LANES,
    pack_exact, pack_half, reduce_lanes, sum_groups, swiglu, tile_bytes, unrotate, width,
};

/// Class `half` in portable code.
#[derive(Clone, Copy)]
pub(crate) struct GenericHalf;

/// Class `exact` in portable code.
#[derive(Clone, Copy)]
pub(crate) struct GenericExact;

/// The 32 states of group `g` of the tile at `start`.
#[inline(always)]
pub(crate) fn group_states<const K: u8>(
    block: &[u8],
    start: usize,
    g: usize,
    bits: u8,
) -> [u16; 32] {
    let k = width::<K>(bits);
    let word = |index: usize| {
        let at = start + 4 * index;
        u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
    };
    // The word before the group, which for the first group is the tile's last, then its K words.
    let mut words = [0u32; 9];
    words[0] = word(if g == 0 { 8 * k - 1 } else { g * k - 1 });
    for i in 0..k {
        words[i + 1] = word(g * k + i);
    }
    std::array::from_fn(|t| {
        let end = 32 + (t + 1) * k;
        let high = u64::from(words[(end - 16) >> 5]) << 32;
        let low = u64::from(words[(end - 1) >> 5]);
        ((high | low) >> (end.wrapping_neg() & 31)) as u16
    })
}

#[inline(always)]
fn multiply_half(sums: &mut [i32; 16], weights: &[i16; TILE_LANES], x: &[i16]) {
    let x: &[i16; TILE_LANES] = x.try_into().expect("a tile's lanes");
    for lane in 0..16 {
        sums[lane] += i32::from(weights[2 * lane]) * i32::from(x[2 * lane])
            + i32::from(weights[2 * lane + 1]) * i32::from(x[2 * lane + 1]);
    }
}

#[inline(always)]
fn multiply_exact(sums: &mut [f32; 16], weights: &[f32; TILE_LANES], x: &[f32]) {
    let x: &[f32; TILE_LANES] = x.try_into().expect("a tile's lanes");
    for lane in 0..16 {
        sums[lane] += weights[lane] * x[lane] + weights[lane + 16] * x[lane + 16];
    }
}

#[inline(always)]
fn weights_half<C: CodebookMath>(states: &[u16; 32]) -> [i16; TILE_LANES] {
    std::array::from_fn(|t| weight_i16::<C>(states[t]))
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

/// Weights of a group in the class's lane order: even stream positions, then odd ones.
#[inline(always)]
fn weights_exact(table: &[f32], states: &[u16; 32]) -> [f32; TILE_LANES] {
    std::array::from_fn(|lane| table[usize::from(states[2 * (lane % 16) + lane / 16])])
}

/// The lanes of tile `tile` of block `block` in a row.
#[inline(always)]
fn tile_lanes<L>(row: &[L], block: usize, tile: usize) -> &[L] {
    &row[block * BLOCK_LANES + tile * TILE_LANES..][..TILE_LANES]
}

fn dot_half<C: CodebookMath, const K: u8, const R: usize>(
    column: Column<'_>,
    rows: &[RowRef<'_, i16>; R],
) -> [super::LaneSums; R] {
    sum_groups(column.blocks(), rows, |block, g| {
        let bytes = column.block::<K>(block);
        let mut sums = [[0i32; 16]; R];
        for tile in 0..BLOCK_TILES {
            let start = GUARD + tile * tile_bytes::<K>(column.bits);
            let weights = weights_half::<C>(&group_states::<K>(bytes, start, g, column.bits));
            for (sums, row) in sums.iter_mut().zip(rows) {
                multiply_half(sums, &weights, tile_lanes(row.lanes, block, tile));
            }
        }
        sums.map(|lanes| lanes.map(|sum| sum as f32))
    })
}

impl Micro for GenericHalf {
    type Lane = i16;
    const CLASS: NumericClass = NumericClass::Half;

    fn pack(self, x: &[f32; HADAMARD], suh: &[f32], out: BlockMut<'_, i16>) {
        pack_half(x, suh, out);
    }

    fn unrotate(self, raw: &mut [f32; HADAMARD], svh: &[f32], bias: Option<&[f32]>) {
        unrotate(raw, svh, bias);
    }

    fn swiglu(self, gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]) {
        swiglu(gate, up);
    }

    fn dot<const K: u8, const R: usize>(
        self,
        column: Column<'_>,
        rows: [RowRef<'_, i16>; R],
    ) -> [Outputs; R] {
        let sums = with_codebook!(column.codebook, C => dot_half::<C, K, R>(column, &rows));
        finish_half(column.codebook, &sums, &rows)
    }

    fn unpack(self, column: Column<'_>, panel: &mut [i16]) {
        with_codebook!(column.codebook, C => unpack(column, panel, weights_half::<C>));
    }

    fn dot_panel<const R: usize>(
        self,
        panel: &[i16],
        codebook: Codebook,
        rows: [RowRef<'_, i16>; R],
    ) -> [Outputs; R] {
        let blocks = rows[0].scales.len();
        let sums = sum_groups(blocks, &rows, |block, g| {
            let mut sums = [[0i32; 16]; R];
            for tile in 0..BLOCK_TILES {
                let weights = panel_group(panel, block, tile, g);
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    multiply_half(sums, weights, tile_lanes(row.lanes, block, tile));
                }
            }
            sums.map(|lanes| lanes.map(|sum| sum as f32))
        });
        finish_half(codebook, &sums, &rows)
    }
}

impl Micro for GenericExact {
    type Lane = f32;
    const CLASS: NumericClass = NumericClass::Exact;

    fn pack(self, x: &[f32; HADAMARD], suh: &[f32], out: BlockMut<'_, f32>) {
        pack_exact(x, suh, out);
    }

    fn unrotate(self, raw: &mut [f32; HADAMARD], svh: &[f32], bias: Option<&[f32]>) {
        unrotate(raw, svh, bias);
    }

    fn swiglu(self, gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]) {
        swiglu(gate, up);
    }

    fn dot<const K: u8, const R: usize>(
        self,
        column: Column<'_>,
        rows: [RowRef<'_, f32>; R],
    ) -> [Outputs; R] {
        let table = exact_table(column.codebook);
        let sums = sum_groups(column.blocks(), &rows, |block, g| {
            let bytes = column.block::<K>(block);
            let mut sums = [[0.0; 16]; R];
            for tile in 0..BLOCK_TILES {
                let start = GUARD + tile * tile_bytes::<K>(column.bits);
                let states = group_states::<K>(bytes, start, g, column.bits);
                let weights = weights_exact(table, &states);
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    multiply_exact(sums, &weights, tile_lanes(row.lanes, block, tile));
                }
            }
            sums
        });
        sums.map(|sums| reduce_lanes(&sums))
    }

    fn unpack(self, column: Column<'_>, panel: &mut [f32]) {
        let table = exact_table(column.codebook);
        unpack(column, panel, |states| weights_exact(table, states));
    }

    fn dot_panel<const R: usize>(
        self,
        panel: &[f32],
        _codebook: Codebook,
        rows: [RowRef<'_, f32>; R],
    ) -> [Outputs; R] {
        let blocks = rows[0].scales.len();
        let sums = sum_groups(blocks, &rows, |block, g| {
            let mut sums = [[0.0; 16]; R];
            for tile in 0..BLOCK_TILES {
                let weights = panel_group(panel, block, tile, g);
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    multiply_exact(sums, weights, tile_lanes(row.lanes, block, tile));
                }
            }
            sums
        });
        sums.map(|sums| reduce_lanes(&sums))
    }
}

/// Reduces lane sums over 16-bit weights to outputs.
#[inline(always)]
pub(crate) fn finish_half<const R: usize>(
    codebook: Codebook,
    sums: &[super::LaneSums; R],
    rows: &[RowRef<'_, i16>; R],
) -> [Outputs; R] {
    std::array::from_fn(|r| {
        let mut out = reduce_lanes(&sums[r]);
        apply_step(codebook, &mut out, rows[r].sums);
        out
    })
}

/// One group of a decoded panel.
#[inline(always)]
fn panel_group<L>(panel: &[L], block: usize, tile: usize, g: usize) -> &[L; TILE_LANES] {
    let start = ((block * BLOCK_TILES + tile) * GROUPS + g) * TILE_LANES;
    panel[start..start + TILE_LANES].try_into().expect("a group's lanes")
}

#[inline(always)]
fn unpack<L: Copy>(
    column: Column<'_>,
    panel: &mut [L],
    weights: impl Fn(&[u16; 32]) -> [L; TILE_LANES],
) {
    for (group, lanes) in panel.chunks_exact_mut(TILE_LANES).enumerate() {
        let start = GUARD + group / GROUPS * tile_bytes::<0>(column.bits);
        let states = group_states::<0>(column.guarded, start, group % GROUPS, column.bits);
        lanes.copy_from_slice(&weights(&states));
    }
}

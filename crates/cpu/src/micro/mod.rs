//! Micro-kernels: the arithmetic of one column of tiles, for one instruction set and one numeric
//! class. Everything above (which tokens, which experts, which threads) is `driver.rs`.
//!
//! All of them read one layout. A *column* is 16 output channels: its tiles along `k`, each in the
//! file's own bit order. 32 consecutive stream positions of a tile (a *group*) are two columns, `g`
//! and `g + 8`, by 16 rows; neighbours in the stream are neighbouring rows of one column, so their
//! products may share an accumulator lane. See `docs/formats.md` for the tile.

#![expect(clippy::needless_range_loop, reason = "lanes of several arrays run in step")]

pub(crate) mod codebook;
pub(crate) mod generic;
mod pack;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

use trellect_core::{Codebook, HADAMARD, NumericClass, TILE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) use pack::{pack_exact, pack_half, swiglu, unrotate};

/// Bytes before and after a column that a micro-kernel may read and ignore.
pub(crate) const GUARD: usize = 64;

/// Most rows that one decoded weight serves while it is in a register.
pub(crate) const MR: usize = 4;

/// Activations that one tile takes, in lane order: every row twice, for its two columns.
pub(crate) const TILE_LANES: usize = 2 * TILE;

/// Activations that one 128-row block takes, in lane order.
pub(crate) const BLOCK_LANES: usize = 2 * HADAMARD;

/// Groups of 32 stream positions in a tile.
pub(crate) const GROUPS: usize = 8;

/// Tiles in a 128-row block.
pub(crate) const BLOCK_TILES: usize = HADAMARD / TILE;

/// Sums of a column for one row: a group's 16 accumulator lanes, for every group.
pub(crate) type LaneSums = [[f32; 16]; GROUPS];

/// 16 outputs of one row.
pub(crate) type Outputs = [f32; TILE];

/// What activations and decoded panels are made of.
pub(crate) trait Lane:
    Copy + Default + Send + Sync + FromBytes + IntoBytes + Immutable + 'static
{
}
impl Lane for i16 {}
impl Lane for f32 {}

/// The tiles of 16 output channels, along `k`.
#[derive(Clone, Copy)]
pub(crate) struct Column<'a> {
    /// [`GUARD`] bytes, `k_tiles` tiles of `32·bits` bytes, [`GUARD`] bytes.
    pub(crate) guarded: &'a [u8],
    pub(crate) k_tiles: usize,
    pub(crate) bits: u8,
    pub(crate) codebook: Codebook,
}

impl<'a> Column<'a> {
    /// The tiles of 128-row block `block`, guards included.
    #[inline(always)]
    pub(crate) fn block<const K: u8>(&self, block: usize) -> &'a [u8] {
        let bytes = BLOCK_TILES * tile_bytes::<K>(self.bits);
        &self.guarded[block * bytes..][..bytes + 2 * GUARD]
    }

    pub(crate) fn blocks(&self) -> usize {
        self.k_tiles / BLOCK_TILES
    }
}

/// Bits per weight: `K`, or `bits` where `K` is 0 and the width is known at run time only.
#[inline(always)]
pub(crate) const fn width<const K: u8>(bits: u8) -> usize {
    if K == 0 { bits as usize } else { K as usize }
}

/// Bytes of a tile of width [`width`].
#[inline(always)]
pub(crate) const fn tile_bytes<const K: u8>(bits: u8) -> usize {
    32 * width::<K>(bits)
}

/// One token's rotated activations for one linear.
#[derive(Clone, Copy)]
pub(crate) struct RowRef<'a, L> {
    /// [`TILE_LANES`] per tile, in the class's lane order.
    pub(crate) lanes: &'a [L],
    /// What one unit of a lane is worth, per 128-row block.
    pub(crate) scales: &'a [f32],
    /// Sum of the activations as the lanes hold them, per 128-row block.
    pub(crate) sums: &'a [f32],
}

/// One 128-row block of a row, to be written.
pub(crate) struct BlockMut<'a, L> {
    pub(crate) lanes: &'a mut [L; BLOCK_LANES],
    pub(crate) scale: &'a mut f32,
    pub(crate) sum: &'a mut f32,
}

/// The arithmetic of one instruction set and class. A value is the proof that it may run here.
pub(crate) trait Micro: Copy + Send + Sync + 'static {
    type Lane: Lane;
    const CLASS: NumericClass;

    /// Scales 128 inputs by `suh`, rotates them and lays them out as lanes.
    fn pack(self, x: &[f32; HADAMARD], suh: &[f32], out: BlockMut<'_, Self::Lane>);

    /// Rotates 128 raw outputs back, scales them by `svh` and adds `bias`.
    fn unrotate(self, raw: &mut [f32; HADAMARD], svh: &[f32], bias: Option<&[f32]>);

    /// `gate ← silu(gate) ∘ up`.
    fn swiglu(self, gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]);

    /// `out[r] = rows[r]·Ŵ` for the 16 columns of `column`, decoding every weight once for all `R`
    /// rows. `K` is the width, or 0 to take `column.bits`.
    fn dot<const K: u8, const R: usize>(
        self,
        column: Column<'_>,
        rows: [RowRef<'_, Self::Lane>; R],
    ) -> [Outputs; R];

    /// Decodes a column into `panel`: 256 lanes per tile.
    fn unpack(self, column: Column<'_>, panel: &mut [Self::Lane]);

    /// [`dot`](Self::dot) on a decoded panel.
    fn dot_panel<const R: usize>(
        self,
        panel: &[Self::Lane],
        codebook: Codebook,
        rows: [RowRef<'_, Self::Lane>; R],
    ) -> [Outputs; R];
}

/// [`Micro::dot`] for up to [`MR`] rows, as a value that a driver can hold.
pub(crate) type Dot<M> = fn(M, Column<'_>, &[RowRef<'_, <M as Micro>::Lane>], &mut [Outputs; MR]);

fn dot_rows<M: Micro, const K: u8>(
    micro: M,
    column: Column<'_>,
    rows: &[RowRef<'_, M::Lane>],
    out: &mut [Outputs; MR],
) {
    match *rows {
        [a] => out[..1].copy_from_slice(&micro.dot::<K, 1>(column, [a])),
        [a, b] => out[..2].copy_from_slice(&micro.dot::<K, 2>(column, [a, b])),
        [a, b, c] => out[..3].copy_from_slice(&micro.dot::<K, 3>(column, [a, b, c])),
        [a, b, c, d] => *out = micro.dot::<K, 4>(column, [a, b, c, d]),
        _ => unreachable!("a driver hands over 1 to {MR} rows"),
    }
}

/// The dot product whose width is read from the column.
pub(crate) fn any_width_dot<M: Micro>() -> Dot<M> {
    dot_rows::<M, 0>
}

/// The dot product whose width is a compile-time constant.
pub(crate) fn constant_width_dot<M: Micro>(bits: u8) -> Dot<M> {
    match bits {
        1 => dot_rows::<M, 1>,
        2 => dot_rows::<M, 2>,
        3 => dot_rows::<M, 3>,
        4 => dot_rows::<M, 4>,
        5 => dot_rows::<M, 5>,
        6 => dot_rows::<M, 6>,
        7 => dot_rows::<M, 7>,
        8 => dot_rows::<M, 8>,
        _ => unreachable!("Bits is 1 to 8"),
    }
}

/// [`Micro::dot_panel`] for up to [`MR`] rows.
pub(crate) fn dot_panel_rows<M: Micro>(
    micro: M,
    panel: &[M::Lane],
    codebook: Codebook,
    rows: &[RowRef<'_, M::Lane>],
    out: &mut [Outputs; MR],
) {
    match *rows {
        [a] => out[..1].copy_from_slice(&micro.dot_panel(panel, codebook, [a])),
        [a, b] => out[..2].copy_from_slice(&micro.dot_panel(panel, codebook, [a, b])),
        [a, b, c] => out[..3].copy_from_slice(&micro.dot_panel(panel, codebook, [a, b, c])),
        [a, b, c, d] => *out = micro.dot_panel(panel, codebook, [a, b, c, d]),
        _ => unreachable!("a driver hands over 1 to {MR} rows"),
    }
}

/// The loop over blocks and groups that every `dot` shares. `group(block, g)` returns, for every
/// row, the 16 lane sums of one group over one block; they are scaled and added up in f32.
#[inline(always)]
pub(crate) fn sum_groups<L, const R: usize>(
    blocks: usize,
    rows: &[RowRef<'_, L>; R],
    mut group: impl FnMut(usize, usize) -> [[f32; 16]; R],
) -> [LaneSums; R] {
    let mut sums = [[[0.0; 16]; GROUPS]; R];
    for block in 0..blocks {
        for g in 0..GROUPS {
            let partial = group(block, g);
            for r in 0..R {
                let scale = rows[r].scales[block];
                for lane in 0..16 {
                    sums[r][g][lane] += scale * partial[r][lane];
                }
            }
        }
    }
    sums
}

/// Adds up a row's lanes to its 16 outputs. Of a group's lanes, those with bit 1 clear belong to
/// column `g`, the others to column `g + 8`.
#[inline(always)]
pub(crate) fn reduce_lanes(sums: &LaneSums) -> Outputs {
    let mut out = [0.0; TILE];
    for (g, lanes) in sums.iter().enumerate() {
        for quad in lanes.chunks_exact(4) {
            out[g] += quad[0] + quad[1];
            out[g + 8] += quad[2] + quad[3];
        }
    }
    out
}

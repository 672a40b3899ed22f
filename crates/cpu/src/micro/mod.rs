//! Micro-kernels: the arithmetic of one column of tiles, for one instruction set and one numeric
//! class. Everything above (which tokens, which experts, which threads) is `driver.rs`.
//!
//! All of them read one layout. A *column* is 16 output channels: its tiles along `k`, each in the
//! file's own bit order. 32 consecutive stream positions of a tile (a *group*) are two columns, `g`
//! and `g + 8`, by 16 rows, four neighbouring positions at a time. So a decoder puts column `g` into
//! the lower half of its lanes and column `g + 8` into the upper one, both with their rows in the
//! order of [`ROW_OF_LANE`]; activations are kept in that order, and one of them serves all 16
//! columns. See `docs/formats.md` for the tile.
//!
//! Activations share a scale over a *segment* of rows, so that integer products add up in a register
//! over a whole segment.

#![expect(clippy::needless_range_loop, reason = "lanes of several arrays run in step")]

#[cfg(target_arch = "aarch64")]
pub(crate) mod aarch64;
pub(crate) mod codebook;
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
mod cut;
pub(crate) mod generic;
mod panel;
mod rotate;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

use std::ops::Range;

use trellect_core::{Codebook, HADAMARD, NumericClass, TILE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::buffer::Arena;

/// Bytes before and after a column that a micro-kernel may read and ignore.
pub(crate) const GUARD: usize = 64;

/// Asks for bytes that will be read soon.
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(bytes);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Most rows that one decoded weight serves while it is in a register.
pub(crate) const MR: usize = 4;

/// Groups of 32 stream positions in a tile.
pub(crate) const GROUPS: usize = 8;

/// Weights of a group.
pub(crate) const GROUP_WEIGHTS: usize = 2 * TILE;

/// Weights of a tile.
pub(crate) const TILE_WEIGHTS: usize = TILE * TILE;

/// Row of a tile that a lane holds.
pub(crate) const ROW_OF_LANE: [usize; TILE] = {
    let mut rows = [0; TILE];
    let mut lane = 0;
    while lane < TILE {
        rows[lane] = 2 * (lane >> 2) + (lane & 1) + 8 * (lane >> 1 & 1);
        lane += 1;
    }
    rows
};

/// Even lanes, then odd ones: where the windows of a pair end up in two vectors.
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
pub(crate) const SPLIT_LANES: [usize; TILE] = {
    let mut lanes = [0; TILE];
    let mut at = 0;
    while at < TILE {
        lanes[at] = 2 * (at % 8) + at / 8;
        at += 1;
    }
    lanes
};

/// [`ROW_OF_LANE`] of [`SPLIT_LANES`].
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
pub(crate) const SPLIT_ROW_OF_LANE: [usize; TILE] = {
    let mut rows = [0; TILE];
    let mut at = 0;
    while at < TILE {
        rows[at] = ROW_OF_LANE[SPLIT_LANES[at]];
        at += 1;
    }
    rows
};

/// 16 outputs of one row.
pub(crate) type Outputs = [f32; TILE];

/// What activations and decoded weights are made of.
pub(crate) trait Lane:
    Copy + Default + Send + Sync + FromBytes + IntoBytes + Immutable + 'static
{
}
impl Lane for i8 {}
impl Lane for i16 {}
impl Lane for i32 {}
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

impl Column<'_> {
    /// Bytes of a tile; `K` is the width, or 0 to take `bits`.
    #[inline(always)]
    pub(crate) fn tile_bytes<const K: u8>(&self) -> usize {
        32 * width::<K>(self.bits)
    }

    /// The tiles in segments of `len`, each with its number.
    #[inline(always)]
    pub(crate) fn segments(
        &self,
        len: usize,
    ) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let tiles = self.k_tiles;
        (0..tiles.div_ceil(len)).map(move |s| (s, s * len..tiles.min((s + 1) * len)))
    }
}

/// Bits per weight: `K`, or `bits` where `K` is 0 and the width is known at run time only.
#[inline(always)]
pub(crate) const fn width<const K: u8>(bits: u8) -> usize {
    if K == 0 { bits as usize } else { K as usize }
}

/// A row's activations of tile `tile`.
#[inline(always)]
pub(crate) fn tile_lanes<L>(lanes: &[L], tile: usize) -> &[L; TILE] {
    lanes[tile * TILE..].first_chunk().expect("a tile's lanes")
}

/// One token's rotated activations for one linear.
#[derive(Clone, Copy)]
pub(crate) struct RowRef<'a, L> {
    /// [`Micro::LANES`] per activation, tile by tile in the order of [`ROW_OF_LANE`].
    pub(crate) lanes: &'a [L],
    /// What one unit of a lane is worth, per segment.
    pub(crate) scales: &'a [f32],
    /// Sum of the activations as the lanes hold them.
    pub(crate) sum: f32,
}

/// A row to be written.
pub(crate) struct RowMut<'a, L> {
    pub(crate) lanes: &'a mut [L],
    pub(crate) scales: &'a mut [f32],
    pub(crate) sum: &'a mut f32,
}

/// Neighbouring rows, all for one linear.
#[derive(Clone, Copy)]
pub(crate) struct RowsRef<'a, L> {
    pub(crate) rows: usize,
    /// Lanes of a row.
    pub(crate) row_lanes: usize,
    pub(crate) lanes: &'a [L],
    /// Every row's scales, one per segment, and after them its sum.
    pub(crate) scales: &'a [f32],
    /// Lanes from one row to the next.
    pub(crate) lane_stride: usize,
    /// Floats from one row's scales to the next row's.
    pub(crate) scale_stride: usize,
    pub(crate) segments: usize,
}

impl<'a, L> RowsRef<'a, L> {
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> RowRef<'a, L> {
        let (scales, sum) = self.scales[row * self.scale_stride..].split_at(self.segments);
        RowRef {
            lanes: &self.lanes[row * self.lane_stride..][..self.row_lanes],
            scales,
            sum: sum[0],
        }
    }

    #[inline(always)]
    pub(crate) fn rows<const R: usize>(&self, first: usize) -> [RowRef<'a, L>; R] {
        std::array::from_fn(|r| self.row(first + r))
    }
}

/// The arithmetic of one instruction set and class. A value is the proof that it may run here.
pub(crate) trait Micro: Copy + Send + Sync + 'static {
    /// What activations are made of.
    type Lane: Lane;
    const CLASS: NumericClass;
    /// Lanes that one activation takes.
    const LANES: usize;
    /// Tiles of a segment: their activations share a scale.
    const SEGMENT_TILES: usize;
    /// Most rows of a product.
    const MOST_ROWS: usize = usize::MAX;

    /// `x ← H·(x ∘ suh)`, orthonormal.
    fn rotate(self, x: &mut [f32; HADAMARD], suh: &[f32]);

    /// Lays a row of rotated activations out as lanes. A segment that is not finite gets a scale of
    /// NaN.
    fn quantise(self, rotated: &[f32], out: RowMut<'_, Self::Lane>);

    /// `raw ← (raw·H) ∘ svh + bias`.
    fn unrotate(self, raw: &mut [f32; HADAMARD], svh: &[f32], bias: Option<&[f32]>);

    /// `gate ← silu(gate) ∘ up`.
    fn swiglu(self, gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]);

    /// Bytes of scratch memory that [`product`](Self::product) needs for up to `rows` rows.
    fn scratch_bytes(rows: usize) -> usize;

    /// `out[128·r..][..16] = rows[r]·Ŵ` for the 16 channels of `column` and every row, decoding
    /// every weight once. `K` is the width, or 0 to take `column.bits`.
    fn product<const K: u8>(
        self,
        column: Column<'_>,
        rows: RowsRef<'_, Self::Lane>,
        scratch: Arena<'_>,
        out: &mut [f32],
    );
}

/// [`Micro::product`] for one width, as a value that a driver can hold.
pub(crate) type Product<M> =
    fn(M, Column<'_>, RowsRef<'_, <M as Micro>::Lane>, Arena<'_>, &mut [f32]);

/// The product whose width is read from the column.
pub(crate) fn any_width_product<M: Micro>() -> Product<M> {
    M::product::<0>
}

/// The product whose width is a compile-time constant.
pub(crate) fn constant_width_product<M: Micro>(bits: u8) -> Product<M> {
    match bits {
        1 => M::product::<1>,
        2 => M::product::<2>,
        3 => M::product::<3>,
        4 => M::product::<4>,
        5 => M::product::<5>,
        6 => M::product::<6>,
        7 => M::product::<7>,
        8 => M::product::<8>,
        _ => unreachable!("Bits is 1 to 8"),
    }
}

/// Implements [`Micro`] for `$name`, whose first field proves the features of the
/// functions in `$room`: every method hands over to the function of its name.
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
macro_rules! impl_micro {
    ($(<$a:ident>)? $name:ident, $lane:ty, $room:ident) => {
        impl$(<$a: $crate::micro::generic::Activations>)? $crate::micro::Micro for $name$(<$a>)? {
            type Lane = $lane;
            const CLASS: trellect_core::NumericClass = $room::class$(::<$a>)?();
            const LANES: usize = 1;
            const SEGMENT_TILES: usize = $room::segment_tiles$(::<$a>)?();

            fn rotate(self, x: &mut [f32; trellect_core::HADAMARD], suh: &[f32]) {
                // SAFETY: `self` holds a token that only detection of these features makes.
                unsafe { $room::rotate(x, suh) }
            }

            fn quantise(self, rotated: &[f32], out: $crate::micro::RowMut<'_, $lane>) {
                // SAFETY: as in `rotate`.
                unsafe { $room::quantise$(::<$a>)?(rotated, out) }
            }

            fn unrotate(
                self,
                raw: &mut [f32; trellect_core::HADAMARD],
                svh: &[f32],
                bias: Option<&[f32]>,
            ) {
                // SAFETY: as in `rotate`.
                unsafe { $room::unrotate(raw, svh, bias) }
            }

            fn swiglu(
                self,
                gate: &mut [f32; trellect_core::HADAMARD],
                up: &[f32; trellect_core::HADAMARD],
            ) {
                // SAFETY: as in `rotate`.
                unsafe { $room::swiglu(gate, up) }
            }

            fn scratch_bytes(rows: usize) -> usize {
                $room::scratch_bytes$(::<$a>)?(rows)
            }

            fn product<const K: u8>(
                self,
                column: $crate::micro::Column<'_>,
                rows: $crate::micro::RowsRef<'_, $lane>,
                scratch: $crate::buffer::Arena<'_>,
                out: &mut [f32],
            ) {
                // SAFETY: as in `rotate`.
                unsafe { $room::product::<$($a,)? K>(column, rows, scratch, out) }
            }
        }
    };
}
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
use impl_micro;

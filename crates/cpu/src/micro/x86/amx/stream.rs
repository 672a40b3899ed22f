//! From a column's bytes to states in the order of a weight register's lines.

use std::arch::x86_64::*;

use super::super::super::{Column, GROUPS, GUARD, TILE};
use super::super::avx512::stream::load_bytes;
use super::super::prefetch_ahead;

/// Groups that one load covers; a tile has [`PAIRS`] times as many.
const PAIR: usize = 2;
pub(super) const PAIRS: usize = GROUPS / PAIR;

/// The widest group of which two, and the word before them, fit into a load.
const WIDEST_IN_ONE_LOAD: usize = 7;

/// How one width's windows are cut out of a pair of groups, for the first and for the last two of
/// four neighbouring rows.
struct Cut {
    /// Bytes of every 64-bit lane, from the word before the pair; beyond [`WIDEST_IN_ONE_LOAD`] from
    /// the word before the lane's group.
    gather: [[u8; 64]; 2],
    /// Where the lane's eight result bytes start, in bits.
    shift: [[u8; 64]; 2],
}

static CUTS: [Cut; 9] = {
    let mut cuts = [const { Cut { gather: [[0; 64]; 2], shift: [[0; 64]; 2] } }; 9];
    let mut bits = 1;
    while bits <= 8 {
        cuts[bits] = cut(bits);
        bits += 1;
    }
    cuts
};

const fn cut(k: usize) -> Cut {
    let mut cut = Cut { gather: [[0; 64]; 2], shift: [[0; 64]; 2] };
    let mut at = 0;
    while at < 16 {
        let (lane, half) = (at % 8, at / 8);
        let (four_rows, group) = (lane / 2, lane % 2);
        // Four positions of column `g`, then four of `g + 8`.
        let first = 8 * four_rows + 2 * half;
        let before = if k > WIDEST_IN_ONE_LOAD { 0 } else { 32 * k * group };
        // Bits are counted from the word before.
        let byte = (32 + before + (first + 1) * k - 16) / 8;
        let mut i = 0;
        while i < 8 {
            // Words are little-endian, their bits run from the most significant one.
            cut.gather[half][8 * lane + i] = ((byte + 7 - i) ^ 3) as u8;
            i += 1;
        }
        let mut window = 0;
        while window < 4 {
            let position = first + 4 * (window / 2) + window % 2;
            let start = 32 + before + (position + 1) * k - 16 - 8 * byte;
            cut.shift[half][8 * lane + 2 * window] = (48 - start) as u8;
            cut.shift[half][8 * lane + 2 * window + 1] = (56 - start) as u8;
            window += 1;
        }
        at += 1;
    }
    cut
}

/// Which of four neighbouring lanes, in the order of `ROW_OF_LANE`, a byte of a weight register's
/// 32-bit lane holds: the first two rows of a column are in one vector, the last two in another, and
/// digits of both alternate.
pub(super) const LANE_OF_BYTE: [usize; 4] = [0, 2, 1, 3];

/// 32-bit lane of a line that holds a channel of a column.
pub(super) const LANE_OF_CHANNEL: [i32; TILE] = {
    let mut lanes = [0; TILE];
    let mut channel = 0;
    while channel < TILE {
        let (group, upper) = (channel % GROUPS, channel / GROUPS);
        lanes[channel] = (4 * (group / PAIR) + 2 * (group % PAIR) + upper) as i32;
        channel += 1;
    }
    lanes
};

/// A column whose length has been checked, with its width's tables in registers.
pub(super) struct Stream<'a> {
    column: Column<'a>,
    gather: [__m512i; 2],
    shift: [__m512i; 2],
}

impl<'a> Stream<'a> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) fn new(column: Column<'a>) -> Self {
        let bytes = column.k_tiles * column.tile_bytes::<0>();
        assert_eq!(column.guarded.len(), bytes + 2 * GUARD, "a whole column");
        let cut = &CUTS[usize::from(column.bits)];
        Self {
            column,
            gather: [load_bytes(&cut.gather[0]), load_bytes(&cut.gather[1])],
            shift: [load_bytes(&cut.shift[0]), load_bytes(&cut.shift[1])],
        }
    }

    /// Asks for the bytes that come some time after tile `tile`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) fn prefetch(&self, tile: usize) {
        prefetch_ahead(&self.column, tile, self.column.tile_bytes::<0>());
    }

    /// The states of pair `pair` of groups of tile `tile`: of every four rows the first two, then the
    /// last two. A 128-bit part of a vector holds four channels.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(super) fn states(&self, tile: usize, pair: usize) -> [__m512i; 2] {
        assert!(tile < self.column.k_tiles && pair < PAIRS, "a pair of the column");
        let k = usize::from(self.column.bits);
        let at = GUARD - 4 + 32 * k * tile;
        // SAFETY: the word before a tile of the column: asserted here and in `new`.
        let before = unsafe { self.column.guarded.as_ptr().add(at) };
        // SAFETY: the word before a group of the tile.
        let start = unsafe { before.add(4 * k * PAIR * pair) };
        // SAFETY: 64 bytes from the word before a group end within the guard after the column.
        let mut bytes = unsafe { _mm512_loadu_si512(start.cast()) };
        if pair == 0 {
            // The word before a tile's first group is the tile's last.
            // SAFETY: the last word of the tile.
            let last = unsafe { before.add(32 * k) };
            // SAFETY: four bytes of the tile.
            let last = unsafe { last.cast::<i32>().read_unaligned() };
            bytes = _mm512_mask_set1_epi32(bytes, 1, last);
        }
        let mut gathered = self.gather.map(|gather| _mm512_permutexvar_epi8(gather, bytes));
        if k > WIDEST_IN_ONE_LOAD {
            const SECOND_GROUP: __mmask64 = 0xFF00_FF00_FF00_FF00;
            // SAFETY: the word before the second group of the pair.
            let second = unsafe { start.add(4 * k) };
            // SAFETY: as for the first.
            let bytes = unsafe { _mm512_loadu_si512(second.cast()) };
            for (gathered, gather) in gathered.iter_mut().zip(self.gather) {
                let second = _mm512_mask_permutexvar_epi8(*gathered, SECOND_GROUP, gather, bytes);
                *gathered = second;
            }
        }
        [
            _mm512_multishift_epi64_epi8(self.shift[0], gathered[0]),
            _mm512_multishift_epi64_epi8(self.shift[1], gathered[1]),
        ]
    }
}

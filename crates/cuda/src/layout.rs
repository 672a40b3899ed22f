//! How a linear's trellis lies in device memory: what `kernels/trellis.cuh` reads.
//!
//! A *chunk* is 32 output columns of 32 rows of W: two by two tiles. Lane `L` of a warp owns eight
//! consecutive states of each tile, so it gets exactly their bits: the lane's bits of the four
//! tiles one after the other are `bits` words, most significant bit first. The words of all lanes
//! lie in planes of four, two and one words a lane, so that a warp's loads are wide and run on.

use trellect_core::{HADAMARD, LinearView, TILE};

/// Lanes of a warp.
const LANES: usize = 32;
/// Tiles of a chunk: row tile inside column tile.
const CHUNK_TILES: usize = 4;
/// Chunks of a 128-column group in one pair of tile rows.
const GROUP_CHUNKS: usize = HADAMARD / (2 * TILE);

/// Bytes of one chunk of a width.
const fn chunk_bytes(bits: usize) -> usize {
    LANES * CHUNK_TILES * bits
}

/// Writes the chunks of the 128 output columns `128·group ..` of `linear`, along k, to `out`, which
/// is `1 / (out_features / 128)` of the trellis.
///
/// # Panics
/// When `out` has another length or there is no such group.
pub(crate) fn repack_group(linear: &LinearView<'_>, group: usize, out: &mut [u8]) {
    match linear.bits().get() {
        1 => repack::<1>(linear, group, out),
        2 => repack::<2>(linear, group, out),
        3 => repack::<3>(linear, group, out),
        4 => repack::<4>(linear, group, out),
        5 => repack::<5>(linear, group, out),
        6 => repack::<6>(linear, group, out),
        7 => repack::<7>(linear, group, out),
        _ => repack::<8>(linear, group, out),
    }
}

fn repack<const BITS: usize>(linear: &LinearView<'_>, group: usize, out: &mut [u8]) {
    let row_pairs = linear.in_features() / (2 * TILE);
    assert_eq!(out.len(), row_pairs * GROUP_CHUNKS * chunk_bytes(BITS), "one group");
    for (index, chunk) in out.chunks_exact_mut(chunk_bytes(BITS)).enumerate() {
        let (row_pair, chunk_column) = (index / GROUP_CHUNKS, index % GROUP_CHUNKS);
        let tiles = [0, 1, 2, 3].map(|i| {
            let (column_tile, row_tile) = (i / 2, i % 2);
            let column = group * (HADAMARD / TILE) + 2 * chunk_column + column_tile;
            linear.tile(2 * row_pair + row_tile, column)
        });
        repack_chunk::<BITS>(tiles, chunk);
    }
}

fn repack_chunk<const BITS: usize>(tiles: [&[u8]; CHUNK_TILES], out: &mut [u8]) {
    let out = out.as_chunks_mut::<4>().0;
    for lane in 0..LANES {
        let mut string = [0; 8 * CHUNK_TILES];
        for (i, tile) in tiles.iter().enumerate() {
            for byte in 0..BITS {
                // The file's words are little-endian, the bit string is not.
                string[i * BITS + byte] = tile[(lane * BITS + byte) ^ 3];
            }
        }
        for word in 0..BITS {
            let value: [u8; 4] = std::array::from_fn(|i| string[4 * word + 3 - i]);
            out[word_index(BITS, lane, word)] = value;
        }
    }
}

/// Where word `word` of a lane stands within its chunk, in words.
const fn word_index(bits: usize, lane: usize, word: usize) -> usize {
    let quads = bits / 4 * 4;
    let pairs = bits / 2 * 2;
    let (plane, width) = if word < quads {
        (word / 4 * 4, 4)
    } else if word < pairs {
        (quads, 2)
    } else {
        (pairs, 1)
    };
    LANES * plane + lane * width + word - plane
}

#[cfg(test)]
mod tests {
    use trellect_core::{BitTuple, Bits, Codebook, LayerShape, Projection};
    use trellect_exl3::synth::{OwnedLayer, SynthSpec};
    use trellect_exl3::tile;

    use super::*;

    /// Bit `bit` of the string of tile `i` of a chunk, found as a kernel finds it.
    fn bit_of(chunk: &[u32], bits: usize, i: usize, bit: usize) -> u32 {
        let lane = bit / (8 * bits);
        let at = i * 8 * bits + bit % (8 * bits);
        chunk[word_index(bits, lane, at / 32)] >> (31 - at % 32) & 1
    }

    /// The state at `position` of tile `i`: the 16 bits that end with its symbol, on a circle.
    fn state_of(chunk: &[u32], bits: usize, i: usize, position: usize) -> u16 {
        let end = (position + 1) * bits + 256 * bits;
        (end - 16..end)
            .fold(0, |state, bit| state << 1 | bit_of(chunk, bits, i, bit % (256 * bits)) as u16)
    }

    #[test]
    fn every_state_of_every_width_is_found_again() {
        for bits in Bits::ALL {
            let width = u64::from(bits.get());
            let tuple = BitTuple::new(width, width, width).unwrap();
            for (hidden, intermediate) in [(128, 128), (384, 128), (200, 300)] {
                let shape = LayerShape::new(hidden, intermediate, 1).unwrap();
                let spec = SynthSpec::uniform(shape, tuple, Codebook::Mul1, width);
                let owned = OwnedLayer::new(&spec).unwrap();
                let view = owned.view();
                for projection in Projection::ALL {
                    check(view.experts()[0].linear(projection));
                }
            }
        }
    }

    fn check(linear: &LinearView<'_>) {
        let bits = usize::from(linear.bits().get());
        let row_pairs = linear.in_features() / 32;
        let group_bytes = linear.in_features() * HADAMARD * bits / 8;
        for group in 0..linear.out_features() / HADAMARD {
            let mut bytes = vec![0; group_bytes];
            repack_group(linear, group, &mut bytes);
            let words: Vec<u32> =
                bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
            for (index, chunk) in words.chunks_exact(32 * bits).enumerate() {
                let (row_pair, column) = (index / 4, index % 4);
                assert!(row_pair < row_pairs);
                for i in 0..4 {
                    let tile_row = 2 * row_pair + i % 2;
                    let tile_column = 8 * group + 2 * column + i / 2;
                    let packed = linear.tile(tile_row, tile_column);
                    let expected = tile::states(packed, linear.bits());
                    let found = std::array::from_fn(|at| state_of(chunk, bits, i, at));
                    assert_eq!(expected, found, "{bits} bits, tile {tile_row},{tile_column}");
                }
            }
        }
    }

    #[test]
    fn planes_are_four_two_and_one_words_wide() {
        assert_eq!([0, 1, 2].map(|word| word_index(3, 5, word)), [10, 11, 64 + 5]);
        assert_eq!([0, 3, 4, 5, 6].map(|w| word_index(7, 1, w)), [4, 7, 130, 131, 193]);
        for bits in 1..=8 {
            let mut all: Vec<usize> = (0..LANES * bits)
                .map(|index| word_index(bits, index / bits, index % bits))
                .collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..LANES * bits));
        }
    }
}

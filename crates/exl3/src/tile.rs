//! Tiles: where the 256 weights of a 16×16 tile stand, and how their states are packed
//! (`docs/formats.md#tiles`).

use trellect_core::{Bits, TILE};

/// Weights of one tile.
pub const TILE_WEIGHTS: usize = TILE * TILE;

/// Row and column, within its tile, of the weight at stream position `position`.
///
/// # Panics
/// When `position` is not below [`TILE_WEIGHTS`].
pub const fn row_col(position: usize) -> (usize, usize) {
    assert!(position < TILE_WEIGHTS, "a tile has 256 positions");
    let (lane, j) = (position >> 3, position & 7);
    let row = 2 * (lane & 3) + (j & 1) + 8 * (j >> 1 & 1);
    let column = (lane >> 2) + 8 * (j >> 2);
    (row, column)
}

/// Stream position of the weight at `row` and `column` of its tile: the inverse of [`row_col`].
///
/// # Panics
/// When `row` or `column` is not below [`TILE`].
pub const fn stream_position(row: usize, column: usize) -> usize {
    assert!(row < TILE && column < TILE, "a tile is 16x16");
    32 * (column & 7) + 8 * (row >> 1 & 3) + 4 * (column >> 3) + 2 * (row >> 3) + (row & 1)
}

/// The 16-bit states of one packed tile, by stream position.
///
/// State `t` is the window of 16 bits that ends with the `bits`-wide symbol `t`, in the circular
/// bit string that the tile's little-endian 32-bit words spell, most significant bit first.
///
/// # Panics
/// When `tile` is not `32 · bits` bytes long.
pub fn states(tile: &[u8], bits: Bits) -> [u16; TILE_WEIGHTS] {
    let bits = usize::from(bits.get());
    assert_eq!(tile.len(), 32 * bits, "a tile of {bits} bits is 32 bytes per bit");
    let words = tile.as_chunks::<4>().0;
    let word = |index: usize| u64::from(u32::from_le_bytes(words[index % words.len()]));
    std::array::from_fn(|position| {
        let end = (position + 1) * bits + TILE_WEIGHTS * bits;
        let (first, last) = ((end - 16) / 32, (end - 1) / 32);
        let window = word(first) << 32 | word(last);
        (window >> (32 * (last + 1) - end)) as u16
    })
}

/// Packs the low `bits` bits of every state: the inverse of [`states`] for states that follow from
/// each other; `32 · bits` bytes.
pub fn pack(states: &[u16; TILE_WEIGHTS], bits: Bits) -> Vec<u8> {
    let bits = usize::from(bits.get());
    let mut words = vec![0u32; 8 * bits];
    for (position, state) in states.iter().enumerate() {
        for bit in 0..bits {
            let at = position * bits + bit;
            let value = u32::from(state >> (bits - 1 - bit) & 1);
            words[at / 32] |= value << (31 - at % 32);
        }
    }
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_positions_and_places_are_inverse() {
        for position in 0..TILE_WEIGHTS {
            let (row, column) = row_col(position);
            assert_eq!(stream_position(row, column), position);
        }
    }

    #[test]
    fn states_follow_from_each_other_around_the_tile() {
        for bits in Bits::ALL {
            let width = usize::from(bits.get());
            let tile: Vec<u8> = (0..32 * width).map(|i| (i * i * 37 + i * 11 + 5) as u8).collect();
            let states = states(&tile, bits);
            for position in 0..TILE_WEIGHTS {
                let next = states[(position + 1) % TILE_WEIGHTS];
                let symbol = next & ((1 << width) - 1);
                assert_eq!(states[position] << width | symbol, next, "{bits} bits, {position}");
            }
            assert_eq!(pack(&states, bits), tile, "{bits} bits");
        }
    }
}

//! Where the windows of states lie in a group's bytes, for instruction sets that gather 16 bytes at a
//! time into pairs of windows.

/// How one width's windows are cut out of a group, for the two columns of a group and, of each, the
/// two halves of 8 states.
pub(crate) struct Cut {
    /// Where a half's 16 bytes start, from the word before the group.
    pub(crate) offset: [[usize; 2]; 2],
    pub(crate) shuffle: [[[u8; 16]; 2]; 2],
    pub(crate) right: [[[u32; 4]; 2]; 2],
    pub(crate) left: [[[u32; 4]; 2]; 2],
}

pub(crate) static CUTS: [Cut; 9] = {
    let mut cuts = [const { cut(1) }; 9];
    let mut bits = 1;
    while bits <= 8 {
        cuts[bits] = cut(bits);
        bits += 1;
    }
    cuts
};

const fn cut(k: usize) -> Cut {
    let mut cut = Cut {
        offset: [[0; 2]; 2],
        shuffle: [[[0; 16]; 2]; 2],
        right: [[[0; 4]; 2]; 2],
        left: [[[0; 4]; 2]; 2],
    };
    let mut part = 0;
    while part < 4 {
        let (column, half) = (part / 2, part % 2);
        // Of the stream every other four positions are column `g`'s.
        let first = 16 * half + 4 * column;
        // Bits are counted from the word before the group.
        let origin = (32 + (first + 1) * k - 16) / 32 * 32;
        cut.offset[column][half] = origin / 8;
        let mut pair = 0;
        while pair < 4 {
            let position = first + 8 * (pair / 2) + 2 * (pair % 2);
            let start = 32 + (position + 1) * k - 16 - origin;
            let byte = start / 8;
            let mut i = 0;
            while i < 4 {
                // Words are little-endian, their bits run from the most significant one. Of eight
                // bits the last pair needs three bytes, and the fourth would be past the end.
                cut.shuffle[column][half][4 * pair + i] = ((byte + 3 - i) ^ 3) as u8 % 16;
                i += 1;
            }
            cut.right[column][half][pair] = 16 - (start % 8) as u32;
            cut.left[column][half][pair] = (start % 8 + k) as u32;
            pair += 1;
        }
        part += 1;
    }
    cut
}

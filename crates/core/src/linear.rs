use crate::{Bits, Codebook, HADAMARD, TILE};

/// A borrowed vector of per-channel values, read as f32.
///
/// Bytes are little-endian and need no alignment, since a file promises none.
#[derive(Clone, Copy, Debug)]
pub enum VectorView<'a> {
    /// float16 values, two bytes each.
    F16(&'a [u8]),
    /// float32 values, four bytes each.
    F32(&'a [u8]),
    /// Legacy packed signs: bit `b` of 16-bit word `w` belongs to element `16·w + b`, 1 means −1.
    Signs(&'a [u8]),
}

impl VectorView<'_> {
    /// Number of elements.
    pub const fn len(&self) -> usize {
        match self {
            Self::F16(bytes) => bytes.len() / 2,
            Self::F32(bytes) => bytes.len() / 4,
            Self::Signs(bytes) => bytes.len() / 2 * 16,
        }
    }

    /// Whether there is no element.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `index`.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> f32 {
        let pair = |bytes: &[u8], at: usize| [bytes[2 * at], bytes[2 * at + 1]];
        match self {
            Self::F16(bytes) => half::f16::from_le_bytes(pair(bytes, index)).to_f32(),
            Self::F32(bytes) => {
                let at = 4 * index;
                f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            }
            Self::Signs(bytes) => {
                let word = u16::from_le_bytes(pair(bytes, index / 16));
                if word >> (index % 16) & 1 == 1 { -1.0 } else { 1.0 }
            }
        }
    }

    /// All elements in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = f32> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }
}

/// One quantised linear, borrowed: `y = x·W + bias` with
/// `W = diag(suh)·(I⊗H)·Ŵ·(I⊗H)·diag(svh)`, where Ŵ is decoded from `trellis` and H is the
/// orthonormal 128-wide Hadamard transform.
///
/// `trellis` is `[in_features/16, out_features/16, 16·bits]` little-endian 16-bit words.
#[derive(Clone, Copy, Debug)]
pub struct LinearView<'a> {
    trellis: &'a [u8],
    bits: Bits,
    codebook: Codebook,
    in_features: usize,
    out_features: usize,
    suh: VectorView<'a>,
    svh: VectorView<'a>,
    bias: Option<VectorView<'a>>,
}

impl<'a> LinearView<'a> {
    /// Puts the parts of a linear together; `in_features` and `out_features` are the padded sizes.
    ///
    /// # Errors
    /// [`LinearError`] when a size is not a multiple of 128 or a part has another length than the
    /// sizes and the width ask for.
    #[expect(clippy::too_many_arguments, reason = "the parts of the format, each with its name")]
    pub fn new(
        trellis: &'a [u8],
        bits: Bits,
        codebook: Codebook,
        in_features: usize,
        out_features: usize,
        suh: VectorView<'a>,
        svh: VectorView<'a>,
        bias: Option<VectorView<'a>>,
    ) -> Result<Self, LinearError> {
        for (dimension, found) in [("in_features", in_features), ("out_features", out_features)] {
            if found == 0 || !found.is_multiple_of(HADAMARD) {
                return Err(LinearError::Unaligned { dimension, found });
            }
        }
        let tile_bytes = 32 * usize::from(bits.get());
        let tiles = (in_features / TILE).checked_mul(out_features / TILE);
        let expected = tiles.and_then(|tiles| tiles.checked_mul(tile_bytes));
        if expected != Some(trellis.len()) {
            let expected = expected.unwrap_or(usize::MAX);
            return Err(LinearError::Length { part: "trellis", found: trellis.len(), expected });
        }
        for (part, found, expected) in [
            ("suh", suh.len(), in_features),
            ("svh", svh.len(), out_features),
            ("bias", bias.map_or(out_features, |bias| bias.len()), out_features),
        ] {
            if found != expected {
                return Err(LinearError::Length { part, found, expected });
            }
        }
        Ok(Self { trellis, bits, codebook, in_features, out_features, suh, svh, bias })
    }

    /// Rows of W, padding included.
    pub const fn in_features(&self) -> usize {
        self.in_features
    }

    /// Columns of W, padding included.
    pub const fn out_features(&self) -> usize {
        self.out_features
    }

    /// Bits per weight.
    pub const fn bits(&self) -> Bits {
        self.bits
    }

    /// How states become weights.
    pub const fn codebook(&self) -> Codebook {
        self.codebook
    }

    /// Scale and sign of every input channel.
    pub const fn suh(&self) -> VectorView<'a> {
        self.suh
    }

    /// Scale and sign of every output channel.
    pub const fn svh(&self) -> VectorView<'a> {
        self.svh
    }

    /// Added to the output, if present.
    pub const fn bias(&self) -> Option<VectorView<'a>> {
        self.bias
    }

    /// Bytes of one tile: 32 per bit.
    pub const fn tile_bytes(&self) -> usize {
        32 * self.bits.get() as usize
    }

    /// All tiles, row-major.
    pub const fn trellis(&self) -> &'a [u8] {
        self.trellis
    }

    /// The packed states of rows `16·row..` and columns `16·column..`.
    ///
    /// # Panics
    /// When there is no such tile.
    pub fn tile(&self, row: usize, column: usize) -> &'a [u8] {
        let columns = self.out_features / TILE;
        assert!(row < self.in_features / TILE && column < columns, "no tile at {row}, {column}");
        let start = (row * columns + column) * self.tile_bytes();
        &self.trellis[start..start + self.tile_bytes()]
    }
}

/// Parts that do not make a linear.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinearError {
    /// A size that is no multiple of the Hadamard block.
    #[error("{dimension} is {found}: expected a positive multiple of {HADAMARD}")]
    Unaligned {
        /// `in_features` or `out_features`.
        dimension: &'static str,
        /// The value found.
        found: usize,
    },
    /// A part of the wrong length.
    #[error("`{part}` has a length of {found}: expected {expected}")]
    Length {
        /// `trellis` (bytes), `suh`, `svh` or `bias` (elements).
        part: &'static str,
        /// The length found.
        found: usize,
        /// The length that the sizes and the width ask for.
        expected: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_read_every_encoding() {
        let halves: Vec<u8> =
            [1.5f32, -0.25].iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
        assert_eq!(VectorView::F16(&halves).iter().collect::<Vec<_>>(), [1.5, -0.25]);
        let singles: Vec<u8> = [0.1f32].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(VectorView::F32(&singles).iter().collect::<Vec<_>>(), [0.1]);
        let signs = VectorView::Signs(&[0b0000_0101, 0b1000_0000]);
        let minus: Vec<usize> = (0..16).filter(|&i| signs.get(i) == -1.0).collect();
        assert_eq!((signs.len(), minus), (16, vec![0, 2, 15]));
    }

    #[test]
    fn parts_must_fit_together() {
        let (trellis, scales) = (vec![0u8; 64 * 32 * 3], vec![0u8; 256]);
        let bits = Bits::new(3).unwrap();
        let build = |k, n, trellis| {
            let scales = VectorView::F16(&scales);
            LinearView::new(trellis, bits, Codebook::Mul1, k, n, scales, scales, None)
        };
        assert_eq!(build(128, 128, &trellis).unwrap().tile(7, 7).len(), 96);
        assert!(matches!(build(128, 100, &trellis), Err(LinearError::Unaligned { .. })));
        assert!(matches!(build(0, 128, &trellis), Err(LinearError::Unaligned { .. })));
        assert!(matches!(
            build(128, 128, &trellis[1..]),
            Err(LinearError::Length { part: "trellis", .. })
        ));
        assert!(matches!(build(usize::MAX - 127, 128, &trellis), Err(LinearError::Length { .. })));
    }
}

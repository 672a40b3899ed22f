use std::fmt;
use std::str::FromStr;

/// Bits per weight of one linear: an integer from 1 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bits(u8);

impl Bits {
    /// Every width that the format knows, narrowest first.
    pub const ALL: [Bits; 8] =
        [Bits(1), Bits(2), Bits(3), Bits(4), Bits(5), Bits(6), Bits(7), Bits(8)];

    /// Checks that `bits` is 1 to 8.
    ///
    /// # Errors
    /// [`BitsError`] names the value otherwise.
    pub const fn new(bits: u64) -> Result<Self, BitsError> {
        match bits {
            1..=8 => Ok(Self(bits as u8)),
            _ => Err(BitsError { found: bits }),
        }
    }

    /// The width as a number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A bit width outside 1 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bit width of {found} does not exist: expected 1 to 8")]
pub struct BitsError {
    /// The value found.
    pub found: u64,
}

/// Bit widths of one expert's three projections, written `6_2_3` in kernel names and `(6,2,3)` in
/// prose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BitTuple {
    /// Width of the gate projection.
    pub gate: Bits,
    /// Width of the up projection.
    pub up: Bits,
    /// Width of the down projection.
    pub down: Bits,
}

impl BitTuple {
    /// Builds a tuple from three numbers.
    ///
    /// # Errors
    /// [`BitsError`] for the first number outside 1 to 8.
    pub const fn new(gate: u64, up: u64, down: u64) -> Result<Self, BitsError> {
        match (Bits::new(gate), Bits::new(up), Bits::new(down)) {
            (Ok(gate), Ok(up), Ok(down)) => Ok(Self { gate, up, down }),
            (Err(e), _, _) | (_, Err(e), _) | (_, _, Err(e)) => Err(e),
        }
    }

    /// The three widths in the order gate, up, down.
    pub const fn widths(self) -> [Bits; 3] {
        [self.gate, self.up, self.down]
    }

    /// Bytes of trellis data of one expert with `hidden_size × intermediate_size` projections,
    /// scales not counted.
    pub fn trellis_bytes(self, hidden_size: usize, intermediate_size: usize) -> u64 {
        let weights = hidden_size as u64 * intermediate_size as u64;
        let bits: u64 = self.widths().iter().map(|b| u64::from(b.get())).sum();
        weights * bits / 8
    }
}

impl fmt::Display for BitTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_{}", self.gate, self.up, self.down)
    }
}

impl FromStr for BitTuple {
    type Err = TupleParseError;

    /// Reads `6_2_3`, `6,2,3` or `(6,2,3)`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || TupleParseError { found: text.into() };
        let inner = text
            .strip_prefix('(')
            .map_or(Some(text), |rest| rest.strip_suffix(')'))
            .ok_or_else(error)?;
        let mut widths = inner.split([',', '_']).map(|part| part.trim().parse::<u64>());
        let mut next = || widths.next().and_then(Result::ok).ok_or_else(error);
        let (gate, up, down) = (next()?, next()?, next()?);
        if widths.next().is_some() {
            return Err(error());
        }
        Self::new(gate, up, down).map_err(|_| error())
    }
}

/// A text that is no bit tuple.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no bit tuple: expected gate, up and down as in 6,2,3, each 1 to 8")]
pub struct TupleParseError {
    /// The text found.
    pub found: Box<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_outside_one_to_eight_are_refused() {
        for bits in 1..=8 {
            assert_eq!(u64::from(Bits::new(bits).unwrap().get()), bits);
        }
        for bits in [0, 9, 256, u64::MAX] {
            assert_eq!(Bits::new(bits), Err(BitsError { found: bits }));
        }
    }

    #[test]
    fn tuples_parse_and_print() {
        for text in ["6_2_3", "6,2,3", "(6,2,3)", "(6, 2, 3)"] {
            assert_eq!(text.parse::<BitTuple>().unwrap().to_string(), "6_2_3");
        }
        for text in ["", "6,2", "6,2,3,4", "6,2,9", "(6,2,3", "a,b,c", "-1,2,3"] {
            assert!(text.parse::<BitTuple>().is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_follow_the_mean_width() {
        let tuple = BitTuple::new(6, 2, 3).unwrap();
        assert_eq!(tuple.trellis_bytes(2048, 1536), 2048 * 1536 * 11 / 8);
    }
}

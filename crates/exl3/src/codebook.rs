//! Codebooks: what a 16-bit trellis state is worth (`docs/formats.md#codebooks`).
//!
//! Bit-exact and slow; a kernel has its own way to the same values.

use std::sync::OnceLock;

use half::f16;
use trellect_core::Codebook;

const THREE_INST_MULTIPLIER: u32 = 89_226_354;
const THREE_INST_ADDEND: u32 = 64_248_484;
const MCG_MULTIPLIER: u32 = 0xCBAC_1FED;
const MUL1_MULTIPLIER: u32 = 0x83DC_D12D;

/// `1774 / 2^18`, the step of mul1.
const MUL1_STEP: f16 = f16::from_bits(0x1EEE);
/// `-10.3828125`, the offset of mul1 at a byte sum of -1024.
const MUL1_OFFSET: f16 = f16::from_bits(0xC931);

/// The float16 weight that `state` stands for.
///
/// The real-valued result is rounded once, to nearest even. Before that every step is exact in
/// float32: sums of two halves of magnitude 1/8 to 2, or multiples of 2^-18 below 2^5.
pub fn decode(codebook: Codebook, state: u16) -> f16 {
    let state = u32::from(state);
    match codebook {
        Codebook::ThreeInst => {
            sum_of_halves(state.wrapping_mul(THREE_INST_MULTIPLIER).wrapping_add(THREE_INST_ADDEND))
        }
        Codebook::Mcg => sum_of_halves(state.wrapping_mul(MCG_MULTIPLIER)),
        Codebook::Mul1 => {
            let bytes = state.wrapping_mul(MUL1_MULTIPLIER).to_le_bytes();
            let byte_sum: u16 = bytes.into_iter().map(u16::from).sum();
            let scaled = f32::from(1024 + byte_sum) * MUL1_STEP.to_f32();
            f16::from_f32(scaled + MUL1_OFFSET.to_f32())
        }
    }
}

/// Keeps the sign and the low 12 bits of both halves of `word`, completes their exponents, and
/// adds them as float16 numbers.
fn sum_of_halves(word: u32) -> f16 {
    let halves = (word & 0x8FFF_8FFF) ^ 0x3B60_3B60;
    let low = f16::from_bits(halves as u16);
    let high = f16::from_bits((halves >> 16) as u16);
    f16::from_f32(low.to_f32() + high.to_f32())
}

/// [`decode`] of every state, widened to float64; built at the first call.
pub fn table(codebook: Codebook) -> &'static [f64] {
    static TABLES: [OnceLock<Vec<f64>>; 3] = [const { OnceLock::new() }; 3];
    let table = match codebook {
        Codebook::ThreeInst => &TABLES[0],
        Codebook::Mcg => &TABLES[1],
        Codebook::Mul1 => &TABLES[2],
    };
    table.get_or_init(|| (0..=u16::MAX).map(|state| decode(codebook, state).to_f64()).collect())
}

/// Standard deviation of the values over all states, to six digits.
pub const fn standard_deviation(codebook: Codebook) -> f64 {
    match codebook {
        Codebook::ThreeInst => 1.24371,
        Codebook::Mcg => 1.24411,
        Codebook::Mul1 => 1.00031,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_deviations_are_those_of_the_tables() {
        for codebook in Codebook::ALL {
            let values = table(codebook);
            let mean = values.iter().sum::<f64>() / 65536.0;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 65536.0;
            let error = variance.sqrt() - standard_deviation(codebook);
            assert!(error.abs() < 5e-6, "{codebook}: off by {error}");
        }
    }
}

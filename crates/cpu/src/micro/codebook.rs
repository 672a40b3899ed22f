//! The three codebooks, and how the classes `exact` and `half` hold their values.
//!
//! `exact` computes the float16 value that the format defines, as f32. `half` leaves out its last
//! rounding and stays in integers: a weight is `step · w − offset` with a 16-bit `w`. For `mul1`
//! that is its byte sum, for the others the sum of two float16 values in units of 1/960.

use trellect_core::Codebook;

/// A codebook as a type, so that its arithmetic is chosen once per column.
pub(crate) trait CodebookMath: Copy + 'static {
    /// `product = state · MULTIPLIER + ADDEND` in wrapping 32-bit arithmetic.
    const MULTIPLIER: u32;
    const ADDEND: u32;
    /// Whether a value is an affine function of the product's byte sum.
    const BYTE_SUM: bool;
    /// What one unit of a 16-bit weight is worth.
    const STEP: f32;
    /// What is taken off every 16-bit weight's value.
    const OFFSET: f32;
}

/// `mul1`'s float16 step, bits 0x1EEE.
pub(crate) const BYTE_SUM_STEP: f32 = 1774.0 / 262_144.0;
/// `mul1`'s float16 offset, bits 0xC931, for byte sums that carry 1024.
pub(crate) const BYTE_SUM_BIAS: f32 = -10.382_812_5;

/// Codebook `mul1`.
#[derive(Clone, Copy)]
pub(crate) struct Mul1;
/// Codebook `mcg`.
#[derive(Clone, Copy)]
pub(crate) struct Mcg;
/// Codebook `3inst`.
#[derive(Clone, Copy)]
pub(crate) struct ThreeInst;

impl CodebookMath for Mul1 {
    const MULTIPLIER: u32 = 0x83DC_D12D;
    const ADDEND: u32 = 0;
    const BYTE_SUM: bool = true;
    const STEP: f32 = BYTE_SUM_STEP;
    const OFFSET: f32 = -(1024.0 * BYTE_SUM_STEP + BYTE_SUM_BIAS);
}

impl CodebookMath for Mcg {
    const MULTIPLIER: u32 = 0xCBAC_1FED;
    const ADDEND: u32 = 0;
    const BYTE_SUM: bool = false;
    const STEP: f32 = HALF_SUM_STEP;
    const OFFSET: f32 = 0.0;
}

impl CodebookMath for ThreeInst {
    const MULTIPLIER: u32 = 89_226_354;
    const ADDEND: u32 = 64_248_484;
    const BYTE_SUM: bool = false;
    const STEP: f32 = HALF_SUM_STEP;
    const OFFSET: f32 = 0.0;
}

/// A float16 half is its 11-bit mantissa times 1, 2, 4 or 8 times 2⁻¹³. A rounding multiplication
/// by [`POWER_UNIT`] times that power, which takes off 15 bits, leaves units of 1/960.
const HALF_SUM_STEP: f32 = 1.0 / 960.0;

/// The largest number of which eight fit into a signed 16-bit lane with its low byte zero, so that a
/// table of bytes can hold the powers.
pub(crate) const POWER_UNIT: i16 = 15 << 8;

/// Bits of a product's half that survive, and what they are xored with, to make a float16.
pub(crate) const HALF_MASK: u16 = 0x8FFF;
pub(crate) const HALF_XOR: u16 = 0x3B60;

/// Runs `$body` with `$math` naming the type of a [`Codebook`] value.
macro_rules! with_codebook {
    ($codebook:expr, $math:ident => $body:expr) => {
        match $codebook {
            trellect_core::Codebook::Mul1 => {
                type $math = $crate::micro::codebook::Mul1;
                $body
            }
            trellect_core::Codebook::Mcg => {
                type $math = $crate::micro::codebook::Mcg;
                $body
            }
            trellect_core::Codebook::ThreeInst => {
                type $math = $crate::micro::codebook::ThreeInst;
                $body
            }
        }
    };
}
pub(crate) use with_codebook;

/// Turns sums over 16-bit weights into sums over weights.
#[inline(always)]
pub(crate) fn apply_step(codebook: Codebook, out: &mut super::Outputs, row_sum: f32) {
    let (step, offset) = with_codebook!(codebook, C => (C::STEP, C::OFFSET));
    let offset = offset * row_sum;
    for value in out {
        *value = step * *value - offset;
    }
}

/// A state's 16-bit weight (class `half`).
#[inline(always)]
pub(crate) fn weight_i16<C: CodebookMath>(state: u16) -> i16 {
    let product = u32::from(state).wrapping_mul(C::MULTIPLIER).wrapping_add(C::ADDEND);
    if C::BYTE_SUM {
        byte_sum(product) as i16
    } else {
        let sum = fixed(product as u16) + fixed((product >> 16) as u16);
        ((sum * i32::from(POWER_UNIT) + (1 << 14)) >> 15) as i16
    }
}

/// A state's float16 value as f32 (class `exact`).
pub(crate) fn weight_f32<C: CodebookMath>(state: u16) -> f32 {
    let product = u32::from(state).wrapping_mul(C::MULTIPLIER).wrapping_add(C::ADDEND);
    let value = if C::BYTE_SUM {
        // Both terms are multiples of 2⁻¹⁷ below 2⁴, so f32 holds their sum exactly.
        BYTE_SUM_STEP * (1024 + byte_sum(product)) as f32 + BYTE_SUM_BIAS
    } else {
        (fixed(product as u16) + fixed((product >> 16) as u16)) as f32 / 8192.0
    };
    half::f16::from_f32(value).to_f32()
}

#[inline(always)]
fn byte_sum(product: u32) -> u32 {
    let pairs = (product & 0x00FF_00FF) + (product >> 8 & 0x00FF_00FF);
    (pairs + (pairs >> 16)) & 0x7FF
}

/// One half of a product as float16, in units of 2⁻¹³ (exact: its exponent is 12 to 15).
#[inline(always)]
fn fixed(half: u16) -> i32 {
    let bits = (half & HALF_MASK) ^ HALF_XOR;
    let exponent = bits >> 10 & 0x1F;
    let magnitude = i32::from(bits & 0x3FF | 0x400) << (exponent - 12);
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_values_are_the_formats() {
        for codebook in Codebook::ALL {
            for state in 0..=u16::MAX {
                let expected = trellect_exl3::codebook::decode(codebook, state).to_f32();
                let found = with_codebook!(codebook, C => weight_f32::<C>(state));
                assert_eq!(found, expected, "{codebook} {state}");
            }
        }
    }

    #[test]
    fn integer_weights_differ_by_the_last_rounding_only() {
        for codebook in Codebook::ALL {
            for state in 0..=u16::MAX {
                let exact = with_codebook!(codebook, C => weight_f32::<C>(state));
                let found = with_codebook!(codebook, C => {
                    C::STEP * f32::from(weight_i16::<C>(state)) - C::OFFSET
                });
                // Half a unit of float16 below 4, and half a step.
                let bound = 1.0 / 1024.0 + 1.0 / 1920.0;
                assert!((found - exact).abs() <= bound, "{codebook} {state}: {found} {exact}");
            }
        }
    }
}

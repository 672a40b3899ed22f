//! Rotation, quantisation and SwiGLU: plain loops that every instruction set compiles for itself by
//! inlining them into a function with its features.

use trellect_core::{HADAMARD, TILE};

use super::{ROW_OF_LANE, RowMut};

/// `1/√128`, which makes the Hadamard transform orthonormal.
pub(crate) const ORTHONORMAL: f32 = 0.088_388_346;

/// `x ← H·(x ∘ suh)`, orthonormal.
#[inline(always)]
pub(crate) fn rotate(x: &mut [f32; HADAMARD], suh: &[f32]) {
    for (x, scale) in x.iter_mut().zip(suh) {
        *x *= scale * ORTHONORMAL;
    }
    hadamard(x);
}

/// `raw ← (raw·H) ∘ svh + bias`.
#[inline(always)]
pub(crate) fn unrotate(raw: &mut [f32; HADAMARD], svh: &[f32], bias: Option<&[f32]>) {
    hadamard(raw);
    for (value, scale) in raw.iter_mut().zip(svh) {
        *value *= scale * ORTHONORMAL;
    }
    if let Some(bias) = bias {
        for (value, bias) in raw.iter_mut().zip(bias) {
            *value += bias;
        }
    }
}

/// `gate ← silu(gate) ∘ up`.
#[inline(always)]
pub(crate) fn swiglu(gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// `eˣ` within 3e-7 of itself for x from −87 to 88, constant beyond; in a form that vectorises.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding and taking off 1.5·2²³ rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts: products with the first are exact for exponents of up to 9 bits.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // Comparisons that are false for NaN leave it as it is.
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2[0] - n * LN2[1];
    // Taylor's series to degree 6: the next term is below 1.2e-7 for |r| ≤ ln 2 / 2.
    let mut sum = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * r + coefficient;
    }
    let exponent = (shifted.to_bits() << 23).wrapping_add(0x3F80_0000);
    sum * f32::from_bits(exponent)
}

/// Class `exact`: activations as they are, `row_of_lane` saying which goes where within a tile.
#[inline(always)]
pub(crate) fn quantise_f32(rotated: &[f32], row_of_lane: &[usize; TILE], out: RowMut<'_, f32>) {
    for (tile, lanes) in
        rotated.as_chunks::<TILE>().0.iter().zip(out.lanes.as_chunks_mut::<TILE>().0)
    {
        *lanes = in_lane_order(tile, row_of_lane);
    }
    out.scales.fill(1.0);
    *out.sum = 0.0;
}

/// Activations as integers of up to `largest`, with one scale per segment of `segment_tiles`. `store`
/// puts a tile's integers, in the order of [`ROW_OF_LANE`], where the row's lanes want them.
#[inline(always)]
pub(crate) fn quantise_integer<L>(
    rotated: &[f32],
    segment_tiles: usize,
    largest: f32,
    out: RowMut<'_, L>,
    store: impl Fn(&mut [L], usize, [i16; TILE]),
) {
    let mut total = 0.0;
    let segments = rotated.chunks(segment_tiles.saturating_mul(TILE));
    let mut first = 0;
    for (segment, scale) in segments.zip(out.scales) {
        let (max, poison) = magnitude(segment);
        let unit = largest / max;
        let finite = unit.is_finite() && !poison.is_nan();
        let mut sums = [0i32; TILE];
        let tiles = segment.as_chunks::<TILE>().0;
        for (tile, number) in tiles.iter().zip(first..) {
            let mut rounded = [0i16; TILE];
            if finite {
                for lane in 0..TILE {
                    // Adding and taking off 1.5·2²³ rounds to the nearest integer.
                    const ROUND: f32 = 12_582_912.0;
                    let value =
                        (tile[lane] * unit + ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
                    rounded[lane] = value as i16;
                    sums[lane] += value;
                }
            }
            store(out.lanes, number, in_lane_order(&rounded, &ROW_OF_LANE));
        }
        first += tiles.len();
        *scale = max / largest + poison;
        total += *scale * sums.iter().sum::<i32>() as f32;
    }
    *out.sum = total;
}

/// Where a row's lanes are its activations in turn: tile `tile` of `row`.
#[inline(always)]
pub(crate) fn store_tile<L: Copy>(row: &mut [L], tile: usize, lanes: [L; TILE]) {
    row[tile * TILE..][..TILE].copy_from_slice(&lanes);
}

/// The largest magnitude, and 0, or NaN where a value is not finite.
#[inline(always)]
pub(crate) fn magnitude(values: &[f32]) -> (f32, f32) {
    // Lanes of their own maxima vectorise; a fold over one maximum does not.
    let (mut maxima, mut poison) = ([0.0f32; TILE], [0.0f32; TILE]);
    for tile in values.as_chunks::<TILE>().0 {
        for lane in 0..TILE {
            let value = tile[lane].abs();
            maxima[lane] = if value > maxima[lane] { value } else { maxima[lane] };
            poison[lane] += tile[lane] * 0.0;
        }
    }
    let max = maxima.iter().fold(0.0f32, |a, &b| if b > a { b } else { a });
    (max, poison.iter().sum())
}

#[inline(always)]
fn in_lane_order<T: Copy + Default>(tile: &[T; TILE], row_of_lane: &[usize; TILE]) -> [T; TILE] {
    let mut lanes = [T::default(); TILE];
    for lane in 0..TILE {
        lanes[lane] = tile[row_of_lane[lane]];
    }
    lanes
}

/// The unscaled Walsh-Hadamard transform in natural order.
#[inline(always)]
fn hadamard(x: &mut [f32; HADAMARD]) {
    let mut width = 1;
    while width < HADAMARD {
        for pair in x.chunks_exact_mut(2 * width) {
            let (low, high) = pair.split_at_mut(width);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        width *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: usize = 4;

    fn ramp() -> [f32; HADAMARD] {
        std::array::from_fn(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0)
    }

    fn quantised(x: &[f32; HADAMARD]) -> ([i16; HADAMARD], [f32; 2], f32) {
        let (mut lanes, mut scales, mut sum) = ([1; HADAMARD], [1.0; 2], 1.0);
        let out = RowMut { lanes: &mut lanes, scales: &mut scales, sum: &mut sum };
        quantise_integer(x, SEGMENT, 8191.0, out, store_tile);
        (lanes, scales, sum)
    }

    #[test]
    fn rotation_is_orthonormal_and_its_own_inverse() {
        let (x, ones) = (ramp(), [1.0; HADAMARD]);
        let mut back = x;
        rotate(&mut back, &ones);
        let norm = |v: &[f32]| v.iter().map(|a| a * a).sum::<f32>();
        assert!((norm(&back) / norm(&x) - 1.0).abs() < 1e-5);
        unrotate(&mut back, &ones, None);
        for (a, b) in back.iter().zip(x) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn lanes_times_scale_are_the_rows() {
        let x = ramp();
        let (lanes, scales, sum) = quantised(&x);
        for (at, &lane) in lanes.iter().enumerate() {
            let scale = scales[at / TILE / SEGMENT];
            let row = at / TILE * TILE + ROW_OF_LANE[at % TILE];
            assert!((f32::from(lane) * scale - x[row]).abs() <= 0.501 * scale);
        }
        assert!((sum - x.iter().sum::<f32>()).abs() < 64.0 * scales[0].max(scales[1]));
    }

    #[test]
    fn segments_that_are_not_finite_give_nan_and_zeros_give_zero() {
        for (bad, expected_nan) in [(f32::NAN, true), (f32::INFINITY, true), (0.0, false)] {
            let mut x = [0.0; HADAMARD];
            x[17] = bad;
            let (lanes, scales, sum) = quantised(&x);
            assert_eq!((scales[0].is_nan(), sum.is_nan()), (expected_nan, expected_nan), "{bad}");
            assert_eq!(scales[1], 0.0);
            assert!(lanes.iter().all(|&lane| lane == 0));
        }
    }

    #[test]
    fn exponentials_are_within_their_bound() {
        for step in -87_000..=88_000 {
            let x = step as f32 / 1000.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error <= 3e-7, "{x}: {error:e}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(1e30), exp(88.0));
        assert_eq!(exp(f32::NEG_INFINITY), exp(-87.0));
    }
}

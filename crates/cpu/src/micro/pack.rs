//! Rotation, quantisation and SwiGLU of 128-wide blocks: plain loops that every instruction set
//! compiles for itself by inlining them into a function with its features.

use trellect_core::HADAMARD;

use super::{BLOCK_LANES, BLOCK_TILES, BlockMut, TILE_LANES};

/// Largest magnitude of a 16-bit activation. An accumulator lane adds 16 products per block with
/// weights below 2¹³, so 2¹⁴ keeps it below 2³¹.
const MAX_ACTIVATION: f32 = 16_383.0;

/// `1/√128`, which makes the Hadamard transform orthonormal.
const ORTHONORMAL: f32 = 0.088_388_346;

/// Row of a tile that lane `t` of a group holds.
const fn row_of_lane(t: usize) -> usize {
    2 * (t >> 3 & 3) + (t & 1) + 8 * (t >> 1 & 1)
}

/// Rows in stream order: neighbouring lanes are neighbouring rows of one column.
const STREAM_ROWS: [usize; TILE_LANES] = {
    let mut rows = [0; TILE_LANES];
    let mut t = 0;
    while t < TILE_LANES {
        rows[t] = row_of_lane(t);
        t += 1;
    }
    rows
};

/// Rows of the even stream positions, then of the odd ones: f32 lanes cannot share an accumulator
/// by pairs, so the two halves of a pair come from two vectors.
const SPLIT_ROWS: [usize; TILE_LANES] = {
    let mut rows = [0; TILE_LANES];
    let mut lane = 0;
    while lane < TILE_LANES {
        rows[lane] = row_of_lane(2 * (lane % 16) + lane / 16);
        lane += 1;
    }
    rows
};

/// Class `exact`: rotated activations as f32, in [`SPLIT_ROWS`] order.
#[inline(always)]
pub(crate) fn pack_exact(x: &[f32; HADAMARD], suh: &[f32], out: BlockMut<'_, f32>) {
    let rotated = rotate(x, suh);
    spread(&rotated, &SPLIT_ROWS, out.lanes);
    *out.scale = 1.0;
    *out.sum = 0.0;
}

/// Class `half`: rotated activations as 15-bit integers with one scale per block, in
/// [`STREAM_ROWS`] order. A block that is not finite gets a NaN scale, and so NaN outputs.
#[inline(always)]
pub(crate) fn pack_half(x: &[f32; HADAMARD], suh: &[f32], out: BlockMut<'_, i16>) {
    let rotated = rotate(x, suh);
    // Lanes of their own maxima vectorise; a fold over one maximum does not.
    let mut maxima = [0.0f32; 16];
    for values in rotated.chunks_exact(16) {
        for (max, value) in maxima.iter_mut().zip(values) {
            *max = if value.abs() > *max { value.abs() } else { *max };
        }
    }
    // 0 where every value is finite, NaN otherwise.
    let poison: f32 = rotated.iter().map(|value| value * 0.0).sum();
    let max = maxima.iter().fold(0.0f32, |a, &b| if b > a { b } else { a });
    let unit = MAX_ACTIVATION / max;
    let mut lanes = [0i16; HADAMARD];
    let mut sum = 0i32;
    if unit.is_finite() && !poison.is_nan() {
        for (lane, value) in lanes.iter_mut().zip(rotated) {
            // Adding and taking off 1.5·2²³ rounds to the nearest integer.
            const ROUND: f32 = 12_582_912.0;
            let rounded = (value * unit + ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
            *lane = rounded as i16;
            sum += rounded;
        }
    }
    spread(&lanes, &STREAM_ROWS, out.lanes);
    *out.scale = max / MAX_ACTIVATION + poison;
    *out.sum = *out.scale * sum as f32;
}

/// `out ← (raw·H) ∘ svh + bias`.
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
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
}

#[inline(always)]
fn rotate(x: &[f32; HADAMARD], suh: &[f32]) -> [f32; HADAMARD] {
    let mut rotated = [0.0; HADAMARD];
    for ((out, x), scale) in rotated.iter_mut().zip(x).zip(suh) {
        *out = x * scale * ORTHONORMAL;
    }
    hadamard(&mut rotated);
    rotated
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

#[inline(always)]
fn spread<L: Copy>(
    rows: &[L; HADAMARD],
    order: &[usize; TILE_LANES],
    lanes: &mut [L; BLOCK_LANES],
) {
    for tile in 0..BLOCK_TILES {
        for (lane, row) in order.iter().enumerate() {
            lanes[TILE_LANES * tile + lane] = rows[16 * tile + row];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> [f32; HADAMARD] {
        std::array::from_fn(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0)
    }

    #[test]
    fn rotation_is_orthonormal_and_its_own_inverse() {
        let (x, ones) = (ramp(), [1.0; HADAMARD]);
        let mut back = rotate(&x, &ones);
        let norm = |v: &[f32]| v.iter().map(|a| a * a).sum::<f32>();
        assert!((norm(&back) / norm(&x) - 1.0).abs() < 1e-5);
        unrotate(&mut back, &ones, None);
        for (a, b) in back.iter().zip(x) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn half_lanes_times_scale_are_the_rotated_rows() {
        let (x, suh) = (ramp(), [0.5; HADAMARD]);
        let (mut lanes, mut scale, mut sum) = ([0; BLOCK_LANES], 0.0, 0.0);
        let out = BlockMut { lanes: &mut lanes, scale: &mut scale, sum: &mut sum };
        pack_half(&x, &suh, out);
        let rotated = rotate(&x, &suh);
        for (at, &lane) in lanes.iter().enumerate() {
            let row = 16 * (at / TILE_LANES) + STREAM_ROWS[at % TILE_LANES];
            assert!((f32::from(lane) * scale - rotated[row]).abs() <= 0.501 * scale);
        }
        assert!((sum - rotated.iter().sum::<f32>()).abs() < 64.0 * scale);
    }

    #[test]
    fn half_blocks_that_are_not_finite_give_nan_and_zeros_give_zero() {
        for (bad, expected_nan) in [(f32::NAN, true), (f32::INFINITY, true), (0.0, false)] {
            let mut x = [0.0; HADAMARD];
            x[17] = bad;
            let (mut lanes, mut scale, mut sum) = ([1; BLOCK_LANES], 1.0, 1.0);
            let out = BlockMut { lanes: &mut lanes, scale: &mut scale, sum: &mut sum };
            pack_half(&x, &[1.0; HADAMARD], out);
            assert_eq!((scale.is_nan(), sum.is_nan()), (expected_nan, expected_nan), "{bad}");
            assert!(lanes.iter().all(|&lane| lane == 0));
        }
    }
}

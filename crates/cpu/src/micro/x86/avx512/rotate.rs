//! Rotation with a block's 128 values in eight registers, SwiGLU, and activations as integers.

use std::arch::x86_64::*;

use trellect_core::{HADAMARD, TILE};

use super::super::super::rotate as body;
use super::super::super::rotate::{ORTHONORMAL, magnitude};
use super::stream::{load_f32, store_f32};

/// Registers of a block.
const REGISTERS: usize = HADAMARD / TILE;

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(in crate::micro::x86) fn rotate(x: &mut [f32; HADAMARD], suh: &[f32]) {
    let (mut values, scales) = (load(x), load(first_block(suh)));
    let orthonormal = _mm512_set1_ps(ORTHONORMAL);
    for i in 0..REGISTERS {
        values[i] = _mm512_mul_ps(values[i], _mm512_mul_ps(scales[i], orthonormal));
    }
    store(x, hadamard(values));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(in crate::micro::x86) fn unrotate(
    raw: &mut [f32; HADAMARD],
    svh: &[f32],
    bias: Option<&[f32]>,
) {
    let (mut values, scales) = (hadamard(load(raw)), load(first_block(svh)));
    let orthonormal = _mm512_set1_ps(ORTHONORMAL);
    let bias = bias.map(|bias| load(first_block(bias)));
    for i in 0..REGISTERS {
        let scale = _mm512_mul_ps(scales[i], orthonormal);
        values[i] = match bias {
            Some(bias) => _mm512_fmadd_ps(values[i], scale, bias[i]),
            None => _mm512_mul_ps(values[i], scale),
        };
    }
    store(raw, values);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(in crate::micro::x86) fn swiglu(gate: &mut [f32; HADAMARD], up: &[f32; HADAMARD]) {
    body::swiglu(gate, up);
}

/// How a segment of activations becomes integers of up to `largest`.
pub(in crate::micro::x86) struct Rounding {
    /// What an integer is worth; NaN where an activation is not finite.
    pub(in crate::micro::x86) scale: f32,
    unit: __m512,
    /// No lane where the integers are to be zero.
    finite: __mmask16,
}

impl Rounding {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(in crate::micro::x86) fn new(segment: &[f32], largest: f32) -> Self {
        let (max, poison) = magnitude(segment);
        let unit = largest / max;
        let finite = unit.is_finite() && !poison.is_nan();
        Self {
            scale: max / largest + poison,
            unit: _mm512_set1_ps(unit),
            finite: if finite { !0 } else { 0 },
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub(in crate::micro::x86) fn round(&self, tile: &[f32; TILE]) -> __m512i {
        _mm512_maskz_cvtps_epi32(self.finite, _mm512_mul_ps(load_f32(tile), self.unit))
    }
}

fn first_block(values: &[f32]) -> &[f32; HADAMARD] {
    values.first_chunk().expect("a block's values")
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn load(x: &[f32; HADAMARD]) -> [__m512; REGISTERS] {
    let mut values = [_mm512_setzero_ps(); REGISTERS];
    for (value, lanes) in values.iter_mut().zip(x.as_chunks::<TILE>().0) {
        *value = load_f32(lanes);
    }
    values
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn store(x: &mut [f32; HADAMARD], values: [__m512; REGISTERS]) {
    for (lanes, value) in x.as_chunks_mut::<TILE>().0.iter_mut().zip(values) {
        store_f32(lanes, value);
    }
}

/// The unscaled Walsh-Hadamard transform in natural order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn hadamard(mut x: [__m512; REGISTERS]) -> [__m512; REGISTERS] {
    // Within a register: the other half of each pair, plus or minus this one.
    const SIGNS: [[f32; TILE]; 4] = [signs(1), signs(2), signs(4), signs(8)];
    let (one, two) = (load_f32(&SIGNS[0]), load_f32(&SIGNS[1]));
    let (four, eight) = (load_f32(&SIGNS[2]), load_f32(&SIGNS[3]));
    for x in &mut x {
        *x = _mm512_fmadd_ps(*x, one, _mm512_permute_ps::<0b10_11_00_01>(*x));
        *x = _mm512_fmadd_ps(*x, two, _mm512_permute_ps::<0b01_00_11_10>(*x));
        *x = _mm512_fmadd_ps(*x, four, _mm512_shuffle_f32x4::<0b10_11_00_01>(*x, *x));
        *x = _mm512_fmadd_ps(*x, eight, _mm512_shuffle_f32x4::<0b01_00_11_10>(*x, *x));
    }
    for width in [1, 2, 4] {
        for low in 0..REGISTERS {
            if low & width == 0 {
                let (a, b) = (x[low], x[low + width]);
                (x[low], x[low + width]) = (_mm512_add_ps(a, b), _mm512_sub_ps(a, b));
            }
        }
    }
    x
}

/// −1 in the lanes whose number has the bit `width`, 1 in the others.
const fn signs(width: usize) -> [f32; TILE] {
    let mut signs = [1.0; TILE];
    let mut lane = 0;
    while lane < TILE {
        if lane & width != 0 {
            signs[lane] = -1.0;
        }
        lane += 1;
    }
    signs
}

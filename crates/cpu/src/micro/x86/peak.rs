//! Bare loops of one arithmetic instruction over registers, for [`Peak`](crate::Peak).

use std::arch::x86_64::*;
use std::hint::black_box;

use crate::isa::{Avx2, Avx512};
use crate::peak::{CHAINS, STEPS};

/// float32 multiply-add, 8 lanes.
pub(crate) fn fma_256(isa: Avx2) {
    let _ = isa;
    // SAFETY: `isa` exists only if `detect` saw every feature that the function enables.
    unsafe { fma_256_loop() }
}

/// float32 multiply-add, 16 lanes.
pub(crate) fn fma_512(isa: Avx512) {
    let _ = isa;
    // SAFETY: as in `fma_256`.
    unsafe { fma_512_loop() }
}

/// Unsigned by signed 8-bit dot product into int32, 64 multiply-adds.
pub(crate) fn dot_512(isa: Avx512) {
    let _ = isa;
    // SAFETY: as in `fma_256`.
    unsafe { dot_512_loop() }
}

#[target_feature(enable = "avx2,fma")]
fn fma_256_loop() {
    let factor = _mm256_set1_ps(black_box(1e-3));
    let mut sums = [_mm256_setzero_ps(); CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(factor, factor, *sum);
        }
    }
    black_box(sums);
}

#[target_feature(enable = "avx512f")]
fn fma_512_loop() {
    let factor = _mm512_set1_ps(black_box(1e-3));
    let mut sums = [_mm512_setzero_ps(); CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(factor, factor, *sum);
        }
    }
    black_box(sums);
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_512_loop() {
    let factor = _mm512_set1_epi8(black_box(1));
    let mut sums = [_mm512_setzero_si512(); CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, factor, factor);
        }
    }
    black_box(sums);
}

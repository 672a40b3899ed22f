//! The first use of a kernel on a bit tuple is checked: the base kernel computes the same call, and
//! where the two differ by more than their classes allow, the base kernel's result is the answer.

use std::sync::atomic::{AtomicU64, Ordering};

use trellect_core::{BitTuple, NumericClass};

/// Which kernels have been compared with the base kernel, on which tuples.
#[derive(Debug)]
pub(crate) struct Canary {
    /// The tuples of the group's layers; those from the 64th on share a bit.
    tuples: Vec<BitTuple>,
    /// Per kernel, a bit a tuple.
    checked: Box<[AtomicU64]>,
}

impl Canary {
    pub(crate) fn new(kernels: usize, tuples: Vec<BitTuple>) -> Self {
        Self { tuples, checked: (0..kernels).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The bits of a call's tuples.
    pub(crate) fn bits(&self, active: &[BitTuple]) -> u64 {
        let place = |tuple| self.tuples.iter().position(|known| known == tuple).unwrap_or(63);
        active.iter().fold(0, |bits, tuple| bits | 1 << place(tuple).min(63))
    }

    /// Whether `kernel` has computed each of these tuples rightly before.
    pub(crate) fn trusts(&self, kernel: usize, bits: u64) -> bool {
        bits & !self.checked[kernel].load(Ordering::Relaxed) == 0
    }

    /// `kernel` was right.
    pub(crate) fn pass(&self, kernel: usize, bits: u64) {
        self.checked[kernel].fetch_or(bits, Ordering::Relaxed);
    }
}

/// A kernel's result that the base kernel does not confirm.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("its first result is {relative_error:.1e} off the base kernel's, {limit:.1e} is allowed")]
pub struct WrongResult {
    /// Relative Frobenius distance of the two results; infinite where only one is finite.
    pub relative_error: f64,
    /// What two kernels of the class may differ by.
    pub limit: f64,
}

/// Compares a result with the base kernel's. Both are within `e` of the truth, so they are within
/// `2e / (1 − e)` of each other, relative to either.
///
/// # Errors
/// [`WrongResult`] where they are farther apart, or one alone has elements that are not finite.
pub(crate) fn compare(found: &[f32], base: &[f32], class: NumericClass) -> Result<(), WrongResult> {
    let error = class.max_relative_error();
    let limit = 2.0 * error / (1.0 - error);
    let (mut distance, mut norm) = (0.0f64, 0.0f64);
    for (&found, &base) in found.iter().zip(base) {
        match (found.is_finite(), base.is_finite()) {
            (true, true) => {
                distance += (f64::from(found) - f64::from(base)).powi(2);
                norm += f64::from(base).powi(2);
            }
            (false, false) => {}
            _ => return Err(WrongResult { relative_error: f64::INFINITY, limit }),
        }
    }
    match distance <= limit * limit * norm {
        true => Ok(()),
        false => Err(WrongResult { relative_error: (distance / norm).sqrt(), limit }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_agree_within_what_both_classes_allow() {
        let half = |found: &[f32], base: &[f32]| compare(found, base, NumericClass::Half);
        assert_eq!(half(&[1.0, 2.0], &[1.003, 2.0]), Ok(()));
        assert_eq!(half(&[0.0], &[0.0]), Ok(()));
        assert_eq!(half(&[], &[]), Ok(()));
        assert!(half(&[1.0, 2.0], &[1.05, 2.0]).is_err());
        assert!(half(&[1e-9], &[0.0]).unwrap_err().relative_error.is_infinite());
        assert!(half(&[f32::NAN], &[1.0]).is_err());
        assert!(half(&[1.0], &[f32::INFINITY]).is_err());
        assert_eq!(half(&[f32::NAN, 1.0], &[f32::INFINITY, 1.0]), Ok(()));
        assert!(compare(&[1.0], &[1.003], NumericClass::Exact).is_err());
    }

    #[test]
    fn trust_is_by_kernel_and_tuple() {
        let tuples: Vec<BitTuple> =
            (0..80).map(|n| BitTuple::new(1 + n % 8, 1 + n / 8 % 8, 1 + n / 64).unwrap()).collect();
        let canary = Canary::new(2, tuples.clone());
        let bits = canary.bits(&tuples[..2]);
        assert_eq!(bits, 0b11);
        assert!(!canary.trusts(0, bits));
        canary.pass(0, canary.bits(&tuples[..1]));
        assert!(canary.trusts(0, 1) && !canary.trusts(0, bits) && !canary.trusts(1, 1));
        assert_eq!(canary.bits(&tuples[70..]), 1 << 63);
    }
}

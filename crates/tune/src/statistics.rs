//! The statistics of measured times: medians, quantiles, intervals by resampling.

use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// Samples drawn anew for an interval.
const RESAMPLES: usize = 1000;

/// The median, the mean of the middle two for an even count; `None` for no value.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    (!values.is_empty()).then(|| median_of(&mut values))
}

/// The median of a slice that may be reordered and is not empty.
fn median_of(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    let even = values.len().is_multiple_of(2);
    let (below, &mut upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    match even {
        true => (below.iter().copied().fold(f64::NEG_INFINITY, f64::max) + upper) / 2.0,
        false => upper,
    }
}

/// The `q` quantile, interpolated; NaN for no value.
pub fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let at = q * last as f64;
    let (low, high) = (values[at.floor() as usize], values[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// The geometric mean; `None` for no value.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    let logs: f64 = values.iter().map(|value| value.ln()).sum();
    (!values.is_empty()).then(|| (logs / values.len() as f64).exp())
}

/// The ends of a confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The percentile bootstrap interval of the median of `values`, of the given `confidence` (0 to 1).
///
/// Resamples 1000 times with a fixed seed, so equal values have equal intervals. `None` for no
/// value; a single one is its own interval. Source: Efron and Tibshirani, An Introduction to the
/// Bootstrap, chapter 13.
pub fn median_interval(values: &[f64], confidence: f64) -> Option<Interval> {
    bootstrap(values.len(), confidence, |drawn| {
        let mut sample: Vec<f64> = drawn.iter().map(|&at| values[at]).collect();
        median_of(&mut sample)
    })
}

/// The percentile bootstrap interval of `median(one) / median(other)` over pairs `(one, other)`,
/// drawn as pairs. `None` for no pair.
pub fn paired_ratio_interval(pairs: &[(f64, f64)], confidence: f64) -> Option<Interval> {
    bootstrap(pairs.len(), confidence, |drawn| {
        let mut one: Vec<f64> = drawn.iter().map(|&at| pairs[at].0).collect();
        let mut other: Vec<f64> = drawn.iter().map(|&at| pairs[at].1).collect();
        median_of(&mut one) / median_of(&mut other)
    })
}

/// Draws `count` indices with replacement, over and over, and takes the quantiles of what `figure`
/// makes of them.
fn bootstrap(
    count: usize,
    confidence: f64,
    mut figure: impl FnMut(&[usize]) -> f64,
) -> Option<Interval> {
    if count == 0 {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut drawn = vec![0; count];
    let mut figures = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        drawn.iter_mut().for_each(|at| *at = rng.random_range(0..count));
        figures.push(figure(&drawn));
    }
    let tail = (1.0 - confidence) / 2.0;
    let low = quantile(figures.clone(), tail);
    Some(Interval { low, high: quantile(figures, 1.0 - tail) })
}

/// Relative Frobenius error of `found` over the elements where `expected` is finite; infinity where
/// only one of the two is, or only `expected` is all zero.
pub fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    let (mut error, mut norm) = (0.0, 0.0);
    for (&found, &expected) in found.iter().zip(expected) {
        match (found.is_finite(), expected.is_finite()) {
            (true, true) => {
                error += (f64::from(found) - expected).powi(2);
                norm += expected.powi(2);
            }
            (false, false) => {}
            _ => return f64::INFINITY,
        }
    }
    match error {
        0.0 => 0.0,
        _ if norm > 0.0 && error.is_finite() => (error / norm).sqrt(),
        _ => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use trellect_testkit::statistics::scipy;

    use super::*;

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= 1e-12 * expected.abs()
    }

    #[test]
    fn samples_are_described_as_scipy_does() {
        for sample in scipy().samples {
            let values = &sample.values;
            assert!(close(median(values.clone()).unwrap(), sample.median), "{sample:?}");
            assert!(close(geometric_mean(values).unwrap(), sample.geometric_mean), "{sample:?}");
            for (q, expected) in sample.quantiles {
                let found = quantile(values.clone(), q);
                assert!(close(found, expected), "{q}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn intervals_are_scipys() {
        let of = |kind: &'static str| {
            scipy().intervals.into_iter().filter(move |interval| interval.kind == kind)
        };
        for expected in of("median") {
            let found = median_interval(&expected.data[0], expected.confidence).unwrap();
            assert!(expected.agrees(found.low, found.high), "{found:?} {expected:?}");
        }
        for expected in of("ratio") {
            let [one, other] = expected.data.as_slice() else { panic!("{expected:?}") };
            let pairs: Vec<(f64, f64)> = one.iter().copied().zip(other.iter().copied()).collect();
            let found = paired_ratio_interval(&pairs, expected.confidence).unwrap();
            assert!(expected.agrees(found.low, found.high), "{found:?} {expected:?}");
        }
        assert_eq!((of("median").count(), of("ratio").count()), (4, 4));
    }

    #[test]
    fn medians_are_those_of_the_sorted_values() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![7.0]), Some(7.0));
    }

    #[test]
    fn quantiles_are_interpolated() {
        assert_eq!(quantile(vec![3.0, 1.0, 2.0], 0.5), 2.0);
        assert!((quantile(vec![0.0, 1.0], 0.95) - 0.95).abs() < 1e-12);
        assert!(quantile(vec![], 0.5).is_nan());
    }

    #[test]
    fn the_geometric_mean_multiplies() {
        assert!((geometric_mean(&[1.0, 4.0]).unwrap() - 2.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[]), None);
    }

    #[test]
    fn the_error_is_relative_and_sees_what_is_not_finite() {
        assert_eq!(relative_error(&[3.0, 4.5], &[3.0, 4.0]), 0.1);
        assert_eq!(relative_error(&[0.0], &[0.0]), 0.0);
        assert_eq!(relative_error(&[1.0], &[0.0]), f64::INFINITY);
        assert_eq!(relative_error(&[f32::NAN, 1.0], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(relative_error(&[f32::NAN, 1.0], &[f64::NAN, 1.0]), 0.0);
    }

    /// The bootstrap distribution of the median of an odd number of values is known:
    /// `P(median* <= x_(k)) = P(Binomial(n, k / n) >= (n + 1) / 2)`.
    #[test]
    fn the_interval_of_the_median_is_that_of_its_exact_distribution() {
        let values: Vec<f64> = (1..=21).map(f64::from).collect();
        // The smallest k of which that is at least 0.025 and 0.975: 7 and 15.
        let found = median_interval(&values, 0.95).unwrap();
        assert!((found.low - 7.0).abs() <= 1.0 && (found.high - 15.0).abs() <= 1.0, "{found:?}");
        assert_eq!(median_interval(&values, 0.95), Some(found));
        assert_eq!(median_interval(&[3.0], 0.95), Some(Interval { low: 3.0, high: 3.0 }));
        assert_eq!(median_interval(&[], 0.95), None);
    }

    #[test]
    fn pairs_that_differ_by_a_factor_have_that_ratio() {
        let pairs: Vec<(f64, f64)> = (1..40).map(|i| (1.5 * f64::from(i), f64::from(i))).collect();
        let Interval { low, high } = paired_ratio_interval(&pairs, 0.95).unwrap();
        assert!((low - 1.5).abs() < 1e-12 && (high - 1.5).abs() < 1e-12, "{low} {high}");
        assert_eq!(paired_ratio_interval(&[], 0.95), None);
    }
}

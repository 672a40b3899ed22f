//! Sufficient statistics of latencies. They merge by adding integers, so any grouping and order of
//! merges gives the same bits.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

/// Fractional bits of a stored logarithm.
const FRACTION: u32 = 32;
/// No logarithm of a u64 reaches this, in stored units.
const MAX_LN: i128 = 45 << FRACTION;
/// Most samples that imported statistics may claim.
const MAX_COUNT: u64 = 1 << 40;

/// Count, moments of `ln(ns)`, extremes and a coarse histogram of latencies.
///
/// `ln(ns)` is rounded to a multiple of 2⁻³² and summed exactly. Sums do not overflow below 2⁴⁰
/// samples, and saturate beyond. The fields are open to whoever stores them; what was read back is
/// checked by [`fault`](Self::fault).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyStatistics {
    /// Number of latencies.
    pub count: u64,
    /// `Σ ln(ns)` in units of 2⁻³².
    pub sum: i128,
    /// `Σ ln(ns)²` in units of 2⁻⁶⁴.
    pub sum_squares: i128,
    /// Smallest latency in nanoseconds; 0 without samples.
    pub min_ns: u64,
    /// Largest latency in nanoseconds.
    pub max_ns: u64,
    /// Latencies by bucket, four buckets an octave.
    pub histogram: BTreeMap<u8, u64>,
}

impl LatencyStatistics {
    /// Adds a latency in nanoseconds.
    pub fn observe(&mut self, ns: NonZeroU64) {
        let ns = ns.get();
        let ln = ((ns as f64).ln() * (1u64 << FRACTION) as f64).round() as i128;
        let histogram = BTreeMap::from([(bucket(ns), 1)]);
        let sum_squares = ln * ln;
        self.merge(&Self { count: 1, sum: ln, sum_squares, min_ns: ns, max_ns: ns, histogram });
    }

    /// Adds everything that `other` has seen. Commutative and associative to the bit.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.min_ns = if self.count == 0 { other.min_ns } else { self.min_ns.min(other.min_ns) };
        self.max_ns = self.max_ns.max(other.max_ns);
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.saturating_add(other.sum);
        self.sum_squares = self.sum_squares.saturating_add(other.sum_squares);
        for (&bucket, &count) in &other.histogram {
            let sum = self.histogram.entry(bucket).or_default();
            *sum = sum.saturating_add(count);
        }
    }

    /// Number of latencies.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Mean of `ln(ns)`; `None` without samples.
    pub fn mean_ln(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64 / unit())
    }

    /// Sum of squared deviations of `ln(ns)` from its mean, Welford's M2.
    pub fn m2_ln(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        // About the integer part of the mean, where nothing cancels that is not exact.
        let (count, mean) = (i128::from(self.count), self.sum / i128::from(self.count));
        let rest = self.sum - mean.saturating_mul(count);
        let twice = 2i128.saturating_mul(mean).saturating_mul(self.sum);
        let squares = mean.saturating_mul(mean).saturating_mul(count);
        let about = self.sum_squares.saturating_sub(twice).saturating_add(squares);
        let m2 = about as f64 - (rest as f64).powi(2) / self.count as f64;
        (m2 / unit() / unit()).max(0.0)
    }

    /// Unbiased variance of `ln(ns)`, about the squared relative spread; `None` below two samples.
    pub fn variance_ln(&self) -> Option<f64> {
        (self.count > 1).then(|| self.m2_ln() / (self.count - 1) as f64)
    }

    /// Smallest latency in nanoseconds; `None` without samples.
    pub fn min_ns(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min_ns)
    }

    /// Largest latency in nanoseconds; `None` without samples.
    pub fn max_ns(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max_ns)
    }

    /// The latency in nanoseconds below which a share `q`, 0 to 1, of all samples lies, to within
    /// 25 %; `None` without samples.
    pub fn quantile_ns(&self, q: f64) -> Option<u64> {
        let total: u64 = self.histogram.values().fold(0, |sum, count| sum.saturating_add(*count));
        let rank = (q.clamp(0.0, 1.0) * total as f64).ceil().max(1.0) as u64;
        let mut below = 0u64;
        let found = self.histogram.iter().find(|(_, count)| {
            below = below.saturating_add(**count);
            below >= rank
        });
        let middle = found.map(|(&bucket, _)| {
            let lower = lower_edge(bucket);
            lower + (lower_edge(bucket.saturating_add(1)).saturating_sub(lower)) / 2
        })?;
        Some(middle.clamp(self.min_ns, self.max_ns))
    }

    /// Names the first field that contradicts the others, with its value and what it should be.
    pub fn fault(&self) -> Option<(&'static str, String, &'static str)> {
        let count = i128::from(self.count);
        if !(1..=MAX_COUNT).contains(&self.count) {
            return Some(("count", self.count.to_string(), "1 to 2^40"));
        }
        if self.min_ns == 0 || self.min_ns > self.max_ns {
            return Some(("min_ns", self.min_ns.to_string(), "1 to max_ns"));
        }
        if !(0..=count * MAX_LN).contains(&self.sum) {
            return Some(("sum", self.sum.to_string(), "0 to 45 * 2^32 a sample"));
        }
        let (sum, mean) = (self.sum_squares, self.sum / count);
        if !(mean * mean * count..=count * MAX_LN * MAX_LN).contains(&sum) {
            return Some(("sum_squares", sum.to_string(), "the sum of squares of such a sum"));
        }
        let total = self.histogram.values().try_fold(0u64, |sum, n| sum.checked_add(*n));
        if total != Some(self.count) {
            return Some(("histogram", format!("{total:?}"), "counts that add up to count"));
        }
        let ends = (self.histogram.keys().next(), self.histogram.keys().next_back());
        if ends != (Some(&bucket(self.min_ns)), Some(&bucket(self.max_ns))) {
            return Some(("histogram", format!("{ends:?}"), "from min_ns to max_ns"));
        }
        None
    }
}

fn unit() -> f64 {
    (1u64 << FRACTION) as f64
}

/// Four buckets an octave: the octave, then the two bits below the leading one.
fn bucket(ns: u64) -> u8 {
    let octave = 63 - ns.max(1).leading_zeros();
    let quarter = if octave >= 2 { ns >> (octave - 2) & 3 } else { ns << (2 - octave) & 3 };
    (4 * octave) as u8 + quarter as u8
}

/// The smallest latency of a bucket.
fn lower_edge(bucket: u8) -> u64 {
    let (octave, quarter) = (u32::from(bucket / 4), u64::from(bucket % 4));
    if octave >= 2 { (4 + quarter) << (octave - 2) } else { (4 + quarter) >> (2 - octave) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use trellect_testkit::statistics::scipy;

    use super::*;

    fn of(latencies: &[u64]) -> LatencyStatistics {
        let mut statistics = LatencyStatistics::default();
        latencies.iter().for_each(|&ns| statistics.observe(NonZeroU64::new(ns).unwrap()));
        statistics
    }

    fn merged(a: &LatencyStatistics, b: &LatencyStatistics) -> LatencyStatistics {
        let mut sum = a.clone();
        sum.merge(b);
        sum
    }

    #[test]
    fn buckets_hold_their_edges() {
        for bucket_index in 8..=255 {
            let edge = lower_edge(bucket_index);
            assert_eq!(bucket(edge), bucket_index);
            assert!(bucket(edge - 1) < bucket_index);
        }
        assert_eq!([1, 2, 3, u64::MAX].map(bucket), [0, 4, 6, 255]);
    }

    #[test]
    fn moments_and_quantiles_are_scipys() {
        for sample in scipy().samples {
            let ns = sample.values.iter().map(|ms| (ms * 1e6).round() as u64);
            let statistics = of(&ns.collect::<Vec<_>>());
            assert!((statistics.mean_ln().unwrap() - sample.mean_ln_ns).abs() < 1e-9);
            match (statistics.variance_ln(), sample.variance_ln_ns) {
                (Some(found), Some(expected)) => assert!((found - expected).abs() < 1e-8),
                (found, expected) => assert_eq!(found, expected),
            }
            // Between two samples there is no share of samples to go by.
            for (q, ms) in sample.quantiles.iter().filter(|_| sample.values.len() > 100) {
                let found = statistics.quantile_ns(*q).unwrap() as f64 / 1e6;
                assert!((found / ms).ln().abs() <= 1.25f64.ln(), "{q}: {found}, expected {ms}");
            }
        }
    }

    #[test]
    fn nothing_seen_tells_nothing() {
        let none = LatencyStatistics::default();
        assert_eq!((none.mean_ln(), none.variance_ln(), none.quantile_ns(0.5)), (None, None, None));
        assert_eq!(none.fault().unwrap().0, "count");
    }

    proptest! {
        #[test]
        fn merging_is_commutative_and_associative(
            a in proptest::collection::vec(1u64.., 0..20),
            b in proptest::collection::vec(1u64..1_000_000_000, 0..20),
            c in proptest::collection::vec(1u64..1_000, 0..20),
        ) {
            let all = of(&[a.clone(), b.clone(), c.clone()].concat());
            let (a, b, c) = (of(&a), of(&b), of(&c));
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(&merged(&merged(&a, &b), &c), &all);
            prop_assert!(all.count() == 0 || all.fault().is_none());
        }

        #[test]
        fn moments_and_quantiles_are_those_of_the_samples(
            samples in proptest::collection::vec(1u64..10_000_000_000, 2..60),
        ) {
            let statistics = of(&samples);
            let logs: Vec<f64> = samples.iter().map(|&ns| (ns as f64).ln()).collect();
            let mean = logs.iter().sum::<f64>() / logs.len() as f64;
            let m2: f64 = logs.iter().map(|ln| (ln - mean).powi(2)).sum();
            prop_assert!((statistics.mean_ln().unwrap() - mean).abs() < 1e-9);
            prop_assert!((statistics.m2_ln() - m2).abs() < 1e-6);
            let mut sorted = samples;
            sorted.sort_unstable();
            let median = sorted[sorted.len().div_ceil(2) - 1] as f64;
            let found = statistics.quantile_ns(0.5).unwrap() as f64;
            prop_assert!((found / median).ln().abs() <= 1.25f64.ln() + 1e-12, "{found} {median}");
            prop_assert_eq!(statistics.min_ns(), sorted.first().copied());
            prop_assert_eq!(statistics.max_ns(), sorted.last().copied());
        }
    }
}

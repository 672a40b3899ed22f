use std::fmt;

use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

/// A mean over seeds and its 95 % bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The mean.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Summary {
    const RESAMPLES: usize = 2000;

    /// Resamples `values`, one a seed, with a fixed seed of its own; NaNs are left out.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().filter(|v| !v.is_nan()).collect();
        if values.is_empty() {
            return Self { mean: f64::NAN, low: f64::NAN, high: f64::NAN };
        }
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let n = values.len();
        let mut resample =
            |_| (0..n).map(|_| values[rng.random_range(0..n)]).sum::<f64>() / n as f64;
        let mut means: Vec<f64> = (0..Self::RESAMPLES).map(&mut resample).collect();
        means.sort_by(f64::total_cmp);
        Self {
            mean: values.iter().sum::<f64>() / n as f64,
            low: means[Self::RESAMPLES / 40],
            high: means[Self::RESAMPLES - 1 - Self::RESAMPLES / 40],
        }
    }

    /// The mean in per cent.
    pub fn percent(&self) -> String {
        self.print(|mean| format!("{:.2}", 100.0 * mean))
    }

    /// The mean as a whole number.
    pub fn count(&self) -> String {
        self.print(|mean| format!("{mean:.0}"))
    }

    /// The mean with two decimals.
    pub fn decimal(&self) -> String {
        self.print(|mean| format!("{mean:.2}"))
    }

    fn print(&self, print: impl FnOnce(f64) -> String) -> String {
        if self.mean.is_nan() { "—".into() } else { print(self.mean) }
    }
}

impl fmt::Display for Summary {
    /// In percent with two decimals; a dash where nothing was measured.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low, high] = [self.low, self.high].map(|share| 100.0 * share);
        match self.percent() {
            mean if self.mean.is_nan() => f.write_str(&mean),
            mean => write!(f, "{mean} [{low:.2}, {high:.2}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use trellect_testkit::statistics::scipy;

    use super::*;

    #[test]
    fn intervals_of_means_are_scipys() {
        let intervals = scipy().intervals.into_iter().filter(|interval| interval.kind == "mean");
        let mut checked = 0;
        for expected in intervals {
            let values = &expected.data[0];
            let found = Summary::of(values.iter().copied().chain([f64::NAN]));
            assert!(expected.agrees(found.low, found.high), "{found:?} {expected:?}");
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            assert!((found.mean - mean).abs() < 1e-12);
            checked += 1;
        }
        assert_eq!(checked, 3);
    }
}

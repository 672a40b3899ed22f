//! What SciPy, NumPy and statsmodels compute, for the tests of our own statistics.
//!
//! `golden/make_statistics.py` is the command that made the numbers. Start at [`scipy`].

use std::fs;

use serde::Deserialize;

use crate::golden;

/// All of `golden/statistics.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Statistics {
    /// Latencies and what describes them.
    pub samples: Vec<Sample>,
    /// Comparisons by Welch's test.
    pub welch: Vec<Welch>,
    /// Degrees of freedom, and the 97.5 % quantile of Student's t.
    pub student_975: Vec<(f64, f64)>,
    /// Numbers, and the normal distribution function at them.
    pub normal_cdf: Vec<(f64, f64)>,
    /// Sum, count, standard deviation and scale of a bet, and its log wealth.
    pub log_wealth: Vec<([f64; 4], f64)>,
    /// Bootstrap intervals.
    pub intervals: Vec<BootstrapInterval>,
    /// Corrections for the number of tests by Holm's method.
    pub holm: Vec<Holm>,
    /// Least squares with four unknowns that are not negative.
    pub nnls: Vec<Nnls>,
}

/// Milliseconds and what describes them.
#[derive(Clone, Debug, Deserialize)]
pub struct Sample {
    /// The milliseconds.
    pub values: Vec<f64>,
    /// Their median.
    pub median: f64,
    /// Shares, and the quantiles at them, interpolated.
    pub quantiles: Vec<(f64, f64)>,
    /// Their geometric mean.
    pub geometric_mean: f64,
    /// Mean logarithm of the whole nanoseconds.
    pub mean_ln_ns: f64,
    /// Unbiased variance of these logarithms; `None` for a single one.
    pub variance_ln_ns: Option<f64>,
}

/// Two samples and Welch's test of them.
#[derive(Clone, Debug, Deserialize)]
pub struct Welch {
    /// The first sample.
    pub one: Vec<f64>,
    /// The second.
    pub other: Vec<f64>,
    /// The test of the values.
    pub plain: WelchResult,
    /// The test of their logarithms.
    pub of_logs: WelchResult,
}

/// What Welch's test says.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct WelchResult {
    /// The statistic.
    pub t: f64,
    /// Its degrees of freedom.
    pub df: f64,
    /// The two-sided p-value.
    pub p: f64,
}

/// A percentile bootstrap interval of very many resamples.
#[derive(Clone, Debug, Deserialize)]
pub struct BootstrapInterval {
    /// Of what: `median`, `mean`, or `ratio` of two medians over pairs.
    pub kind: String,
    /// One sample, or two of equal length.
    pub data: Vec<Vec<f64>>,
    /// Its confidence.
    pub confidence: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Standard deviation of the lower end at our number of resamples.
    pub low_sd: f64,
    /// The same of the upper end.
    pub high_sd: f64,
}

impl BootstrapInterval {
    /// Whether an interval is this one, but for the scatter of its resamples: five standard
    /// deviations.
    pub fn agrees(&self, low: f64, high: f64) -> bool {
        let close = |found: f64, expected: f64, sd: f64| {
            (found - expected).abs() <= 5.0 * sd + 1e-12 * expected.abs()
        };
        close(low, self.low, self.low_sd) && close(high, self.high, self.high_sd)
    }
}

/// p-values and what becomes of them.
#[derive(Clone, Debug, Deserialize)]
pub struct Holm {
    /// As the tests gave them.
    pub p: Vec<f64>,
    /// Corrected for their number.
    pub corrected: Vec<f64>,
}

/// `min Σ weight · (row · unknowns − 1)²`.
#[derive(Clone, Debug, Deserialize)]
pub struct Nnls {
    /// The rows.
    pub rows: Vec<[f64; 4]>,
    /// How much each counts.
    pub weights: Vec<f64>,
    /// The best unknowns that are not negative.
    pub unknowns: [f64; 4],
    /// The sum at them.
    pub loss: f64,
}

/// Reads the numbers.
///
/// # Panics
/// When the file is missing or malformed.
pub fn scipy() -> Statistics {
    let text = fs::read(golden::dir().join("statistics.json")).expect("statistics.json is there");
    serde_json::from_slice(&text).expect("statistics.json is well-formed")
}

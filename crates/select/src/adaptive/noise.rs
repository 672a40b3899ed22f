use super::Moments;

/// Distance of the far differences of [`NoiseModel`].
pub(crate) const FAR_LAG: usize = 8;

/// Pairs that the starting guess counts as.
const PRIOR_PAIRS: f64 = 32.0;

/// Pairs beyond which the oldest fade.
const MAX_PAIRS: f64 = 4096.0;

/// Times the mean so far that half a squared difference counts at most.
const CLIP: f64 = 5.0;

/// Where wealth assumes more noise than was measured, by this factor of the variance.
const CAUTION: f64 = 1.15;

/// Noise of the log ratio of a pair, pooled over all contexts: an AR(1) process whose standard
/// deviation `σ` and correlation `ρ` come from squared differences of pairs 1 and 8 apart,
/// `E (d_{i+k} − d_i)² / 2 = σ² (1 − ρᵏ)`. Differences need no mean, so short races do not bias
/// them.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseModel {
    near: Moments,
    far: Moments,
    correlation: f64,
}

impl Default for NoiseModel {
    /// `σ` = 4 %, `ρ` = 0.6, until pairs say otherwise.
    fn default() -> Self {
        let (variance, rho): (f64, f64) = (0.0016, 0.6);
        let level = |lag: usize| Moments::of(PRIOR_PAIRS, variance * (1.0 - rho.powi(lag as i32)));
        Self { near: level(1), far: level(FAR_LAG), correlation: rho }
    }
}

impl NoiseModel {
    pub(crate) fn push_near(&mut self, difference: f64) {
        push_clipped(&mut self.near, difference);
    }

    pub(crate) fn push_far(&mut self, difference: f64) {
        push_clipped(&mut self.far, difference);
        self.correlation = self.solve_correlation();
    }

    /// Lag-1 correlation of successive pairs, 0 to 0.97: the root of
    /// `1 + ρ + … + ρ⁷ = far / near`.
    pub const fn correlation(&self) -> f64 {
        self.correlation
    }

    fn solve_correlation(&self) -> f64 {
        let wanted = self.far.mean / self.near.mean.max(1e-12);
        let sum = |rho: f64| (0..FAR_LAG as i32).map(|k| rho.powi(k)).sum::<f64>();
        let (mut low, mut high) = (0.0, 0.97);
        for _ in 0..20 {
            let middle = (low + high) / 2.0;
            if sum(middle) < wanted { low = middle } else { high = middle }
        }
        (low + high) / 2.0
    }

    /// Variance `σ²` of one pair's log ratio.
    pub fn pair_variance(&self) -> f64 {
        (self.far.mean / (1.0 - self.correlation().powi(FAR_LAG as i32))).max(1e-8)
    }

    /// How many times more variance a long mean has than under independence: `(1 + ρ) / (1 − ρ)`.
    pub fn inflation(&self) -> f64 {
        let rho = self.correlation();
        (1.0 + rho) / (1.0 - rho)
    }

    /// Variance that one sample's log latency counts with in a mean of many: correlation included.
    pub(crate) fn sample_variance(&self) -> f64 {
        self.pair_variance() / 2.0 * self.inflation()
    }

    /// The same with the scale of one context's noise.
    pub(crate) fn of(&self, scale: &NoiseScale) -> Self {
        let factor = scale.factor(self.near.mean);
        let scaled = |level: Moments| Moments { mean: factor * level.mean, ..level };
        Self { near: scaled(self.near), far: scaled(self.far), correlation: self.correlation }
    }

    /// Variance to assume of the mean of a block of `pairs`: `1.15 · σ² (1 + ρ) / ((1 − ρ) pairs)`.
    pub fn block_variance(&self, pairs: usize) -> f64 {
        CAUTION * self.pair_variance() * self.inflation() / pairs as f64
    }

    /// Shortest block of 16, 32, 64 or 128 pairs whose mean has a correlation below 0.1 with the
    /// next block's: `ρ (1 − ρᴮ)² / (B (1 − ρ²) − 2ρ (1 − ρᴮ))`.
    pub fn block_pairs(&self) -> usize {
        let rho = self.correlation();
        let correlation = |pairs: usize| {
            let rest = 1.0 - rho.powi(pairs as i32);
            rho * rest * rest / (pairs as f64 * (1.0 - rho * rho) - 2.0 * rho * rest)
        };
        [16, 32, 64].into_iter().find(|&pairs| correlation(pairs) < 0.1).unwrap_or(128)
    }
}

/// How noisy one context is: half the squared differences of its successive pairs. Contexts differ by
/// factors, small calls being the noisy ones, and a common level would make every other proof slow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct NoiseScale(Moments);

impl NoiseScale {
    /// Takes what a pair differs by from the one before it.
    pub(crate) fn push(&mut self, difference: f64, pooled: &NoiseModel) {
        let usual = self.0.shrunk(pooled.near.mean, PRIOR_PAIRS);
        let square = (difference * difference / 2.0).min(CLIP * usual);
        self.0.push_forgetting(square, MAX_PAIRS);
    }

    /// The variance over the pooled one, towards 1 where few pairs tell.
    fn factor(&self, pooled: f64) -> f64 {
        self.0.shrunk(pooled, PRIOR_PAIRS) / pooled.max(1e-12)
    }
}

/// Adds half a squared difference, at most five times the mean so far: stalls are white noise and
/// would hide a correlation, but clipped on each lag's own scale they leave the ratio alone.
fn push_clipped(level: &mut Moments, difference: f64) {
    let square = (difference * difference / 2.0).min(CLIP * level.mean);
    level.push_forgetting(square, MAX_PAIRS);
}

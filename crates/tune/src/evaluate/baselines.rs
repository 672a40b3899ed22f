use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::world::{best_of, normal};
use super::{Policy, Sight, Switch, World};

/// Always the same kernel.
#[derive(Clone, Copy, Debug)]
pub struct UniformKernel(pub usize);

impl Policy for UniformKernel {
    fn choose(&mut self, _: &Sight<'_>) -> usize {
        self.0
    }

    fn record(&mut self, _: usize, _: usize, _: Option<f64>) -> Option<Switch> {
        None
    }
}

/// The rules' pick.
#[derive(Clone, Copy, Debug)]
pub struct StaticRules;

impl Policy for StaticRules {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        sight.default
    }

    fn record(&mut self, _: usize, _: usize, _: Option<f64>) -> Option<Switch> {
        None
    }
}

/// The truly fastest kernel: no regret.
#[derive(Clone, Copy, Debug)]
pub struct Oracle;

impl Policy for Oracle {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        best_of(sight.truth_ns)
    }

    fn record(&mut self, _: usize, _: usize, _: Option<f64>) -> Option<Switch> {
        None
    }
}

/// The truly fastest kernels of the start, for ever: a perfect table tuned offline at no cost.
#[derive(Clone, Debug)]
pub struct StaticTable(Vec<usize>);

impl StaticTable {
    /// The table of a fresh world.
    pub fn new(world: &World) -> Self {
        Self((0..world.config().contexts).map(|c| best_of(world.truth_ns(c))).collect())
    }
}

impl Policy for StaticTable {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        self.0[sight.context]
    }

    fn record(&mut self, _: usize, _: usize, _: Option<f64>) -> Option<Switch> {
        None
    }
}

/// Sample counts and means per context and kernel.
#[derive(Clone, Debug, Default)]
struct Means(Vec<Vec<(f64, f64)>>);

impl Means {
    fn of(&mut self, context: usize, kernels: usize) -> &mut Vec<(f64, f64)> {
        if self.0.len() <= context {
            self.0.resize(context + 1, Vec::new());
        }
        let row = &mut self.0[context];
        row.resize(kernels, (0.0, 0.0));
        row
    }

    fn push(&mut self, context: usize, kernel: usize, x: f64, max_n: f64) {
        let (n, mean) = &mut self.0[context][kernel];
        *n = (*n + 1.0).min(max_n);
        *mean += (x - *mean) / *n;
    }
}

/// Explores evenly with 5 %; else the lowest mean latency of the last 128 samples or so, be it of
/// one sample; unsampled kernels wait for exploration.
#[derive(Debug)]
pub struct PlainMean {
    rng: ChaCha8Rng,
    means: Means,
}

impl PlainMean {
    /// With a seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), means: Means::default() }
    }
}

impl Policy for PlainMean {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        let kernels = sight.prior_ns.len();
        let row = self.means.of(sight.context, kernels);
        if self.rng.random_bool(0.05) {
            return self.rng.random_range(0..kernels);
        }
        let sampled = (0..kernels).filter(|&k| row[k].0 > 0.0);
        sampled.min_by(|&a, &b| row[a].1.total_cmp(&row[b].1)).unwrap_or(sight.default)
    }

    fn record(&mut self, context: usize, kernel: usize, latency: Option<f64>) -> Option<Switch> {
        self.means.push(context, kernel, latency?, 128.0);
        None
    }
}

/// Every kernel once, then the lowest mean log latency, with 5 % even exploration.
#[derive(Debug)]
pub struct EpsilonGreedy {
    rng: ChaCha8Rng,
    means: Means,
}

impl EpsilonGreedy {
    /// With a seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), means: Means::default() }
    }
}

impl Policy for EpsilonGreedy {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        let kernels = sight.prior_ns.len();
        let row = self.means.of(sight.context, kernels);
        if let Some(kernel) = (0..kernels).find(|&k| row[k].0 == 0.0) {
            return kernel;
        }
        match self.rng.random_bool(0.05) {
            true => self.rng.random_range(0..kernels),
            false => best_of(&row.iter().map(|r| r.1).collect::<Vec<_>>()),
        }
    }

    fn record(&mut self, context: usize, kernel: usize, latency: Option<f64>) -> Option<Switch> {
        self.means.push(context, kernel, latency?.ln(), 128.0);
        None
    }
}

/// UCB1 on log latencies: `mean − 0.1 √(ln N / n)`, samples fading beyond 200, none more than 0.7
/// above the lowest mean.
#[derive(Clone, Debug, Default)]
pub struct Ucb1 {
    means: Means,
}

impl Policy for Ucb1 {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        let row = self.means.of(sight.context, sight.prior_ns.len());
        let total: f64 = row.iter().map(|r| r.0).sum::<f64>().max(2.0);
        let index = |&(n, mean): &(f64, f64)| match n {
            0.0 => f64::NEG_INFINITY,
            n => mean - 0.1 * (total.ln() / n).sqrt(),
        };
        best_of(&row.iter().map(index).collect::<Vec<_>>())
    }

    fn record(&mut self, context: usize, kernel: usize, latency: Option<f64>) -> Option<Switch> {
        let x = latency?.ln();
        let row = &self.means.0[context];
        let lowest = row.iter().filter(|r| r.0 > 0.0).map(|r| r.1).fold(f64::INFINITY, f64::min);
        let clipped = if lowest.is_finite() { x.min(lowest + 0.7) } else { x };
        self.means.push(context, kernel, clipped, 200.0);
        None
    }
}

/// Thompson sampling with the adaptive policy's prior, 5 % assumed noise, and a weight of the past
/// that fades with every call of the context; outliers are clipped as the adaptive policy
/// clips them.
#[derive(Debug)]
pub struct DiscountedThompson {
    rng: ChaCha8Rng,
    arms: Vec<Vec<(f64, f64)>>,
    priors: Vec<Vec<f64>>,
    fade: f64,
}

impl DiscountedThompson {
    const NOISE: f64 = 0.05;
    const PRIOR: f64 = 0.12;

    /// With a seed and the factor by which the past fades with every call of a context.
    pub fn new(seed: u64, fade: f64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { rng, arms: Vec::new(), priors: Vec::new(), fade }
    }
}

impl Policy for DiscountedThompson {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        if self.arms.len() <= sight.context {
            self.arms.resize(sight.context + 1, Vec::new());
            self.priors.resize(sight.context + 1, Vec::new());
        }
        if self.priors[sight.context].is_empty() {
            self.priors[sight.context] = sight.prior_ns.iter().map(|ns| ns.ln()).collect();
        }
        let row = &mut self.arms[sight.context];
        row.resize(sight.prior_ns.len(), (0.0, 0.0));
        let (weight, fade) = ((Self::NOISE / Self::PRIOR).powi(2), self.fade);
        let draws = row.iter_mut().zip(sight.prior_ns).map(|((n, sum), prior)| {
            (*n, *sum) = (*n * fade, *sum * fade);
            let mean = (*sum + weight * prior.ln()) / (*n + weight);
            mean + Self::NOISE / (*n + weight).sqrt() * normal(&mut self.rng)
        });
        best_of(&draws.collect::<Vec<_>>())
    }

    fn record(&mut self, context: usize, kernel: usize, latency: Option<f64>) -> Option<Switch> {
        let (n, sum) = &mut self.arms[context][kernel];
        let x = latency?.ln();
        let (center, window) = match *n {
            n if n < 3.0 => (self.priors[context][kernel], 0.7),
            n => (*sum / n, 0.2),
        };
        (*n, *sum) = (*n + 1.0, *sum + x.clamp(center - window, center + window));
        None
    }
}

/// Ten samples of every kernel at first sight, then the lowest mean for ever.
#[derive(Clone, Debug, Default)]
pub struct FirstCallAutotune {
    means: Means,
}

impl Policy for FirstCallAutotune {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        let row = self.means.of(sight.context, sight.prior_ns.len());
        match (0..row.len()).find(|&k| row[k].0 < 10.0) {
            Some(kernel) => kernel,
            None => best_of(&row.iter().map(|r| r.1).collect::<Vec<_>>()),
        }
    }

    fn record(&mut self, context: usize, kernel: usize, latency: Option<f64>) -> Option<Switch> {
        if self.means.0[context][kernel].0 < 10.0 {
            self.means.push(context, kernel, latency?, 10.0);
        }
        None
    }
}

use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::simulated::normal;
use super::world::best_of;
use super::{Event, Policy, Sight, World};

/// Always the same kernel; the rules' pick where it may not serve.
#[derive(Clone, Copy, Debug)]
pub struct UniformKernel(pub usize);

impl Policy for UniformKernel {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        if sight.open.contains(&self.0) { self.0 } else { sight.default }
    }
}

/// The rules' pick.
#[derive(Clone, Copy, Debug)]
pub struct StaticRules;

impl Policy for StaticRules {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        sight.default
    }
}

/// The truly fastest kernel: no regret.
#[derive(Clone, Copy, Debug)]
pub struct Oracle;

impl Policy for Oracle {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        best_of(sight.truth_ns)
    }
}

/// The kernel that the prior puts first, whatever is measured: the cold start alone.
#[derive(Clone, Copy, Debug)]
pub struct PriorAlone;

impl Policy for PriorAlone {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        sight.lowest(|kernel| sight.prior_ns[kernel])
    }
}

/// The fastest kernel of every context, tuned beforehand at no cost, for ever.
#[derive(Clone, Debug)]
pub struct StaticTable(Vec<usize>);

impl StaticTable {
    /// The table that was trained for `world`.
    pub fn new(world: &dyn World) -> Self {
        Self(world.trained().table.clone())
    }
}

impl Policy for StaticTable {
    fn choose(&mut self, sight: &Sight<'_>) -> usize {
        self.0[sight.context]
    }
}

/// Sample counts and means per context and kernel.
#[derive(Clone, Debug, Default)]
struct Means(Vec<Vec<(f64, f64)>>);

impl Means {
    fn of(&mut self, sight: &Sight<'_>) -> &[(f64, f64)] {
        if self.0.len() <= sight.context {
            self.0.resize(sight.context + 1, Vec::new());
        }
        let row = &mut self.0[sight.context];
        row.resize(sight.prior_ns.len(), (0.0, 0.0));
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
        let row = self.means.of(sight);
        if self.rng.random_bool(0.05) {
            return sight.open[self.rng.random_range(0..sight.open.len())];
        }
        let sampled = sight.open.iter().copied().filter(|&k| row[k].0 > 0.0);
        sampled.min_by(|&a, &b| row[a].1.total_cmp(&row[b].1)).unwrap_or(sight.default)
    }

    fn record(&mut self, context: usize, kernel: usize, latency: Option<f64>) -> Option<Event> {
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
        let row = self.means.of(sight);
        if let Some(&kernel) = sight.open.iter().find(|&&k| row[k].0 == 0.0) {
            return kernel;
        }
        match self.rng.random_bool(0.05) {
            true => sight.open[self.rng.random_range(0..sight.open.len())],
            false => sight.lowest(|kernel| row[kernel].1),
        }
    }

    fn record(&mut self, context: usize, kernel: usize, latency: Option<f64>) -> Option<Event> {
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
        let row = self.means.of(sight);
        let total: f64 = row.iter().map(|r| r.0).sum::<f64>().max(2.0);
        sight.lowest(|kernel| match row[kernel] {
            (0.0, _) => f64::NEG_INFINITY,
            (n, mean) => mean - 0.1 * (total.ln() / n).sqrt(),
        })
    }

    fn record(&mut self, context: usize, kernel: usize, latency: Option<f64>) -> Option<Event> {
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
        let draws: Vec<f64> = draws.collect();
        sight.lowest(|kernel| draws[kernel])
    }

    fn record(&mut self, context: usize, kernel: usize, latency: Option<f64>) -> Option<Event> {
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
        let row = self.means.of(sight);
        match sight.open.iter().find(|&&kernel| row[kernel].0 < 10.0) {
            Some(&kernel) => kernel,
            None => sight.lowest(|kernel| row[kernel].1),
        }
    }

    fn record(&mut self, context: usize, kernel: usize, latency: Option<f64>) -> Option<Event> {
        if self.means.0[context][kernel].0 < 10.0 {
            self.means.push(context, kernel, latency?, 10.0);
        }
        None
    }
}

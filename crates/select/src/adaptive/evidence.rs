use super::Moments;
use super::noise::{FAR_LAG, NoiseModel};
use super::probe::Belief;

/// Log ratios of pairs beyond this are clipped: a stalled call is one vote, not thirty, and a twentieth
/// of a busy machine's calls stall.
pub const MAX_GAIN: f64 = 0.15;

/// Standard deviation of the gains that the blocks' mixture expects.
const BLOCK_SCALE: f64 = 0.04;

/// Standard deviation of the gains beyond the large margin that the pairs' mixture expects.
const PAIR_SCALE: f64 = 0.15;

/// Pairs before which nobody bets by pairs: one stall must not decide.
const MIN_PAIRS: f64 = 4.0;

/// Least standard deviation that the pairs' mixture assumes.
const PAIR_SD_FLOOR: f64 = 0.04;

/// Log wealth of a bet that `count` numbers with sum `sum` and standard deviation `sd` have a mean
/// above 0: `ln ∫ exp(λ·sum/sd² − count·λ²/(2 sd²)) dΠ(λ)`, where `Π` is the half-normal
/// distribution of scale `scale`.
///
/// A supermartingale under any sub-Gaussian noise with that `sd` and a conditional mean of at most
/// 0, so it exceeds `ln(1/α)` with probability at most `α`, whenever one looks.
pub fn log_wealth(sum: f64, count: f64, sd: f64, scale: f64) -> f64 {
    let (noise, prior) = (sd * sd, scale * scale);
    let spread = noise + count * prior;
    let z = scale * sum / (sd * spread.sqrt());
    0.5 * (noise / spread).ln() + ln_two_exp_phi(z)
}

/// `ln(2 Φ(z) exp(z²/2))`, by the continued form of Mills' ratio where `Φ` is tiny.
fn ln_two_exp_phi(z: f64) -> f64 {
    if z < -6.0 {
        let x = -z;
        return (2.0 / (x * (2.0 * std::f64::consts::PI).sqrt()) * (1.0 - 1.0 / (x * x))).ln();
    }
    z * z / 2.0 + (2.0 * phi(z)).ln()
}

/// The normal distribution function, by the error function's rational approximation
/// (Abramowitz and Stegun 7.1.26, error below 1.5e-7) scaled so that small tails stay positive.
pub(super) fn phi(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let poly = t
        * (0.254_829_592
            + t * (-0.284_496_736
                + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let tail = 0.5 * poly * (-x * x).exp();
    if z < 0.0 { tail } else { 1.0 - tail }
}

/// Log wealth of the three bets of a [`PairedTest`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wealth {
    /// That the challenger gains more than the margin, by blocks.
    pub better: f64,
    /// That it gains more than the large margin, by pairs.
    pub much_better: f64,
    /// That it gains less than the margin, by blocks.
    pub not_better: f64,
    /// That it gains less than minus the large margin, by pairs.
    pub much_worse: f64,
}

/// Paired evidence for one challenger against the incumbent: `d = ln(t_incumbent / t_challenger)`,
/// each pair measured afresh, in random order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairedTest {
    pairs: Moments,
    units: Moments,
    blocks: Moments,
    block_sum: f64,
    block_len: usize,
    block_target: usize,
    recent: [f64; FAR_LAG],
}

impl PairedTest {
    /// Adds a pair and teaches `noise` what it says of the noise. By how much it differs from the pair
    /// before it, if any.
    pub fn push(&mut self, log_ratio: f64, noise: &mut NoiseModel) -> Option<f64> {
        let d = log_ratio.clamp(-MAX_GAIN, MAX_GAIN);
        let count = self.pairs.n as usize;
        let difference = (count >= 1).then(|| d - self.recent[(count - 1) % FAR_LAG]);
        difference.into_iter().for_each(|difference| noise.push_near(difference));
        if count >= FAR_LAG {
            noise.push_far(d - self.recent[count % FAR_LAG]);
        }
        self.recent[count % FAR_LAG] = d;
        self.pairs.push(d);
        if self.block_len == 0 {
            self.block_target = noise.block_pairs();
        }
        self.block_sum += d;
        self.block_len += 1;
        if self.block_len >= self.block_target {
            self.close_block();
        }
        difference
    }

    /// A block weighs as many units (smallest blocks) as it holds.
    fn close_block(&mut self) {
        let mean = self.block_sum / self.block_len as f64;
        let units = (self.block_len / Self::MIN_BLOCK) as f64;
        self.units = self.units.merge(&Moments::of(units, mean));
        self.blocks.push(mean);
        (self.block_sum, self.block_len) = (0.0, 0);
    }

    /// Pairs of the smallest block.
    pub const MIN_BLOCK: usize = 16;

    /// Every pair so far.
    pub const fn pairs(&self) -> &Moments {
        &self.pairs
    }

    /// Whether the latest pairs are like all of them: where something has changed, a long test would go
    /// by what was true before it.
    pub fn is_current(&self, noise: &NoiseModel) -> bool {
        let latest = self.recent.len().min(self.pairs.n as usize);
        let mean = self.recent[..latest].iter().sum::<f64>() / latest.max(1) as f64;
        let sd = (noise.pair_variance() * noise.inflation() / latest.max(1) as f64).sqrt();
        (mean - self.pairs.mean).abs() <= 2.0 * sd
    }

    /// The log wealth of every bet.
    pub fn wealth(&self, margin: f64, large_margin: f64, noise: &NoiseModel) -> Wealth {
        let Moments { n, mean, .. } = self.units;
        let own = match self.blocks.n {
            count if count >= 4.0 => self.blocks.variance() * n / count,
            _ => 0.0,
        };
        let sd = noise.block_variance(Self::MIN_BLOCK).max(own).sqrt();
        let pair_sd = noise.pair_variance().max(self.pairs.variance()).sqrt().max(PAIR_SD_FLOOR);
        let by_pairs = |gain: f64| match self.pairs.n {
            n if n < MIN_PAIRS => 0.0,
            n => log_wealth(n * gain, n, pair_sd, PAIR_SCALE),
        };
        Wealth {
            better: log_wealth(n * (mean - margin), n, sd, BLOCK_SCALE),
            much_better: by_pairs(self.pairs.mean - large_margin),
            not_better: log_wealth(n * (margin - mean), n, sd, BLOCK_SCALE),
            much_worse: by_pairs(-self.pairs.mean - large_margin),
        }
    }

    /// What is believed of the mean gain where `prior` was before any pair.
    pub(crate) fn gain(&self, prior: Belief, noise: &NoiseModel) -> Belief {
        let variance = noise.pair_variance() * noise.inflation();
        let weight = variance / (prior.sd * prior.sd);
        let mean = self.pairs.shrunk(prior.mean, weight);
        Belief { mean, sd: (variance / (self.pairs.n + weight)).sqrt() }
    }

    /// Upper bound of the mean gain at about two standard errors; infinite below one block.
    pub fn gain_upper_bound(&self, noise: &NoiseModel) -> f64 {
        match self.units.n {
            0.0 => f64::INFINITY,
            n => self.units.mean + 2.0 * (noise.block_variance(Self::MIN_BLOCK) / n).sqrt(),
        }
    }
}

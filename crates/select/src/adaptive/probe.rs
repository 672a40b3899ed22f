use chacha20::ChaCha8Rng;
use rand::RngExt;

use super::evidence::phi;

/// A normal belief of a log latency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Belief {
    pub(crate) mean: f64,
    pub(crate) sd: f64,
}

impl Belief {
    fn draw(&self, rng: &mut ChaCha8Rng) -> f64 {
        self.mean + self.sd * standard_normal(rng)
    }

    /// `E max(0, X − other)`, the log latency that running this instead of `other` should lose.
    fn expected_loss(&self, other: &Belief) -> f64 {
        let sd = self.sd.hypot(other.sd).max(1e-9);
        let z = (self.mean - other.mean) / sd;
        // Bowling's logistic form of the normal distribution function: error below 1.5e-4.
        let below = 1.0 / (1.0 + (-1.5976 * z - 0.070_56 * z * z * z).exp());
        let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        sd * (z * below + density)
    }

    /// Nanoseconds that running this instead of `incumbent` should lose.
    pub(crate) fn expected_loss_ns(&self, incumbent: &Belief) -> f64 {
        self.expected_loss(incumbent) * incumbent.mean.exp()
    }
}

/// One look at who could challenge an incumbent: kept whole until it is known whether anybody asks
/// for propensities, which cost a hundred times the draw.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    pub(crate) incumbent: Belief,
    pub(crate) challengers: Vec<(usize, Belief)>,
    /// The challenger that is taken without a draw: an honest look, the rules' pick against an unproven
    /// start, or one that has been idle for too long.
    pub(crate) undrawn: Option<usize>,
    /// Whether it is an honest look, which has a budget of its own.
    pub(crate) is_look: bool,
    /// Log ratio by which a draw must beat the incumbent's.
    pub(crate) margin: f64,
    /// Expected loss that the budget affords, nanoseconds.
    pub(crate) affordable_ns: f64,
}

/// Points of the integral of [`Draw::shares`].
const POINTS: usize = 384;

impl Draw {
    /// Top-two Thompson sampling with the incumbent as one of the two: the challenger whose draw is
    /// lowest, where that beats the incumbent's own draw by the margin. Whether the budget affords
    /// it is another question.
    pub(crate) fn challenger(&self, rng: &mut ChaCha8Rng) -> Option<usize> {
        if self.undrawn.is_some() {
            return self.undrawn;
        }
        let to_beat = self.incumbent.draw(rng) - self.margin;
        let draws = self.challengers.iter().map(|(kernel, belief)| (*kernel, belief.draw(rng)));
        let best = draws.min_by(|a, b| a.1.total_cmp(&b.1));
        best.filter(|&(_, draw)| draw < to_beat).map(|(kernel, _)| kernel)
    }

    /// Whether it may come to a challenge at all: else every challenger is three standard deviations
    /// from being drawn.
    pub(crate) fn is_open(&self) -> bool {
        let close = |&(_, belief): &(usize, Belief)| {
            let sd = belief.sd.hypot(self.incumbent.sd);
            belief.mean < self.incumbent.mean - self.margin + 3.0 * sd
        };
        self.undrawn.is_some() || self.challengers.iter().any(close)
    }

    /// Nanoseconds that probing `kernel` should lose.
    pub(crate) fn expected_loss_ns(&self, kernel: usize) -> f64 {
        let belief = self.challengers.iter().find(|&&(other, _)| other == kernel);
        belief.map_or(0.0, |(_, belief)| belief.expected_loss_ns(&self.incumbent))
    }

    /// Nanoseconds that `kernel` should take longer than the incumbent, at least 0.
    pub(crate) fn surplus_ns(&self, kernel: usize) -> f64 {
        let belief = self.challengers.iter().find(|&&(other, _)| other == kernel);
        let incumbent_ns = self.incumbent.mean.exp();
        belief.map_or(0.0, |(_, belief)| (belief.mean.exp() - incumbent_ns).max(0.0))
    }

    /// The probability that a pair with `kernel` is begun.
    fn share(&self, kernel: usize) -> f64 {
        let affordable =
            |kernel: usize| self.is_look || self.expected_loss_ns(kernel) <= self.affordable_ns;
        match self.undrawn {
            _ if !affordable(kernel) => 0.0,
            Some(undrawn) => f64::from(u8::from(undrawn == kernel)),
            None => self.wins(kernel),
        }
    }

    /// The probability that `kernel` runs: half its share for a challenger, whose leg of the pair is
    /// the first as often as not, and the rest for the incumbent.
    pub(crate) fn propensity(&self, kernel: usize, incumbent: usize) -> f64 {
        if kernel != incumbent {
            return self.share(kernel) / 2.0;
        }
        let shares = self.challengers.iter().map(|&(kernel, _)| self.share(kernel));
        1.0 - shares.sum::<f64>() / 2.0
    }

    /// `P(X_kernel < min(X_other …, X_incumbent − margin))`, all normal and independent, by the
    /// trapezoid rule over six standard deviations either side.
    fn wins(&self, kernel: usize) -> f64 {
        let Some(&(_, own)) = self.challengers.iter().find(|&&(other, _)| other == kernel) else {
            return 0.0;
        };
        let survives = |belief: &Belief, x: f64| phi((belief.mean - x) / belief.sd.max(1e-9));
        let step = 12.0 * own.sd / POINTS as f64;
        let at = |point: usize| {
            let z = -6.0 + 12.0 * point as f64 / POINTS as f64;
            let x = own.mean + own.sd * z;
            let others = self.challengers.iter().filter(|&&(other, _)| other != kernel);
            let others: f64 = others.map(|(_, belief)| survives(belief, x)).product();
            (-z * z / 2.0).exp() * others * survives(&self.incumbent, x + self.margin)
        };
        let sum: f64 = (0..=POINTS).map(at).sum();
        sum * step / (own.sd * (2.0 * std::f64::consts::PI).sqrt())
    }
}

/// A standard normal number, by Box and Muller.
fn standard_normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

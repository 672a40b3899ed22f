use chacha20::ChaCha8Rng;
use rand::RngExt;

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
    pub(crate) fn expected_loss(&self, other: &Belief) -> f64 {
        let sd = self.sd.hypot(other.sd).max(1e-9);
        let z = (self.mean - other.mean) / sd;
        // Bowling's logistic form of the normal distribution function: error below 1.5e-4.
        let below = 1.0 / (1.0 + (-1.5976 * z - 0.070_56 * z * z * z).exp());
        let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        sd * (z * below + density)
    }
}

/// Top-two Thompson sampling with the incumbent as one of the two: the challenger whose draw is
/// lowest, where that beats the incumbent's own draw by `margin`.
pub(crate) fn thompson_challenger(
    rng: &mut ChaCha8Rng,
    incumbent: &Belief,
    challengers: &[(usize, Belief)],
    margin: f64,
) -> Option<usize> {
    let to_beat = incumbent.draw(rng) - margin;
    let draws = challengers.iter().map(|(kernel, belief)| (*kernel, belief.draw(rng)));
    let best = draws.min_by(|a, b| a.1.total_cmp(&b.1));
    best.filter(|&(_, draw)| draw < to_beat).map(|(kernel, _)| kernel)
}

/// A standard normal number, by Box and Muller.
fn standard_normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

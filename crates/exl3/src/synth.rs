//! Synthetic layers, activations and routings: what tests and benchmarks run on when there is no
//! model at hand.
//!
//! Every trellis bit string is a valid one, so random bits make real weights. Scales are drawn so
//! that each linear keeps the variance of its input. All of it depends on the seed alone, not on
//! the order of generation.

mod data;
mod layer;

pub use data::{hidden, routing, skewed_routing};
pub use layer::{OwnedLayer, SynthError, SynthSpec};

use chacha20::ChaCha8Rng;
use rand::{Rng, SeedableRng};

/// What a random stream is for: streams of different domains are independent of each other.
#[derive(Clone, Copy)]
enum Domain {
    Layer,
    Tuples,
    Hidden,
    Routing,
}

/// Stream number `stream` of a domain.
fn random_stream(domain: Domain, seed: u64, stream: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8] = domain as u8;
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(stream);
    rng
}

/// Uniform in `0..bound`, to within `bound / 2^32`.
fn below(rng: &mut impl Rng, bound: usize) -> usize {
    ((u64::from(rng.next_u32()) * bound as u64) >> 32) as usize
}

/// Uniform in (0, 1].
fn unit(rng: &mut impl Rng) -> f64 {
    (f64::from(rng.next_u32()) + 1.0) / 2f64.powi(32)
}

/// A standard normal number, by Box and Muller's method.
fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * unit(rng).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(rng)).cos()
}

/// Shuffles by Fisher and Yates' method.
fn shuffle<T>(items: &mut [T], rng: &mut impl Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last + 1));
    }
}

//! A small world with known truth: what learning may cost, and how soon a change is noticed.

use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use trellect_core::LayerShape;

use super::{arm, features};
use crate::adaptive::{
    AdaptiveConfig, AdaptivePolicy, CallFeatures, Choice, Conditions, MachineLimits, Outcome,
    Recorded,
};

const CONTEXTS: usize = 24;
const KERNELS: usize = 6;
const NAMES: [&str; KERNELS] = ["a", "b", "c", "d", "e", "f"];
/// Log-scale error of the prior.
const PRIOR_SD: f64 = 0.12;
/// Log-scale error of the prior of a kernel in all contexts.
const BIAS_SD: f64 = 0.06;

struct World {
    policy: AdaptivePolicy,
    rng: ChaCha8Rng,
    now_ns: f64,
    /// True expected nanoseconds by context and kernel.
    truth: Vec<[f64; KERNELS]>,
    default: Vec<usize>,
}

impl World {
    /// Kernels that the prior takes for equal; the rules' pick is the fastest where `rules_right`.
    fn new(seed: u64, call_ns: f64, rules_right: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut bias = || (BIAS_SD * normal(&mut rng)).exp();
        let arms = NAMES.iter().map(|name| arm(name, call_ns * bias())).collect();
        let config = AdaptiveConfig { seed, ..AdaptiveConfig::default() };
        let policy = AdaptivePolicy::new(config, arms, MachineLimits::UNKNOWN).unwrap();
        let truth: Vec<[f64; KERNELS]> = (0..CONTEXTS)
            .map(|_| [(); KERNELS].map(|()| call_ns * (PRIOR_SD * normal(&mut rng)).exp()))
            .collect();
        let pick = |truth: &[f64; KERNELS]| match rules_right {
            true => best(truth),
            false => rng.random_range(0..KERNELS),
        };
        let default = truth.iter().map(pick).collect();
        Self { policy, rng, now_ns: 0.0, truth, default }
    }

    /// A call of a context drawn by Zipf's law, or of the one given.
    fn call(&mut self, context: Option<usize>) -> (usize, Choice, Recorded) {
        let total: f64 = (1..=CONTEXTS).map(|rank| 1.0 / rank as f64).sum();
        let mut at = self.rng.random::<f64>() * total;
        let drawn = (0..CONTEXTS).find(|&context| {
            at -= 1.0 / (context + 1) as f64;
            at <= 0.0
        });
        let context = context.or(drawn).unwrap_or(0);
        let shape = LayerShape::new(128 * (context + 1), 128, 8).unwrap();
        let call = CallFeatures { shape, ..features(4) };
        let conditions = Conditions { default: self.default[context], may_probe: true };
        let choice = self.policy.choose(&call, &conditions, self.now_ns as u64).unwrap();
        let stall = if self.rng.random::<f64>() < 0.01 { 3.0 } else { 1.0 };
        let noise = (0.03 * normal(&mut self.rng)).exp();
        let latency = self.truth[context][choice.kernel] * noise * stall;
        self.now_ns += latency;
        let outcome = Outcome::LatencyNs(latency);
        let recorded = self.policy.record(choice.ticket, outcome, self.now_ns as u64);
        (context, choice, recorded)
    }

    /// Largest ratio of the expected time to that of the rules' picks over any ten seconds.
    fn worst_ten_seconds(&mut self, seconds: usize) -> f64 {
        let mut buckets = vec![(0.0, 0.0); seconds];
        loop {
            let second = (self.now_ns / 1e9) as usize;
            let Some(bucket) = buckets.get_mut(second) else { break };
            let (context, choice, _) = self.call(None);
            bucket.0 += self.truth[context][choice.kernel];
            bucket.1 += self.truth[context][self.default[context]];
        }
        let ratio = |window: &[(f64, f64)]| {
            window.iter().map(|bucket| bucket.0).sum::<f64>()
                / window.iter().map(|bucket| bucket.1).sum::<f64>()
        };
        buckets.windows(10).map(ratio).fold(0.0, f64::max)
    }
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

fn best(truth: &[f64; KERNELS]) -> usize {
    (0..KERNELS).min_by(|&a, &b| truth[a].total_cmp(&truth[b])).unwrap()
}

/// The rules are right everywhere and the prior is not: whatever is tried is a loss. Ten seconds
/// hold some 10 000 calls of a millisecond, among them the first ones of every context.
#[test]
fn never_worse_than_the_rules_over_ten_seconds() {
    for (call_ns, seconds, most) in [(2e5, 15, 1.005), (1e6, 40, 1.01)] {
        for seed in 0..4 {
            let worst = World::new(seed, call_ns, true).worst_ten_seconds(seconds);
            assert!(worst <= most, "calls of {call_ns} ns, seed {seed}: {worst}");
        }
    }
}

/// Calls of ten milliseconds: a thousand of them, some forty a context, and every start a new one.
#[test]
fn hardly_worse_where_ten_seconds_hold_few_calls() {
    for seed in 0..6 {
        let worst = World::new(seed, 1e7, true).worst_ten_seconds(100);
        assert!(worst <= 1.03, "seed {seed}: {worst}");
    }
}

/// By one within 2 % of the best: what is less cannot be proved in so few calls, and in some seeds a
/// third kernel is as close.
#[test]
fn a_slower_incumbent_is_noticed_and_replaced_soon() {
    for seed in 0..60 {
        let mut world = World::new(100 + seed, 1e6, false);
        let context = (seed % 4) as usize;
        // A second best 2 % behind: after the change the best by 8 %.
        let fastest = best(&world.truth[context]);
        world.truth[context][(fastest + 1) % KERNELS] = 1.02 * world.truth[context][fastest];
        for _ in 0..12_000 {
            world.call(None);
        }
        let shape = LayerShape::new(128 * (context + 1), 128, 8).unwrap();
        let call = CallFeatures { shape, ..features(4) };
        let incumbent = |world: &World| {
            let id = world.policy.explain(&call).incumbent.unwrap();
            world.policy.arms().iter().position(|arm| arm.spec.id == id).unwrap()
        };
        let served = incumbent(&world);
        world.truth[context][served] *= 1.1;
        let (mut own, mut seen, mut left) = (0, None, None);
        for _ in 0..40_000 {
            let (at, _, recorded) = world.call(None);
            if at != context {
                continue;
            }
            own += 1;
            if recorded == Recorded::Drifted && seen.is_none() {
                seen = Some(own);
            }
            let truth = &world.truth[context];
            if left.is_none() && truth[incumbent(&world)] <= 1.02 * truth[best(truth)] {
                left = Some(own);
            }
            if left.is_some() || own > 256 {
                break;
            }
        }
        // It may be replaced by the pairs of a race under way before drift is noticed.
        let noticed = seen.unwrap_or(usize::MAX).min(left.unwrap_or(usize::MAX));
        assert!(noticed <= 64, "seed {seed}: noticed after {seen:?}, replaced after {left:?}");
        assert!(left.is_some_and(|left| left <= 256), "seed {seed}: replaced after {left:?}");
    }
}

use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use trellect_testkit::statistics::scipy;

use crate::adaptive::evidence::phi;
use crate::adaptive::{NoiseModel, PairedTest, log_wealth};

/// The mixture integrated by the midpoint rule.
fn slow_log_wealth(sum: f64, count: f64, sd: f64, scale: f64) -> f64 {
    let (steps, end) = (200_000, 12.0 * scale);
    let step = end / f64::from(steps);
    let weight = 2.0 / (scale * (2.0 * std::f64::consts::PI).sqrt());
    let term = |i: u32| {
        let gain = (f64::from(i) + 0.5) * step;
        let log_likelihood = gain * sum / (sd * sd) - count * gain * gain / (2.0 * sd * sd);
        (log_likelihood - gain * gain / (2.0 * scale * scale)).exp() * weight * step
    };
    (0..steps).map(term).sum::<f64>().ln()
}

#[test]
fn wealth_equals_the_integral_that_it_stands_for() {
    for (sum, count, sd, scale) in [
        (0.0, 0.0, 0.01, 0.04),
        (0.05, 1.0, 0.01, 0.04),
        (0.1, 10.0, 0.01, 0.04),
        (-0.05, 5.0, 0.01, 0.04),
        (0.9, 6.0, 0.04, 0.15),
        (-0.9, 6.0, 0.04, 0.15),
        (3.0, 300.0, 0.05, 0.04),
    ] {
        let (fast, slow) =
            (log_wealth(sum, count, sd, scale), slow_log_wealth(sum, count, sd, scale));
        assert!((fast - slow).abs() < 0.05, "{sum} {count} {sd} {scale}: {fast} against {slow}");
    }
}

#[test]
fn wealth_and_the_normal_distribution_are_scipys() {
    for ([sum, count, sd, scale], expected) in scipy().log_wealth {
        let found = log_wealth(sum, count, sd, scale);
        assert!((found - expected).abs() < 1e-2, "{sum} {count} {sd} {scale}: {found} {expected}");
    }
    for (z, expected) in scipy().normal_cdf {
        assert!((phi(z) - expected).abs() < 1.5e-7, "{z}: {} {expected}", phi(z));
    }
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

/// Share of races between kernels whose gain is just the margin, looked at after every pair, in
/// which a bet reaches 1/α; 2 % of the pairs hold a stall.
fn false_positives(rho: f64, races: usize, pairs: usize) -> f64 {
    const MARGIN: f64 = 0.005;
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut noise = NoiseModel::default();
    let wins = |_: &usize| {
        let (mut test, mut state, mut wins) = (PairedTest::default(), normal(&mut rng), false);
        for _ in 0..pairs {
            state = rho * state + (1.0 - rho * rho).sqrt() * normal(&mut rng);
            let stall = match rng.random::<f64>() {
                x if x < 0.01 => 1.0,
                x if x < 0.02 => -1.0,
                _ => 0.0,
            };
            test.push(MARGIN + 0.042 * state + stall, &mut noise);
            let wealth = test.wealth(MARGIN, 0.07, &noise);
            wins |= wealth.better.max(wealth.much_better) >= (2.0f64 / 0.01).ln();
        }
        wins
    };
    (0..races).filter(wins).count() as f64 / races as f64
}

#[test]
fn independent_noise_wins_at_most_as_often_as_stated() {
    let share = false_positives(0.0, 1500, 1000);
    assert!(share <= 0.015, "{share}");
}

#[test]
fn correlated_noise_wins_hardly_more_often() {
    for (rho, most) in [(0.5, 0.02), (0.9, 0.03)] {
        let share = false_positives(rho, 1000, 1000);
        assert!(share <= most, "ρ = {rho}: {share}");
    }
}

#[test]
fn the_noise_model_finds_scale_and_correlation() {
    for rho in [0.0, 0.5, 0.9] {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut noise, mut test, mut state) = (NoiseModel::default(), PairedTest::default(), 0.0);
        for _ in 0..20_000 {
            state = rho * state + (1.0f64 - rho * rho).sqrt() * normal(&mut rng);
            test.push(0.03 * state, &mut noise);
        }
        assert!((noise.correlation() - rho).abs() < 0.06, "{rho}: {}", noise.correlation());
        let sd = noise.pair_variance().sqrt();
        assert!((0.024..0.038).contains(&sd), "{rho}: {sd}");
        assert_eq!(noise.block_pairs(), if rho < 0.6 { 16 } else { 64 });
    }
}

#[test]
fn a_real_gain_is_proved_and_a_real_loss_retires() {
    for (gain, better) in [(0.02, true), (0.05, true), (-0.05, false)] {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let (mut noise, mut test) = (NoiseModel::default(), PairedTest::default());
        for _ in 0..800 {
            test.push(gain + 0.042 * normal(&mut rng), &mut noise);
        }
        let wealth = test.wealth(0.005, 0.07, &noise);
        assert_eq!(wealth.better > 8.0, better, "{gain}: {wealth:?}");
        assert_eq!(wealth.not_better > 3.0, !better, "{gain}: {wealth:?}");
    }
}

//! What beliefs are made of: errors that kernels share, a context's noise, samples that may be stalls.

use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::{PROBING, features, two_arms};
use crate::adaptive::moments::CommonErrors;
use crate::adaptive::noise::NoiseScale;
use crate::adaptive::{NoiseModel, Outcome, PairedTest};

#[test]
fn the_common_share_is_the_slope_of_a_kernels_error_on_the_others() {
    let errors = [0.3, -0.2, 0.5, -0.4, 0.1, -0.3];
    for (slope, low, high) in [(1.0, 0.9, 1.0), (0.5, 0.45, 0.5), (0.0, 0.0, 0.0), (-1.0, 0.0, 0.0)]
    {
        let mut common = CommonErrors::default();
        assert_eq!(common.share(), 0.0);
        for _ in 0..8 {
            errors.iter().for_each(|&others| common.push(others, slope * others));
        }
        let share = common.share();
        assert!((low..=high).contains(&share), "slope {slope}: {share}");
    }
    let mut few = CommonErrors::default();
    few.push(0.1, 0.1);
    assert!(few.share() < 0.05, "one error of 10 % is no habit: {}", few.share());
}

#[test]
fn a_contexts_noise_is_its_own_once_pairs_tell() {
    let pooled = NoiseModel::default();
    // Half the squared difference of successive pairs: 0.0016 · (1 − 0.6).
    let usual = (2.0 * 0.0016f64 * 0.4).sqrt();
    for (pairs, times, low, high) in [
        (0, 1.0, 1.0, 1.0),
        (4, 2.0, 1.2, 1.5),
        (1000, 2.0, 3.7, 4.0),
        (1000, 1.0, 1.0, 1.0),
        (1000, 0.5, 0.25, 0.28),
    ] {
        let mut scale = NoiseScale::default();
        (0..pairs).for_each(|_| scale.push(times * usual, &pooled));
        let own = pooled.of(&scale);
        let factor = own.pair_variance() / pooled.pair_variance();
        let within = low - 1e-9 <= factor && factor <= high + 1e-9;
        assert!(within, "{pairs} pairs of {times} times the noise: {factor}");
        assert_eq!(own.correlation(), pooled.correlation());
    }
}

#[test]
fn one_stall_hardly_changes_a_contexts_noise() {
    let pooled = NoiseModel::default();
    let mut scale = NoiseScale::default();
    scale.push(1e3, &pooled);
    let factor = pooled.of(&scale).pair_variance() / pooled.pair_variance();
    assert!(factor < 1.3, "{factor}");
}

#[test]
fn a_test_is_current_while_its_latest_pairs_are_like_the_others() {
    for (latest, current) in [(0.01, true), (0.03, true), (0.10, false), (-0.08, false)] {
        let mut noise = NoiseModel::default();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut test = PairedTest::default();
        let mut push = |pairs: usize, gain: f64| {
            for _ in 0..pairs {
                test.push(gain + 0.08 * (rng.random::<f64>() - 0.5), &mut noise);
            }
        };
        push(300, 0.01);
        push(8, latest);
        assert_eq!(test.is_current(&noise), current, "{latest}");
    }
    assert!(PairedTest::default().is_current(&NoiseModel::default()));
}

/// Whichever of the first four samples is a stall, it is left out; a second one after it counts.
#[test]
fn no_early_sample_may_be_a_stall() {
    for (latencies, low, high) in [
        (vec![3e5, 1e5, 1e5, 1e5], 0.99e5, 1.01e5),
        (vec![1e5, 3e5, 1e5, 1e5], 0.99e5, 1.01e5),
        (vec![1e5, 1e5, 1e5, 3e5], 0.99e5, 1.01e5),
        (vec![1e5, 3e5, 1e5, 3e5], 0.99e5, 1.01e5),
        (vec![1e5, 3e5, 3e5, 3e5], 1.3e5, 3e5),
    ] {
        let mut policy = two_arms();
        let mut left = latencies.iter();
        for call in 0.. {
            let choice = policy.choose(&features(4), &PROBING, call).unwrap();
            let ns = match choice.kernel {
                1 => match left.next() {
                    Some(&ns) => ns,
                    None => break,
                },
                _ => 1e5,
            };
            policy.record(choice.ticket, Outcome::LatencyNs(ns), call);
        }
        let estimate_ns = policy.explain(&features(4)).considered[1].estimate_ns;
        assert!((low..=high).contains(&estimate_ns), "{latencies:?}: {estimate_ns}");
    }
}

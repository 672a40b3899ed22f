use std::num::NonZeroU64;

use chacha20::ChaCha8Rng;
use proptest::prelude::*;
use rand::SeedableRng;
use trellect_core::NumericClass;

use super::{Bench, PROBING, arm, features, two_arms};
use crate::adaptive::{
    AdaptiveConfig, AdaptivePolicy, Evidence, ImportEvidenceError, ImportSummary, MachineLimits,
    Mode, Outcome, Provenance,
};
use crate::{ContextKey, LatencyStatistics};

fn from(variance_factor: f64) -> Provenance {
    Provenance { variance_factor, reason: format!("factor {variance_factor}").into() }
}

fn latencies(ns: u64, count: usize) -> LatencyStatistics {
    let mut statistics = LatencyStatistics::default();
    (0..count).for_each(|_| statistics.observe(NonZeroU64::new(ns).unwrap()));
    statistics
}

fn row(policy: &AdaptivePolicy, kernel: usize, ns: u64, count: usize) -> Evidence {
    Evidence {
        context: policy.context_key(&features(4)),
        kernel: policy.arms()[kernel].spec.id,
        class: NumericClass::Half,
        latencies: latencies(ns, count),
    }
}

#[test]
fn what_is_measured_is_taken_once() {
    let mut bench = Bench { policy: two_arms(), now_ns: 0, rng: ChaCha8Rng::seed_from_u64(1) };
    for _ in 0..300 {
        bench.call(4, &[100_000.0, 120_000.0]);
    }
    let context = bench.policy.context_key(&features(4));
    bench.policy.observe(context, 0, Outcome::LatencyNs(5e5), bench.now_ns);
    bench.policy.set_mode(Mode::Frozen);
    bench.call(4, &[100_000.0, 120_000.0]);
    let exported = bench.policy.export_evidence();
    let taken = bench.policy.take_evidence();
    assert_eq!(exported, taken.iter().map(|row| (row.clone(), None)).collect::<Vec<_>>());
    assert_eq!(taken.iter().map(|row| row.latencies.count).sum::<u64>(), 302);
    assert!(taken.iter().all(|row| row.context == context && row.latencies.fault().is_none()));
    assert_eq!(taken[0].latencies.max_ns, 500_000);
    assert_eq!(bench.policy.take_evidence(), []);
}

#[test]
fn imported_evidence_may_start_an_incumbent() {
    for (factor, starts) in [(1.0, 1), (4.0, 1), (16.0, 1)] {
        let mut policy = two_arms();
        let rows = [row(&policy, 0, 120_000, 200), row(&policy, 1, 90_000, 200)];
        let summary = policy.import_evidence(rows, &from(factor)).unwrap();
        assert_eq!(summary, ImportSummary { used: 2, ..ImportSummary::default() });
        let (untold, told) = (two_arms().explain(&features(4)), policy.explain(&features(4)));
        assert_eq!(told.considered[1].imported, [(200, from(factor))]);
        assert_eq!(untold.considered[1].imported, []);
        policy.choose(&features(4), &PROBING, 0).unwrap();
        let explanation = policy.explain(&features(4));
        let started = explanation.incumbent.unwrap();
        assert_eq!(started, policy.arms()[starts].spec.id, "factor {factor}");
        assert!(explanation.to_string().contains(&format!("factor {factor}")));
        assert_eq!(explanation.considered.iter().map(|arm| arm.pairs).sum::<f64>(), 0.0);
    }
}

#[test]
fn the_variance_factor_widens_what_is_believed() {
    let believed = |factor: Option<f64>| {
        let mut policy = two_arms();
        if let Some(factor) = factor {
            let rows = [row(&policy, 0, 200_000, 1000)];
            policy.import_evidence(rows, &from(factor)).unwrap();
        }
        policy.choose(&features(4), &PROBING, 0).unwrap();
        let told = policy.explain(&features(4)).considered[0].clone();
        (told.estimate_ns, told.estimate_sd)
    };
    let rows = [Some(1.0), Some(4.0), Some(16.0), None].map(believed);
    assert!(rows.is_sorted_by(|a, b| a.0 > b.0 && a.1 < b.1), "{rows:?}");
    assert!((rows[0].0 / 2e5).ln().abs() < 0.1, "{rows:?}");
    assert!((rows[0].1 - 0.03).abs() < 0.01, "{rows:?}");
}

/// However much is imported, only pairs measured here prove a switch.
#[test]
fn imported_evidence_is_no_proof() {
    let mut policy = two_arms();
    policy.choose(&features(4), &PROBING, 0).unwrap();
    let rows = [row(&policy, 0, 150_000, 1 << 20), row(&policy, 1, 50_000, 1 << 20)];
    policy.import_evidence(rows, &from(1.0)).unwrap();
    let mut bench = Bench { policy, now_ns: 0, rng: ChaCha8Rng::seed_from_u64(2) };
    for _ in 0..3 {
        bench.call(4, &[100_000.0, 100_000.0]);
    }
    assert_eq!(bench.policy.totals().switches, 0);
    assert_eq!(bench.policy.explain(&features(4)).incumbent, Some(bench.policy.arms()[0].spec.id));
    let probes = bench.policy.totals().probes;
    assert!(probes > 0, "but it is looked at at once");
}

#[test]
fn unknown_kernels_are_kept_and_ignored() {
    let mut policy = two_arms();
    let gone = Evidence { kernel: arm("gone", 1.0).spec.id, ..row(&policy, 0, 1_000, 50) };
    let elsewhere = Evidence { context: ContextKey(1), ..row(&policy, 1, 90_000, 10) };
    let broken = Evidence { latencies: LatencyStatistics::default(), ..row(&policy, 0, 1_000, 50) };
    let rows = [gone.clone(), elsewhere.clone(), broken];
    let summary = policy.import_evidence(rows, &from(4.0)).unwrap();
    assert_eq!(summary, ImportSummary { used: 1, unknown_kernels: 1, refused: 1 });
    let mut untold = two_arms();
    for call in 0..200 {
        let [a, b] = [&mut policy, &mut untold].map(|p| p.choose(&features(4), &PROBING, call));
        assert_eq!(a, b);
        let outcome = Outcome::LatencyNs(1e5);
        let ticket = a.unwrap().ticket;
        policy.record(ticket, outcome, call);
        untold.record(ticket, outcome, call);
    }
    assert_eq!(policy.take_evidence(), untold.take_evidence());
    let exported = policy.export_evidence();
    assert_eq!(exported.len(), 2);
    assert!(exported.contains(&(gone, Some(from(4.0)))));
    assert!(exported.contains(&(elsewhere, Some(from(4.0)))));
}

#[test]
fn factors_that_are_none_are_refused() {
    for found in [0.0, 0.5, -1.0, f64::NAN, f64::INFINITY] {
        let mut policy = two_arms();
        let rows = [row(&policy, 0, 1_000, 10)];
        let refused = policy.import_evidence(rows, &from(found)).unwrap_err();
        let ImportEvidenceError::VarianceFactor { found: named } = refused;
        assert_eq!(named.to_bits(), found.to_bits());
        assert_eq!(policy.export_evidence(), []);
    }
}

proptest! {
    /// Rows of several processes in any order and grouping begin a context alike.
    #[test]
    fn imports_commute(
        rows in proptest::collection::vec((0usize..2, 50_000u64..200_000, 1usize..30, 0usize..3), 1..8),
        split in 0usize..8,
    ) {
        let begin = |order: &[usize]| {
            let mut policy = two_arms();
            for &at in order {
                let (kernel, ns, count, factor) = rows[at];
                let row = row(&policy, kernel, ns, count);
                policy.import_evidence([row], &from([1.0, 4.0, 16.0][factor])).unwrap();
            }
            policy.choose(&features(4), &PROBING, 0).unwrap();
            let told = policy.explain(&features(4));
            told.considered.into_iter().map(|arm| (arm.estimate_ns, arm.estimate_sd)).collect::<Vec<_>>()
        };
        let forwards: Vec<usize> = (0..rows.len()).collect();
        let mut turned = forwards.clone();
        turned.rotate_left(split % rows.len());
        for (a, b) in begin(&forwards).into_iter().zip(begin(&turned)) {
            prop_assert!((a.0 / b.0 - 1.0).abs() < 1e-9 && (a.1 - b.1).abs() < 1e-9, "{a:?} {b:?}");
        }
    }
}

#[test]
fn a_policy_begins_where_another_stopped() {
    let run = |seed| {
        let config = AdaptiveConfig { seed, ..AdaptiveConfig::default() };
        let arms = vec![arm("a", 1e5), arm("b", 1e5)];
        let policy = AdaptivePolicy::new(config, arms, MachineLimits::UNKNOWN).unwrap();
        Bench { policy, now_ns: 0, rng: ChaCha8Rng::seed_from_u64(seed) }
    };
    let mut first = run(1);
    for _ in 0..300 {
        first.call(4, &[130_000.0, 100_000.0]);
    }
    let mut second = run(2);
    second.policy.import_evidence(first.policy.take_evidence(), &from(1.0)).unwrap();
    let (choice, _) = second.call(4, &[130_000.0, 100_000.0]);
    let explanation = second.policy.explain(&features(4));
    assert_eq!(explanation.incumbent, Some(second.policy.arms()[1].spec.id), "{choice:?}");
}

use chacha20::ChaCha8Rng;
use rand::SeedableRng;

use super::{Bench, PROBING, arm, features};
use crate::adaptive::{
    AdaptiveConfig, AdaptivePolicy, ChoiceReason, MachineLimits, Mode, Outcome, Recorded, Sweep,
};

const SECOND: u64 = 1_000_000_000;

fn bench(names: &[&str], seed: u64) -> Bench {
    let arms = names.iter().map(|name| arm(name, 1e5)).collect();
    let config = AdaptiveConfig { seed, ..AdaptiveConfig::default() };
    let policy = AdaptivePolicy::new(config, arms, MachineLimits::UNKNOWN).unwrap();
    Bench { policy, now_ns: 0, rng: ChaCha8Rng::seed_from_u64(seed) }
}

impl Bench {
    fn sweep(&mut self, tokens: &[usize]) -> Option<Sweep> {
        self.now_ns += SECOND;
        let recent: Vec<_> = tokens.iter().map(|&tokens| features(tokens)).collect();
        self.policy.sweep(&recent, self.now_ns)
    }

    /// Runs a round; whether it switched.
    fn run(&mut self, sweep: &Sweep, ns: &[f64]) -> bool {
        let mut switched = false;
        for choice in &sweep.choices {
            let noise: f64 = self.noise();
            let outcome = Outcome::LatencyNs(ns[choice.kernel] * noise);
            let recorded = self.policy.record(choice.ticket, outcome, self.now_ns);
            switched |= matches!(recorded, Recorded::Switched { .. });
        }
        switched
    }
}

#[test]
fn a_round_has_every_kernel_once_in_random_order() {
    let mut bench = bench(&["a", "b", "c", "d"], 1);
    bench.call(4, &[1e5; 4]);
    let mut orders = std::collections::BTreeSet::new();
    for _ in 0..60 {
        let Sweep { call, choices } = bench.sweep(&[4]).unwrap();
        assert_eq!(call, 0);
        assert!(choices.iter().all(|choice| choice.reason == ChoiceReason::Sweep));
        let order: Vec<usize> = choices.iter().map(|choice| choice.kernel).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3]);
        orders.insert(order);
    }
    assert!(orders.len() > 15, "{}", orders.len());
    assert_eq!(bench.policy.explain(&features(4)).calls, 1, "a sweep is no call");
}

#[test]
fn contexts_take_turns_and_unseen_ones_are_left_out() {
    let mut bench = bench(&["a", "b"], 2);
    for tokens in [4, 16, 64] {
        bench.call(tokens, &[1e5; 2]);
    }
    let turns: Vec<usize> = (0..6).map(|_| bench.sweep(&[1024, 4, 16, 64]).unwrap().call).collect();
    assert_eq!(turns, [1, 2, 3, 1, 2, 3]);
    assert_eq!(bench.sweep(&[1024]), None);
    assert_eq!(bench.sweep(&[]), None);
}

/// A round is worth as much as a pair for each challenger, and costs callers nothing.
#[test]
fn sweeps_alone_prove_the_fastest() {
    let mut bench = bench(&["a", "b", "c"], 3);
    bench.call(4, &[1e5; 3]);
    let before = *bench.policy.totals();
    let rounds = (1..200).find(|_| {
        let sweep = bench.sweep(&[4]).unwrap();
        bench.run(&sweep, &[104_000.0, 103_500.0, 100_000.0])
    });
    let rounds = rounds.expect("proved by 200 rounds");
    assert_eq!(bench.policy.explain(&features(4)).incumbent, Some(bench.policy.arms()[2].spec.id));
    let after = bench.policy.totals();
    assert_eq!((after.probes, after.spent_ns), (before.probes, before.spent_ns));
    let samples = bench.policy.explain(&features(4)).considered[1].samples;
    assert_eq!(samples, f64::from(rounds), "every kernel in every round");
}

#[test]
fn equal_kernels_are_not_switched_by_sweeps() {
    let switches: u64 = (0..40)
        .map(|seed| {
            let mut bench = bench(&["a", "b", "c"], 100 + seed);
            bench.call(4, &[1e5; 3]);
            for _ in 0..400 {
                let sweep = bench.sweep(&[4]).unwrap();
                bench.run(&sweep, &[1e5; 3]);
            }
            bench.policy.totals().switches
        })
        .sum();
    assert!(switches <= 1, "{switches} of 40");
}

#[test]
fn sweeps_keep_to_their_share_of_the_time() {
    let mut bench = bench(&["a", "b"], 4);
    bench.call(4, &[1e5; 2]);
    let recent = [features(4)];
    let mut rounds = 0;
    let start = bench.now_ns;
    for step in 0..100_000 {
        rounds += u64::from(bench.policy.sweep(&recent, start + step * 1_000).is_some());
    }
    // A round takes 0.2 ms: a tenth of 0.1 s has room for 50.
    assert!((48..=52).contains(&rounds), "{rounds}");
}

#[test]
fn nothing_is_swept_where_it_must_not_be() {
    let mut bench = bench(&["a", "b", "c"], 5);
    bench.call(4, &[1e5; 3]);
    bench.policy.observe_memory(95, 100);
    assert_eq!(bench.sweep(&[4]), None);
    bench.policy.observe_memory(10, 100);
    for mode in [Mode::Frozen, Mode::Off, Mode::Replay] {
        bench.policy.set_mode(mode);
        assert_eq!(bench.sweep(&[4]), None);
    }
    bench.policy.set_mode(Mode::Learn);
    let kernels = |sweep: Sweep| {
        let mut kernels: Vec<usize> = sweep.choices.iter().map(|choice| choice.kernel).collect();
        kernels.sort_unstable();
        kernels
    };
    // Far slower: met once, and no caller shall wait for it again.
    let sweep = bench.sweep(&[4]).unwrap();
    bench.run(&sweep, &[1e5, 1e5, 3e6]);
    for _ in 0..8 {
        if let Some(sweep) = bench.sweep(&[4]) {
            bench.run(&sweep, &[1e5, 1e5, 3e6]);
        }
    }
    assert_eq!(kernels(bench.sweep(&[4]).unwrap()), [0, 1]);
    let choice = bench.policy.choose(&features(4), &PROBING, bench.now_ns).unwrap();
    let other = 1 - choice.kernel.min(1);
    bench.policy.observe(choice.context, other, Outcome::Failed, bench.now_ns);
    assert_eq!(bench.sweep(&[4]), None, "the incumbent, or its only challenger, has failed");
}

#[test]
fn a_round_broken_off_leaves_nothing_behind() {
    let mut bench = bench(&["a", "b", "c"], 6);
    bench.call(4, &[1e5; 3]);
    for _ in 0..5_000 {
        let sweep = bench.sweep(&[4]).unwrap();
        let first = Sweep { choices: sweep.choices[..1].to_vec(), ..sweep };
        bench.run(&first, &[1e5; 3]);
    }
    let (pending, pairs) = bench.policy.tickets.under_way();
    assert!(pending <= 4096 && pairs <= 2 * 4096, "{pending} {pairs}");
}

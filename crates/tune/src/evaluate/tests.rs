use super::table::{adaptive, clock_step, runs};
use super::{
    DiscountedThompson, Drift, Oracle, Policy, Run, StaticRules, Summary, World, WorldConfig,
    simulate,
};

const CALLS: usize = 20_000;
const SEEDS: u64 = 6;

fn regret(runs: &[Run]) -> f64 {
    Summary::of(runs.iter().map(|run| run.regret)).mean
}

#[test]
fn equal_seeds_give_equal_runs() {
    let config = WorldConfig { failure_share: 0.001, ..WorldConfig::new(5_000, Drift::Shifting) };
    assert_eq!(runs(config, 2, adaptive), runs(config, 2, adaptive));
}

#[test]
fn the_oracle_regrets_nothing_and_the_world_ignores_who_is_asked() {
    let config = WorldConfig::new(2_000, Drift::Shifting);
    let calls = |policy: &mut dyn Policy| {
        let mut world = World::new(config, 3);
        let run = simulate(&mut world, policy);
        (run.regret, world.truth_ns(0).to_vec(), world.next_call(0).0)
    };
    let (oracle, rules) = (calls(&mut Oracle), calls(&mut StaticRules));
    assert_eq!(oracle.0, 0.0);
    assert!(rules.0 > 0.0);
    assert_eq!((oracle.1, oracle.2), (rules.1, rules.2));
}

#[test]
fn adaptive_regret_is_near_the_best_baseline_or_below() {
    for drift in [Drift::Stationary, Drift::Shifting] {
        let config = WorldConfig::new(CALLS, drift);
        let ours = regret(&runs(config, SEEDS, adaptive));
        for fade in ["0.998", "0.99"] {
            let theirs = regret(&match fade {
                "0.99" => runs(config, SEEDS, |_, s| Box::new(DiscountedThompson::new(s, 0.99))),
                _ => runs(config, SEEDS, |_, s| Box::new(DiscountedThompson::new(s, 0.998))),
            });
            assert!(ours <= theirs + 0.001, "{drift:?}, {fade}: {ours} against {theirs}");
        }
        assert!(ours < 0.3 * regret(&runs(config, SEEDS, |_, _| Box::new(StaticRules))));
    }
}

#[test]
fn equal_kernels_are_hardly_switched_and_never_by_the_clock() {
    let share = |config: WorldConfig| {
        let runs = runs(config, SEEDS, adaptive);
        let hit: usize = runs.iter().map(|run| run.contexts_with_false_switch).sum();
        hit as f64 / runs.iter().map(|run| run.contexts).sum::<usize>() as f64
    };
    let steady = WorldConfig::equal(CALLS, 0.0);
    assert!(share(steady) <= 0.015);
    assert!(share(WorldConfig::equal(CALLS, 0.9)) <= 0.03);
    // Up to the step both runs are the same, so what α lets through is in both.
    assert_eq!(share(clock_step(steady)), share(steady));
}

#[test]
fn failing_kernels_do_not_stop_the_run() {
    let config = WorldConfig { failure_share: 0.01, ..WorldConfig::new(CALLS, Drift::Stationary) };
    for run in runs(config, 2, adaptive) {
        assert!(run.regret.is_finite() && run.worst_window_ratio.is_finite());
    }
}

#[test]
fn a_summary_brackets_its_mean_and_leaves_nan_out() {
    let summary = Summary::of([0.01, 0.02, f64::NAN, 0.03]);
    assert!((summary.mean - 0.02).abs() < 1e-12);
    assert!(summary.low <= summary.mean && summary.mean <= summary.high);
    assert_eq!(Summary::of([f64::NAN]).to_string(), "—");
}

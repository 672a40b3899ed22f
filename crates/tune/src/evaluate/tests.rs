use super::*;
use crate::matrix::{Cell, Matrix};

const CALLS: usize = 20_000;
const SEEDS: u64 = 6;

fn simulated(config: WorldConfig) -> Scenario<'static> {
    Scenario::Simulated(config)
}

fn regret(scenario: Scenario<'_>, policy: PolicyKind) -> f64 {
    Summary::of(scenario.runs(policy, SEEDS).iter().map(|run| run.regret)).mean
}

/// One of the committed recordings.
fn recorded(calls: usize) -> (Matrix, Recording) {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../bench-record/cpu-2core-xeon/glm-4.7-flash-mixed.json"
    );
    let matrix = Matrix::read(path.as_ref()).unwrap();
    let recording = Recording::new(&matrix, Trace::Zipf { calls }).unwrap();
    (matrix, recording)
}

#[test]
fn equal_seeds_give_equal_runs() {
    let config = WorldConfig { failure_share: 0.001, ..WorldConfig::new(5_000, Drift::Shifting) };
    let (_, recording) = recorded(2_000);
    for scenario in [simulated(config), Scenario::Recorded(&recording)] {
        for policy in [PolicyKind::Adaptive, PolicyKind::Thompson] {
            let once = format!("{:?}", scenario.runs(policy, 2));
            assert_eq!(once, format!("{:?}", scenario.runs(policy, 2)));
        }
    }
}

#[test]
fn the_oracle_regrets_nothing_and_the_world_ignores_who_is_asked() {
    let config = WorldConfig::new(2_000, Drift::Shifting);
    let (_, recording) = recorded(2_000);
    for scenario in [simulated(config), Scenario::Recorded(&recording)] {
        let calls = |policy: PolicyKind| {
            let mut world = scenario.world(3);
            let mut policy = policy.make(&*world, 3);
            let run = simulate(&mut *world, &mut *policy);
            (run, world.truth_ns(0).to_vec(), world.sight(1).prior_ns.to_vec())
        };
        let (oracle, rules) = (calls(PolicyKind::Oracle), calls(PolicyKind::Rules));
        assert_eq!((oracle.0.regret, oracle.0.late_regret_worst), (0.0, 0.0));
        assert_eq!((oracle.0.gap_closed, oracle.0.unconverged), (1.0, 0.0));
        assert!(rules.0.regret > 0.0);
        assert_eq!(rules.0.worst_window_ratio, 1.0);
        assert_eq!((oracle.1, oracle.2), (rules.1, rules.2));
    }
}

#[test]
fn adaptive_regret_is_near_the_best_baseline_or_below() {
    for drift in [Drift::Stationary, Drift::Shifting] {
        let scenario = simulated(WorldConfig::new(CALLS, drift));
        let ours = regret(scenario, PolicyKind::Adaptive);
        for rival in [PolicyKind::Thompson, PolicyKind::ThompsonFast] {
            let theirs = regret(scenario, rival);
            assert!(ours <= theirs + 0.001, "{drift:?}, {rival}: {ours} against {theirs}");
        }
        assert!(ours < 0.3 * regret(scenario, PolicyKind::Rules));
    }
}

#[test]
fn equal_kernels_are_hardly_switched_and_never_by_the_clock() {
    let share = |config: WorldConfig| {
        let runs = simulated(config).runs(PolicyKind::Adaptive, SEEDS);
        let hit: usize = runs.iter().map(|run| run.contexts_with_false_switch).sum();
        hit as f64 / runs.iter().map(|run| run.contexts).sum::<usize>() as f64
    };
    let steady = WorldConfig::equal(CALLS, 0.0);
    assert!(share(steady) <= 0.015);
    assert!(share(WorldConfig::equal(CALLS, 0.9)) <= 0.03);
    // Up to the step both runs are the same, so what α lets through is in both.
    let step = WorldConfig { clock_step: 1.15f64.ln(), ..steady };
    assert_eq!(share(step), share(steady));
}

#[test]
fn failing_kernels_do_not_stop_the_run() {
    let config = WorldConfig { failure_share: 0.01, ..WorldConfig::new(CALLS, Drift::Stationary) };
    for run in simulated(config).runs(PolicyKind::Adaptive, 2) {
        assert!(run.regret.is_finite() && run.worst_window_ratio.is_finite());
    }
}

#[test]
fn every_policy_stays_within_a_recording() {
    let (_, recording) = recorded(3_000);
    for policy in PolicyKind::ALL {
        let figures = Scenario::Recorded(&recording).figures(policy, 2);
        assert!(figures.regret.mean.is_finite() && figures.regret.mean >= 0.0, "{policy}");
        assert!((0.0..=1.0).contains(&figures.flip_rate), "{policy}");
        assert_eq!(policy.name().parse(), Ok(policy));
    }
    assert!("magic".parse::<PolicyKind>().unwrap_err().to_string().contains("ucb1"));
}

#[test]
fn a_table_is_trained_on_one_half_and_judged_on_the_other() {
    let (mut matrix, _) = recorded(10);
    // In the first half the portable kernels of the first context become the fastest by far.
    let half = matrix.contexts[0].rounds.len() / 2;
    let portable: Vec<usize> = (0..matrix.kernels.len())
        .filter(|&kernel| matrix.kernels[kernel].name.to_string().ends_with("generic"))
        .collect();
    for &kernel in &portable {
        if let Cell::Ns(ns) = &mut matrix.contexts[0].cells[kernel] {
            ns[..half].fill(1);
        }
    }
    let recording = Recording::new(&matrix, Trace::Recorded(vec![0; 10])).unwrap();
    let scenario = Scenario::Recorded(&recording);
    assert!(portable.contains(&scenario.world(0).trained().table[0]));
    let run = &scenario.runs(PolicyKind::StaticTable, 1)[0];
    assert!(run.regret > 5.0, "{}", run.regret);
    assert!(recording.noise_floor() > 0.5);
}

#[test]
fn what_slows_a_round_slows_no_kernel_in_particular() {
    let (mut matrix, recording) = recorded(10);
    let before = Scenario::Recorded(&recording).world(0).truth_ns(2).to_vec();
    let last = matrix.contexts[2].rounds.len() - 1;
    for cell in &mut matrix.contexts[2].cells {
        if let Cell::Ns(ns) = cell {
            ns[last] *= 50;
        }
    }
    let slowed = Recording::new(&matrix, Trace::Zipf { calls: 10 }).unwrap();
    let after = Scenario::Recorded(&slowed).world(0).truth_ns(2).to_vec();
    for (before, after) in before.iter().zip(&after).filter(|(before, _)| before.is_finite()) {
        assert!((before / after).ln().abs() < 0.35, "{before} {after}");
    }
}

#[test]
fn recordings_that_cannot_be_replayed_say_why() {
    let (good, _) = recorded(1);
    let why = |change: fn(&mut Matrix)| {
        let mut matrix = good.clone();
        change(&mut matrix);
        Recording::new(&matrix, Trace::Zipf { calls: 1 }).unwrap_err().to_string()
    };
    assert!(why(|matrix| matrix.contexts.clear()).contains("found none"));
    assert!(why(|matrix| matrix.contexts[3].rounds.truncate(1)).contains("contexts[3]"));
    let skip = |matrix: &mut Matrix| {
        let at = matrix.kernels.iter().position(|k| k.name.to_string().contains("avx2")).unwrap();
        for context in &mut matrix.contexts[..1] {
            for cell in &mut context.cells[at..] {
                *cell = Cell::Skipped("no".into());
            }
        }
    };
    assert!(why(skip).contains("was not measured"));
}

#[test]
fn traces_are_read_and_wrong_lines_named() {
    let (matrix, _) = recorded(1);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Trace::read(&path, &matrix)
    };
    let calls = read("# decode, then a prompt\n1 uniform 3\n\n64 uniform\n").unwrap();
    let long = matrix.contexts.iter().position(|context| context.num_tokens == 64).unwrap();
    assert_eq!(calls, Trace::Recorded(vec![0, 0, 0, long]));
    for (text, message) in [
        ("1 uniform 3 4", "line 1"),
        ("1 uniform\n3 uniform", "line 2: found `3 uniform`"),
        ("1 uniform -1", "a count"),
        ("1 uniform 99999999999999999999", "a count"),
        ("1 uniform 16777216\n1 uniform", "line 2"),
        ("# nothing", "found no call"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    assert!(matches!(
        Trace::read(&directory.path().join("absent"), &matrix),
        Err(TraceError::Io { .. })
    ));
}

#[test]
fn a_plot_has_a_line_and_a_name_for_every_policy_that_loses() {
    let (_, recording) = recorded(500);
    let scenario = Scenario::Recorded(&recording);
    let policies = [PolicyKind::Rules, PolicyKind::Adaptive, PolicyKind::Oracle];
    let rows: Vec<Figures> = policies.iter().map(|policy| scenario.figures(*policy, 2)).collect();
    let svg = plot::regret_plot("a < b", &rows);
    assert_eq!(svg.matches("<polyline").count(), 2);
    assert!(svg.contains(">rules<") && svg.contains(">adaptive<") && svg.contains("a &lt; b"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
    let empty = plot::regret_plot("nothing", &[]);
    assert!(!empty.contains("NaN") && !empty.contains("inf"));
}

#[test]
fn a_summary_brackets_its_mean_and_leaves_nan_out() {
    let summary = Summary::of([0.01, 0.02, f64::NAN, 0.03]);
    assert!((summary.mean - 0.02).abs() < 1e-12);
    assert!(summary.low <= summary.mean && summary.mean <= summary.high);
    assert_eq!(Summary::of([f64::NAN]).to_string(), "—");
}

use super::*;
use crate::{Decision, Reason};

const DECODE: &str = "moe_trellis_swiglu_decode";
const PREFILL4: &str = "moe_trellis_swiglu_prefill4";
const BASE: &str = "moe_trellis_swiglu";

type Histories = Vec<(&'static str, Vec<f64>)>;

/// Latencies that vary by a hundredth about a mean.
fn about(mean_ms: f64, n: usize) -> Vec<f64> {
    (0..n).map(|i| mean_ms * [0.99, 1.0, 1.01][i % 3]).collect()
}

fn decide(histories: &[(&str, Vec<f64>)]) -> Decision {
    let mut policy = policy(0.0);
    for (name, latencies_ms) in histories {
        record_all(&mut policy, id(name), latencies_ms);
    }
    policy.select(&one_token(NumericClass::Half), &plain()).unwrap()
}

#[test]
fn when_the_history_decides() {
    let slow = || (DECODE, about(1.0, 6));
    let spread = |mean: f64| (0..9).map(|i| mean * (0.2 + 0.2 * f64::from(i))).collect();
    let mut drifted = about(0.5, 80);
    drifted.extend(about(1.1, 20));
    let cases: [(&str, Histories, &str); 13] = [
        ("no history", vec![], DECODE),
        ("only the heuristic's", vec![slow()], DECODE),
        ("only another's", vec![(BASE, about(0.5, 50))], DECODE),
        ("four of the other", vec![slow(), (BASE, about(0.5, 4))], DECODE),
        ("four of its own", vec![(DECODE, about(1.0, 4)), (BASE, about(0.5, 9))], DECODE),
        ("five of each", vec![(DECODE, about(1.0, 5)), (BASE, about(0.5, 5))], BASE),
        ("slower", vec![slow(), (BASE, about(1.5, 9))], DECODE),
        ("identical", vec![slow(), (BASE, about(1.0, 6))], DECODE),
        ("faster within the noise", vec![slow(), (BASE, spread(0.9))], DECODE),
        (
            "the fastest of several",
            vec![slow(), (BASE, about(0.6, 9)), (PREFILL4, about(0.5, 9))],
            PREFILL4,
        ),
        ("no spread at all", vec![(DECODE, vec![1.0; 5]), (BASE, vec![0.999; 5])], BASE),
        ("zero", vec![(DECODE, vec![0.0; 5]), (BASE, vec![0.0; 5])], DECODE),
        ("drifted", vec![(DECODE, about(1.0, 100)), (BASE, drifted)], DECODE),
    ];
    for (what, histories, expected) in cases {
        let got = decide(&histories);
        assert_eq!(got.kernel, id(expected), "{what}");
        let reason = match expected {
            DECODE => Reason::Heuristic,
            _ => Reason::FeedbackOptimization,
        };
        assert_eq!((got.reason, got.explored), (reason, false), "{what}");
        assert_eq!(got.baseline_kernel, id(DECODE), "{what}");
    }
}

#[test]
fn of_equal_means_the_first_candidate_serves() {
    let fast = about(0.5, 9);
    let got = decide(&[(DECODE, about(1.0, 9)), (BASE, fast.clone()), (PREFILL4, fast)]);
    assert_eq!(got.kernel, id(PREFILL4));
}

#[test]
fn a_change_that_slows_both_leaves_the_verdict() {
    let step = |mean: f64| [about(mean, 80), about(1.15 * mean, 20)].concat();
    assert_eq!(decide(&[(DECODE, step(1.0)), (BASE, step(0.5))]).kernel, id(BASE));
}

#[test]
fn the_history_decides_in_its_own_bucket() {
    let mut policy = policy(0.0);
    for (name, mean) in [(DECODE, 1.0), (PREFILL4, 1.0), (BASE, 0.5)] {
        record_all(&mut policy, id(name), &about(mean, 9));
    }
    let request = Request::new(call(2, NumericClass::Half, &[]));
    let got = policy.select(&request, &plain()).unwrap();
    assert_eq!((got.kernel, got.reason), (id(PREFILL4), Reason::Heuristic));
}

#[test]
fn other_rules_go_first() {
    let mut policy = policy(0.0);
    for (name, mean) in [
        (DECODE, 1.0),
        (PREFILL4, 0.5),
        (BASE, 1.0),
        ("moe_trellis_swiglu_decode_fp32acc", 1.0),
        ("moe_trellis_swiglu_decode_6_2_3", 0.1),
    ] {
        record_all(&mut policy, id(name), &about(mean, 9));
    }
    let half = one_token(NumericClass::Half);
    let select = |policy: &mut RulePolicy, request: &Request<'_>| {
        let got = policy.select(request, &plain()).unwrap();
        (got.kernel, got.reason)
    };
    let tight = Request { memory_pressure: 0.95, ..half };
    assert_eq!(select(&mut policy, &tight), (id(BASE), Reason::MemoryPressure));
    let feedback = (id(PREFILL4), Reason::FeedbackOptimization);
    let skewed = Request { top_expert_share: Some(0.9), ..half };
    assert_eq!(select(&mut policy, &skewed), feedback);
    assert_eq!(select(&mut policy, &half), feedback, "the tuples are unknown, so not _6_2_3");
    let exact = one_token(NumericClass::Exact);
    let fp32acc = id("moe_trellis_swiglu_decode_fp32acc");
    assert_eq!(select(&mut policy, &exact), (fp32acc, Reason::Heuristic));
    let available = [id(DECODE), id(BASE)];
    let listed = Request { available: Some(&available), ..half };
    assert_eq!(select(&mut policy, &listed), (id(DECODE), Reason::Heuristic));

    policy.set_exploration_rate(1.0).unwrap();
    for _ in 0..50 {
        let got = policy.select(&half, &plain()).unwrap();
        assert_eq!((got.reason, got.baseline_kernel), (Reason::Exploration, id(DECODE)));
        assert_ne!(got.kernel, id(PREFILL4), "it would have served anyway");
    }
}

#[test]
fn the_explanation_shows_the_evidence() {
    let mut policy = policy(0.0);
    record_all(&mut policy, id(DECODE), &[1.2, 1.3, 1.1, 1.25, 1.15]);
    record_all(&mut policy, id(BASE), &[1.0, 1.1, 0.9, 1.05, 0.95]);
    record_all(&mut policy, id(PREFILL4), &[1.0]);
    record_all(&mut policy, id("moe_trellis_swiglu_grouped"), &about(0.5, 80));
    record_all(&mut policy, id("moe_trellis_swiglu_grouped"), &about(1.4, 20));
    let available = [DECODE, BASE, PREFILL4, "moe_trellis_swiglu_grouped"].map(id);
    let request = Request { available: Some(&available), ..one_token(NumericClass::Half) };
    let candidates: Vec<KernelSpec> =
        plain().into_iter().filter(|spec| available.contains(&spec.id)).collect();
    let text = policy.explain(&request, &candidates).unwrap().to_string();
    assert_eq!(
        text,
        "\
moe_trellis_swiglu (feedback_optimization; row decode, bits standard)
  moe_trellis_swiglu_decode    legal, not the rules' choice (n = 5, mean 1.2000 ms, EMA 1.1987 ms)
  moe_trellis_swiglu_prefill4  legal, not the rules' choice (n = 1, mean 1.0000 ms, EMA 1.0000 ms)
  moe_trellis_swiglu           chosen: feedback_optimization (n = 5, mean 1.0000 ms, EMA 0.9987 ms, t = -4.000, p = 3.95e-3)
  moe_trellis_swiglu_grouped   legal, not the rules' choice (n = 100, mean 0.6798 ms, EMA 1.2900 ms, t = -10.286, p = 1.81e-8, drifted)
"
    );
}

use super::*;
use crate::{Bucket, ConfigError, HeuristicFamily, Reason};

const NO_SHARES: [f64; 5] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1, 1.1];

fn share_error(parameter: &str, found: f64) -> String {
    format!("{parameter} is {found}: expected a finite number from 0 to 1")
}

#[test]
fn bad_requests_are_named_and_leave_no_trace() {
    let mut policy = policy(0.5);
    let valid = one_token(NumericClass::Half);
    let no_tokens = Request::new(call(0, NumericClass::Half, &[]));
    let mut cases = vec![
        (no_tokens, "num_tokens is 0: expected 1 or more".to_owned()),
        (
            Request { available: Some(&[]), ..valid },
            "the list of available kernels is empty: expected at least one, or no list".to_owned(),
        ),
    ];
    for found in NO_SHARES {
        let pressure = Request { memory_pressure: found, ..valid };
        cases.push((pressure, share_error("memory_pressure", found)));
        let share = Request { top_expert_share: Some(found), ..valid };
        cases.push((share, share_error("top_expert_share", found)));
    }
    for (request, message) in cases {
        assert_eq!(policy.select(&request, &plain()).unwrap_err().to_string(), message);
        assert_eq!(policy.explain(&request, &plain()).unwrap_err().to_string(), message);
    }
    assert_eq!(policy.statistics().total_selections(), 0);
    for edge in [0.0, 1.0] {
        let request = Request { memory_pressure: edge, top_expert_share: Some(edge), ..valid };
        policy.select(&request, &plain()).unwrap();
    }
}

#[test]
fn bad_configurations_are_named() {
    let error = |config| RulePolicy::new(config).unwrap_err().to_string();
    let mut policy = policy(0.25);
    for found in NO_SHARES {
        let config = RuleConfig { exploration_rate: found, ..RuleConfig::default() };
        assert_eq!(error(config), share_error("exploration_rate", found));
        let config = RuleConfig { memory_pressure_threshold: found, ..RuleConfig::default() };
        assert_eq!(error(config), share_error("memory_pressure_threshold", found));
        let thresholds = Thresholds { skew_share: found, ..Thresholds::default() };
        let config = RuleConfig { thresholds: Some(thresholds), ..RuleConfig::default() };
        assert_eq!(error(config), share_error("skew_share", found));
        let refused = policy.set_exploration_rate(found).unwrap_err();
        assert_eq!(refused.to_string(), share_error("exploration_rate", found));
    }
    assert_eq!(policy.config().exploration_rate, 0.25);
}

#[test]
fn a_history_holds_something() {
    let config = RuleConfig { history_len: 0, ..RuleConfig::default() };
    let error = RulePolicy::new(config).unwrap_err().to_string();
    assert_eq!(error, "history_len is 0: expected 1 or more");
    let longest = RuleConfig { history_len: usize::MAX, ..RuleConfig::default() };
    let mut policy = RulePolicy::new(longest).unwrap();
    policy.record(id("moe_trellis_swiglu"), usize::MAX, 1.0).unwrap();
    assert_eq!(policy.history()[0].timings.n, 1);
}

#[test]
fn bad_records_are_named_and_leave_no_trace() {
    let mut policy = policy(0.5);
    let kernel = id("moe_trellis_swiglu");
    let error = policy.record(kernel, 0, 1.0).unwrap_err().to_string();
    assert_eq!(error, "num_tokens is 0: expected 1 or more");
    for found in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, -f64::MIN_POSITIVE] {
        let error = policy.record(kernel, 1, found).unwrap_err().to_string();
        assert_eq!(error, format!("latency_ms is {found}: expected a finite number, 0 or more"));
    }
    assert_eq!((policy.tracked_kernels(), policy.history()), (0, vec![]));
    for edge in [0.0, -0.0, f64::MIN_POSITIVE, f64::MAX] {
        policy.record(kernel, 1, edge).unwrap();
    }
    assert_eq!(policy.statistics().total_selections(), 0, "a record is no selection");
}

#[test]
fn the_token_table_ascends() {
    for (prefill4_from, base_from, large_batch_from) in [(0, 17, 33), (18, 17, 33), (2, 34, 33)] {
        let thresholds =
            Thresholds { prefill4_from, base_from, large_batch_from, ..Thresholds::default() };
        let config = RuleConfig { thresholds: Some(thresholds), ..RuleConfig::default() };
        let error = RulePolicy::new(config).unwrap_err();
        let expected = ConfigError::TableOrder { prefill4_from, base_from, large_batch_from };
        assert_eq!(error, expected);
        assert!(error.to_string().contains(&format!("base_from {base_from}")), "{error}");
    }
}

#[test]
fn names_are_stable() {
    assert_eq!(
        Reason::ALL.map(|reason| reason.to_string()),
        [
            "memory_pressure",
            "exploration",
            "feedback_optimization",
            "activation_pattern_skewed",
            "heuristic",
            "fallback_availability",
            "fallback_workspace",
            "fallback_legality",
        ]
    );
    let rows = Bucket::ALL.map(Bucket::as_str);
    assert_eq!(rows, ["decode", "prefill4", "base", "large_batch"]);
    let families =
        [HeuristicFamily::Fast2Bit, HeuristicFamily::MixedBpw, HeuristicFamily::Standard];
    assert_eq!(families.map(HeuristicFamily::as_str), ["fast_2bit", "mixed_bpw", "standard"]);
}

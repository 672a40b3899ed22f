use trellect_core::WhyNot;

use super::*;
use crate::{Considered, Reason};

#[test]
fn every_candidate_has_a_verdict() {
    let policy = policy(0.0);
    let tuples = [tuple(6, 2, 3)];
    let available = ["_decode_6_2_3", "_decode_6_3_4", "_prefill4", "", "_decode_fp32acc"]
        .map(|suffix| id(&format!("moe_trellis_swiglu{suffix}")));
    let request = Request {
        available: Some(&available),
        ..Request::new(call(1, NumericClass::Half, &tuples))
    };
    let explanation = policy.explain(&request, &plain()).unwrap();
    assert_eq!(
        explanation.to_string(),
        "\
moe_trellis_swiglu_decode_6_2_3 (heuristic; row decode, bits standard)
  moe_trellis_swiglu_decode            not among the kernels that the caller made available
  moe_trellis_swiglu_decode_6_2_3      chosen: heuristic
  moe_trellis_swiglu_decode_6_3_4      an active expert is 6_2_3, computes only 6_3_4
  moe_trellis_swiglu_decode_6_2_4      not among the kernels that the caller made available
  moe_trellis_swiglu_prefill4          legal, not the rules' choice
  moe_trellis_swiglu                   legal, not the rules' choice
  moe_trellis_swiglu_large_batch       not among the kernels that the caller made available
  moe_trellis_swiglu_grouped           not among the kernels that the caller made available
  moe_trellis_swiglu_decode_fp32acc    is of class exact, wanted half
  moe_trellis_swiglu_prefill4_fp32acc  not among the kernels that the caller made available
  moe_trellis_swiglu_fp32acc           not among the kernels that the caller made available
"
    );
}

#[test]
fn fallbacks_and_downgrades_are_shown() {
    let policy = policy(0.0);
    let available = [id("moe_trellis_swiglu_decode")];
    let request = Request { available: Some(&available), ..one_token(NumericClass::Exact) };
    let text = policy.explain(&request, &plain()).unwrap().to_string();
    let mut lines = text.lines();
    assert_eq!(
        lines.next().unwrap(),
        "moe_trellis_swiglu_decode (fallback_availability; row decode, bits standard)"
    );
    assert_eq!(
        lines.next().unwrap(),
        "Selected kernel moe_trellis_swiglu_decode_fp32acc not available, \
         using moe_trellis_swiglu_decode instead"
    );
    assert_eq!(lines.next().unwrap(), "numeric downgrade: exact was asked for, half serves");
}

#[test]
fn explaining_changes_nothing_and_tells_of_exploration() {
    let request = one_token(NumericClass::Half);
    let (mut asked, mut unasked) = (policy(0.5), policy(0.5));
    for _ in 0..100 {
        let explanation = asked.explain(&request, &plain()).unwrap();
        assert_eq!(explanation.exploration_rate, 0.5);
        assert_eq!(explanation.decision.reason, Reason::Heuristic);
        assert_eq!(asked.select(&request, &plain()), unasked.select(&request, &plain()));
    }
    assert_eq!(asked.statistics(), unasked.statistics());

    let tight = Request { memory_pressure: 1.0, ..request };
    assert_eq!(asked.explain(&tight, &plain()).unwrap().exploration_rate, 0.0);
    let text = asked.explain(&request, &plain()).unwrap().to_string();
    assert!(text.contains("an alternative is tried with probability 0.5"), "{text}");
}

#[test]
fn callers_may_add_kernels_that_cannot_run_here() {
    let mut explanation = policy(0.0).explain(&one_token(NumericClass::Half), &plain()).unwrap();
    explanation.considered.push(Considered::refused(
        id("moe_trellis_swiglu_decode@cpu.amx"),
        WhyNot::MissingIsa("amx"),
    ));
    let text = explanation.to_string();
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("  moe_trellis_swiglu_decode@cpu.amx "), "{last}");
    assert!(last.ends_with("this machine has no amx"), "{last}");
}

//! `select`: the table of the rules, explanations, and flags that make no sense.

use crate::{Outcome, trellect};

/// Decides without exploration.
fn select(flags: &[&str]) -> Outcome {
    trellect(["select", "--exploration", "0"].into_iter().chain(flags.iter().copied()))
}

#[test]
fn the_rules_decide() {
    for (flags, kernel, reason) in [
        ("--batch 1", "moe_trellis_swiglu_decode", "heuristic"),
        ("--batch 1 --gate 6 --up 2 --down 3", "moe_trellis_swiglu_decode_6_2_3", "heuristic"),
        ("--batch 1 --gate 6 --up 3 --down 4", "moe_trellis_swiglu_decode_6_3_4", "heuristic"),
        ("--batch 1 --gate 4 --up 4 --down 4", "moe_trellis_swiglu_decode", "heuristic"),
        ("--batch 2", "moe_trellis_swiglu_prefill4", "heuristic"),
        ("--batch 16", "moe_trellis_swiglu_prefill4", "heuristic"),
        ("--batch 17", "moe_trellis_swiglu", "heuristic"),
        ("--batch 33", "moe_trellis_swiglu_large_batch", "heuristic"),
        ("--batch 1 --fp32-acc", "moe_trellis_swiglu_decode_fp32acc", "heuristic"),
        ("--batch 4 --fp32-acc", "moe_trellis_swiglu_prefill4_fp32acc", "heuristic"),
        ("--batch 64 --fp32-acc", "moe_trellis_swiglu_fp32acc", "heuristic"),
        ("--batch 64 --pressure 0.95", "moe_trellis_swiglu", "memory_pressure"),
        ("--batch 64 --pressure 0.9", "moe_trellis_swiglu_large_batch", "heuristic"),
        (
            "--batch 4 --available moe_trellis_swiglu,moe_trellis_swiglu_large_batch",
            "moe_trellis_swiglu",
            "fallback_availability",
        ),
    ] {
        let flags: Vec<&str> = flags.split(' ').chain(["--json"]).collect();
        let decision = select(&flags).json();
        assert_eq!(
            (&decision["kernel_name"], &decision["reason"]),
            (&kernel.into(), &reason.into())
        );
    }
}

#[test]
fn the_json_has_its_fields() {
    let decision = select(&["--batch", "40", "--bits", "2,2,3,4", "--json"]).json();
    assert_eq!((&decision["tile_n"], &decision["bucket"]), (&128.into(), &"large_batch".into()));
    assert_eq!(decision["heuristic_family"], "mixed_bpw");
    assert_eq!(decision["baseline_kernel"], decision["kernel_name"]);
    assert_eq!(
        (&decision["explored"], &decision["numeric_downgrade"]),
        (&false.into(), &false.into())
    );
    assert!(decision["fallback_from"].is_null() && decision["message"].is_null());
    assert!(decision.get("considered").is_none());
}

#[test]
fn a_missing_kernel_is_replaced_aloud() {
    let flags =
        ["--batch", "1", "--fp32-acc", "--available", "moe_trellis_swiglu_decode", "--json"];
    let decision = select(&flags).json();
    assert_eq!(decision["numeric_downgrade"], true);
    assert_eq!(decision["fallback_from"], "moe_trellis_swiglu_decode_fp32acc");
    let message = decision["message"].as_str().unwrap();
    assert!(message.starts_with("Selected kernel moe_trellis_swiglu_decode_fp32acc not available"));
    assert!(select(&flags[..5]).stdout.contains("numeric downgrade"));
}

#[test]
fn explain_tells_of_every_candidate() {
    let decision = select(&["--batch", "8", "--explain", "--json"]).json();
    let considered = decision["considered"].as_array().unwrap();
    let verdict = |name: &str| {
        let found = considered.iter().find(|candidate| candidate["kernel_name"] == name);
        found.unwrap()["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict("moe_trellis_swiglu_prefill4"), "chosen: heuristic");
    assert_eq!(verdict("moe_trellis_swiglu_decode"), "8 tokens, computes 0 to 1");
    assert_eq!(verdict("moe_trellis_swiglu"), "legal, not the rules' choice");
    assert!(verdict("moe_trellis_swiglu_fp32acc").contains("wanted half"));
    let text = select(&["--batch", "8", "--explain"]);
    assert!(text.stdout.contains("chosen: heuristic"), "{text:?}");
}

#[test]
fn exploration_is_told_and_repeatable() {
    let flags = ["--batch", "8", "--exploration", "1", "--seed", "3", "--explain", "--json"];
    let decide = || trellect(std::iter::once("select").chain(flags)).json();
    let decision = decide();
    assert_eq!(decision, decide());
    assert_eq!((&decision["reason"], &decision["explored"]), (&"exploration".into(), &true.into()));
    assert_eq!(decision["baseline_kernel"], "moe_trellis_swiglu_prefill4");
    let verdicts = decision["considered"].to_string();
    assert!(verdicts.contains("chosen: exploration") && verdicts.contains("another was tried"));
    let text = trellect(std::iter::once("select").chain(flags[..6].iter().copied()));
    assert!(text.stdout.contains("instead of moe_trellis_swiglu_prefill4"), "{text:?}");
}

#[test]
fn bad_flags_are_wrong_usage() {
    for (flags, message) in [
        ("", "--batch"),
        ("--batch 0", "1 or more"),
        ("--batch -1", "-1"),
        ("--batch 1.5", "1 or more"),
        ("--batch 1 --pressure 1.5", "from 0 to 1"),
        ("--batch 1 --pressure NaN", "from 0 to 1"),
        ("--batch 1 --exploration 2", "from 0 to 1"),
        ("--batch 1 --bits 2,9", "bit width of 9"),
        ("--batch 1 --bits x", "1 to 8"),
        ("--batch 1 --gate 6", "--up"),
        ("--batch 1 --gate 6 --up 2", "--down"),
        ("--batch 1 --gate 6 --up 2 --down 0", "bit width of 0"),
        ("--batch 1 --available fastest", "no kernel name"),
        ("--batch 1 --available=", "no kernel name"),
        ("--batch 1 --policy random", "possible values: rules"),
    ] {
        let flags = flags.split(' ').filter(|flag| !flag.is_empty());
        trellect(std::iter::once("select").chain(flags)).fails(2, message);
    }
}

#[test]
fn no_legal_kernel_is_a_failure_with_reasons() {
    let flags = ["--batch", "8", "--available", "moe_trellis_swiglu_decode"];
    select(&flags).fails(1, "8 tokens, computes 0 to 1");
}

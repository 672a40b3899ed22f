//! Data to make reports of.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use serde_json::json;
use trellect_core::{LayerShape, NumericClass};
use trellect_report::{Comparison, Data, Environment, Named};
use trellect_select::ContextKey;
use trellect_select::adaptive::{ChoiceReason, DecisionRecord, MemoryLevel, Outcome, Ticket};
use trellect_tune::bench::{BenchCell, BenchRun};
use trellect_tune::decisions::{DecisionLog, GroupDecisions};
use trellect_tune::history::History;
use trellect_tune::matrix::Matrix;

/// Where measurements are recorded.
pub(crate) fn records() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../bench-record")
}

/// Everything in `bench-record/report`, and a matrix.
pub(crate) fn recorded() -> Data {
    let path = |name: &str| records().join("report").join(name);
    let open = |name: &str| BufReader::new(File::open(path(name)).unwrap());
    let mut history = History::in_memory();
    assert_eq!(history.import_jsonl(open("history.jsonl")).unwrap().damaged, 0);
    let environments = history.environments().unwrap().into_iter().map(|summary| {
        let journal = history.journal(&summary.id).unwrap();
        Environment { summary, journal }
    });
    let matrix = records().join("cpu-2core-epyc/glm-4.7-flash-mixed.json");
    let comparison = |name: &str| Named {
        name: name.into(),
        data: serde_json::from_reader(open(name)).unwrap(),
    };
    Data {
        benches: vec![Named {
            name: "bench.json".into(),
            data: BenchRun::read(&path("bench.json")).unwrap(),
        }],
        matrices: vec![Named { name: "matrix".into(), data: Matrix::read(&matrix).unwrap() }],
        logs: vec![Named {
            name: "decisions.jsonl".into(),
            data: DecisionLog::read(open("decisions.jsonl")).unwrap(),
        }],
        histories: vec![Named { name: "history".into(), data: environments.collect() }],
        comparisons: ["ab-decode.json", "ab-large.json"].map(comparison).into(),
    }
}

/// A cell of a benchmark; the first of its tokens is the pick.
pub(crate) fn cell(kernel: &str, tokens: usize, ms: f64) -> BenchCell {
    let cell = json!({
        "shape": "a shape", "bits": "6_2_3", "tokens": tokens, "threads": 2, "backend": "cpu",
        "kernel": kernel, "numeric": "half", "median_ms": ms, "low_ms": 0.98 * ms,
        "high_ms": 1.02 * ms, "p10_ms": 0.9 * ms, "p90_ms": 1.2 * ms, "gb_per_s": 10.0,
        "g_weights_per_s": 20.0, "gflop_per_s": 40.0, "ceiling_gb_per_s": 20.0,
        "share_of_ceiling": 0.5, "error": 4e-4, "within_limit": true, "picked": false,
        "best": false, "dropped": false, "samples_ms": [0.95 * ms, ms, 1.1 * ms],
    });
    serde_json::from_value(cell).unwrap()
}

/// A benchmark of cells; of every number of tokens the first is picked.
pub(crate) fn bench(cells: &[BenchCell]) -> BenchRun {
    let run = json!({
        "format": "trellect-bench", "version": 1, "recorded_unix_s": 1_795_679_387, "seconds": 1.0,
        "interrupted": false,
        "machine": {
            "backend": "cpu", "device": "a device", "facts": [["a fact", "its value"]],
            "system": "linux", "processors": 2,
            "caches": [{"level": 1, "kind": "data", "bytes": 49152, "processors": "0"}],
            "memory_bytes": 1_u64 << 34, "available_bytes": 1_u64 << 33, "huge_pages": null,
            "ceilings": [{
                "threads": 2, "read_gb_per_s_before": 19.0, "read_gb_per_s_after": 21.0,
                "read_gb_per_s": 20.0, "fp32_fma_gflop_per_s": 270.0, "int8_dot_gop_per_s": null,
            }],
        },
        "method": {
            "cold_bytes": 0, "codebook": "mul1", "rounds": 3, "budget_seconds": 1.0,
            "drop_above": null, "policy": "rules",
        },
        "cells": [], "left_out": [],
    });
    let mut run: BenchRun = serde_json::from_value(run).unwrap();
    run.cells = cells.to_vec();
    for index in 0..run.cells.len() {
        let tokens = run.cells[index].tokens;
        let of_workload = || cells.iter().enumerate().filter(|(_, cell)| cell.tokens == tokens);
        let least = of_workload().min_by(|a, b| a.1.median_ms.total_cmp(&b.1.median_ms));
        run.cells[index].picked = of_workload().next().unwrap().0 == index;
        run.cells[index].best = least.unwrap().0 == index;
    }
    run
}

pub(crate) fn comparison() -> Comparison {
    Comparison {
        baseline: "moe_trellis_swiglu".into(),
        optimized: "moe_trellis_swiglu_grouped".into(),
        shape: None,
        bits: None,
        tokens: None,
        threads: None,
        baseline_threads: None,
        optimized_threads: None,
        baseline_env: Vec::new(),
        optimized_env: Vec::new(),
        confidence: None,
        n: 10,
        baseline_ms: 1.0,
        optimized_ms: 0.5,
        speedup: 2.0,
        speedup_ci: [1.9, 2.1],
        t: None,
        p: None,
        verdict: "faster".into(),
        more_pairs: None,
    }
}

/// A decision that took about 1 to 2 ms.
pub(crate) fn decision(ticket: u64, context: u64) -> DecisionRecord {
    let kernels = ["moe_trellis_swiglu", "moe_trellis_swiglu_grouped@cpu.avx512"];
    let reasons = [ChoiceReason::Control, ChoiceReason::Probe, ChoiceReason::Incumbent];
    let chosen = kernels[(ticket % 2) as usize].parse().unwrap();
    DecisionRecord {
        ticket: Ticket(ticket),
        now_ns: ticket * 1_000_000,
        context: ContextKey(context),
        legal: 2,
        legal_digest: 1,
        incumbent: Some("moe_trellis_swiglu".parse().unwrap()),
        chosen,
        reason: reasons[(ticket % 3) as usize],
        propensity: 0.5,
        one_in: 1,
        predicted_ns: 1e6,
        predicted_sd: 0.1,
        outcome: Some(Outcome::LatencyNs(1e6 + (ticket.wrapping_mul(7919) % 1_000_000) as f64)),
        memory: MemoryLevel::Normal,
        headroom_bytes: None,
    }
}

/// The same decision about another context.
pub(crate) fn of_context(decision: DecisionRecord, context: u64) -> DecisionRecord {
    DecisionRecord { context: ContextKey(context), ..decision }
}

pub(crate) fn log(decisions: impl Iterator<Item = DecisionRecord>) -> DecisionLog {
    let shape = LayerShape::new(256, 128, 8).unwrap();
    let (numeric, decisions) = (NumericClass::Half, decisions.collect());
    DecisionLog { groups: vec![GroupDecisions { shape, numeric, decisions, lost: 0 }] }
}

/// Asserts that every element is closed where it must be, and that text holds no markup.
pub(crate) fn assert_well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "{}", &rest[..start]);
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        match (tag.strip_prefix('/'), tag.ends_with('/')) {
            (Some(closed), _) => assert_eq!(open.pop(), Some(closed)),
            (None, true) => {}
            (None, false) => open.push(tag.split([' ', '\n']).next().unwrap_or_default()),
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
    }
    assert!(open.is_empty(), "{open:?} of {svg}");
}

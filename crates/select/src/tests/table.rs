use std::collections::BTreeSet;

use trellect_core::{BackendKind, Bits, NumericClass, TokenRange};

use super::*;
use crate::{Bucket, HeuristicFamily, Reason, reachable_kernels};

const ROWS: [(usize, Bucket, &str, &str); 7] = [
    (1, Bucket::Decode, "_decode", "_decode_fp32acc"),
    (2, Bucket::Prefill4, "_prefill4", "_prefill4_fp32acc"),
    (16, Bucket::Prefill4, "_prefill4", "_prefill4_fp32acc"),
    (17, Bucket::Base, "", "_fp32acc"),
    (32, Bucket::Base, "", "_fp32acc"),
    (33, Bucket::LargeBatch, "_large_batch", "_fp32acc"),
    (512, Bucket::LargeBatch, "_large_batch", "_fp32acc"),
];

fn tuple_lists() -> [(Vec<BitTuple>, Option<&'static str>); 9] {
    let (a, b, c) = (tuple(6, 2, 3), tuple(6, 3, 4), tuple(6, 2, 4));
    [
        (vec![], None),
        (vec![a], Some("_decode_6_2_3")),
        (vec![b], Some("_decode_6_3_4")),
        (vec![c], Some("_decode_6_2_4")),
        (vec![a, a], Some("_decode_6_2_3")),
        (vec![tuple(2, 2, 2)], None),
        (vec![tuple(3, 2, 6)], None),
        (vec![a, b], None),
        (vec![a, a, tuple(8, 8, 8)], None),
    ]
}

#[test]
fn every_cell_of_the_rule_table() {
    let candidates = plain();
    let all_names: Vec<KernelId> = candidates.iter().map(|spec| spec.id).collect();
    let mut policy = policy(0.0);
    for (num_tokens, bucket, half, exact) in ROWS {
        for (tuples, specialised) in &tuple_lists() {
            for (numeric, base) in [(NumericClass::Half, ""), (NumericClass::Exact, "_fp32acc")] {
                for (pressure, tight) in [(0.0, false), (0.9, false), (0.900001, true)] {
                    for share in [None, Some(0.849), Some(0.85), Some(1.0)] {
                        for available in [None, Some(&all_names[..])] {
                            let request = Request {
                                memory_pressure: pressure,
                                top_expert_share: share,
                                available,
                                ..Request::new(call(num_tokens, numeric, tuples))
                            };
                            let half_asked = numeric == NumericClass::Half;
                            let standard = if half_asked { half } else { exact };
                            let special = specialised.filter(|_| num_tokens == 1 && half_asked);
                            let skewed = share.is_some_and(|share| share >= 0.85);
                            let (suffix, reason) = match (tight, skewed) {
                                (true, _) => (base, Reason::MemoryPressure),
                                (_, true) => (standard, Reason::ActivationPatternSkewed),
                                _ => (special.unwrap_or(standard), Reason::Heuristic),
                            };
                            let got = policy.select(&request, &candidates).unwrap();
                            let kernel = id(&format!("moe_trellis_swiglu{suffix}"));
                            assert_eq!((got.kernel, got.reason), (kernel, reason), "{request:?}");
                            assert_eq!(got.baseline_kernel, kernel, "{request:?}");
                            assert_eq!((got.class, got.class_asked), (numeric, numeric));
                            assert_eq!(got.bucket, bucket, "{request:?}");
                            assert_eq!((got.explored, got.fallback_from), (false, None));
                            assert_eq!((got.numeric_downgrade(), got.message()), (false, None));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn tile_n_is_the_chosen_kernels() {
    let mut policy = policy(0.0);
    let mut tile_n = |num_tokens| {
        let request = Request::new(call(num_tokens, NumericClass::Half, &[]));
        policy.select(&request, &plain()).unwrap().tile_n
    };
    assert_eq!([tile_n(1), tile_n(4), tile_n(32), tile_n(33)], [64, 64, 64, 128]);
}

#[test]
fn widths_name_the_family_and_decide_nothing() {
    let bits = |widths: &[u64]| -> Vec<Bits> {
        widths.iter().map(|width| Bits::new(*width).unwrap()).collect()
    };
    for (widths, family) in [
        (&[][..], HeuristicFamily::Standard),
        (&[4], HeuristicFamily::Standard),
        (&[4, 4, 4], HeuristicFamily::Standard),
        (&[2], HeuristicFamily::Fast2Bit),
        (&[2, 2, 4], HeuristicFamily::Fast2Bit),
        (&[2, 4], HeuristicFamily::MixedBpw),
        (&[2, 3, 4, 2], HeuristicFamily::MixedBpw),
        (&[3, 3, 4], HeuristicFamily::MixedBpw),
    ] {
        let active_bits = bits(widths);
        let request = Request { active_bits: &active_bits, ..one_token(NumericClass::Half) };
        let got = policy(0.0).select(&request, &plain()).unwrap();
        assert_eq!((got.heuristic_family, got.kernel), (family, id("moe_trellis_swiglu_decode")));
    }
}

#[test]
fn thresholds_are_data() {
    let thresholds = Thresholds {
        prefill4_from: 2,
        base_from: 2,
        large_batch_from: 9,
        specialised_decode: vec![tuple(4, 4, 4)],
        skew_share: 0.5,
    };
    let candidates = catalogue(&thresholds);
    let config =
        RuleConfig { exploration_rate: 0.0, thresholds: Some(thresholds), ..RuleConfig::default() };
    let mut policy = RulePolicy::new(config).unwrap();
    for (num_tokens, active, suffix) in [
        (1, tuple(4, 4, 4), "_decode_4_4_4"),
        (1, tuple(6, 2, 3), "_decode"),
        (2, tuple(4, 4, 4), ""),
        (8, tuple(4, 4, 4), ""),
        (9, tuple(4, 4, 4), "_large_batch"),
    ] {
        let active = [active];
        let request = Request::new(call(num_tokens, NumericClass::Half, &active));
        let got = policy.select(&request, &candidates).unwrap();
        assert_eq!(got.kernel, id(&format!("moe_trellis_swiglu{suffix}")), "{num_tokens} tokens");
    }
}

#[test]
fn rows_cover_every_token_count_once() {
    let thresholds = Thresholds::default();
    let ranges = Bucket::ALL.map(|row| thresholds.tokens(row));
    let range = |min, max| TokenRange { min, max };
    let expected = [range(1, Some(1)), range(2, Some(16)), range(17, Some(32)), range(33, None)];
    assert_eq!(ranges, expected);
    for num_tokens in 1..100 {
        let rows =
            Bucket::ALL.into_iter().filter(|row| thresholds.tokens(*row).contains(num_tokens));
        assert!(rows.eq([thresholds.bucket(num_tokens)]), "{num_tokens} tokens");
    }
}

#[test]
fn reachable_names_are_exactly_those_ever_chosen() {
    let candidates = plain();
    let mut policies = [policy(0.0), policy(1.0)];
    let mut chosen = BTreeSet::new();
    for (num_tokens, ..) in ROWS {
        for (tuples, _) in &tuple_lists() {
            for numeric in NumericClass::ALL {
                for memory_pressure in [0.0, 1.0] {
                    for _ in 0..40 {
                        for policy in &mut policies {
                            let call = call(num_tokens, numeric, tuples);
                            let request = Request { memory_pressure, ..Request::new(call) };
                            chosen.insert(policy.select(&request, &candidates).unwrap().kernel);
                        }
                    }
                }
            }
        }
    }
    let reachable = reachable_kernels(&Thresholds::default());
    assert_eq!(reachable.len(), 11);
    assert_eq!(chosen, reachable.into_iter().collect());
}

#[test]
fn a_gpu_keeps_the_base_kernel_for_longer() {
    let row = |device, num_tokens| Thresholds::of(device).bucket(num_tokens);
    assert_eq!(row(BackendKind::Cpu, 33), Bucket::LargeBatch);
    for device in [BackendKind::Cuda, BackendKind::Wgpu] {
        assert_eq!(
            [33, 255, 256].map(|tokens| row(device, tokens)),
            [Bucket::Base, Bucket::Base, Bucket::LargeBatch]
        );
    }
}

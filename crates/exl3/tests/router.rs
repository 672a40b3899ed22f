//! Routers against the golden data, and their rules on cases small enough to do by hand.

mod common;

use common::golden;
use half::f16;
use proptest::prelude::*;
use safetensors::SafeTensors;
use trellect_core::{Hidden, Routing};
use trellect_exl3::{
    Checkpoint, FloatBytes, GroupLimit, ModelConfig, RouterConfig, RouterError, RouterView, Scoring,
};

/// Golden weights are f64; ours are rounded to f32 once.
const WEIGHT_TOLERANCE: f64 = 1e-6;

#[test]
fn golden_routings_are_reproduced() {
    let checkpoint = Checkpoint::open(&golden("model")).unwrap();
    let file = std::fs::read(golden("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&file).unwrap();
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden("index.json")).unwrap()).unwrap();
    for facts in index["layers"].as_array().unwrap() {
        let prefix = facts["prefix"].as_str().unwrap();
        let tensor = |name: &str| expected.tensor(&format!("{prefix}.{name}")).unwrap().data();
        let halves = |name| -> Vec<f16> {
            tensor(name).chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect()
        };
        let number = checkpoint.layers().iter().find(|info| info.prefix() == prefix).unwrap();
        let layer = checkpoint.layer(number.number()).unwrap();
        let router = layer.router().unwrap();
        let x = halves("x_f16");
        let logits = router.logits(Hidden::F16(&x)).unwrap();
        let golden_logits: Vec<f32> =
            halves("router_logits_f16").iter().map(|logit| logit.to_f32()).collect();
        assert_eq!(logits, golden_logits, "{prefix}");

        let top_k = facts["top_k"].as_u64().unwrap() as usize;
        let config = match facts["router"].as_str().unwrap() {
            "sigmoid_bias" => {
                RouterConfig::sigmoid(top_k, facts["routed_scaling_factor"].as_f64().unwrap())
            }
            _ => RouterConfig::softmax(top_k),
        };
        let routing = router.route(&config, Hidden::F16(&x)).unwrap();
        let ids: Vec<u32> =
            tensor("topk_ids_i32").as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
        assert_eq!(routing.topk_ids(), ids, "{prefix}");
        let (weights, _) = tensor("topk_weights_f64").as_chunks();
        for (weight, golden) in routing.topk_weights().iter().zip(weights) {
            let difference = (f64::from(*weight) - f64::from_le_bytes(*golden)).abs();
            assert!(difference <= WEIGHT_TOLERANCE, "{prefix}: {difference}");
        }
    }
}

fn close(found: &[f32], expected: &[f64]) {
    let same = |(f, e): (&f32, &f64)| (f64::from(*f) - e).abs() <= WEIGHT_TOLERANCE;
    let fits = found.len() == expected.len() && found.iter().zip(expected).all(same);
    assert!(fits, "{found:?} vs {expected:?}");
}

#[test]
fn softmax_with_and_without_renormalisation() {
    let logits = [0.0f32, 1.0, 2.0, 1.0];
    let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let raw = [2f64.exp() / total, 1f64.exp() / total];
    let config = RouterConfig::softmax(2);
    let routing = config.route(&logits, None, 4).unwrap();
    assert_eq!(routing.topk_ids(), [2, 1]);
    let sum = raw[0] + raw[1];
    close(routing.topk_weights(), &[raw[0] / sum, raw[1] / sum]);
    let config = RouterConfig { renormalize: false, ..config };
    close(config.route(&logits, None, 4).unwrap().topk_weights(), &raw);
}

#[test]
fn ties_and_vanishing_scores_follow_logit_then_id() {
    let config = RouterConfig::softmax(3);
    let routing = config.route(&[1.0; 5], None, 5).unwrap();
    assert_eq!(routing.topk_ids(), [0, 1, 2]);
    let routing = config.route(&[-30_000.0, 60_000.0, -40_000.0, -20_000.0], None, 4).unwrap();
    assert_eq!(routing.topk_ids(), [1, 3, 0]);
    let extreme = RouterConfig::sigmoid(1, 1.0).route(&[-60_000.0; 2], None, 2).unwrap();
    assert_eq!(extreme.topk_weights(), [0.0]);
}

#[test]
fn the_bias_selects_but_does_not_weigh() {
    let sigmoid = |logit: f64| 1.0 / (1.0 + (-logit).exp());
    let logits = [0.0f32, 1.0, 2.0];
    let config = RouterConfig::sigmoid(2, 2.5);
    let routing = config.route(&logits, Some(&[9.0, 0.0, 0.5]), 3).unwrap();
    assert_eq!(routing.topk_ids(), [0, 2]);
    let sum = sigmoid(0.0) + sigmoid(2.0);
    close(routing.topk_weights(), &[2.5 * sigmoid(0.0) / sum, 2.5 * sigmoid(2.0) / sum]);
    let config = RouterConfig { renormalize: false, ..config };
    let routing = config.route(&logits, None, 3).unwrap();
    assert_eq!(routing.topk_ids(), [2, 1]);
    close(routing.topk_weights(), &[2.5 * sigmoid(2.0), 2.5 * sigmoid(1.0)]);
}

#[test]
fn groups_are_ranked_by_their_two_best() {
    let groups = Some(GroupLimit { num_groups: 3, topk_group: 1 });
    let config = RouterConfig { groups, ..RouterConfig::sigmoid(2, 1.0) };
    let logits = [5.0, -5.0, -5.0, 1.0, 2.0, 0.0, 0.0, 1.0, 1.5];
    assert_eq!(config.route(&logits, None, 9).unwrap().topk_ids(), [4, 3]);
    let bias = [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    assert_eq!(config.route(&logits, Some(&bias), 9).unwrap().topk_ids(), [1, 0]);
    let negative = [-3.0; 9];
    let biased = config.route(&logits, Some(&negative), 9).unwrap();
    assert_eq!(biased.topk_ids(), [4, 3], "masked experts stay out though all keys are negative");
    let lonely = RouterConfig {
        groups: Some(GroupLimit { num_groups: 3, topk_group: 2 }),
        ..RouterConfig::sigmoid(2, 1.0)
    };
    assert_eq!(lonely.route(&[1.0, 3.0, 2.0], None, 3).unwrap().topk_ids(), [1, 2]);
}

#[test]
fn rules_come_from_the_model() {
    let rule =
        |json: &str, bias| RouterConfig::from_model(&ModelConfig::from_json(json).unwrap(), bias);
    assert_eq!(rule(r#"{"num_experts_per_tok": 2}"#, false), Ok(RouterConfig::softmax(2)));
    let glm = r#"{"num_experts_per_tok": 4, "routed_scaling_factor": 1.8, "n_group": 1,
        "topk_group": 1, "norm_topk_prob": true, "topk_method": "noaux_tc"}"#;
    assert_eq!(rule(glm, true), Ok(RouterConfig::sigmoid(4, 1.8)));
    let qwen = rule(r#"{"num_experts_per_tok": 8, "model_type": "qwen3_moe"}"#, false).unwrap();
    assert!(!qwen.renormalize);
    let deepseek = r#"{"num_experts_per_tok": 8, "scoring_func": "sigmoid", "n_group": 8,
        "topk_group": 4}"#;
    let deepseek = rule(deepseek, true).unwrap();
    assert_eq!(deepseek.scoring, Scoring::Sigmoid);
    assert_eq!(deepseek.groups, Some(GroupLimit { num_groups: 8, topk_group: 4 }));

    for (json, message) in [
        ("{}", "config.json lacks `num_experts_per_tok`"),
        (r#"{"num_experts_per_tok": 2, "n_group": 4}"#, "config.json lacks `topk_group`"),
        (
            r#"{"num_experts_per_tok": 2, "scoring_func": "tanh"}"#,
            "config.json: `scoring_func` is `tanh`, which is not supported",
        ),
        (
            r#"{"num_experts_per_tok": 2, "n_group": 4, "topk_group": 2,
                "topk_method": "group_limited_greedy"}"#,
            "config.json: `topk_method` is `group_limited_greedy`, which is not supported",
        ),
    ] {
        assert_eq!(rule(json, false).unwrap_err().to_string(), message);
    }
}

#[test]
fn bad_calls_are_named() {
    let softmax = RouterConfig::softmax(2);
    let grouped = |num_groups, topk_group| RouterConfig {
        groups: Some(GroupLimit { num_groups, topk_group }),
        ..softmax
    };
    let failure = |config: &RouterConfig, logits: &[f32], bias: Option<&[f32]>, experts| {
        config.route(logits, bias, experts).unwrap_err().to_string()
    };
    let two = &[1.0, 2.0];
    for (found, expected) in [
        (failure(&softmax, &[1.0, f32::NAN], None, 2), "logits[1] is NaN"),
        (failure(&softmax, &[1.0, f32::INFINITY], None, 2), "logits[1] is inf"),
        (failure(&softmax, two, Some(&[f32::NAN, 0.0]), 2), "correction bias[0] is NaN"),
        (failure(&softmax, two, Some(&[0.0]), 2), "correction bias: 1 elements, expected 2"),
        (failure(&softmax, &[1.0; 3], None, 2), "logits: 3 elements, expected 4"),
        (failure(&softmax, two, None, 0), "logits: 2 elements"),
        (failure(&softmax, two, None, 1), "top_k is 2: expected 1 to the 1 experts"),
        (failure(&RouterConfig::softmax(0), two, None, 2), "top_k is 0"),
        (failure(&RouterConfig::softmax(usize::MAX), two, None, 2), "top_k is"),
        (failure(&grouped(3, 1), &[0.0; 4], None, 4), "1 of 3 groups"),
        (failure(&grouped(0, 0), &[0.0; 4], None, 4), "0 of 0 groups"),
        (failure(&grouped(2, 3), &[0.0; 4], None, 4), "3 of 2 groups"),
        (failure(&grouped(4, 1), &[0.0; 4], None, 4), "expected 1 to the 1 experts"),
        (failure(&RouterConfig::sigmoid(1, 1e300), two, None, 2), "weight is inf"),
    ] {
        assert!(found.contains(expected), "{found}");
    }
    assert_eq!(softmax.route(&[], None, 4), Ok(Routing::new(4, 2, &[], &[]).unwrap()));

    let weight = vec![0; 2 * 2 * 4];
    let router = RouterView::new(FloatBytes::F16(&weight), 2, 4, None).unwrap();
    let wrong = router.logits(Hidden::F32(&[0.0; 6])).unwrap_err();
    assert_eq!(wrong, RouterError::Length { part: "hidden", found: 6, expected: 8 });
    assert_eq!(router.logits(Hidden::F32(&[])), Ok(vec![]));
    assert!(RouterView::new(FloatBytes::F32(&weight), 2, 4, None).is_err());
    assert!(RouterView::new(FloatBytes::F16(&weight), 2, 4, Some(vec![0.0])).is_err());
}

#[test]
fn every_weight_type_gives_the_same_logits() {
    let values: Vec<f32> = (0..3 * 11).map(|i| (i % 7) as f32 - 3.0).collect();
    let hidden: Vec<f32> = (0..2 * 11).map(|i| (i % 5) as f32 * 0.25).collect();
    let bytes = |each: &dyn Fn(f32) -> Vec<u8>| -> Vec<u8> {
        values.iter().flat_map(|value| each(*value)).collect()
    };
    let f32s = bytes(&|v| v.to_le_bytes().to_vec());
    let f16s = bytes(&|v| f16::from_f32(v).to_le_bytes().to_vec());
    let bf16s = bytes(&|v| half::bf16::from_f32(v).to_le_bytes().to_vec());
    let naive: Vec<f32> = hidden
        .chunks(11)
        .flat_map(|x| values.chunks(11).map(move |w| x.iter().zip(w).map(|(a, b)| a * b).sum()))
        .collect();
    for weight in [FloatBytes::F32(&f32s), FloatBytes::F16(&f16s), FloatBytes::Bf16(&bf16s)] {
        let router = RouterView::new(weight, 3, 11, None).unwrap();
        assert_eq!(router.logits(Hidden::F32(&hidden)).unwrap(), naive);
    }
}

proptest! {
    #[test]
    fn routings_are_valid_and_sum_to_the_scale(
        logits in proptest::collection::vec(-20f32..20.0, 0..96),
        top_k in 1usize..=8,
        sigmoid in any::<bool>(),
    ) {
        let logits = &logits[..logits.len() / 8 * 8];
        let config = if sigmoid {
            RouterConfig::sigmoid(top_k, 1.5)
        } else {
            RouterConfig { scaling_factor: 1.5, ..RouterConfig::softmax(top_k) }
        };
        let routing = config.route(logits, None, 8).unwrap();
        for (ids, weights) in
            routing.topk_ids().chunks(top_k).zip(routing.topk_weights().chunks(top_k))
        {
            let mut sorted = ids.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), top_k);
            prop_assert!((weights.iter().sum::<f32>() - 1.5).abs() < 1e-5);
            prop_assert!(weights.is_sorted_by(|a, b| a >= b));
        }
    }
}

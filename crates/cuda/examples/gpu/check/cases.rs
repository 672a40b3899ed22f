//! Calls of all kinds, each on every kernel that can compute it.

use anyhow::ensure;
use half::{bf16, f16};
use trellect_core::{Hidden, Routing};
use trellect_exl3::synth::{self, OwnedLayer, SynthSpec};
use trellect_exl3::{Checkpoint, oracle};
use trellect_testkit::golden;

use super::layers::{MOST_TOKENS, all_widths, mix, shape, width_specs};
use super::{Outcome, computing, first_tokens, launch};

const TOKENS: [usize; 11] = [0, 1, 2, 3, 4, 5, 16, 17, 33, 65, MOST_TOKENS];

pub(super) fn golden_layers(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&golden::model_dir())?;
    let expected = golden::expected();
    for (number, index) in golden::index().layers.iter().enumerate() {
        let moe = checkpoint.layer(number)?;
        let get = |name: &str| format!("{}.{name}", index.prefix);
        let hidden = expected.f16(&get("x_f16")).data;
        let ids = expected.i32(&get("topk_ids_i32")).data;
        let weights = expected.f16(&get("topk_weights_f16")).data;
        let weights: Vec<f32> = weights.iter().map(|weight| weight.to_f32()).collect();
        let routing = Routing::new(index.num_experts, index.top_k, &ids, &weights)?;
        let y = expected.f64(&get("y_routed_f64")).data;
        let layer = outcome.prepare(moe.view())?;
        for tokens in [routing.num_tokens(), 1] {
            let len = tokens * index.hidden_size;
            let (hidden, case) = (Hidden::F16(&hidden[..len]), (&index.prefix, tokens));
            outcome.compare(&layer, hidden, &first_tokens(&routing, tokens), &y[..len], &case)?;
        }
        if let Some(shared) = moe.shared_expert() {
            let layer = outcome.prepare(shared)?;
            let tokens = hidden.len() / index.hidden_size;
            let routing = Routing::new(1, 1, &vec![0; tokens], &vec![1.0; tokens])?;
            let y = expected.f64(&get("y_shared_f64")).data;
            outcome.compare(&layer, Hidden::F16(&hidden), &routing, &y, &"shared expert")?;
        }
    }
    Ok(())
}

pub(super) fn widths(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    for (spec, spread) in outcome.part.of(width_specs()) {
        let owned = OwnedLayer::new(&spec)?;
        let layer = outcome.prepare(&owned.view())?;
        let hidden_size = spec.shape.hidden_size;
        let hidden = synth::hidden(MOST_TOKENS, hidden_size, 7);
        let routing = spread.routing()?;
        let expected = oracle::forward(&owned.view(), Hidden::F16(&hidden), &routing);
        for tokens in TOKENS {
            let len = tokens * hidden_size;
            let case = (spec.shape, spread, spec.tuples[0], spec.codebooks[0], tokens);
            let hidden = Hidden::F16(&hidden[..len]);
            let routing = first_tokens(&routing, tokens);
            outcome.compare(&layer, hidden, &routing, &expected[..len], &case)?;
        }
    }
    Ok(())
}

/// Several tuples in one launch; top_k from one to all experts.
pub(super) fn mixed(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    for spec in [mix(11), all_widths()] {
        let owned = OwnedLayer::new(&spec)?;
        let layer = outcome.prepare(&owned.view())?;
        for (tokens, top_k) in [(1, 1), (1, 11), (2, 3), (9, 4), (33, 11), (40, 3), (300, 5)] {
            let hidden = synth::hidden(tokens, 256, 1);
            let routing = synth::routing(tokens, 11, top_k, 2)?;
            let expected = oracle::forward(&owned.view(), Hidden::F16(&hidden), &routing);
            let case = ("mixed", tokens, top_k);
            outcome.compare(&layer, Hidden::F16(&hidden), &routing, &expected, &case)?;
        }
    }
    Ok(())
}

/// More rows of one expert than any tile, and more pairs than one pass takes.
pub(super) fn large(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let owned = OwnedLayer::new(&mix(6))?;
    let layer = outcome.prepare(&owned.view())?;
    for tokens in [1500, 22_000] {
        let hidden = synth::hidden(tokens, 256, 1);
        let hidden = Hidden::F16(&hidden);
        let routing = synth::skewed_routing(tokens, 6, 3, 2)?;
        let some: Vec<usize> = (0..tokens).step_by(tokens / 60).chain([tokens - 1]).collect();
        let expected = oracle::forward_tokens(&owned.view(), hidden, &routing, &some);
        outcome.compare_tokens(&layer, hidden, &routing, (&some, &expected), &tokens)?;
    }
    Ok(())
}

pub(super) fn elements(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let owned = OwnedLayer::new(&SynthSpec { shape: shape(200, 300, 4), ..mix(4) })?;
    let layer = outcome.prepare(&owned.view())?;
    let routing = synth::routing(3, 4, 2, 2)?;
    let f16s = synth::hidden(3, 200, 4);
    let f32s: Vec<f32> = f16s.iter().map(|value| value.to_f32() * 1.000_1).collect();
    let bf16s: Vec<bf16> = f32s.iter().map(|&value| bf16::from_f32(value)).collect();
    for hidden in [Hidden::F16(&f16s), Hidden::Bf16(&bf16s), Hidden::F32(&f32s)] {
        let expected = oracle::forward(&owned.view(), hidden, &routing);
        outcome.compare(&layer, hidden, &routing, &expected, &"element type")?;
    }
    Ok(())
}

/// A token that is not finite poisons its own output and nobody else's.
pub(super) fn not_finite(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let owned = OwnedLayer::new(&mix(4))?;
    let layer = outcome.prepare(&owned.view())?;
    let routing = synth::routing(3, 4, 4, 2)?;
    for bad in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
        let mut hidden = synth::hidden(3, 256, 4);
        hidden[256 + 50] = bad;
        let mut queue = layer.cuda_queue();
        for spec in computing(&layer, &routing) {
            let out = launch(&mut queue, &spec, &layer, Hidden::F16(&hidden), &routing)?;
            let finite = [0, 1, 2].map(|token| {
                let row = &out[256 * token..][..256];
                (row.iter().all(|v| v.is_finite()), row.iter().any(|v| v.is_finite()))
            });
            if !matches!(finite, [(true, _), (_, false), (true, _)]) {
                outcome
                    .failures
                    .push(format!("{}: {bad} spreads, or is lost: {finite:?}", spec.id));
            }
        }
    }
    Ok(())
}

/// Hidden states at the ends of float16 and beyond it.
pub(super) fn magnitudes(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let owned = OwnedLayer::new(&mix(4))?;
    let layer = outcome.prepare(&owned.view())?;
    let routing = synth::routing(2, 4, 2, 2)?;
    let hidden = synth::hidden(2, 256, 4);
    for scale in [6e-8, 1e-3, 1e4, 1e8] {
        let hidden: Vec<f32> = hidden.iter().map(|value| value.to_f32() * scale).collect();
        let hidden = Hidden::F32(&hidden);
        let expected = oracle::forward(&owned.view(), hidden, &routing);
        outcome.compare(&layer, hidden, &routing, &expected, &("scale", scale))?;
    }
    Ok(())
}

/// Equal bits from equal input, twenty times, where a kernel promises it.
pub(super) fn deterministic(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let owned = OwnedLayer::new(&mix(16))?;
    let layer = outcome.prepare(&owned.view())?;
    let mut promised = 0;
    for tokens in [1, 7, 64, 300] {
        let hidden = synth::hidden(tokens, 256, 1);
        let routing = synth::routing(tokens, 16, 4, 2)?;
        let mut queue = layer.cuda_queue();
        for spec in computing(&layer, &routing).iter().filter(|spec| spec.deterministic) {
            promised += 1;
            let mut run = || launch(&mut queue, spec, &layer, Hidden::F16(&hidden), &routing);
            let first = run()?;
            for _ in 0..20 {
                let again = run()?;
                if first.iter().zip(&again).any(|(a, b)| a.to_bits() != b.to_bits()) {
                    outcome.failures.push(format!("{}: differs, {tokens} tokens", spec.id));
                    break;
                }
            }
        }
    }
    ensure!(promised > 0, "no kernel promises equal bits");
    Ok(())
}

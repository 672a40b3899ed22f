//! The layers and calls of a sweep.

use std::sync::Arc;

use trellect::core::{Backend, BitTuple, KernelSpec, PreparedLayer, Routing, RoutingError};
use trellect::exl3::synth::{self, OwnedLayer};
use trellect_tune::matrix::{ContextPlan, Inputs};

use crate::args::{BitsArg, ShapeArg, SynthLayerArgs};
use crate::progress::Progress;
use crate::synthetic::Synthetic;

/// Layers that the rounds take turns on, so that no time is that of one draw of tuples.
const LAYERS: usize = 2;

/// Tokens that are routed with one expert in every token, too.
const SKEWED_TOKENS: usize = 16;

/// Most tokens on which portable kernels are measured: they take thirty times as long as others.
const PORTABLE_TOKENS: usize = 1;

/// Makes and prepares the layers.
pub(super) fn layers(
    backend: &dyn Backend,
    layer: &SynthLayerArgs,
) -> anyhow::Result<Vec<Arc<dyn PreparedLayer>>> {
    let progress = Progress::new("making layers", LAYERS);
    let synthetic = Synthetic { layer, layers: LAYERS, router: false, seed: 0 };
    let prepare = |number| {
        let made = OwnedLayer::new(&synthetic.spec(number))?;
        let prepared = backend.prepare(&made.view(), &mut |_| {})?;
        progress.step();
        Ok(prepared)
    };
    (0..LAYERS).map(prepare).collect()
}

/// Every number of tokens with uniform routing, and the special routings.
pub(super) fn contexts(tokens: &[usize], layer: &SynthLayerArgs) -> Vec<ContextPlan> {
    let context = |num_tokens, routing: &str| ContextPlan { num_tokens, routing: routing.into() };
    let mut contexts: Vec<ContextPlan> = Vec::new();
    for &num_tokens in tokens {
        if contexts.iter().all(|known| known.num_tokens != num_tokens) {
            contexts.push(context(num_tokens, "uniform"));
        }
    }
    if tokens.contains(&SKEWED_TOKENS) {
        contexts.push(context(SKEWED_TOKENS, "skewed"));
    }
    if layer.bits == BitsArg::Mixed && tokens.contains(&1) {
        contexts.push(context(1, "one_tuple"));
    }
    contexts
}

/// Why a kernel is not measured in a context.
pub(super) fn skip(spec: &KernelSpec, context: &ContextPlan) -> Option<String> {
    let portable = spec.id.variant.is_some_and(|variant| variant.name() == "generic");
    (portable && context.num_tokens > PORTABLE_TOKENS)
        .then(|| format!("portable kernels are measured up to {PORTABLE_TOKENS} token"))
}

/// The inputs of a context's round, made of its seed.
pub(super) fn draw(
    shape: &ShapeArg,
) -> impl Fn(&ContextPlan, &[BitTuple], u64) -> Result<Inputs, RoutingError> + use<> {
    let (hidden_size, top_k) = (shape.shape.hidden_size, shape.top_k);
    move |context, tuples, seed| {
        let hidden = synth::hidden(context.num_tokens, hidden_size, seed).into();
        Ok(Inputs { hidden, routing: route(context, tuples, top_k, seed)? })
    }
}

/// `uniform` and `skewed` as the generators of that name; `one_tuple`: uniform over the experts
/// that have the most common tuple.
fn route(
    context: &ContextPlan,
    tuples: &[BitTuple],
    top_k: usize,
    seed: u64,
) -> Result<Routing, RoutingError> {
    let (tokens, num_experts) = (context.num_tokens, tuples.len());
    match context.routing.as_str() {
        "skewed" => synth::skewed_routing(tokens, num_experts, top_k, seed),
        "one_tuple" => {
            let alike = |tuple| (0..num_experts).filter(move |&expert| tuples[expert] == tuple);
            let common = tuples.iter().max_by_key(|&&tuple| alike(tuple).count());
            let experts: Vec<usize> = common.into_iter().flat_map(|&tuple| alike(tuple)).collect();
            let routing = synth::routing(tokens, experts.len(), top_k, seed)?;
            let ids: Vec<i32> =
                routing.topk_ids().iter().map(|&id| experts[id as usize] as i32).collect();
            Routing::new(num_experts, top_k, &ids, routing.topk_weights())
        }
        _ => synth::routing(tokens, num_experts, top_k, seed),
    }
}

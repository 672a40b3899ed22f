//! What the layer is asked to compute.

use std::sync::Arc;

use anyhow::Context;
use trellect::core::{Hidden, LayerShape, Routing};
use trellect::exl3::synth;
use trellect::exl3::{MoeLayer, RouterConfig, RouterView};

use super::RunArgs;
use super::source::Source;
use crate::output;
use crate::tensor_file::{Batch, HiddenStates, read_batch};

/// Experts per token where nothing tells.
const DEFAULT_TOP_K: usize = 2;

/// Hidden states and routings for every launch.
pub(super) struct Workload<'a> {
    shape: LayerShape,
    seed: u64,
    routes: Routes<'a>,
}

/// Where routings come from.
enum Routes<'a> {
    /// The checkpoint's router decides on random hidden states.
    Router(&'a RouterView<'a>, RouterConfig),
    /// Drawn evenly.
    Random { top_k: usize },
    /// One batch of the user's.
    Input(Arc<Batch>),
}

impl<'a> Workload<'a> {
    /// The workload that the flags ask for and the layer allows.
    pub(super) fn new(
        args: &RunArgs,
        source: &Source,
        layer: &'a MoeLayer<'_>,
    ) -> anyhow::Result<Self> {
        let shape = *layer.view().shape();
        let routes = match &args.input {
            Some(path) => Routes::Input(Arc::new(read_batch(path, &shape)?)),
            None => Routes::of_layer(args.top_k, source, layer)?,
        };
        Ok(Self { shape, seed: args.seed, routes })
    }

    /// `router`, `random` or `input`.
    pub(super) const fn name(&self) -> &'static str {
        match self.routes {
            Routes::Router(..) => "router",
            Routes::Random { .. } => "random",
            Routes::Input(_) => "input",
        }
    }

    /// Experts per token.
    pub(super) fn top_k(&self) -> usize {
        match &self.routes {
            Routes::Router(_, config) => config.top_k,
            Routes::Random { top_k } => *top_k,
            Routes::Input(batch) => batch.routing.top_k(),
        }
    }

    /// The rows to run: those asked for, or the one batch.
    pub(super) fn token_counts(&self, asked: &[usize]) -> Vec<usize> {
        match &self.routes {
            Routes::Input(batch) => vec![batch.routing.num_tokens()],
            _ => asked.to_vec(),
        }
    }

    /// The batch of a row's launch number `launch`; each has its own routing, so that weights come
    /// from memory as they do in a model.
    pub(super) fn batch(&self, num_tokens: usize, launch: u64) -> anyhow::Result<Arc<Batch>> {
        let LayerShape { hidden_size, num_experts, .. } = self.shape;
        let seed = self.seed.wrapping_add((num_tokens as u64) << 32).wrapping_add(launch);
        let hidden = || synth::hidden(num_tokens, hidden_size, seed);
        let (hidden, routing) = match &self.routes {
            Routes::Input(batch) => return Ok(Arc::clone(batch)),
            Routes::Router(router, config) => {
                let hidden = hidden();
                let routing = router.route(config, Hidden::F16(&hidden))?;
                (hidden, routing)
            }
            Routes::Random { top_k } => {
                (hidden(), synth::routing(num_tokens, num_experts, *top_k, seed)?)
            }
        };
        Ok(Arc::new(Batch { hidden: HiddenStates::F16(hidden), routing }))
    }
}

impl<'a> Routes<'a> {
    /// The checkpoint's router if it has one that is understood, else random routing; the latter
    /// is said on stderr where a model was given.
    fn of_layer(
        top_k: Option<usize>,
        source: &Source,
        layer: &'a MoeLayer<'_>,
    ) -> anyhow::Result<Self> {
        let num_experts = layer.view().shape().num_experts;
        if let Some(top_k) = top_k {
            Routing::new(num_experts, top_k, &[], &[]).context("--top-k")?;
        }
        let default_top_k = source.top_k.unwrap_or(DEFAULT_TOP_K).clamp(1, num_experts);
        let random = Self::Random { top_k: top_k.unwrap_or(default_top_k) };
        let Some(router) = layer.router() else {
            if !source.is_synthetic {
                output::note("the checkpoint has no router for this layer: routing at random");
            }
            return Ok(random);
        };
        let has_bias = router.correction_bias().is_some();
        match RouterConfig::from_model(source.checkpoint().config(), has_bias) {
            Ok(config) => {
                let top_k = top_k.unwrap_or(config.top_k);
                Ok(Self::Router(router, RouterConfig { top_k, ..config }))
            }
            Err(error) => {
                output::note(&format!("routing at random: {error}"));
                Ok(random)
            }
        }
    }
}

//! Synthetic layers, written as checkpoints.

use std::path::Path;

use trellect::exl3::synth::{OwnedLayer, SynthSpec, hidden};
use trellect::exl3::{
    ExpertNaming, FloatBytes, LayerToWrite, ModelConfig, RouterView, WriterConfig, write_checkpoint,
};

use crate::args::{BitsArg, SynthLayerArgs};
use crate::progress::Progress;

/// What to write.
pub(crate) struct Synthetic<'a> {
    /// The layers' shape, widths and codebook.
    pub(crate) layer: &'a SynthLayerArgs,
    /// Number of layers, numbered from 0.
    pub(crate) layers: usize,
    /// Whether each has a softmax router.
    pub(crate) router: bool,
    /// All randomness comes from here.
    pub(crate) seed: u64,
}

impl Synthetic<'_> {
    /// Makes the layers, all of them in memory, and writes them to `directory`.
    pub(crate) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let progress = Progress::new("making layers", self.layers);
        let make = |layer: usize| {
            let made = OwnedLayer::new(&self.spec(layer));
            progress.step();
            made
        };
        let layers = (0..self.layers).map(make).collect::<Result<Vec<_>, _>>()?;
        let views: Vec<_> = layers.iter().map(OwnedLayer::view).collect();
        let weights: Vec<_> = (0..self.layers).map(|layer| self.router_weight(layer)).collect();
        let routers = weights.iter().map(|weight| self.router_view(weight));
        let routers = routers.collect::<anyhow::Result<Vec<_>>>()?;
        let to_write: Vec<_> = views
            .iter()
            .zip(&routers)
            .enumerate()
            .map(|(number, (view, router))| LayerToWrite {
                number,
                naming: ExpertNaming::Projections,
                view,
                shared_expert: None,
                router: self.router.then_some(router),
            })
            .collect();
        let model = ModelConfig {
            num_experts_per_tok: Some(self.layer.shape.top_k),
            num_hidden_layers: Some(self.layers),
            scoring_func: self.router.then(|| "softmax".into()),
            norm_topk_prob: self.router.then_some(true),
            ..ModelConfig::default()
        };
        write_checkpoint(directory, &to_write, &WriterConfig { model, max_shard_bytes: None })?;
        Ok(())
    }

    /// What layer number `layer` is made of.
    pub(crate) fn spec(&self, layer: usize) -> SynthSpec {
        let SynthLayerArgs { shape, bits, codebook } = self.layer;
        let seed = self.seed.wrapping_add(layer as u64);
        match bits {
            BitsArg::Mixed => SynthSpec::mixed(shape.shape, *codebook, seed),
            BitsArg::Uniform(tuple) => SynthSpec::uniform(shape.shape, *tuple, *codebook, seed),
        }
    }

    /// A router's weight whose logits have about the spread of the hidden states.
    fn router_weight(&self, layer: usize) -> Vec<u8> {
        let shape = &self.layer.shape.shape;
        let scale = (shape.hidden_size as f32).sqrt().recip();
        // Complemented, so that no hidden states of a run are drawn from the same stream.
        let seed = !self.seed.wrapping_add(layer as u64);
        let values = hidden(shape.num_experts, shape.hidden_size, seed);
        values.into_iter().flat_map(|value| (value.to_f32() * scale).to_le_bytes()).collect()
    }

    fn router_view<'w>(&self, weight: &'w [u8]) -> anyhow::Result<RouterView<'w>> {
        let shape = &self.layer.shape.shape;
        let weight = FloatBytes::F32(weight);
        Ok(RouterView::new(weight, shape.num_experts, shape.hidden_size, None)?)
    }
}

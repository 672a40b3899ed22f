//! Writing MoE layers as a checkpoint that this crate, and the format's own tools, can read.
//!
//! [`tensors`] names the tensors of a layer, [`metadata`] makes the JSON files, [`output`] puts
//! files in place. Tensor data goes from the views to the files without a copy in between.

mod metadata;
mod output;
mod tensors;

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use trellect_core::LayerView;

use crate::checkpoint::{CONFIG_FILE, INDEX_FILE, MODEL_FILE, QUANTIZATION_FILE};
use crate::{ExpertNaming, ModelConfig, RouterView, WriteError};
use output::Output;
use tensors::{Linear, TensorToWrite};

/// One layer for [`write_checkpoint`].
#[derive(Clone, Copy, Debug)]
pub struct LayerToWrite<'a> {
    /// The layer's number.
    pub number: usize,
    /// How to call its projections, and with them its prefix.
    pub naming: ExpertNaming,
    /// The routed experts.
    pub view: &'a LayerView<'a>,
    /// The shared expert: a layer of one expert.
    pub shared_expert: Option<&'a LayerView<'a>>,
    /// The router.
    pub router: Option<&'a RouterView<'a>>,
}

/// What [`write_checkpoint`] needs to know beside the layers.
#[derive(Clone, Debug, Default)]
pub struct WriterConfig {
    /// Becomes `config.json`. Sizes and numbers of experts that are `None` are taken from the first
    /// layer.
    pub model: ModelConfig,
    /// Starts a new shard where the tensors of one would exceed this; `None` writes a single file.
    pub max_shard_bytes: Option<u64>,
}

/// Writes `layers` as a checkpoint in `dir`, which is made if it does not exist:
/// `model.safetensors` (or shards with an index), `config.json` and `quantization_config.json`.
///
/// Every tensor is written in the encoding that its view has, legacy signs as `su` and `sv`. Each
/// file is written under a temporary name and renamed when all are complete, so an interrupted run
/// leaves no partial file under a final name; files of a checkpoint that was there are replaced.
///
/// # Errors
/// [`WriteError`] when the system refuses, a layer is given twice, its parts do not fit together or
/// would read back with other sizes, or a scale or bias is in an encoding without a tensor type.
pub fn write_checkpoint(
    dir: &Path,
    layers: &[LayerToWrite<'_>],
    config: &WriterConfig,
) -> Result<(), WriteError> {
    let model = metadata::complete(&config.model, layers);
    let mut numbers = HashSet::new();
    for layer in layers {
        if !numbers.insert(layer.number) {
            return Err(WriteError::DuplicateLayer { number: layer.number });
        }
        check(layer, &model)?;
    }
    let linears: Vec<Linear<'_>> = layers.iter().flat_map(tensors::linears).collect();
    let mut tensors = Vec::new();
    for linear in &linears {
        tensors.extend(linear.tensors()?);
    }
    tensors.extend(layers.iter().flat_map(tensors::router));

    fs::create_dir_all(dir).map_err(|source| WriteError::Io { path: dir.into(), source })?;
    let mut output = Output::new(dir);
    let quantization = metadata::quantization(&linears);
    let shards = split(&tensors, config.max_shard_bytes);
    let stale = match shards.as_slice() {
        [single] => {
            output.tensors(MODEL_FILE, single)?;
            INDEX_FILE
        }
        shards => {
            let name = |index| format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
            for (index, shard) in shards.iter().enumerate() {
                output.tensors(&name(index), shard)?;
            }
            output.json(INDEX_FILE, &metadata::index(shards, name))?;
            MODEL_FILE
        }
    };
    output.json(CONFIG_FILE, &metadata::model(&model, &quantization))?;
    output.json(QUANTIZATION_FILE, &metadata::with_storage(&quantization, &linears, &tensors))?;
    output.finish(stale)
}

/// Whether the parts of a layer fit together and would be read back with the sizes they have.
fn check(layer: &LayerToWrite<'_>, model: &ModelConfig) -> Result<(), WriteError> {
    let equal = |part, found, expected| match found == expected {
        true => Ok(()),
        false => Err(WriteError::Inconsistent { number: layer.number, part, found, expected }),
    };
    let shape = layer.view.shape();
    if let Some(router) = layer.router {
        equal("the router's number of experts", router.num_experts(), shape.num_experts)?;
        equal("the router's width", router.hidden_size(), shape.hidden_size)?;
    }
    let router_width = layer.router.map(RouterView::hidden_size);
    let hidden = model.hidden_size_of(shape.padded_hidden(), router_width);
    equal("hidden_size", shape.hidden_size, hidden)?;
    let inner = model.intermediate_size_of(shape.padded_intermediate());
    equal("intermediate_size", shape.intermediate_size, inner)?;
    if let Some(shared) = layer.shared_expert {
        let shared = shared.shape();
        equal("the number of shared experts", shared.num_experts, 1)?;
        equal("the shared expert's hidden_size", shared.hidden_size, shape.hidden_size)?;
        let inner = model.shared_intermediate_size_of(shared.padded_intermediate());
        equal("the shared expert's intermediate_size", shared.intermediate_size, inner)?;
    }
    Ok(())
}

/// Fills shards in order; one at least.
fn split<'t, 'a>(
    tensors: &'t [TensorToWrite<'a>],
    max_bytes: Option<u64>,
) -> Vec<&'t [TensorToWrite<'a>]> {
    let max_bytes = max_bytes.unwrap_or(u64::MAX);
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (index, tensor) in tensors.iter().enumerate() {
        let len = tensor.bytes().len() as u64;
        if index > start && bytes.saturating_add(len) > max_bytes {
            shards.push(&tensors[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes = bytes.saturating_add(len);
    }
    shards.push(&tensors[start..]);
    shards
}

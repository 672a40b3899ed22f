//! Batches from, and results to, safetensors files.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use trellect::core::{Hidden, LayerShape, Routing};

use crate::output;

/// Hidden states and where they go.
#[derive(Debug)]
pub(crate) struct Batch {
    /// `[num_tokens, hidden_size]`.
    pub(crate) hidden: HiddenStates,
    /// Which experts compute them.
    pub(crate) routing: Routing,
}

/// Hidden states in the element type that they came in.
#[derive(Debug)]
pub(crate) enum HiddenStates {
    /// float16.
    F16(Vec<f16>),
    /// bfloat16.
    Bf16(Vec<bf16>),
    /// float32.
    F32(Vec<f32>),
}

impl HiddenStates {
    /// As kernels take them.
    pub(crate) fn view(&self) -> Hidden<'_> {
        match self {
            Self::F16(x) => Hidden::F16(x),
            Self::Bf16(x) => Hidden::Bf16(x),
            Self::F32(x) => Hidden::F32(x),
        }
    }
}

/// Reads `x`, `topk_ids` and `topk_weights` of a batch for a layer of `shape`.
pub(crate) fn read_batch(path: &Path, shape: &LayerShape) -> anyhow::Result<Batch> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    parse_batch(&bytes, shape).with_context(|| path.display().to_string())
}

fn parse_batch(bytes: &[u8], shape: &LayerShape) -> anyhow::Result<Batch> {
    let file = SafeTensors::deserialize(bytes).context("not a valid safetensors file")?;
    let tensor = |name: &str| {
        let found = file.tensor(name);
        let names = || {
            let mut names = file.names();
            names.sort_unstable();
            format!("no tensor `{name}`; the file has: {}", names.join(", "))
        };
        found.ok().with_context(names)
    };
    let (x, ids, weights) = (tensor("x")?, tensor("topk_ids")?, tensor("topk_weights")?);
    let [num_tokens, width] = matrix("x", &x, "[tokens, hidden]")?;
    let [id_rows, top_k] = matrix("topk_ids", &ids, "[tokens, top_k]")?;
    let [weight_rows, weight_columns] = matrix("topk_weights", &weights, "[tokens, top_k]")?;
    let hidden_size = shape.hidden_size;
    ensure!(
        width == hidden_size,
        "`x` is [{num_tokens}, {width}]: expected tokens of the layer's hidden size {hidden_size}"
    );
    ensure!(
        id_rows == num_tokens,
        "`topk_ids` has {id_rows} rows: expected one for each of the {num_tokens} tokens of `x`"
    );
    ensure!(
        (weight_rows, weight_columns) == (id_rows, top_k),
        "`topk_weights` is [{weight_rows}, {weight_columns}]: expected [{id_rows}, {top_k}] as \
         `topk_ids`"
    );
    let topk_weights = match floats("topk_weights", &weights)? {
        HiddenStates::F16(values) => values.into_iter().map(f16::to_f32).collect(),
        HiddenStates::Bf16(values) => values.into_iter().map(bf16::to_f32).collect(),
        HiddenStates::F32(values) => values,
    };
    let routing = Routing::new(shape.num_experts, top_k, &read_ids(&ids)?, &topk_weights)?;
    Ok(Batch { hidden: floats("x", &x)?, routing })
}

fn matrix(name: &str, tensor: &TensorView<'_>, expected: &str) -> anyhow::Result<[usize; 2]> {
    match tensor.shape() {
        &[rows, columns] => Ok([rows, columns]),
        shape => bail!("`{name}` has shape {shape:?}: expected two dimensions, {expected}"),
    }
}

fn floats(name: &str, tensor: &TensorView<'_>) -> anyhow::Result<HiddenStates> {
    let data = tensor.data();
    Ok(match tensor.dtype() {
        Dtype::F16 => HiddenStates::F16(elements(data, f16::from_le_bytes)),
        Dtype::BF16 => HiddenStates::Bf16(elements(data, bf16::from_le_bytes)),
        Dtype::F32 => HiddenStates::F32(elements(data, f32::from_le_bytes)),
        dtype => bail!("`{name}` is of type {dtype:?}: expected F16, BF16 or F32"),
    })
}

fn read_ids(tensor: &TensorView<'_>) -> anyhow::Result<Vec<i32>> {
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::I32 => Ok(elements(data, i32::from_le_bytes)),
        Dtype::I64 => {
            let narrow =
                |id: i64| i32::try_from(id).with_context(|| format!("expert {id} does not exist"));
            elements(data, i64::from_le_bytes).into_iter().map(narrow).collect()
        }
        dtype => bail!("`topk_ids` is of type {dtype:?}: expected I32 or I64"),
    }
}

fn elements<T, const N: usize>(data: &[u8], element: fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().copied().map(element).collect()
}

/// Writes `y`, `[_, hidden_size]`, as the only tensor of a file, which appears when it is complete.
pub(crate) fn write_result(path: &Path, y: &[f32], hidden_size: usize) -> anyhow::Result<()> {
    let bytes: Vec<u8> = y.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![y.len() / hidden_size, hidden_size], &bytes)?;
    let file = safetensors::serialize([("y", view)], None)?;
    output::write_file(path, &file)
}

use std::borrow::Cow;

use safetensors::Dtype;
use trellect_core::{Codebook, LinearView, Projection, TILE, VectorView};

use super::LayerToWrite;
use crate::{ExpertNaming, FloatBytes, WriteError};

/// A tensor with its name, borrowing its data where it can.
pub(super) struct TensorToWrite<'a> {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    data: Cow<'a, [u8]>,
}

impl TensorToWrite<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.data
    }
}

/// A linear with its name.
pub(super) struct Linear<'a> {
    pub(super) key: String,
    pub(super) view: LinearView<'a>,
}

/// The marker tensor of a codebook and the multiplier that it holds.
pub(super) const fn marker(codebook: Codebook) -> Option<(&'static str, u32)> {
    match codebook {
        Codebook::ThreeInst => None,
        Codebook::Mcg => Some(("mcg", 0xCBAC_1FED)),
        Codebook::Mul1 => Some(("mul1", 0x83DC_D12D)),
    }
}

impl<'a> Linear<'a> {
    pub(super) fn tensors(&self) -> Result<Vec<TensorToWrite<'a>>, WriteError> {
        let view = &self.view;
        let words = TILE * usize::from(view.bits().get());
        let mut tensors = vec![TensorToWrite {
            name: format!("{}.trellis", self.key),
            dtype: Dtype::I16,
            shape: vec![view.in_features() / TILE, view.out_features() / TILE, words],
            data: Cow::Borrowed(view.trellis()),
        }];
        tensors.push(self.scales(["suh", "su"], view.suh())?);
        tensors.push(self.scales(["svh", "sv"], view.svh())?);
        if let Some((name, multiplier)) = marker(view.codebook()) {
            tensors.push(TensorToWrite {
                name: format!("{}.{name}", self.key),
                dtype: Dtype::I32,
                shape: Vec::new(),
                data: Cow::Owned(multiplier.to_le_bytes().to_vec()),
            });
        }
        if let Some(bias) = view.bias() {
            let (dtype, data) = match bias {
                VectorView::F16(data) => (Dtype::F16, data),
                VectorView::F32(data) => (Dtype::F32, data),
                VectorView::Signs(_) => {
                    return Err(self.encoding("bias", "packed signs", "float16 or float32"));
                }
            };
            tensors.push(self.vector("bias", dtype, data));
        }
        Ok(tensors)
    }

    fn scales(
        &self,
        [part, legacy_part]: [&str; 2],
        scales: VectorView<'a>,
    ) -> Result<TensorToWrite<'a>, WriteError> {
        match scales {
            VectorView::F16(data) => Ok(self.vector(part, Dtype::F16, data)),
            VectorView::Signs(data) => Ok(self.vector(legacy_part, Dtype::I16, data)),
            VectorView::F32(_) => Err(self.encoding(part, "float32", "float16 or packed signs")),
        }
    }

    fn vector(&self, part: &str, dtype: Dtype, data: &'a [u8]) -> TensorToWrite<'a> {
        TensorToWrite {
            name: format!("{}.{part}", self.key),
            dtype,
            shape: vec![data.len() * 8 / dtype.bitsize()],
            data: Cow::Borrowed(data),
        }
    }

    fn encoding(&self, part: &str, found: &'static str, expected: &'static str) -> WriteError {
        WriteError::Encoding { tensor: format!("{}.{part}", self.key).into(), found, expected }
    }
}

/// All linears of a layer.
pub(super) fn linears<'a>(layer: &LayerToWrite<'a>) -> Vec<Linear<'a>> {
    let prefix = layer.naming.prefix(layer.number);
    let mut linears = Vec::new();
    let mut push = |key: &str, naming: ExpertNaming, expert: &trellect_core::ExpertView<'a>| {
        for (projection, name) in Projection::ALL.into_iter().zip(naming.projections()) {
            linears.push(Linear { key: format!("{key}.{name}"), view: *expert.linear(projection) });
        }
    };
    for (index, expert) in layer.view.experts().iter().enumerate() {
        push(&format!("{prefix}.experts.{index}"), layer.naming, expert);
    }
    for expert in layer.shared_expert.iter().flat_map(|shared| shared.experts()) {
        push(&format!("{prefix}.shared_experts"), ExpertNaming::Projections, expert);
    }
    linears
}

/// The tensors of a layer's router.
pub(super) fn router<'a>(layer: &LayerToWrite<'a>) -> Vec<TensorToWrite<'a>> {
    let Some(router) = layer.router else { return Vec::new() };
    let prefix = layer.naming.prefix(layer.number);
    let (dtype, data) = match router.weight() {
        FloatBytes::F16(data) => (Dtype::F16, data),
        FloatBytes::Bf16(data) => (Dtype::BF16, data),
        FloatBytes::F32(data) => (Dtype::F32, data),
    };
    let weight = TensorToWrite {
        name: format!("{prefix}.gate.weight"),
        dtype,
        shape: vec![router.num_experts(), router.hidden_size()],
        data: Cow::Borrowed(data),
    };
    let bias = router.correction_bias().map(|bias| TensorToWrite {
        name: format!("{prefix}.gate.e_score_correction_bias"),
        dtype: Dtype::F32,
        shape: vec![bias.len()],
        data: Cow::Owned(bias.iter().flat_map(|value| value.to_le_bytes()).collect()),
    });
    [weight].into_iter().chain(bias).collect()
}

/// The name of an element type in `quantization_config.json`.
pub(super) const fn torch_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::I16 => "torch.int16",
        Dtype::I32 => "torch.int32",
        Dtype::F16 => "torch.float16",
        Dtype::BF16 => "torch.bfloat16",
        _ => "torch.float32",
    }
}

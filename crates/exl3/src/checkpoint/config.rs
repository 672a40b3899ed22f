use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use trellect_core::HADAMARD;

/// The fields of `config.json` that concern MoE layers, under the file's own names; all optional.
///
/// In a multimodal model they lie in `text_config`, which is looked into for every field that is
/// missing outside it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ModelConfig {
    /// Names of the model class.
    pub architectures: Option<Vec<String>>,
    /// Family of the model, such as `glm4_moe_lite`.
    pub model_type: Option<String>,
    /// Width of a token.
    pub hidden_size: Option<usize>,
    /// Inner width of an expert.
    pub moe_intermediate_size: Option<usize>,
    /// Inner width of a dense layer, and in Mixtral that of an expert.
    pub intermediate_size: Option<usize>,
    /// Inner width of the shared expert, where a model states it.
    pub shared_expert_intermediate_size: Option<usize>,
    /// Routed experts, as Qwen calls them.
    pub num_experts: Option<usize>,
    /// Routed experts, as GLM and DeepSeek call them.
    pub n_routed_experts: Option<usize>,
    /// Routed experts, as Mixtral calls them.
    pub num_local_experts: Option<usize>,
    /// Experts per token.
    pub num_experts_per_tok: Option<usize>,
    /// Shared experts, which are stored as one that is as many times as wide.
    pub n_shared_experts: Option<usize>,
    /// Layers below this number have no experts.
    pub first_k_dense_replace: Option<usize>,
    /// Number of layers.
    pub num_hidden_layers: Option<usize>,
    /// Multiplies the routing weights.
    pub routed_scaling_factor: Option<f64>,
    /// Groups that the experts are divided into for selection.
    pub n_group: Option<usize>,
    /// Groups that a token may choose experts from.
    pub topk_group: Option<usize>,
    /// Whether a token's routing weights are divided by their sum.
    pub norm_topk_prob: Option<bool>,
    /// `softmax` or `sigmoid`.
    pub scoring_func: Option<String>,
    /// How experts are selected, such as `noaux_tc`.
    pub topk_method: Option<String>,
}

impl ModelConfig {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// When it is not a JSON object or one of the fields has another type.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        parse(text.as_bytes()).map(|(model, _)| model)
    }

    /// Number of routed experts, whatever the field's name.
    pub fn routed_experts(&self) -> Option<usize> {
        self.num_experts.or(self.n_routed_experts).or(self.num_local_experts)
    }

    /// Logical token width of a layer whose tensors are `padded` wide: the stated `hidden_size` if
    /// that pads to it, else the router's width if that does, else `padded`.
    pub(crate) fn hidden_size_of(&self, padded: usize, router_width: Option<usize>) -> usize {
        [self.hidden_size, router_width]
            .into_iter()
            .flatten()
            .find(|size| pads_to(*size, padded))
            .unwrap_or(padded)
    }

    /// Logical inner width of experts whose tensors are `padded` wide.
    pub(crate) fn intermediate_size_of(&self, padded: usize) -> usize {
        let stated = self.moe_intermediate_size.or(self.intermediate_size);
        stated.filter(|size| pads_to(*size, padded)).unwrap_or(padded)
    }

    /// Logical inner width of a shared expert whose tensors are `padded` wide.
    pub(crate) fn shared_intermediate_size_of(&self, padded: usize) -> usize {
        let product = || self.moe_intermediate_size?.checked_mul(self.n_shared_experts?);
        let stated = self.shared_expert_intermediate_size.or_else(product);
        stated.filter(|size| pads_to(*size, padded)).unwrap_or(padded)
    }
}

fn pads_to(size: usize, padded: usize) -> bool {
    size > 0 && size.checked_next_multiple_of(HADAMARD) == Some(padded)
}

/// What a checkpoint says about its quantisation as a whole. Informational: every linear's own
/// tensors decide its width and codebook.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct QuantizationConfig {
    /// `exl3` for checkpoints of this format.
    pub quant_method: Option<String>,
    /// Version of the converter.
    pub version: Option<String>,
    /// Average bits per weight.
    pub bits: Option<f64>,
    /// Bits per weight of the output head.
    pub head_bits: Option<f64>,
    /// Name of the codebook that the converter was asked for.
    pub codebook: Option<String>,
}

/// Reads a `config.json`, with the quantisation that it may hold.
pub(super) fn parse(
    json: &[u8],
) -> Result<(ModelConfig, Option<QuantizationConfig>), serde_json::Error> {
    let mut fields: Map<String, Value> = serde_json::from_slice(json)?;
    if let Some(Value::Object(nested)) = fields.remove("text_config") {
        for (name, value) in nested {
            let field = fields.entry(name).or_insert(Value::Null);
            if field.is_null() {
                *field = value;
            }
        }
    }
    let quantization = fields.remove("quantization_config").unwrap_or(Value::Null);
    let quantization = serde_json::from_value(quantization)?;
    Ok((serde_json::from_value(Value::Object(fields))?, quantization))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_fields_fill_the_gaps() {
        let text = r#"{
            "model_type": "glm4v_moe", "hidden_size": null, "num_experts_per_tok": 4,
            "text_config": {"hidden_size": 100, "num_experts_per_tok": 8, "n_group": 1},
            "quantization_config": {"bits": 3, "tensor_storage": {}}
        }"#;
        let (model, quantization) = parse(text.as_bytes()).unwrap();
        assert_eq!(model.hidden_size, Some(100));
        assert_eq!(model.num_experts_per_tok, Some(4));
        assert_eq!(model.n_group, Some(1));
        assert_eq!(quantization.unwrap().bits, Some(3.0));
    }

    #[test]
    fn wrong_json_is_refused() {
        for text in ["", "{", "[]", "null", r#"{"hidden_size": "wide"}"#, r#"{"n_group": -1}"#] {
            assert!(ModelConfig::from_json(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_count_only_where_they_pad_to_the_tensors() {
        let config = ModelConfig {
            hidden_size: Some(100),
            moe_intermediate_size: Some(90),
            n_shared_experts: Some(2),
            ..ModelConfig::default()
        };
        assert_eq!(config.hidden_size_of(128, None), 100);
        assert_eq!(config.hidden_size_of(128, Some(120)), 100);
        assert_eq!(config.hidden_size_of(256, Some(200)), 200);
        assert_eq!(config.hidden_size_of(256, Some(100)), 256);
        assert_eq!(config.intermediate_size_of(128), 90);
        assert_eq!(config.intermediate_size_of(256), 256);
        assert_eq!(config.shared_intermediate_size_of(256), 180);
        assert_eq!(ModelConfig::default().hidden_size_of(128, None), 128);
    }
}

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::LayerToWrite;
use super::tensors::{Linear, TensorToWrite, marker, torch_name};
use crate::{ExpertNaming, ModelConfig, QuantizationConfig};

/// `model` with what the first layer tells.
pub(super) fn complete(model: &ModelConfig, layers: &[LayerToWrite<'_>]) -> ModelConfig {
    let mut model = model.clone();
    let Some(first) = layers.first() else { return model };
    let shape = first.view.shape();
    let routed = model.routed_experts().or(Some(shape.num_experts));
    let (inner, experts) = match first.naming {
        ExpertNaming::Projections => (&mut model.moe_intermediate_size, &mut model.num_experts),
        ExpertNaming::Mixtral => (&mut model.intermediate_size, &mut model.num_local_experts),
    };
    inner.get_or_insert(shape.intermediate_size);
    if model.n_routed_experts.is_none() {
        *experts = routed;
    }
    model.hidden_size.get_or_insert(shape.hidden_size);
    let shared = layers.iter().find_map(|layer| layer.shared_expert);
    if let Some(shared) = shared.map(|shared| shared.shape().intermediate_size)
        && model.n_shared_experts.is_none()
    {
        match model.moe_intermediate_size.filter(|inner| shared.is_multiple_of(*inner)) {
            Some(inner) => model.n_shared_experts = Some(shared / inner),
            None => _ = model.shared_expert_intermediate_size.get_or_insert(shared),
        }
    }
    model
}

/// The quantisation as a whole: average width, and the codebook of the first linear.
pub(super) fn quantization(linears: &[Linear<'_>]) -> QuantizationConfig {
    let sizes = linears.iter().map(|Linear { view, .. }| {
        (view.trellis().len() as f64 * 8.0, view.in_features() as f64 * view.out_features() as f64)
    });
    let (bits, weights) = sizes.fold((0.0, 0.0), |(b, w), (bits, weights)| (b + bits, w + weights));
    QuantizationConfig {
        quant_method: Some("exl3".into()),
        version: Some(concat!(env!("CARGO_PKG_VERSION"), "-trellect").into()),
        bits: (weights > 0.0).then_some(bits / weights),
        head_bits: None,
        codebook: linears.first().map(|linear| linear.view.codebook().name().into()),
    }
}

/// `config.json`.
pub(super) fn model(model: &ModelConfig, quantization: &QuantizationConfig) -> Value {
    let mut fields = stated(json!(model));
    fields.insert("quantization_config".into(), Value::Object(stated(json!(quantization))));
    Value::Object(fields)
}

/// `quantization_config.json`.
pub(super) fn with_storage(
    quantization: &QuantizationConfig,
    linears: &[Linear<'_>],
    tensors: &[TensorToWrite<'_>],
) -> Value {
    let mut storage = Map::new();
    for tensor in tensors {
        let (module, _) = tensor.name.rsplit_once('.').unwrap_or((&tensor.name, ""));
        let stored = json!({ "shape": tensor.shape, "dtype": torch_name(tensor.dtype) });
        storage.entry(module).or_insert_with(|| json!({ "stored_tensors": {} }))["stored_tensors"]
            [&tensor.name] = stored;
    }
    for Linear { key, view } in linears {
        let module = &mut storage[key];
        module["quant_format"] = json!("exl3");
        module["bits_per_weight"] = json!(view.bits().get());
        if let Some((name, multiplier)) = marker(view.codebook()) {
            module[format!("{name}_multiplier")] = json!(multiplier);
        }
    }
    let mut fields = stated(json!(quantization));
    fields.insert("tensor_storage".into(), Value::Object(storage));
    Value::Object(fields)
}

/// `model.safetensors.index.json`.
pub(super) fn index(shards: &[&[TensorToWrite<'_>]], name: impl Fn(usize) -> String) -> Value {
    let mut weight_map = BTreeMap::new();
    let mut total_bytes = 0u64;
    for (index, shard) in shards.iter().enumerate() {
        for tensor in *shard {
            weight_map.insert(tensor.name.as_str(), name(index));
            total_bytes += tensor.bytes().len() as u64;
        }
    }
    json!({ "metadata": { "total_size": total_bytes }, "weight_map": weight_map })
}

fn stated(object: Value) -> Map<String, Value> {
    let Value::Object(mut fields) = object else { return Map::new() };
    fields.retain(|_, value| !value.is_null());
    fields
}

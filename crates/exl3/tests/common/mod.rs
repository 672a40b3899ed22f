//! Checkpoints small enough to be spelled out in a test.
#![allow(dead_code, reason = "each test crate uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Prefix of the only layer of [`Tensors::tiny`].
pub(crate) const PREFIX: &str = "model.layers.3.mlp";

pub(crate) fn golden(file: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../testkit/golden")).join(file)
}

#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) data: Vec<u8>,
}

impl Tensor {
    pub(crate) fn zeros(dtype: &'static str, shape: &[u64]) -> Self {
        let bytes_each = match dtype {
            "F16" | "BF16" | "I16" => 2,
            "F32" | "I32" => 4,
            _ => panic!("{dtype}"),
        };
        let bytes = shape.iter().product::<u64>() * bytes_each;
        Self { dtype, shape: shape.to_vec(), data: vec![0; bytes as usize] }
    }
}

/// The tensors of a file, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tensors(pub(crate) BTreeMap<String, Tensor>);

impl Tensors {
    /// Two experts of 128x128 with one bit a weight, and a router.
    pub(crate) fn tiny() -> Self {
        let mut tensors = Self::default();
        for expert in 0..2 {
            for projection in ["gate_proj", "up_proj", "down_proj"] {
                tensors.add_linear(&format!("{PREFIX}.experts.{expert}.{projection}"), 128, 128, 1);
            }
        }
        tensors.set("gate.weight", Tensor::zeros("F16", &[2, 128]));
        tensors
    }

    pub(crate) fn add_linear(&mut self, key: &str, in_features: u64, out_features: u64, bits: u64) {
        let shape = [in_features / 16, out_features / 16, 16 * bits];
        for (part, tensor) in [
            ("trellis", Tensor::zeros("I16", &shape)),
            ("suh", Tensor::zeros("F16", &[in_features])),
            ("svh", Tensor::zeros("F16", &[out_features])),
        ] {
            self.0.insert(format!("{key}.{part}"), tensor);
        }
    }

    pub(crate) fn set(&mut self, name: &str, tensor: Tensor) {
        self.0.insert(format!("{PREFIX}.{name}"), tensor);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(&format!("{PREFIX}.{name}")).expect(name);
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> &mut Tensor {
        self.0.get_mut(&format!("{PREFIX}.{name}")).expect(name)
    }

    /// The header, name by name, as a valid file has it.
    pub(crate) fn header(&self) -> BTreeMap<String, Value> {
        let mut start = 0;
        let entry = |(name, tensor): (&String, &Tensor)| {
            let end = start + tensor.data.len();
            let offsets = [start, end];
            start = end;
            let (dtype, shape) = (tensor.dtype, &tensor.shape);
            (name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }))
        };
        self.0.iter().map(entry).collect()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_with_header(&self.header())
    }

    pub(crate) fn bytes_with_header(&self, header: &BTreeMap<String, Value>) -> Vec<u8> {
        let header = serde_json::to_vec(header).unwrap();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(self.0.values().flat_map(|tensor| &tensor.data));
        bytes
    }
}

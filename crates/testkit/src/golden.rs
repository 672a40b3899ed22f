//! Golden data: a small EXL3 checkpoint, and what an independent implementation computes from it.
//!
//! The files are in `crates/testkit/golden`, with their generator and a README that lists the
//! tensors. Start at [`index`] and [`expected`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use half::f16;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

/// The folder of the golden files: where this crate was built, or, for a program that was built
/// elsewhere, in the checkout that it is run in.
pub fn dir() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    if built.is_dir() { built } else { "crates/testkit/golden".into() }
}

/// The folder of the golden checkpoint, with its `config.json` and `model.safetensors`.
pub fn model_dir() -> PathBuf {
    dir().join("model")
}

/// What `index.json` says of the golden checkpoint.
#[derive(Clone, Debug, Deserialize)]
pub struct Index {
    /// The MoE layers, in the order of their numbers.
    pub layers: Vec<LayerIndex>,
    /// Every quantised linear, by module name.
    #[serde(rename = "decoded_sha256")]
    pub linears: BTreeMap<String, LinearIndex>,
}

/// One MoE layer of the golden checkpoint.
#[derive(Clone, Debug, Deserialize)]
pub struct LayerIndex {
    /// The common start of its tensor names, and of its keys among the [`expected`] tensors.
    pub prefix: String,
    /// Width of a token.
    #[serde(rename = "hidden")]
    pub hidden_size: usize,
    /// Inner width of an expert.
    #[serde(rename = "intermediate")]
    pub intermediate_size: usize,
    /// Number of routed experts.
    #[serde(rename = "experts")]
    pub num_experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// `softmax` or `sigmoid_bias`.
    pub router: String,
    /// Factor on all routing weights.
    pub routed_scaling_factor: f64,
    /// Bits of gate, up and down of every expert.
    pub bits_gate_up_down: Vec<[u64; 3]>,
    /// Name of the codebook of every expert.
    pub codebook: Vec<String>,
    /// What gate, up and down are called in tensor names.
    pub proj_names: ProjectionNames,
    /// Bits of the shared expert, if there is one.
    pub shared_expert_bits: Option<[u64; 3]>,
}

/// Names of the three projections in tensor names.
#[derive(Clone, Debug, Deserialize)]
pub struct ProjectionNames {
    /// The gate projection.
    pub gate: String,
    /// The up projection.
    pub up: String,
    /// The down projection.
    pub down: String,
}

/// One quantised linear of the golden checkpoint.
#[derive(Clone, Debug, Deserialize)]
pub struct LinearIndex {
    /// Bits per weight.
    #[serde(rename = "K")]
    pub bits: u64,
    /// Name of the codebook.
    pub codebook: String,
    /// `[in_features, out_features]`.
    pub shape: [usize; 2],
    /// SHA-256, in hexadecimal, of the decoded weights: float16, row-major, little-endian.
    #[serde(rename = "sha256_fp16_rowmajor_le")]
    pub sha256: String,
}

/// Reads `index.json`.
///
/// # Panics
/// When it cannot be read.
pub fn index() -> Index {
    serde_json::from_slice(&read(&dir().join("index.json"))).expect("index.json is what it was")
}

/// The tensors of `expected.safetensors`, read once.
///
/// # Panics
/// When they cannot be read.
pub fn expected() -> &'static Tensors {
    static EXPECTED: OnceLock<Tensors> = OnceLock::new();
    EXPECTED.get_or_init(|| Tensors { bytes: read(&dir().join("expected.safetensors")) })
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A safetensors file in memory, with one getter per element type.
///
/// Every getter panics when there is no tensor of that name and type.
pub struct Tensors {
    bytes: Vec<u8>,
}

/// A tensor's elements, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T> {
    /// Size of every dimension, outermost first.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Vec<T>,
}

impl Tensors {
    /// The float64 tensor called `name`.
    pub fn f64(&self, name: &str) -> Tensor<f64> {
        self.get(name, Dtype::F64, f64::from_le_bytes)
    }

    /// The float32 tensor called `name`.
    pub fn f32(&self, name: &str) -> Tensor<f32> {
        self.get(name, Dtype::F32, f32::from_le_bytes)
    }

    /// The float16 tensor called `name`.
    pub fn f16(&self, name: &str) -> Tensor<f16> {
        self.get(name, Dtype::F16, f16::from_le_bytes)
    }

    /// The 32-bit integer tensor called `name`.
    pub fn i32(&self, name: &str) -> Tensor<i32> {
        self.get(name, Dtype::I32, i32::from_le_bytes)
    }

    /// The 16-bit integer tensor called `name`.
    pub fn i16(&self, name: &str) -> Tensor<i16> {
        self.get(name, Dtype::I16, i16::from_le_bytes)
    }

    /// Names of all tensors.
    pub fn names(&self) -> Vec<String> {
        self.open().names().into_iter().map(String::from).collect()
    }

    fn get<T, const N: usize>(
        &self,
        name: &str,
        dtype: Dtype,
        element: fn([u8; N]) -> T,
    ) -> Tensor<T> {
        let file = self.open();
        let view = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(view.dtype(), dtype, "{name}");
        let data = view.data().as_chunks::<N>().0.iter().copied().map(element).collect();
        Tensor { shape: view.shape().to_vec(), data }
    }

    fn open(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("the golden files are valid safetensors")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_and_the_expected_tensors_agree() {
        let index = index();
        assert_eq!(index.layers.len(), 4);
        for layer in &index.layers {
            assert_eq!(layer.bits_gate_up_down.len(), layer.num_experts);
            assert_eq!(layer.codebook.len(), layer.num_experts);
            let ids = expected().i32(&format!("{}.topk_ids_i32", layer.prefix));
            assert_eq!(ids.shape, [7, layer.top_k]);
            assert_eq!(ids.data.len(), 7 * layer.top_k);
        }
        assert_eq!(expected().f16("codebook.table_f16").shape, [3, 65536]);
    }
}

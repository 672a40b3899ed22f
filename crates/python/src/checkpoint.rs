//! Checkpoints: what layers they hold, and preparing one.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use trellect::core::{Backend, NumericClass, PrepareError, Projection};
use trellect::exl3::{self, oracle};

use crate::cuda::CudaEngine;
use crate::errors::raised;
use crate::layer::{MoeLayer, adaptive, widths};
use crate::memory::Device;
use crate::runtime;

/// An EXL3 checkpoint: a directory, or one `.safetensors` file.
#[pyclass(frozen, module = "trellect")]
pub(crate) struct Checkpoint(exl3::Checkpoint);

/// What a checkpoint says of one layer, once it is checked.
#[pyclass(frozen, get_all, module = "trellect")]
pub(crate) struct LayerInfo {
    number: usize,
    prefix: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_experts: usize,
    bit_tuples: Vec<(u8, u8, u8)>,
    trellis_bytes: u64,
}

impl Checkpoint {
    fn borrow_layer(&self, number: usize) -> PyResult<exl3::MoeLayer<'_>> {
        self.0.layer(number).map_err(|error| raised(&error))
    }
}

#[pymethods]
impl Checkpoint {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let opened = py.detach(|| exl3::Checkpoint::open(&path));
        opened.map(Self).map_err(|error| raised(&error))
    }

    #[getter]
    fn path(&self) -> PathBuf {
        self.0.path().into()
    }

    fn moe_layers(&self) -> Vec<usize> {
        let mut numbers: Vec<_> = self.0.layers().iter().map(|layer| layer.number()).collect();
        numbers.dedup();
        numbers
    }

    fn layer_info(&self, py: Python<'_>, number: usize) -> PyResult<LayerInfo> {
        py.detach(|| {
            let layer = self.borrow_layer(number)?;
            let (view, shape) = (layer.view(), layer.view().shape());
            Ok(LayerInfo {
                number,
                prefix: layer.prefix().into(),
                hidden_size: shape.hidden_size,
                intermediate_size: shape.intermediate_size,
                num_experts: shape.num_experts,
                bit_tuples: view.experts().iter().map(|expert| widths(expert.tuple())).collect(),
                trellis_bytes: view.trellis_bytes(),
            })
        })
    }

    #[pyo3(signature = (number, *, device="cpu", numeric="half"))]
    fn layer(
        &self,
        py: Python<'_>,
        number: usize,
        device: &str,
        numeric: &str,
    ) -> PyResult<MoeLayer> {
        let device = Device::parse(device).ok_or_else(|| {
            PyValueError::new_err(format!("device is {device:?}: expected cpu, cuda or cuda:N"))
        })?;
        let numeric = numeric
            .parse::<NumericClass>()
            .map_err(|error| PyValueError::new_err(format!("numeric: {error}")))?;
        py.detach(|| {
            let layer = self.borrow_layer(number)?;
            match device {
                Device::Cpu => {
                    let backend: Arc<dyn Backend> = Arc::new(runtime::cpu()?);
                    let prepared = trellect::prepare(backend.as_ref(), &layer, |_| {});
                    let prepared = prepared.map_err(not_prepared)?;
                    MoeLayer::on_host(number, backend, prepared, adaptive(numeric))
                }
                Device::Cuda(ordinal) => {
                    let engine = CudaEngine::prepare(&layer, ordinal, numeric)?;
                    Ok(MoeLayer::on_cuda(number, numeric, engine))
                }
            }
        })
    }

    /// The weights of one expert, decoded: gate, up and down, each `[out_features, in_features]`
    /// float32 as bytes, in the layer's logical sizes.
    fn _decode_expert<'py>(
        &self,
        py: Python<'py>,
        number: usize,
        expert: usize,
    ) -> PyResult<[Bound<'py, PyBytes>; 3]> {
        let weights = py.detach(|| {
            let layer = self.borrow_layer(number)?;
            let (view, shape) = (layer.view(), layer.view().shape());
            let Some(found) = view.experts().get(expert) else {
                let (layer, last) = (layer.prefix(), shape.num_experts - 1);
                let message =
                    format!("expert is {expert}: expected 0 to {last}, the experts of {layer}");
                return Err(PyValueError::new_err(message));
            };
            let (hidden, inner) = (shape.hidden_size, shape.intermediate_size);
            Ok(Projection::ALL.map(|projection| {
                let (inputs, outputs) = match projection {
                    Projection::Gate | Projection::Up => (hidden, inner),
                    Projection::Down => (inner, hidden),
                };
                let linear = found.linear(projection);
                let weights = oracle::weights(linear);
                let row = |output: usize| {
                    let column = weights.iter().skip(output).step_by(linear.out_features());
                    column.take(inputs).flat_map(|weight| (*weight as f32).to_ne_bytes())
                };
                (0..outputs).flat_map(row).collect::<Vec<u8>>()
            }))
        })?;
        Ok(weights.map(|bytes| PyBytes::new(py, &bytes)))
    }

    fn __repr__(&self) -> String {
        let layers = self.moe_layers().len();
        format!("<Checkpoint {:?}: {layers} MoE layers>", self.0.path())
    }
}

/// Why a layer was not prepared: `MemoryError`, or `RuntimeError` where the device failed.
pub(crate) fn not_prepared(error: PrepareError) -> PyErr {
    let message = error.to_string();
    match error {
        PrepareError::OutOfMemory { .. } => PyMemoryError::new_err(message),
        _ => PyRuntimeError::new_err(message),
    }
}

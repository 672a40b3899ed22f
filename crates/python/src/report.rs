//! What a call did, for Python.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::experts::pattern_dict;
use crate::metadata;

/// The kernel that a call ran on, why, and how long it took.
#[pyclass(frozen, module = "trellect")]
#[derive(Clone)]
pub(crate) struct Report(pub(crate) trellect::Report);

#[pymethods]
impl Report {
    #[getter]
    fn kernel_name(&self) -> Option<String> {
        self.0.kernel.map(|kernel| kernel.to_string())
    }

    #[getter]
    fn reason(&self) -> &'static str {
        self.0.reason()
    }

    #[getter]
    fn latency_ms(&self) -> Option<f64> {
        self.0.latency.map(|latency| latency.as_secs_f64() * 1e3)
    }

    #[getter]
    fn num_tokens(&self) -> usize {
        self.0.num_tokens
    }

    #[getter]
    fn active_bits(&self) -> Vec<u32> {
        // Of u8 Python would make bytes.
        self.0.active_bits().map(|bits| bits.get().into()).collect()
    }

    #[getter]
    fn active_bytes(&self) -> u64 {
        self.0.active_bytes
    }

    #[getter]
    fn memory_pressure(&self) -> f64 {
        self.0.memory_pressure
    }

    #[getter]
    fn fallback(&self) -> Option<String> {
        let fallback = self.0.fallback.as_ref();
        fallback.map(|fallback| format!("{}: {}", fallback.failed, fallback.error))
    }

    #[getter]
    fn pattern_metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        pattern_dict(py, &self.0.pattern)
    }

    #[getter]
    fn selection_metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = match &self.0.decision {
            Some(decision) => {
                metadata::dict(&PyString::new(py, &decision.kernel.to_string()), decision)?
            }
            None => PyDict::new(py),
        };
        // The kernel that served, and why it, where that is another than the rules decided.
        dict.set_item("kernel_name", self.kernel_name())?;
        dict.set_item("reason", self.reason())?;
        Ok(dict)
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        format!("<Report: {}>", self.0)
    }
}

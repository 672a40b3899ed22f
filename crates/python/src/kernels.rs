//! Kernel names.

use pyo3::prelude::*;
use pyo3::types::PySet;
use trellect::core::KernelId;
use trellect::select::{Thresholds, reachable_kernels};

use crate::errors::raised;

/// The names that a selection may return, or the kernels of a prepared layer.
#[pyfunction]
#[pyo3(signature = (lib = None))]
pub(crate) fn get_available_kernels<'py>(
    py: Python<'py>,
    lib: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PySet>> {
    match lib {
        Some(lib) => {
            PySet::new(py, lib.call_method0("kernels")?.try_iter()?.collect::<PyResult<Vec<_>>>()?)
        }
        None => PySet::new(
            py,
            reachable_kernels(&Thresholds::default()).iter().map(KernelId::to_string),
        ),
    }
}

/// Reads a kernel's name.
pub(crate) fn kernel_id(name: &str) -> PyResult<KernelId> {
    name.parse().map_err(|error: trellect::core::KernelNameError| raised(&error))
}

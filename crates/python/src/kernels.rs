//! Names of kernels.

use pyo3::prelude::*;
use pyo3::types::PySet;
use trellect::core::KernelId;
use trellect::select::{Thresholds, reachable_kernels};

/// The names that a selection may return, or those of a layer's kernels.
#[pyfunction]
#[pyo3(signature = (lib = None))]
pub(crate) fn get_available_kernels<'py>(
    py: Python<'py>,
    lib: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PySet>> {
    match lib {
        Some(lib) => {
            let names = lib.call_method0("kernels")?.try_iter()?.collect::<PyResult<Vec<_>>>()?;
            PySet::new(py, names)
        }
        None => PySet::new(
            py,
            reachable_kernels(&Thresholds::default()).iter().map(KernelId::to_string),
        ),
    }
}

//! The Python package `trellect`: a thin layer over the crate `trellect`.
//!
//! Everything here converts: arguments to our types, results and errors back. What a function does
//! is documented for Python's users in `python/trellect/_trellect.pyi`. A panic of ours reaches
//! Python as `pyo3_runtime.PanicException`.
#![forbid(unsafe_code)]

mod errors;
mod kernels;

use pyo3::prelude::*;

/// The compiled part of `trellect`; import that.
#[pymodule]
fn _trellect(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(kernels::get_available_kernels, module)?)
}

//! The Python package `trellect`: a thin layer over the crate `trellect`.
//!
//! Everything here converts: arguments to our types, results and errors back. What a function does
//! is documented for Python's users in `python/trellect/_trellect.pyi`. A panic of ours reaches
//! Python as `pyo3_runtime.PanicException`.
#![deny(unsafe_code)]

mod checkpoint;
#[expect(unsafe_code, reason = "launches on device memory, whose addresses it vouches for")]
mod cuda;
mod errors;
mod kernels;
mod layer;
mod report;
mod runtime;
mod synth;
#[expect(unsafe_code, reason = "reads and writes memory that other libraries lend by DLPack")]
mod tensor;

use pyo3::prelude::*;

/// The compiled part of `trellect`; import that.
#[pymodule]
fn _trellect(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(kernels::get_available_kernels, module)?)?;
    module.add_class::<checkpoint::Checkpoint>()?;
    module.add_class::<checkpoint::LayerInfo>()?;
    module.add_class::<layer::MoeLayer>()?;
    module.add_class::<report::Report>()?;
    module.add_function(wrap_pyfunction!(synth::write_synthetic, module)?)
}

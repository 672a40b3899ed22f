//! The Python package `trellect`: a thin layer over the crate `trellect`.
//!
//! Everything here converts: arguments to our types, results and errors back. What a function does
//! is documented for Python's users in `python/trellect/_trellect.pyi`. A panic of ours reaches
//! Python as `pyo3_runtime.PanicException`.
#![deny(unsafe_code)]

mod arguments;
mod call;
mod checkpoint;
#[expect(unsafe_code, reason = "launches on device memory, whose addresses it vouches for")]
mod cuda;
mod errors;
mod experts;
mod explanation;
mod kernels;
mod layer;
mod library;
mod memory;
mod metadata;
mod report;
mod runtime;
mod selector;
mod shared;
mod statistics;
mod synth;
#[expect(unsafe_code, reason = "reads and writes memory that other libraries lend by DLPack")]
mod tensor;

use std::sync::OnceLock;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

/// The compiled part of `trellect`; import that.
#[pymodule]
fn _trellect(module: &Bound<'_, PyModule>) -> PyResult<()> {
    refuse_other_interpreters(module.py())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<selector::MixedKernelSelector>()?;
    module.add_function(wrap_pyfunction!(shared::get_mixed_kernel, module)?)?;
    module.add_function(wrap_pyfunction!(shared::record_kernel_latency, module)?)?;
    module.add_function(wrap_pyfunction!(shared::get_statistics, module)?)?;
    module.add_function(wrap_pyfunction!(shared::reset_history, module)?)?;
    module.add_function(wrap_pyfunction!(shared::set_exploration_rate, module)?)?;
    module.add_function(wrap_pyfunction!(kernels::get_available_kernels, module)?)?;
    module.add_function(wrap_pyfunction!(experts::get_expert_bits, module)?)?;
    module.add_function(wrap_pyfunction!(experts::analyze_expert_activation_pattern, module)?)?;
    module.add_function(wrap_pyfunction!(memory::estimate_gpu_memory_pressure, module)?)?;
    module.add_class::<checkpoint::Checkpoint>()?;
    module.add_class::<checkpoint::LayerInfo>()?;
    module.add_class::<layer::MoeLayer>()?;
    module.add_class::<report::Report>()?;
    module.add_function(wrap_pyfunction!(synth::write_synthetic, module)?)?;
    module.setattr("_panic", wrap_pyfunction!(errors::panic, module)?)
}

/// What is shared here, such as metadata that is copied, belongs to one interpreter.
fn refuse_other_interpreters(py: Python<'_>) -> PyResult<()> {
    static INTERPRETER: OnceLock<usize> = OnceLock::new();
    // Every interpreter has a module `builtins` of its own, for as long as it lives.
    let interpreter = py.import("builtins")?.as_ptr() as usize;
    match *INTERPRETER.get_or_init(|| interpreter) == interpreter {
        true => Ok(()),
        false => Err(PyImportError::new_err(
            "trellect is imported by another interpreter of this process: expected one alone",
        )),
    }
}

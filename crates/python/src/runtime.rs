//! What all layers of a process share: a backend for each device, and one selector.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use pyo3::PyResult;
use pyo3::exceptions::PyRuntimeError;
use trellect::Selector;
use trellect::cpu::{CpuBackend, CpuOptions};
use trellect::cuda::CudaBackend;

use crate::errors::raised;

/// Threads do not follow into a child of `fork`, so a child makes a runtime of its own.
static RUNTIME: Mutex<Option<(u32, Runtime)>> = Mutex::new(None);

#[derive(Default)]
struct Runtime {
    cpu: Option<CpuBackend>,
    cuda: HashMap<usize, CudaBackend>,
    selector: Option<Selector>,
}

fn with<T>(act: impl FnOnce(&mut Runtime) -> T) -> T {
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    let own = std::process::id();
    if runtime.as_ref().is_some_and(|(process, _)| *process != own) {
        // Dropping the parent's would wait for threads that this process does not have.
        std::mem::forget(runtime.take());
    }
    act(&mut runtime.get_or_insert_with(|| (own, Runtime::default())).1)
}

/// The host's processor, as the environment allows it to be used.
pub(crate) fn cpu() -> PyResult<CpuBackend> {
    with(|runtime| {
        if let Some(backend) = &runtime.cpu {
            return Ok(backend.clone());
        }
        let options = CpuOptions::from_env().map_err(|error| raised(&error))?;
        Ok(runtime.cpu.insert(CpuBackend::new(options)).clone())
    })
}

/// An NVIDIA GPU.
pub(crate) fn cuda(ordinal: usize) -> PyResult<CudaBackend> {
    with(|runtime| {
        if let Some(backend) = runtime.cuda.get(&ordinal) {
            return Ok(backend.clone());
        }
        let backend = CudaBackend::open(ordinal)
            .map_err(|error| PyRuntimeError::new_err(format!("cuda:{ordinal}: {error}")))?;
        Ok(runtime.cuda.entry(ordinal).or_insert(backend).clone())
    })
}

/// What is learned about kernels, for all layers together.
pub(crate) fn selector() -> Selector {
    with(|runtime| runtime.selector.get_or_insert_default().clone())
}

//! How full a device's memory is.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use trellect::core::MemoryFigures;
use trellect::{cpu, cuda};

use crate::arguments::wrong_value;

/// The used share of a device's memory, 0 to 1.
#[pyfunction]
#[pyo3(signature = (device = None))]
pub(crate) fn estimate_gpu_memory_pressure(
    py: Python<'_>,
    device: Option<&Bound<'_, PyAny>>,
) -> PyResult<f64> {
    let Some(found) = device else {
        let figures = py.detach(|| cuda::memory(0).unwrap_or_else(|_| cpu::memory()));
        return Ok(figures.pressure());
    };
    let figures: MemoryFigures = match Device::parse(found.str()?.to_cow()?.as_ref()) {
        Some(Device::Cpu) => py.detach(cpu::memory),
        Some(Device::Cuda(ordinal)) => py
            .detach(|| cuda::memory(ordinal))
            .map_err(|why| PyValueError::new_err(format!("device is {found}: {why}")))?,
        None => {
            return Err(wrong_value(
                "device",
                found,
                "cpu, cuda, cuda and a number as in cuda:1, or None",
            ));
        }
    };
    Ok(figures.pressure())
}

/// A device by the name that torch gives it.
#[derive(Clone, Copy)]
pub(crate) enum Device {
    Cpu,
    Cuda(usize),
}

impl Device {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name.split_once(':') {
            None if name == "cpu" => Some(Self::Cpu),
            None if name == "cuda" => Some(Self::Cuda(0)),
            Some(("cuda", ordinal)) => ordinal.parse().ok().map(Self::Cuda),
            _ => None,
        }
    }
}

//! The selector that a process shares, as functions.

use std::sync::LazyLock;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use trellect::select::RuleConfig;

use crate::call::Call;
use crate::selector::{MixedKernelSelector, Selected};

static SHARED: LazyLock<MixedKernelSelector> = LazyLock::new(|| {
    MixedKernelSelector::with_config(RuleConfig::default()).expect("the defaults are valid")
});

/// Chooses the kernel of a call; its name and the metadata of the choice.
#[pyfunction]
#[pyo3(
    signature = (
        batch_size, active_expert_bits, gpu_memory_pressure = None, gate_bits = None,
        up_bits = None, down_bits = None, use_fp32_acc = None, available_kernels = None
    ),
    text_signature = "(batch_size, active_expert_bits, gpu_memory_pressure=0.0, gate_bits=None, \
                      up_bits=None, down_bits=None, use_fp32_acc=False, available_kernels=None)"
)]
#[expect(clippy::too_many_arguments, reason = "Python's signature")]
pub(crate) fn get_mixed_kernel<'py>(
    py: Python<'py>,
    batch_size: &Bound<'py, PyAny>,
    active_expert_bits: &Bound<'py, PyAny>,
    gpu_memory_pressure: Option<&Bound<'py, PyAny>>,
    gate_bits: Option<&Bound<'py, PyAny>>,
    up_bits: Option<&Bound<'py, PyAny>>,
    down_bits: Option<&Bound<'py, PyAny>>,
    use_fp32_acc: Option<&Bound<'py, PyAny>>,
    available_kernels: Option<&Bound<'py, PyAny>>,
) -> PyResult<Selected<'py>> {
    let call = Call::new(
        batch_size,
        active_expert_bits,
        gpu_memory_pressure,
        [gate_bits, up_bits, down_bits],
        use_fp32_acc,
        available_kernels,
    )?;
    SHARED.select(py, &call)
}

/// Notes what a kernel took.
#[pyfunction]
#[pyo3(signature = (kernel_name, batch_size, latency_ms, selected_by = None))]
pub(crate) fn record_kernel_latency(
    kernel_name: &Bound<'_, PyAny>,
    batch_size: &Bound<'_, PyAny>,
    latency_ms: &Bound<'_, PyAny>,
    selected_by: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    SHARED.record_kernel_latency(kernel_name, batch_size, latency_ms, selected_by)
}

/// What has been selected and recorded so far.
#[pyfunction]
pub(crate) fn get_statistics(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    SHARED.get_statistics(py)
}

/// Forgets what has been selected and recorded; the configuration stays.
#[pyfunction]
pub(crate) fn reset_history() {
    SHARED.reset_history();
}

/// Sets the probability of trying another legal kernel.
#[pyfunction]
pub(crate) fn set_exploration_rate(rate: &Bound<'_, PyAny>) -> PyResult<()> {
    SHARED.set_exploration_rate(rate)
}

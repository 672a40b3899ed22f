//! An explanation as entries of a decision's dict.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use trellect::select::{Considered, Evidence, Explanation, Verdict};

/// Adds to a decision's metadata what became of every kernel.
pub(crate) fn add(metadata: &Bound<'_, PyDict>, explanation: &Explanation) -> PyResult<()> {
    let py = metadata.py();
    let considered = explanation.considered.iter().map(|kernel| considered(py, kernel));
    let considered = considered.collect::<PyResult<Vec<_>>>()?;
    metadata.set_item("exploration_rate", explanation.exploration_rate)?;
    metadata.set_item("considered", PyList::new(py, considered)?)?;
    metadata.set_item("text", explanation.to_string())
}

fn considered<'py>(py: Python<'py>, considered: &Considered) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("kernel_name", considered.kernel.to_string())?;
    dict.set_item("legal", !matches!(considered.verdict, Verdict::Refused(_)))?;
    dict.set_item("verdict", considered.verdict.to_string())?;
    dict.set_item("evidence", considered.evidence.map(|it| evidence(py, &it)).transpose()?)?;
    Ok(dict)
}

fn evidence<'py>(py: Python<'py>, evidence: &Evidence) -> PyResult<Bound<'py, PyDict>> {
    let Evidence { timings, against_baseline, drifted } = evidence;
    let dict = PyDict::new(py);
    dict.set_item("n", timings.n)?;
    dict.set_item("mean_ms", timings.mean_ms)?;
    dict.set_item("ema_ms", timings.ema_ms)?;
    dict.set_item("t", against_baseline.map(|test| test.t))?;
    dict.set_item("p_value", against_baseline.map(|test| test.p_value()))?;
    dict.set_item("drifted", drifted)?;
    Ok(dict)
}

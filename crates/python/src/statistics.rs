//! A selector's statistics as a plain dict.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use trellect::select::{HistoryRow, Reason, SharedRulePolicy};

/// Who a latency is counted for where nobody is named.
const NOBODY: &str = "unknown";

/// How many latencies were recorded, by what had selected their kernels.
#[derive(Debug, Default)]
pub(crate) struct Records {
    by_selector: Mutex<BTreeMap<String, u64>>,
}

impl Records {
    pub(crate) fn count(&self, selected_by: Option<&str>) {
        let selector = selected_by.unwrap_or(NOBODY);
        let mut records = self.lock();
        match records.get_mut(selector) {
            Some(count) => *count += 1,
            None => drop(records.insert(selector.into(), 1)),
        }
    }

    pub(crate) fn reset(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.by_selector.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that a selector tells of its past.
pub(crate) fn dict<'py>(
    py: Python<'py>,
    policy: &SharedRulePolicy,
    records: &Records,
) -> PyResult<Bound<'py, PyDict>> {
    let (statistics, history) = (policy.statistics(), policy.history());
    let records = records.lock().clone();
    let reasons = PyDict::new(py);
    for reason in Reason::ALL {
        reasons.set_item(reason.as_str(), statistics.selections(reason))?;
    }
    let dict = PyDict::new(py);
    dict.set_item("total_selections", statistics.total_selections())?;
    dict.set_item("selections_by_reason", reasons)?;
    dict.set_item("selection_accuracy", statistics.selection_accuracy())?;
    dict.set_item("ab_tests_run", statistics.ab_tests_run())?;
    dict.set_item("correct_selections", statistics.correct_selections())?;
    dict.set_item("tracked_kernels", policy.tracked_kernels())?;
    dict.set_item("total_records", records.values().sum::<u64>())?;
    dict.set_item("records_by_selector", records)?;
    dict.set_item("kernels", kernels(py, &history)?)?;
    Ok(dict)
}

/// A dict per kernel of a dict per bucket.
fn kernels<'py>(py: Python<'py>, history: &[HistoryRow]) -> PyResult<Bound<'py, PyDict>> {
    let kernels = PyDict::new(py);
    for row in history {
        let name = row.kernel.to_string();
        let buckets = match kernels.get_item(&name)? {
            Some(buckets) => buckets.cast_into::<PyDict>()?,
            None => PyDict::new(py),
        };
        let figures = PyDict::new(py);
        figures.set_item("n", row.timings.n)?;
        figures.set_item("mean_ms", row.timings.mean_ms)?;
        figures.set_item("ema_ms", row.timings.ema_ms)?;
        figures.set_item("p50_ms", row.p50_ms)?;
        figures.set_item("p95_ms", row.p95_ms)?;
        buckets.set_item(row.bucket.as_str(), figures)?;
        kernels.set_item(name, buckets)?;
    }
    Ok(kernels)
}

//! A decision as a plain dict.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use rustc_hash::FxHashMap;
use trellect::select::Decision;

/// Decisions that have been made, as dicts to copy: to copy a dict is several times as fast as to
/// fill one.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    known: Mutex<Known>,
}

type Known = FxHashMap<Decision, (Py<PyString>, Py<PyDict>)>;

/// A kernel's name and a decision's dict.
type Entry<'py> = (Bound<'py, PyString>, Bound<'py, PyDict>);

/// Decisions that are kept. There are hardly more than a few dozen of one caller.
const MAX_KNOWN: usize = 4096;

impl Metadata {
    /// The kernel's name, and a dict that is the caller's own.
    pub(crate) fn of<'py>(
        &self,
        py: Python<'py>,
        decision: &Decision,
    ) -> PyResult<(Bound<'py, PyString>, Bound<'py, PyDict>)> {
        let (name, dict) = match self.known(py, decision) {
            Some(known) => known,
            None => self.add(py, decision)?,
        };
        Ok((name, dict.copy()?))
    }

    fn known<'py>(&self, py: Python<'py>, decision: &Decision) -> Option<Entry<'py>> {
        // Nothing of Python is made under the lock: that may run anybody's code.
        let known = self.lock();
        let (name, dict) = known.get(decision)?;
        Some((name.bind(py).clone(), dict.bind(py).clone()))
    }

    #[cold]
    fn add<'py>(&self, py: Python<'py>, decision: &Decision) -> PyResult<Entry<'py>> {
        let name = PyString::new(py, &decision.kernel.to_string());
        let dict = dict(&name, decision)?;
        let mut known = self.lock();
        if known.len() == MAX_KNOWN {
            known.clear();
        }
        known.insert(*decision, (name.clone().unbind(), dict.clone().unbind()));
        Ok((name, dict))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A decision as a dict; `name` is the kernel's.
pub(crate) fn dict<'py>(
    name: &Bound<'py, PyString>,
    decision: &Decision,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(name.py());
    dict.set_item("kernel_name", name)?;
    dict.set_item("reason", decision.reason.as_str())?;
    dict.set_item("tile_n", decision.tile_n)?;
    dict.set_item("bucket", decision.bucket.as_str())?;
    dict.set_item("heuristic_family", decision.heuristic_family.as_str())?;
    dict.set_item("baseline_kernel", decision.baseline_kernel.to_string())?;
    dict.set_item("explored", decision.explored)?;
    dict.set_item("fallback_from", decision.fallback_from.map(|kernel| kernel.to_string()))?;
    dict.set_item("message", decision.message())?;
    dict.set_item("numeric", decision.class.name())?;
    dict.set_item("numeric_downgrade", decision.numeric_downgrade())?;
    Ok(dict)
}

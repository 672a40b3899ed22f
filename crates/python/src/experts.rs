//! What can be said of a call from its expert ids.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use trellect::ActivationPattern;
use trellect::core::{LayerShape, Routing};

use crate::arguments::{self, index, wrong_type, wrong_value};
use crate::call::TOP_EXPERT_SHARE;
use crate::errors::raised;

const EXPERT_IDS: &str = "expert_ids";
/// How deep lists of ids may be nested: tokens and slots, and whatever else a batch has.
const MAX_DEPTH: usize = 8;

/// The width of every active expert's up projection, by ascending expert.
#[pyfunction]
pub(crate) fn get_expert_bits(
    expert_ids: &Bound<'_, PyAny>,
    expert_bit_metadata: &Bound<'_, PyAny>,
) -> PyResult<Vec<u32>> {
    let mut ids = expert_ids_of(expert_ids)?;
    ids.sort_unstable();
    ids.dedup();
    let up_width = |id: i32| {
        let argument = format!("expert_bit_metadata[{id}]");
        let widths = expert_bit_metadata.get_item(id).map_err(|_| {
            PyValueError::new_err(format!(
                "{EXPERT_IDS} has {id}: expected experts that expert_bit_metadata has"
            ))
        })?;
        match widths.extract::<[Bound<'_, PyAny>; 3]>() {
            Ok(widths) => {
                let widths = widths.iter().map(|width| arguments::width(&argument, width));
                let widths = widths.collect::<PyResult<Vec<_>>>()?;
                Ok(u32::from(widths[1].get()))
            }
            Err(_) => Err(wrong_type(&argument, &widths, "the widths of gate, up and down")),
        }
    };
    ids.into_iter().map(up_width).collect()
}

/// How a call's tokens spread over the experts.
#[pyfunction]
pub(crate) fn analyze_expert_activation_pattern<'py>(
    py: Python<'py>,
    expert_ids: &Bound<'py, PyAny>,
    num_experts: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyDict>> {
    let found = num_experts;
    let num_experts = arguments::count("num_experts", found)?;
    if num_experts > LayerShape::MAX_DIMENSION {
        let expected = format!("at most {}", LayerShape::MAX_DIMENSION);
        return Err(wrong_value("num_experts", found, &expected));
    }
    let ids = expert_ids_of(expert_ids)?;
    let exists = |id: i32| usize::try_from(id).is_ok_and(|id| id < num_experts);
    if let Some(id) = ids.iter().find(|id| !exists(**id)) {
        let expected = format!("0 to {}, as num_experts says", num_experts - 1);
        return Err(PyValueError::new_err(format!("{EXPERT_IDS} has {id}: expected {expected}")));
    }
    // Which token a pair belongs to, and its weight, are no part of the pattern.
    let routing = Routing::new(num_experts, 1, &ids, &vec![1.0; ids.len()]);
    let pattern = ActivationPattern::of(&routing.map_err(|error| raised(&error))?);
    pattern_dict(py, &pattern)
}

/// A pattern as a plain dict.
pub(crate) fn pattern_dict<'py>(
    py: Python<'py>,
    pattern: &ActivationPattern,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("num_activated_experts", pattern.active_experts)?;
    dict.set_item("activation_rate", pattern.activation_rate)?;
    dict.set_item("expert_utilization", pattern.activation_rate)?;
    dict.set_item("tokens_per_expert_avg", pattern.tokens_per_expert)?;
    dict.set_item("max_tokens_per_expert", pattern.max_tokens_per_expert)?;
    dict.set_item(TOP_EXPERT_SHARE, pattern.top_expert_share)?;
    dict.set_item("entropy_bits", pattern.entropy_bits)?;
    Ok(dict)
}

/// The ids of an array or tensor of any rank, or of lists in lists.
fn expert_ids_of(found: &Bound<'_, PyAny>) -> PyResult<Vec<i32>> {
    let items = match found.hasattr("tolist")? {
        true => found.call_method0("tolist")?,
        false => found.clone(),
    };
    let mut ids = Vec::new();
    flatten(&items, MAX_DEPTH, &mut ids)?;
    Ok(ids)
}

fn flatten(items: &Bound<'_, PyAny>, depth: usize, ids: &mut Vec<i32>) -> PyResult<()> {
    const EXPECTED: &str = "expert ids, ints from 0 on, in an iterable or array";
    let refused = || wrong_type(EXPERT_IDS, items, EXPECTED);
    if depth == 0 || items.is_instance_of::<PyString>() {
        return Err(refused());
    }
    for item in items.try_iter().map_err(|_| refused())? {
        let item = item?;
        // Asked first: a tensor without dimensions is an integer, and has `__iter__` all the same.
        if index(&item).is_none() && item.hasattr("__iter__")? {
            flatten(&item, depth - 1, ids)?;
            continue;
        }
        let id = arguments::integer("an item of expert_ids", &item, EXPECTED)?;
        match i32::try_from(id) {
            Ok(id) if id >= 0 => ids.push(id),
            _ => return Err(wrong_value("an item of expert_ids", &item, EXPECTED)),
        }
    }
    Ok(())
}

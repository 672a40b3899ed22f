//! One selection's arguments.

use pyo3::prelude::*;
use pyo3::types::{PyMapping, PyMappingMethods};
use trellect::core::{BitTuple, CallFacts, NumericClass};
use trellect::select::Request;

use crate::arguments::{self, ActiveBits, Kernels, wrong_type, wrong_value};

/// The key of a pattern that the rules go by.
pub(crate) const TOP_EXPERT_SHARE: &str = "top_expert_share";

/// What is known of a call, checked.
#[derive(Debug)]
pub(crate) struct Call {
    num_tokens: usize,
    active_bits: ActiveBits,
    memory_pressure: f64,
    tuple: Option<BitTuple>,
    numeric: NumericClass,
    available: Option<Kernels>,
    top_expert_share: Option<f64>,
}

impl Call {
    /// `widths` are those of gate, up and down.
    pub(crate) fn new(
        batch_size: &Bound<'_, PyAny>,
        active_expert_bits: &Bound<'_, PyAny>,
        gpu_memory_pressure: Option<&Bound<'_, PyAny>>,
        widths: [Option<&Bound<'_, PyAny>>; 3],
        use_fp32_acc: Option<&Bound<'_, PyAny>>,
        available_kernels: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let pressure = |found| arguments::share("gpu_memory_pressure", found);
        let exact = use_fp32_acc.map_or(Ok(false), |found| arguments::flag("use_fp32_acc", found));
        Ok(Self {
            num_tokens: arguments::count("batch_size", batch_size)?,
            active_bits: arguments::active_bits(active_expert_bits)?,
            memory_pressure: gpu_memory_pressure.map_or(Ok(0.0), pressure)?,
            tuple: arguments::tuple(widths)?,
            numeric: if exact? { NumericClass::Exact } else { NumericClass::Half },
            available: available_kernels.map(arguments::kernels).transpose()?,
            top_expert_share: None,
        })
    }

    /// The same with what is known of the experts' activation.
    pub(crate) fn with_pattern(self, pattern: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        const ARGUMENT: &str = "expert_activation_pattern";
        let Some(pattern) = pattern else { return Ok(self) };
        let expected = "a mapping with the key 'top_expert_share', or None";
        let Ok(mapping) = pattern.cast::<PyMapping>() else {
            return Err(wrong_type(ARGUMENT, pattern, expected));
        };
        if !mapping.contains(TOP_EXPERT_SHARE)? {
            return Err(wrong_value(ARGUMENT, pattern, expected));
        }
        let share = arguments::share(TOP_EXPERT_SHARE, &mapping.get_item(TOP_EXPERT_SHARE)?)?;
        Ok(Self { top_expert_share: Some(share), ..self })
    }

    pub(crate) fn request(&self) -> Request<'_> {
        Request {
            active_bits: &self.active_bits,
            memory_pressure: self.memory_pressure,
            top_expert_share: self.top_expert_share,
            available: self.available.as_deref(),
            ..Request::new(CallFacts {
                num_tokens: self.num_tokens,
                num_pairs: self.num_tokens,
                active_tuples: self.tuple.as_slice(),
                numeric: self.numeric,
                workspace_limit: None,
            })
        }
    }
}

use trellect_core::{Bits, CallFacts, KernelId, KernelSpec, NumericClass, WhyNot};

use crate::{NotAShare, SelectError};

/// What a selection knows of one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request<'a> {
    /// Size, tuples, class and workspace limit of the call. Without `active_tuples` no kernel that
    /// is specialised for a tuple may serve.
    pub call: CallFacts<'a>,
    /// Widths of the active experts, for the reported
    /// [`HeuristicFamily`](crate::HeuristicFamily); may be empty.
    pub active_bits: &'a [Bits],
    /// Used share of the device's memory, 0 to 1.
    pub memory_pressure: f64,
    /// The busiest expert's share of the (token, expert) pairs, 0 to 1, where it is known.
    pub top_expert_share: Option<f64>,
    /// The only kernels that may serve; a name without implementation stands for all of its
    /// implementations. `None`: no limit.
    pub available: Option<&'a [KernelId]>,
}

impl<'a> Request<'a> {
    /// A request without memory pressure or limits.
    pub const fn new(call: CallFacts<'a>) -> Self {
        Self {
            call,
            active_bits: &[],
            memory_pressure: 0.0,
            top_expert_share: None,
            available: None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), SelectError> {
        if self.call.num_tokens == 0 {
            return Err(SelectError::NoTokens);
        }
        NotAShare::check("memory_pressure", self.memory_pressure)?;
        if let Some(share) = self.top_expert_share {
            NotAShare::check("top_expert_share", share)?;
        }
        if self.available.is_some_and(<[_]>::is_empty) {
            return Err(SelectError::NoneAvailable);
        }
        Ok(())
    }

    /// Whether `spec` may serve this call as a kernel of class `numeric`.
    #[inline]
    pub(crate) fn legal_as(&self, spec: &KernelSpec, numeric: NumericClass) -> Result<(), WhyNot> {
        if !self.lists(spec.id) {
            return Err(WhyNot::NotListed);
        }
        if let Some(only) = spec.id.tuple
            && self.call.active_tuples.is_empty()
        {
            return Err(WhyNot::UnknownTuples { only });
        }
        if spec.class != numeric {
            return Err(WhyNot::Class { found: spec.class, wanted: numeric });
        }
        spec.can_compute(&self.call)
    }

    #[inline]
    fn lists(&self, id: KernelId) -> bool {
        let named = |listed: &KernelId| listed.names(id);
        self.available.is_none_or(|list| list.iter().any(named))
    }
}

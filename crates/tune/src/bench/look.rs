//! The first look at every kernel of a cell: its error, and whether it is worth measuring.

use std::time::Duration;

use trellect_core::{Call, Hidden, KernelId, KernelSpec};

use super::{Bench, CellError, CellPlan, KernelTimes};
use crate::launch::timed_launch;
use crate::rounds::{Inputs, RoundError};
use crate::statistics::relative_error;

/// An implementation of a kernel that takes this many times as long for one token as another one of
/// the same name is not launched on more.
const HOPELESS: f64 = 8.0;

/// A legal kernel that was not measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The kernel.
    pub kernel: KernelId,
    /// Why.
    pub why: String,
}

impl Bench<'_> {
    /// Launches the legal kernels once, those that seem too slow once more. A kernel that is
    /// dropped has the faster launch as its only sample.
    pub(super) fn look(
        &mut self,
        plan: &CellPlan<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(Vec<KernelTimes>, Vec<LeftOut>), CellError> {
        let (mut kernels, mut left_out): (Vec<(KernelTimes, u64)>, _) = (Vec::new(), Vec::new());
        let inputs = (self.draw)(plan.num_tokens, 0)?;
        let mut legal = self.legal(plan)?;
        if plan.drop_above.is_some() {
            self.leave_out_hopeless(plan, &mut legal, &mut left_out)?;
        }
        for spec in legal {
            if stop() {
                break;
            }
            match self.launch(&spec, &inputs) {
                Ok((ns, error)) => {
                    kernels.push((KernelTimes { spec, error, ns: Vec::new(), dropped: false }, ns));
                }
                Err(RoundError::Launch(error)) => {
                    left_out.push(LeftOut { kernel: spec.id, why: error.to_string() });
                }
                Err(error) => return Err(error.into()),
            }
        }
        let fastest = kernels.iter().map(|(_, ns)| *ns).min().unwrap_or(0) as f64;
        let limit = plan.drop_above.map_or(f64::INFINITY, |ratio| ratio * fastest);
        for (kernel, ns) in &mut kernels {
            if *ns as f64 <= limit || plan.keep == Some(kernel.spec.id) || stop() {
                continue;
            }
            // Once more: a stall may have hit the first one.
            let (again, _) = self.launch(&kernel.spec, &inputs)?;
            *ns = again.min(*ns);
            if *ns as f64 > limit {
                kernel.dropped = true;
                kernel.ns = vec![Some(*ns)];
            }
        }
        Ok((kernels.into_iter().map(|(kernel, _)| kernel).collect(), left_out))
    }

    /// Takes the kernels from `legal` that another implementation of the same name leaves far behind
    /// at one token, where the cell has more of them.
    fn leave_out_hopeless(
        &mut self,
        plan: &CellPlan<'_>,
        legal: &mut Vec<KernelSpec>,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<(), CellError> {
        if plan.num_tokens <= 1 {
            return Ok(());
        }
        let inputs = (self.draw)(1, 0)?;
        for spec in legal.iter().filter(|spec| spec.tokens.contains(1)) {
            if !self.one_token_ns.contains_key(&spec.id)
                // One that fails here fails again at the look.
                && let Ok((ns, _)) = self.launch(spec, &inputs)
            {
                self.one_token_ns.insert(spec.id, ns);
            }
        }
        let times = &self.one_token_ns;
        let namesakes: Vec<KernelId> = legal.iter().map(|spec| spec.id).collect();
        legal.retain(|spec| {
            let Some(&ns) = times.get(&spec.id) else { return true };
            let plain = spec.id.plain();
            let same = namesakes.iter().filter(|id| id.plain() == plain);
            let best = same.filter_map(|id| times.get(id)).min().copied().unwrap_or(ns);
            let ratio = ns as f64 / best as f64;
            if ratio <= HOPELESS || plan.keep == Some(spec.id) {
                return true;
            }
            let took = Duration::from_nanos(ns);
            let why =
                format!("takes {took:.1?} for one token, {ratio:.0} times as long as another");
            left_out.push(LeftOut { kernel: spec.id, why });
            false
        });
        Ok(())
    }

    /// Launches on layer 0: nanoseconds, and the error of the rows that the oracle knows.
    fn launch(&mut self, spec: &KernelSpec, inputs: &Inputs) -> Result<(u64, f64), RoundError> {
        let shape = *self.rotation.layers[0].shape();
        let call = Call::new(&shape, Hidden::F16(&inputs.hidden), &inputs.routing)?;
        let mut out = vec![f32::NAN; inputs.hidden.len()];
        let queue = self.rotation.queue(0);
        queue.reserve(spec.id, inputs.routing.num_pairs())?;
        let ns = timed_launch(queue, spec.id, &call, &mut out)?;
        let rows = out.len().min(self.expected.len());
        Ok((ns, relative_error(&out[..rows], &self.expected[..rows])))
    }
}

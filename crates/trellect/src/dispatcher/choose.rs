//! What a call is to be launched on: what the plan or the policy says, or else what the rules do.

use std::borrow::Cow;

use trellect_core::{CallFacts, Family, KernelId, KernelSpec, NumericClass};
use trellect_select::adaptive::ChoiceReason;
use trellect_select::{ContextKey, Request, SelectError};

use super::Dispatcher;
use crate::call::CallSketch;
use crate::selector::{Link, Pick, Planned};
use crate::{Report, Selection};

/// What is to be launched.
#[derive(Clone, Copy)]
pub(super) struct Chosen {
    pub(super) kernel: KernelId,
    pub(super) class: NumericClass,
    /// The kernel as the selector knows it, where it does.
    pub(super) pick: Option<(ContextKey, Pick)>,
}

impl Dispatcher {
    /// What is to be launched for the call that was described last: what the plan says, or else
    /// what the rules do.
    pub(super) fn choose(&mut self, report: &mut Report) -> Result<Chosen, SelectError> {
        let facts = self.sketch.facts(self.numeric, self.workspace_limit());
        let planned = self.link.as_mut().map(|link| {
            let context = link.context(&self.sketch, facts);
            (context, link.plan(context, &facts))
        });
        if let (Some(link), Some((context, Planned::Serve(pick)))) = (&self.link, planned) {
            report.selection = Some(Selection { context, reason: pick.reason });
            let KernelSpec { id: kernel, class, .. } = link.group.arms[pick.kernel];
            return Ok(Chosen { kernel, class, pick: Some((context, pick)) });
        }
        let request = request(&self.sketch, facts, report, self.available.as_deref());
        let usable = usable(&self.candidates, self.link.as_ref());
        let decision = self.rules.select(&request, &usable)?;
        let by_rules = Chosen { kernel: decision.kernel, class: decision.class, pick: None };
        let found = self.link.as_ref().zip(planned).and_then(|(link, (context, planned))| {
            // A kernel of another class than asked for is no arm, and nothing is learned of it.
            let kernel = link.group.arms.iter().position(|arm| arm.id == decision.kernel)?;
            let pick = match planned {
                Planned::Ask => link.decide(context, &self.sketch, &facts, kernel),
                Planned::Unknown => {
                    link.ask(context, &self.sketch, kernel);
                    Some(Pick::by_rules(kernel, ChoiceReason::Default))
                }
                Planned::Unfit | Planned::Serve(_) => None,
            };
            Some((link, context, pick.unwrap_or(Pick::by_rules(kernel, ChoiceReason::Fallback))))
        });
        let Some((link, context, pick)) = found else {
            report.decision = Some(decision);
            return Ok(by_rules);
        };
        report.selection = Some(Selection { context, reason: pick.reason });
        let KernelSpec { id: kernel, class, .. } = link.group.arms[pick.kernel];
        if !pick.is_decided() {
            report.decision = Some(decision);
        }
        Ok(Chosen { kernel, class, pick: Some((context, pick)) })
    }

    /// The candidates that have not failed.
    pub(super) fn usable(&self) -> Cow<'_, [KernelSpec]> {
        usable(&self.candidates, self.link.as_ref())
    }
}

/// The kernels of class `numeric` among those that the caller lists.
pub(super) fn arms(
    candidates: &[KernelSpec],
    numeric: NumericClass,
    available: Option<&[KernelId]>,
) -> Vec<KernelSpec> {
    let is_listed = |spec: &KernelSpec| {
        available.is_none_or(|available| available.iter().any(|name| name.names(spec.id)))
    };
    let arms = candidates.iter().filter(|spec| spec.class == numeric && is_listed(spec));
    arms.copied().collect()
}

/// The candidates that the selector has not seen failing.
fn usable<'a>(candidates: &'a [KernelSpec], link: Option<&Link>) -> Cow<'a, [KernelSpec]> {
    match link.map(|link| link.failed().collect::<Vec<KernelId>>()) {
        Some(failed) if !failed.is_empty() => {
            candidates.iter().filter(|spec| !failed.contains(&spec.id)).copied().collect()
        }
        _ => candidates.into(),
    }
}

/// The first base kernel that may serve.
pub(super) fn base_kernel(usable: &[KernelSpec], facts: &CallFacts<'_>) -> Option<KernelSpec> {
    let serves = |spec: &&KernelSpec| spec.id.family == Family::Base && spec.legal(facts).is_ok();
    usable.iter().find(serves).copied()
}

/// What the rules are asked.
pub(super) fn request<'a>(
    sketch: &'a CallSketch,
    call: CallFacts<'a>,
    report: &Report,
    available: Option<&'a [KernelId]>,
) -> Request<'a> {
    // One token names each expert once: its shares say nothing about skew.
    let share = (call.num_tokens > 1).then_some(report.pattern.top_expert_share);
    Request {
        active_bits: &sketch.widths,
        memory_pressure: report.memory_pressure,
        top_expert_share: share,
        available,
        ..Request::new(call)
    }
}

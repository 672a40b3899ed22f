//! Launching, confirming, falling back, and telling what launches took.

use std::sync::Arc;
use std::time::Duration;

use trellect_core::{Call, Family, KernelId, KernelSpec, LaunchError, LaunchId};
use trellect_select::adaptive::ChoiceReason;

use super::Dispatcher;
use super::awaited::Told;
use super::choose::{Chosen, base_kernel};
use crate::selector::Pick;
use crate::{Failure, WrongResult, canary};

/// A launch, and its device time where the device has told.
#[derive(Clone, Copy)]
pub(super) struct Launched {
    pub(super) id: LaunchId,
    pub(super) latency: Option<Duration>,
}

impl Dispatcher {
    /// Learns from the times that have come since the last call, without waiting for any. Calls do
    /// so, too: a caller whose device tells times late calls this after its last one.
    pub fn harvest(&mut self) {
        self.gather();
        self.learn_awaited();
    }

    /// Runs `kernel` on a call with tokens.
    pub(super) fn launch(
        &mut self,
        kernel: KernelId,
        call: &Call<'_>,
        out: &mut [f32],
    ) -> Result<Launched, LaunchError> {
        let id = self.queue.launch(kernel, call, out)?;
        self.gather();
        let latency = self.awaited.take_arrived(id);
        self.learn_awaited();
        Ok(Launched { id, latency })
    }

    fn gather(&mut self) {
        let awaited = &mut self.awaited;
        self.queue.harvest(&mut |time| awaited.arrive(time));
    }

    fn learn_awaited(&mut self) {
        while let Some((launch, latency)) = self.awaited.next_told() {
            self.learn(&launch, latency);
        }
    }

    /// Lets a base kernel compute the call, too, where the selector has never seen the chosen one
    /// right on these tuples.
    pub(super) fn confirm(
        &mut self,
        chosen: &Chosen,
        call: &Call<'_>,
        out: &[f32],
    ) -> Result<(), WrongResult> {
        let (Some(link), Some((_, pick))) = (&self.link, chosen.pick) else { return Ok(()) };
        let group = Arc::clone(&link.group);
        let facts = self.sketch.facts(chosen.class, self.workspace_limit());
        let bits = group.canary.bits(facts.active_tuples);
        if chosen.kernel.family == Family::Base || group.canary.trusts(pick.kernel, bits) {
            return Ok(());
        }
        let Some(base) = base_kernel(&self.usable(), &facts) else { return Ok(()) };
        // Not kept: it is needed once or twice, and a model has a dispatcher for every layer.
        let mut confirmation = vec![0.0; out.len()];
        let launched = self.launch(base.id, call, &mut confirmation);
        let verdict = match launched {
            Ok(_) => canary::compare(out, &confirmation, chosen.class),
            // Nobody can tell; the next call asks again.
            Err(_) => return Ok(()),
        };
        if verdict.is_ok() {
            group.canary.pass(pick.kernel, bits);
        }
        verdict
    }

    /// Sees to it that the selector, or else the rules, learn how long a kernel took: now, or when
    /// the device tells.
    pub(super) fn tell(&mut self, served: &Chosen, launched: Launched) {
        let launch = Told {
            kernel: served.kernel,
            num_tokens: self.sketch.num_tokens,
            pick: served.pick.and_then(|(context, pick)| {
                Some((context, pick, self.link.as_ref()?.work(&self.sketch, pick)))
            }),
        };
        match launched.latency {
            Some(latency) => self.learn(&launch, latency),
            None => self.awaited.push(launched.id, launch),
        }
    }

    fn learn(&mut self, launch: &Told, latency: Duration) {
        match (&mut self.link, launch.pick) {
            (Some(link), Some((context, pick, work))) => {
                let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
                link.report(context, pick, work, ns);
            }
            (Some(_), None) => {}
            (None, _) => {
                let milliseconds = latency.as_secs_f64() * 1e3;
                let recorded = self.rules.record(launch.kernel, launch.num_tokens, milliseconds);
                recorded.expect("a call with tokens, and a duration is finite and not negative");
            }
        }
    }

    pub(super) fn quarantine(&mut self, chosen: &Chosen, failure: &Failure) {
        if let (Some(link), Some((context, pick))) = (&mut self.link, chosen.pick) {
            let work = link.work(&self.sketch, pick);
            link.report_failure(context, pick, work, failure);
        } else {
            self.candidates.retain(|spec| spec.id != chosen.kernel);
            self.failed.push(chosen.kernel);
        }
    }

    /// Runs base kernels of the failed choice's class until one succeeds; those that fail are
    /// quarantined too.
    pub(super) fn fall_back(
        &mut self,
        failed: &Chosen,
        call: &Call<'_>,
        out: &mut [f32],
    ) -> Option<(Chosen, Launched)> {
        loop {
            let facts = self.sketch.facts(failed.class, self.workspace_limit());
            let KernelSpec { id: kernel, class, .. } = base_kernel(&self.usable(), &facts)?;
            let pick = failed.pick.and_then(|(context, _)| {
                let mut arms = self.link.as_ref()?.group.arms.iter();
                let arm = arms.position(|arm| arm.id == kernel)?;
                Some((context, Pick::by_rules(arm, ChoiceReason::Fallback)))
            });
            let chosen = Chosen { kernel, class, pick };
            match self.launch(kernel, call, out) {
                Ok(launched) => return Some((chosen, launched)),
                Err(error) => self.quarantine(&chosen, &Failure::Launch(error)),
            }
        }
    }
}

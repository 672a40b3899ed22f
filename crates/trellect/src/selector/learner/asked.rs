//! Decisions that are made before their launches: of calls that are logged or replayed, and of idle
//! sweeps.

use trellect_select::ContextKey;
use trellect_select::adaptive::{
    Choice, ChoiceReason, ChooseError, Conditions, DecisionRecord, Mode, Outcome, Sweep,
};
use trellect_select::hot::OutcomeFlags;
use trellect_tune::decisions::GroupDecisions;

use super::{Learner, features};
use crate::selector::call::KnownCall;
use crate::selector::group::Work;
use crate::selector::stats::ReplayStatus;

/// Logged decisions of a group that wait to be taken; more are lost.
const MAX_DECISIONS: usize = 1 << 20;

/// What became of a decision.
pub(crate) struct Answer {
    pub(crate) context: ContextKey,
    pub(crate) choice: Choice,
    pub(crate) work: Work,
    /// What it took in nanoseconds, or how it failed.
    pub(crate) outcome: Result<u64, OutcomeFlags>,
}

impl Learner {
    /// From now on says what `log` says; without one that no decision fits.
    pub(crate) fn replay(&mut self, log: Option<Vec<DecisionRecord>>) {
        self.set_mode(Mode::Replay);
        let first_mismatch = log.is_none().then(|| {
            let (shape, class) = (self.group.shape, self.numeric);
            format!(
                "the log has no decisions about layers of {} x {} x {}, class {class}",
                shape.hidden_size, shape.intermediate_size, shape.num_experts
            )
        });
        self.replay = Some(ReplayStatus { served: 0, mismatched: 0, first_mismatch });
        self.policy.replay(log.unwrap_or_default());
    }

    /// What a call is to launch; `None`: the policy does not say, and the rules do.
    pub(crate) fn decide(
        &mut self,
        key: ContextKey,
        call: KnownCall,
        default: usize,
        now_ns: u64,
    ) -> Option<Choice> {
        // A context's latencies are those of its first call.
        let own = self.known.get(&key).map_or(&call, |known| &known.call);
        let conditions = Conditions { default, may_probe: true };
        let chosen =
            self.policy.choose(&features(&self.group, self.numeric, own), &conditions, now_ns);
        if let Some(status) = &mut self.replay {
            match &chosen {
                Ok(_) => status.served += 1,
                Err(error) => status.mismatch(error),
            }
        }
        let choice = chosen.ok()?;
        if self.policy.mode() == Mode::Learn && !self.known.contains_key(&key) {
            self.know(key, call, default);
        }
        Some(choice)
    }

    /// The next round of an idle sweep over calls of these contexts, which names one by its index.
    pub(crate) fn sweep(&mut self, recent: &[ContextKey], now_ns: u64) -> Option<Sweep> {
        let (mut calls, mut places) = (Vec::new(), Vec::new());
        for (place, key) in recent.iter().enumerate() {
            if let Some(known) = self.known.get(key) {
                calls.push(features(&self.group, self.numeric, &known.call));
                places.push(place);
            }
        }
        let sweep = self.policy.sweep(&calls, now_ns)?;
        Some(Sweep { call: places[sweep.call], ..sweep })
    }

    /// Learns what became of a decision.
    pub(crate) fn answer(&mut self, answer: &Answer, now_ns: u64) {
        let &Answer { context, choice, work, outcome } = answer;
        let Choice { kernel, reason, ticket, .. } = choice;
        match outcome {
            Err(flags) => {
                self.account.fail(kernel, flags);
                self.policy.record(ticket, Outcome::Failed, now_ns);
                self.group.set_failed(kernel, true);
                self.changed = true;
            }
            Ok(ns) => {
                let scaled_ns = self.scaled_ns(context, kernel, work, ns);
                // Nobody waited for a sweep: it is no call.
                if reason != ChoiceReason::Sweep {
                    self.account.count(context, kernel, reason, 1, ns);
                }
                if is_leg(reason) {
                    self.record_leg(context, choice, scaled_ns, now_ns);
                } else {
                    self.policy.record(ticket, Outcome::LatencyNs(scaled_ns), now_ns);
                }
                if reason == ChoiceReason::Recovery {
                    self.group.set_failed(kernel, false);
                }
            }
        }
        self.keep_decisions();
    }

    /// Hands back a decision that is not carried out.
    pub(crate) fn refuse(&mut self, choice: Choice, now_ns: u64) {
        self.forget(choice, now_ns);
        self.keep_decisions();
    }

    /// The logged decisions since the last time that have been answered.
    pub(crate) fn take_decisions(&mut self) -> GroupDecisions {
        self.keep_decisions();
        GroupDecisions {
            shape: self.group.shape,
            numeric: self.numeric,
            decisions: std::mem::take(&mut self.decisions),
            lost: std::mem::take(&mut self.lost_decisions),
        }
    }

    fn keep_decisions(&mut self) {
        if !self.group.asks || self.replay.is_some() {
            return;
        }
        for decision in self.policy.drain_decisions() {
            match self.decisions.len() < MAX_DECISIONS {
                true => self.decisions.push(decision),
                false => self.lost_decisions += 1,
            }
        }
    }
}

impl ReplayStatus {
    fn mismatch(&mut self, error: &ChooseError) {
        self.mismatched += 1;
        self.first_mismatch.get_or_insert_with(|| error.to_string());
    }
}

/// Whether it may close a pair.
const fn is_leg(reason: ChoiceReason) -> bool {
    matches!(reason, ChoiceReason::Probe | ChoiceReason::Control | ChoiceReason::Sweep)
}

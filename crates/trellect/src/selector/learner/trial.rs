//! Learning from calls that went by the plan.
//!
//! Such a call is told to the policy as a decision that has just been made and answered. Where the
//! policy would rather have launched something else, that becomes a *trial*: its launches wait in the
//! group for the next calls of the context.

use trellect_select::ContextKey;
use trellect_select::adaptive::{Choice, ChoiceReason, Conditions, Mode, Outcome};
use trellect_select::hot;

use super::{Learner, features};
use crate::selector::trials::{self, Legs, Trial};

/// Reports of a context after which a trial in it is given up: its calls may not run the kernel, or
/// a report was lost.
pub(super) const PATIENCE: u64 = 256;
/// A trial whose launches have not all been answered.
pub(super) struct OpenTrial {
    id: u32,
    legs: [Option<Choice>; 2],
    /// Reports of the context since it was put up.
    pub(super) waited: u64,
}

impl Learner {
    /// A call that no trial asked for.
    pub(super) fn learn_call(
        &mut self,
        key: ContextKey,
        kernel: usize,
        scaled_ns: f64,
        now_ns: u64,
    ) {
        let latency = Outcome::LatencyNs(scaled_ns);
        let decided = match self.known.get(&key) {
            Some(known) if self.policy.mode() == Mode::Learn && !self.group.asks => {
                let features = features(&self.group, self.numeric, &known.call);
                let (default, may_probe) = (known.default, known.trial.is_none());
                let conditions = Conditions { default, may_probe };
                self.policy.choose(&features, &conditions, now_ns).ok()
            }
            _ => None,
        };
        match decided {
            Some(choice) if is_trial(choice.reason) => {
                self.policy.observe(key, kernel, latency, now_ns);
                self.start_trial(key, choice, now_ns);
            }
            Some(choice) if choice.kernel == kernel => {
                self.policy.record(choice.ticket, latency, now_ns);
            }
            other => {
                if let Some(choice) = other {
                    self.forget(choice, now_ns);
                }
                self.policy.observe(key, kernel, latency, now_ns);
            }
        }
    }

    /// Puts up what the policy wants launched next: a kernel that failed before, or both legs of a
    /// pair, so that they are launched one right after the other.
    fn start_trial(&mut self, key: ContextKey, first: Choice, now_ns: u64) {
        let Some(known) = self.known.get_mut(&key) else { return };
        let index = |choice: Choice| choice.kernel as u16;
        let (legs, choices) = match first.reason {
            ChoiceReason::Recovery => (Legs::One(index(first)), [None, Some(first)]),
            _ => {
                let features = features(&self.group, self.numeric, &known.call);
                let conditions = Conditions { default: known.default, may_probe: true };
                match self.policy.choose(&features, &conditions, now_ns) {
                    Ok(second) if is_trial(second.reason) => {
                        (Legs::Two([index(first), index(second)]), [Some(first), Some(second)])
                    }
                    other => {
                        self.forget(first, now_ns);
                        if let Ok(second) = other {
                            self.forget(second, now_ns);
                        }
                        return;
                    }
                }
            }
        };
        let id = self.next_trial;
        self.next_trial = trials::next_id(id);
        known.trial = Some(OpenTrial { id, legs: choices, waited: 0 });
        self.group.trials.put(known.place, Trial { id, legs });
        self.changed = true;
    }

    /// A launch that a trial asked for; why it did.
    pub(super) fn learn_leg(
        &mut self,
        outcome: &hot::Outcome,
        scaled_ns: f64,
        now_ns: u64,
    ) -> ChoiceReason {
        let key = outcome.context;
        let Some(choice) = self.take_leg(outcome) else { return ChoiceReason::Probe };
        self.record_leg(key, choice, scaled_ns, now_ns);
        if choice.reason == ChoiceReason::Recovery {
            self.group.set_failed(choice.kernel, false);
        }
        self.close_trial(key);
        choice.reason
    }

    /// The open leg that an outcome answers, where its trial is still the context's.
    fn take_leg(&mut self, outcome: &hot::Outcome) -> Option<Choice> {
        let (id, leg) = trials::named_by(outcome.ticket?);
        let trial = self.known.get_mut(&outcome.context)?.trial.as_mut()?;
        if trial.id != id {
            return None;
        }
        trial.legs[leg].take()
    }

    /// Ends a context's trial once all its launches have been answered.
    fn close_trial(&mut self, key: ContextKey) {
        let Some(known) = self.known.get_mut(&key) else { return };
        if known.trial.as_ref().is_some_and(|trial| trial.legs.iter().all(Option::is_none)) {
            known.trial = None;
            self.changed = true;
        }
    }

    pub(super) fn learn_failure(&mut self, outcome: &hot::Outcome, kernel: usize, now_ns: u64) {
        let key = outcome.context;
        match self.take_leg(outcome) {
            Some(choice) => {
                self.policy.record(choice.ticket, Outcome::Failed, now_ns);
            }
            None => {
                self.policy.observe(key, kernel, Outcome::Failed, now_ns);
            }
        }
        // The flag went up with the failure; a success that was under way may have lowered it.
        self.group.set_failed(kernel, true);
        self.abandon_trial(key, now_ns);
        self.changed = true;
    }

    pub(super) fn abandon_trial(&mut self, key: ContextKey, now_ns: u64) {
        let Some(known) = self.known.get_mut(&key) else { return };
        if let Some(trial) = known.trial.take() {
            self.group.trials.clear(known.place);
            trial.legs.into_iter().flatten().for_each(|choice| self.forget(choice, now_ns));
            self.changed = true;
        }
    }
}

const fn is_trial(reason: ChoiceReason) -> bool {
    matches!(reason, ChoiceReason::Probe | ChoiceReason::Control | ChoiceReason::Recovery)
}

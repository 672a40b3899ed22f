//! A dispatcher's end: finding its plan and reporting, without a lock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use trellect_core::{CallFacts, KernelId};
use trellect_select::ContextKey;
use trellect_select::adaptive::{AdaptiveExplanation, Choice, ChoiceReason, Cuts, Sweep};
use trellect_select::hot::{
    FeedbackProducer, Outcome, OutcomeFlags, Plan, PlanReader, Selected, Ticket,
};

use super::Selector;
use super::call::KnownCall;
use super::controller::Ask;
use super::group::{Group, Work};
use super::learner::Answer;
use crate::Failure;
use crate::call::CallSketch;

/// A dispatcher's connection with its selector.
pub(crate) struct Link {
    pub(crate) group: Arc<Group>,
    index: usize,
    cuts: Cuts,
    reader: PlanReader,
    feedback: FeedbackProducer,
    asks: SyncSender<Ask>,
    /// The selector, kept alive.
    pub(crate) selector: Selector,
}

/// What the plan says of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Planned {
    /// Launch this.
    Serve(Pick),
    /// There are no plans: [ask](Link::decide).
    Ask,
    /// The context is not in the table.
    Unknown,
    /// The plan has no kernel, or one that has failed or may not serve this call.
    Unfit,
}

/// A kernel and how to report on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pick {
    /// Index of the kernel.
    pub(crate) kernel: usize,
    pub(crate) reason: ChoiceReason,
    told: Told,
}

/// Who is told what a launch took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Nobody: other calls of the context report.
    Nobody,
    /// The controller, through the ring.
    Ring { ticket: Option<Ticket>, weight: u16 },
    /// The policy at once, since it was asked.
    Policy(Choice),
}

impl Pick {
    /// The rules' pick in place of a plan.
    pub(crate) const fn by_rules(kernel: usize, reason: ChoiceReason) -> Self {
        Self { kernel, reason, told: Told::Ring { ticket: None, weight: 1 } }
    }

    /// Whether the policy was asked.
    pub(crate) const fn is_decided(&self) -> bool {
        matches!(self.told, Told::Policy(_))
    }

    /// A decision of the policy.
    const fn decided(choice: Choice) -> Self {
        Self { kernel: choice.kernel, reason: choice.reason, told: Told::Policy(choice) }
    }
}

impl Link {
    pub(super) fn new(
        selector: Selector,
        index: usize,
        group: Arc<Group>,
        feedback: FeedbackProducer,
        asks: SyncSender<Ask>,
    ) -> Self {
        let (cuts, reader) = (Cuts::of(&group.arms), group.board.reader());
        Self { group, index, cuts, reader, feedback, asks, selector }
    }

    /// The context of a call. Allocates nothing.
    pub(crate) fn context(&self, sketch: &CallSketch, facts: CallFacts<'_>) -> ContextKey {
        let rows = sketch.rows_per_tuple.iter().map(|&(tuple, rows)| (tuple, rows as u64));
        let features = sketch.features(&self.group.shape, facts);
        self.cuts.coordinates(&features, rows, self.group.memory.level()).key(&features)
    }

    /// What to launch for a call: no lock, no allocation, no float, no clock and no random number.
    ///
    /// A plan is made for the context, not for the call, and may be stale. So legality is asked
    /// here, of this call's own tuples, tokens and memory, for every kernel that is handed out.
    pub(crate) fn plan(&mut self, context: ContextKey, facts: &CallFacts<'_>) -> Planned {
        if self.group.asks {
            return Planned::Ask;
        }
        let Some(Selected { plan, ticket }) = self.reader.select(context) else {
            return Planned::Unknown;
        };
        let group = &*self.group;
        let is_legal =
            |kernel: usize| group.arms.get(kernel).is_some_and(|arm| arm.legal(facts).is_ok());
        if let Some(place) = usize::from(plan.launch).checked_sub(1)
            && let Some(leg) = group.trials.peek(place)
        {
            let kernel = usize::from(leg.kernel);
            let may_run = is_legal(kernel) && (leg.is_alone || !group.has_failed(kernel));
            if may_run && group.trials.claim(place, leg) {
                let reason = match (leg.is_alone, leg.kernel == plan.kernel) {
                    (true, _) => ChoiceReason::Recovery,
                    (false, true) => ChoiceReason::Control,
                    (false, false) => ChoiceReason::Probe,
                };
                let told = Told::Ring { ticket: Some(leg.ticket), weight: 1 };
                return Planned::Serve(Pick { kernel, reason, told });
            }
        }
        let kernel = usize::from(plan.kernel);
        if !is_legal(kernel) || group.has_failed(kernel) {
            return Planned::Unfit;
        }
        let told = match ticket {
            Some(_) => Told::Ring { ticket: None, weight: plan.report_every },
            None => Told::Nobody,
        };
        Planned::Serve(Pick { kernel, reason: ChoiceReason::Incumbent, told })
    }

    /// What the policy decides about a call for which the rules would take `default`. Waits for the
    /// selector. `None`: it says nothing, or a kernel that may not serve this very call.
    pub(crate) fn decide(
        &self,
        context: ContextKey,
        sketch: &CallSketch,
        facts: &CallFacts<'_>,
        default: usize,
    ) -> Option<Pick> {
        let call = KnownCall::new(sketch.num_tokens, sketch.loads.clone());
        let choice = self.selector.decide(self.index, context, call, default)?;
        self.accept(choice, facts)
    }

    /// A decision of the policy, where it may be carried out for a call; otherwise it is handed back.
    pub(crate) fn accept(&self, choice: Choice, facts: &CallFacts<'_>) -> Option<Pick> {
        let is_fit =
            choice.reason == ChoiceReason::Recovery || !self.group.has_failed(choice.kernel);
        if is_fit && self.group.arms[choice.kernel].legal(facts).is_ok() {
            return Some(Pick::decided(choice));
        }
        self.refuse(choice);
        None
    }

    /// Hands back a decision that is not carried out.
    pub(crate) fn refuse(&self, choice: Choice) {
        self.selector.refuse(self.index, choice);
    }

    /// The next round of an idle sweep over calls of these contexts.
    pub(crate) fn sweep(&self, recent: &[ContextKey]) -> Option<Sweep> {
        self.selector.sweep(self.index, recent)
    }

    /// The work of a kernel in a call, where somebody wants to know.
    pub(crate) fn work(&self, sketch: &CallSketch, pick: Pick) -> Work {
        if pick.told == Told::Nobody {
            return Work { num_pairs: 0, num_decodes: 0 };
        }
        Work {
            // A routing has at most `Routing::MAX_PAIRS` pairs, which fit.
            num_pairs: sketch.num_pairs as u32,
            num_decodes: sketch.decodes(self.group.arms[pick.kernel].rows_per_decode),
        }
    }

    /// Reports a launch that took `nanoseconds`.
    pub(crate) fn report(&mut self, context: ContextKey, pick: Pick, work: Work, nanoseconds: u64) {
        let flags = match pick.reason {
            ChoiceReason::Default => OutcomeFlags::MISS,
            ChoiceReason::Fallback => OutcomeFlags::FALLBACK,
            _ => OutcomeFlags::NONE,
        };
        match pick.told {
            Told::Nobody => {}
            Told::Ring { ticket, weight } => {
                self.push(context, pick.kernel, (ticket, weight), flags, work, nanoseconds);
            }
            Told::Policy(choice) => {
                let outcome = Ok(nanoseconds);
                self.selector.answer(self.index, &Answer { context, choice, work, outcome });
            }
        }
    }

    /// Reports a kernel that failed. No dispatcher of the group launches it any
    /// more, until it is on trial.
    pub(crate) fn report_failure(
        &mut self,
        context: ContextKey,
        pick: Pick,
        work: Work,
        failure: &Failure,
    ) {
        let flags = match failure {
            Failure::Launch(_) => OutcomeFlags::FAILED,
            Failure::Wrong(_) => OutcomeFlags::WRONG,
        };
        self.group.set_failed(pick.kernel, true);
        match pick.told {
            Told::Nobody => self.push(context, pick.kernel, (None, 1), flags, work, 0),
            Told::Ring { ticket, weight } => {
                self.push(context, pick.kernel, (ticket, weight), flags, work, 0);
            }
            Told::Policy(choice) => {
                let outcome = Err(flags);
                self.selector.answer(self.index, &Answer { context, choice, work, outcome });
            }
        }
    }

    fn push(
        &mut self,
        context: ContextKey,
        kernel: usize,
        (ticket, weight): (Option<Ticket>, u16),
        flags: OutcomeFlags,
        work: Work,
        nanoseconds: u64,
    ) {
        let Work { num_pairs, num_decodes } = work;
        self.feedback.push(Outcome {
            context,
            plan: Plan { kernel: kernel as u16, launch: 0, epoch: 0, report_every: weight },
            ticket,
            flags,
            num_pairs,
            num_decodes,
            nanoseconds,
        });
    }

    /// Asks for a plan of a context that the table does not have. Drops the question where too many
    /// wait: the next call of the context asks again.
    pub(crate) fn ask(&self, context: ContextKey, sketch: &CallSketch, default: usize) {
        if self.group.wants_contexts.load(Ordering::Relaxed) && self.selector.is_own() {
            let call = KnownCall::new(sketch.num_tokens, sketch.loads.clone());
            if self.asks.try_send(Ask { group: self.index, context, call, default }).is_ok() {
                self.selector.wake();
            }
        }
    }

    /// What the selector's policy thinks of a call. Waits for the selector.
    pub(crate) fn explain(&self, sketch: &CallSketch) -> AdaptiveExplanation {
        let call = KnownCall::new(sketch.num_tokens, sketch.loads.clone());
        self.selector.explain_group(self.index, &call)
    }

    /// The kernels that have failed and are not on trial.
    pub(crate) fn failed(&self) -> impl Iterator<Item = KernelId> {
        let arms = self.group.arms.iter().enumerate();
        arms.filter(|(kernel, _)| self.group.has_failed(*kernel)).map(|(_, arm)| arm.id)
    }
}

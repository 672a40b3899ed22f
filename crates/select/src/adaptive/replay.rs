use std::collections::BTreeMap;

use trellect_core::KernelId;

use super::log::is_ordinary;
use super::serving::Leg;
use super::{AdaptivePolicy, ChoiceReason, DecisionRecord, Fitness, Mode, Ticket};
use crate::ContextKey;

/// A call for which a replayed log has no decision that could be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayMismatch {
    /// The log's decision is about another context: other calls come than came then.
    #[error("decision {} was made for context {logged}, this call's context is {found}", ticket.0)]
    Context {
        /// The decision asked for.
        ticket: Ticket,
        /// The context then.
        logged: ContextKey,
        /// The context now.
        found: ContextKey,
    },
    /// The log neither has the decision nor an earlier one that foretells it.
    #[error("decision {} is not in the log, nor is an earlier one for context {context}", ticket.0)]
    Unlogged {
        /// The decision asked for.
        ticket: Ticket,
        /// The context.
        context: ContextKey,
    },
    /// The kernel is no arm here.
    #[error("decision {} was for {kernel}, which is not here", ticket.0)]
    NoSuchKernel {
        /// The decision asked for.
        ticket: Ticket,
        /// The kernel then.
        kernel: KernelId,
    },
    /// The kernel may not serve this call, or has failed since.
    #[error("decision {} was for {kernel}, which may not serve this call", ticket.0)]
    Unfit {
        /// The decision asked for.
        ticket: Ticket,
        /// The kernel then.
        kernel: KernelId,
    },
}

/// A log being replayed: decisions by number, and what foretells those left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replay {
    logged: BTreeMap<Ticket, (ContextKey, KernelId, ChoiceReason)>,
    ordinary: BTreeMap<ContextKey, (KernelId, ChoiceReason)>,
    next: u64,
}

impl Replay {
    /// Sweeps are left out: nobody asks for them in a replay.
    pub(crate) fn new(log: impl IntoIterator<Item = DecisionRecord>) -> Self {
        let entry = |record: DecisionRecord| {
            (record.ticket, (record.context, record.chosen, record.reason))
        };
        let logged: BTreeMap<_, _> = log.into_iter().map(entry).collect();
        let next = logged.first_key_value().map_or(0, |(ticket, _)| ticket.0);
        Self { logged, ordinary: BTreeMap::new(), next }
    }

    /// What the log says of the next decision, which is about `context`. Goes on to the one after
    /// in any case. Beyond the log's end contexts go on as they were last.
    pub(crate) fn next(
        &mut self,
        context: ContextKey,
    ) -> Result<(Ticket, KernelId, ChoiceReason), ReplayMismatch> {
        while let Some((.., ChoiceReason::Sweep)) = self.logged.get(&Ticket(self.next)) {
            self.next += 1;
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        match self.logged.get(&ticket) {
            Some(&(logged, ..)) if logged != context => {
                Err(ReplayMismatch::Context { ticket, logged, found: context })
            }
            Some(&(_, kernel, reason)) => {
                if is_ordinary(reason) {
                    self.ordinary.insert(context, (kernel, reason));
                }
                Ok((ticket, kernel, reason))
            }
            None => match self.ordinary.get(&context) {
                Some(&(kernel, reason)) => Ok((ticket, kernel, reason)),
                None => Err(ReplayMismatch::Unlogged { ticket, context }),
            },
        }
    }
}

impl AdaptivePolicy {
    /// From now on serves what `log` says, whose first decision is about the next call.
    ///
    /// The log is what [`drain_decisions`](Self::drain_decisions) gave, all of it in any order and
    /// without gaps. Given the same calls, each of which asks, every choice is then what it was.
    /// Where it cannot be, [`choose`](Self::choose) says why and goes on to the next decision.
    pub fn replay(&mut self, log: impl IntoIterator<Item = DecisionRecord>) {
        self.set_mode(Mode::Replay);
        self.replay = Replay::new(log);
    }

    pub(super) fn replayed(
        &mut self,
        context: ContextKey,
        fitness: &[Option<Fitness>],
    ) -> Result<Leg, ReplayMismatch> {
        let (ticket, kernel, reason) = self.replay.next(context)?;
        let arm = self.arms.iter().position(|arm| arm.spec.id == kernel);
        let arm = arm.ok_or(ReplayMismatch::NoSuchKernel { ticket, kernel })?;
        match fitness[arm] {
            Some(Fitness::Fit | Fitness::OnTrial) => Ok(Leg { kernel: arm, reason, pair: None }),
            _ => Err(ReplayMismatch::Unfit { ticket, kernel }),
        }
    }
}

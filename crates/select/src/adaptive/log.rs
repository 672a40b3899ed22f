use std::collections::{BTreeMap, VecDeque};

use trellect_core::KernelId;

use super::probe::{Belief, Draw};
use super::{AdaptivePolicy, CallFeatures, ChoiceReason, Fitness, MemoryLevel, Outcome, Ticket};
use crate::ContextKey;

/// A decision as it is kept for support, replay and off-policy evaluation.
///
/// Logged are all decisions that cannot be foretold from the log so far: every leg of a probe, every
/// recovery and sweep, and every ordinary decision that differs from the last ordinary one logged
/// for its context. Of the others, the foreseeable ones, one in [`one_in`](Self::one_in) is logged.
#[derive(Clone, Debug, PartialEq)]
pub struct DecisionRecord {
    /// The decision's number; consecutive decisions have consecutive numbers.
    pub ticket: Ticket,
    /// When, by the host's clock.
    pub now_ns: u64,
    /// The context.
    pub context: ContextKey,
    /// Number of kernels that could have served.
    pub legal: usize,
    /// Digest of their names, whatever their order.
    pub legal_digest: u64,
    /// The context's incumbent; `None` where the context is not known.
    pub incumbent: Option<KernelId>,
    /// The kernel chosen.
    pub chosen: KernelId,
    /// Why.
    pub reason: ChoiceReason,
    /// Probability, given everything before, that this kernel would be chosen for this call. Exact
    /// but for numerical integration (1e-3): a first leg of a pair has half the probability that the
    /// Thompson draw picks its challenger and the budget affords it, the incumbent has the rest;
    /// everything else is certain. Of an idle sweep's legs, which are no choice, it is 1.
    pub propensity: f64,
    /// One in so many decisions of its kind is logged: 1 for those that could not be foretold.
    pub one_in: u32,
    /// Predicted nanoseconds: the median of the belief, the clock's part included.
    pub predicted_ns: f64,
    /// Standard deviation of the prediction's logarithm.
    pub predicted_sd: f64,
    /// What became of it; `None` while nothing has been recorded, or nothing ever was.
    pub outcome: Option<Outcome>,
    /// The memory level.
    pub memory: MemoryLevel,
    /// Bytes of device memory that were free at the last reading, where known.
    pub headroom_bytes: Option<u64>,
}

/// The latest decisions worth keeping, bounded in number, by ticket.
#[derive(Clone, Debug, Default)]
pub(crate) struct DecisionLog {
    records: VecDeque<DecisionRecord>,
    /// The last ordinary decision logged for each context.
    ordinary: BTreeMap<ContextKey, (usize, ChoiceReason)>,
    dropped: u64,
}

impl DecisionLog {
    /// Under which rate a decision is to be logged; `None`: not at all. Whoever asks logs.
    ///
    /// Draws by a hash of the ticket, so that logging does not move the policy's random numbers.
    pub(crate) fn wants(
        &mut self,
        ticket: Ticket,
        context: ContextKey,
        (kernel, reason): (usize, ChoiceReason),
        one_in: u32,
        max_contexts: usize,
    ) -> Option<u32> {
        if !is_ordinary(reason) {
            return Some(1);
        }
        if self.ordinary.get(&context) != Some(&(kernel, reason)) {
            if self.ordinary.len() >= max_contexts && !self.ordinary.contains_key(&context) {
                self.ordinary.clear();
            }
            self.ordinary.insert(context, (kernel, reason));
            return Some(1);
        }
        let drawn = one_in > 0 && mix(ticket.0).is_multiple_of(u64::from(one_in));
        drawn.then_some(one_in)
    }

    pub(crate) fn push(&mut self, record: DecisionRecord, capacity: usize) {
        self.records.push_back(record);
        while self.records.len() > capacity {
            self.records.pop_front();
            self.dropped += 1;
        }
    }

    pub(crate) fn settle(&mut self, ticket: Ticket, outcome: Outcome) {
        if let Ok(at) = self.records.binary_search_by_key(&ticket, |record| record.ticket) {
            self.records[at].outcome = Some(outcome);
        }
    }

    /// Takes the records that are `done`.
    pub(crate) fn drain(&mut self, done: impl Fn(&DecisionRecord) -> bool) -> Vec<DecisionRecord> {
        let (taken, kept): (Vec<_>, _) = self.records.drain(..).partition(done);
        self.records = kept.into();
        taken
    }
}

impl AdaptivePolicy {
    /// Takes the logged decisions whose outcome is known or no longer to be expected, in their
    /// order. Those that wait for theirs stay.
    pub fn drain_decisions(&mut self) -> Vec<DecisionRecord> {
        let tickets = &self.tickets;
        self.log.drain(|record| record.outcome.is_some() || !tickets.is_pending(record.ticket))
    }

    /// Logged decisions that were dropped because nobody drained the log in time. A log with gaps
    /// does not replay exactly.
    pub const fn dropped_decisions(&self) -> u64 {
        self.log.dropped
    }

    /// Logs a decision that gets the next ticket, where the log wants it.
    pub(super) fn log_choice(
        &mut self,
        context: ContextKey,
        features: &CallFeatures<'_>,
        fitness: &[Option<Fitness>],
        (kernel, reason): (usize, ChoiceReason),
        draw: Option<&Draw>,
    ) {
        let ticket = self.tickets.next();
        let (one_in, max_contexts) = (self.config.log_one_in, self.config.max_contexts);
        let decided = (kernel, reason);
        let Some(one_in) = self.log.wants(ticket, context, decided, one_in, max_contexts) else {
            return;
        };
        let legal = || (0..fitness.len()).filter(|&kernel| fitness[kernel].is_some());
        let digests = legal().map(|kernel| self.digests[kernel]);
        let incumbent = self.contexts.get(&context).map(|context| context.incumbent);
        let propensity = match (draw, incumbent) {
            (Some(draw), Some(incumbent)) => draw.propensity(kernel, incumbent),
            _ => 1.0,
        };
        let belief = self.predict(features, context, kernel);
        let record = DecisionRecord {
            ticket,
            now_ns: self.now_ns,
            context,
            legal: legal().count(),
            legal_digest: digests.fold(0, u64::wrapping_add),
            incumbent: incumbent.map(|kernel| self.arms[kernel].spec.id),
            chosen: self.arms[kernel].spec.id,
            reason,
            propensity,
            one_in,
            predicted_ns: (belief.mean + self.clock.level()).exp(),
            predicted_sd: belief.sd,
            outcome: None,
            memory: self.memory.level(),
            headroom_bytes: self.memory.headroom_bytes(),
        };
        self.log.push(record, self.config.log_capacity);
    }

    /// The belief of a kernel's log latency in one call, the clock's part left out.
    pub(super) fn predict(
        &self,
        features: &CallFeatures<'_>,
        context: ContextKey,
        kernel: usize,
    ) -> Belief {
        let log_estimate = self.arms[kernel].estimate_ns(features).ln();
        match self.contexts.get(&context) {
            Some(context) => {
                let Belief { mean, sd } = self.belief(context, kernel);
                Belief { mean: mean - context.base[kernel] + log_estimate, sd }
            }
            None => {
                let token_bucket = self.coordinates(features).token_bucket;
                let mean = log_estimate + self.pooled_effect(kernel, token_bucket);
                Belief { mean, sd: self.config.prior_sd }
            }
        }
    }
}

/// Whether a decision like it follows where nothing happens.
pub(crate) const fn is_ordinary(reason: ChoiceReason) -> bool {
    matches!(reason, ChoiceReason::Incumbent | ChoiceReason::Default | ChoiceReason::Fallback)
}

/// SplitMix64's finaliser.
const fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

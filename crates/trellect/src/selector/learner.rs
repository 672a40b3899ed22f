//! What one group of equal layers learns: the policy, and the bookkeeping between its decisions and
//! the calls that carry them out.
//!
//! A call that went by the plan is told to the policy afterwards ([`trial`]); one that is logged or
//! replayed asks it first, and so does an idle sweep ([`asked`]).

mod asked;
mod proof;
mod trial;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use trellect_core::{CallFacts, NumericClass};
use trellect_select::adaptive::{
    AdaptiveExplanation, AdaptivePolicy, CallFeatures, Choice, ChoiceReason, Conditions,
    DecisionRecord, Mode, Outcome, Recorded, Serving, Totals,
};
use trellect_select::hot::{self, FeedbackConsumer, OutcomeFlags, Plan, PlanTable};
use trellect_select::{ContextKey, Thresholds};
use trellect_tune::history::ContextNote;

use super::account::Account;
use super::call::KnownCall;
use super::group::{Group, Work};
use super::stats::ReplayStatus;
use trial::OpenTrial;

pub(super) use asked::Answer;

/// Reports of a context after which only some of its calls report.
const EARLY_REPORTS: u64 = 256;
/// What a report may cost, as a share of the device time that it stands for.
const REPORT_SHARE: f64 = 0.005;
/// What learning from a report takes, in nanoseconds.
const REPORT_NS: f64 = 4_000.0;
/// Most calls that one report stands for on account of its cost.
const MAX_REPORT_EVERY: f64 = 64.0;

/// The plan's kernel where there is none: the rules serve.
pub(super) const NO_KERNEL: u16 = u16::MAX;
/// A context that has a plan.
struct Known {
    call: KnownCall,
    /// Index of the rules' pick for that call.
    default: usize,
    /// Where its trials wait.
    place: usize,
    trial: Option<OpenTrial>,
    reports: u64,
    latest_ns: f64,
    /// Log latency of the latest leg of every kernel, scaled to the call.
    legs: BTreeMap<usize, f64>,
}

/// A group and what it learns.
pub(super) struct Learner {
    pub(super) group: Arc<Group>,
    pub(super) environment: String,
    numeric: NumericClass,
    /// The rules' table, by which contexts are put into buckets for people.
    thresholds: Thresholds,
    policy: AdaptivePolicy,
    known: BTreeMap<ContextKey, Known>,
    feedback: Vec<FeedbackConsumer>,
    /// Outcomes that rings of dispatchers gone by had no room for.
    dropped: u64,
    next_trial: u32,
    published_version: u64,
    changed: bool,
    /// Decisions that wait to be taken, where they are logged.
    decisions: Vec<DecisionRecord>,
    lost_decisions: u64,
    /// How a log that is replayed fits.
    pub(super) replay: Option<ReplayStatus>,
    pub(super) account: Account,
}

impl Learner {
    pub(super) fn new(
        group: Arc<Group>,
        environment: String,
        numeric: NumericClass,
        thresholds: Thresholds,
        policy: AdaptivePolicy,
    ) -> Self {
        let names = group.arms.iter().map(|arm| arm.id).collect();
        Self {
            account: Account::new(numeric, names),
            group,
            environment,
            numeric,
            thresholds,
            policy,
            known: BTreeMap::new(),
            feedback: Vec::new(),
            dropped: 0,
            next_trial: 0,
            published_version: u64::MAX,
            changed: true,
            decisions: Vec::new(),
            lost_decisions: 0,
            replay: None,
        }
    }

    pub(super) fn listen(&mut self, feedback: FeedbackConsumer) {
        self.feedback.push(feedback);
    }

    pub(super) fn totals(&self) -> &Totals {
        self.policy.totals()
    }

    /// Outcomes that no ring had room for.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped + self.feedback.iter().map(FeedbackConsumer::dropped).sum::<u64>()
    }

    pub(super) fn set_mode(&mut self, mode: Mode) {
        self.policy.set_mode(mode);
        self.known.values_mut().for_each(|known| {
            known.trial = None;
            self.group.trials.clear(known.place);
        });
        self.group.wants_contexts.store(mode == Mode::Learn, Ordering::Relaxed);
        self.changed = true;
    }

    pub(super) fn observe_memory(&mut self, used_bytes: u64, total_bytes: u64) {
        self.policy.observe_memory(used_bytes, total_bytes);
    }

    pub(super) fn explain(&self, call: &KnownCall) -> AdaptiveExplanation {
        self.policy.explain(&features(&self.group, self.numeric, call))
    }

    /// Begins a context with the call that it was met with. `key` is the caller's: where the policy
    /// sees another one, since the memory level has changed meanwhile, nothing is begun.
    pub(super) fn open(&mut self, key: ContextKey, call: KnownCall, default: usize, now_ns: u64) {
        let features = features(&self.group, self.numeric, &call);
        let is_new = !self.known.contains_key(&key) && self.policy.mode() == Mode::Learn;
        if !is_new || self.policy.context_key(&features) != key {
            return;
        }
        let conditions = Conditions { default, may_probe: false };
        let Ok(choice) = self.policy.choose(&features, &conditions, now_ns) else { return };
        self.forget(choice, now_ns);
        self.know(key, call, default);
    }

    /// Begins a context that an earlier process knew, with its incumbent, where that still exists.
    pub(super) fn reopen(&mut self, note: &ContextNote) {
        let Some(call) = KnownCall::stored(&note.call, &self.group.shape) else { return };
        let incumbent = self.group.arms.iter().position(|arm| arm.id == note.incumbent);
        let (key, Some(incumbent)) = (ContextKey(note.context), incumbent) else { return };
        let features = features(&self.group, self.numeric, &call);
        if self.policy.context_key(&features) == key && self.policy.reopen(&features, incumbent) {
            self.know(key, call, incumbent);
        }
    }

    fn know(&mut self, key: ContextKey, call: KnownCall, default: usize) {
        let Some(place) = self.free_place() else { return };
        let bucket = self.thresholds.bucket(call.num_tokens);
        self.account.open(key, bucket, &call, self.group.shape);
        let (trial, reports, latest_ns, legs) = (None, 0, 0.0, BTreeMap::new());
        self.known.insert(key, Known { call, default, place, trial, reports, latest_ns, legs });
        self.changed = true;
    }

    fn free_place(&mut self) -> Option<usize> {
        let places = self.group.trials.len();
        if self.known.len() < places {
            // Places are given in order, so the first free one is soon found.
            let mut taken = vec![false; places];
            self.known.values().for_each(|known| taken[known.place] = true);
            return taken.iter().position(|taken| !taken);
        }
        // The policy has forgotten the least recently used contexts, and so may this.
        let served: Vec<ContextKey> = self.policy.serving_plan().map(|(key, _)| key).collect();
        self.known.retain(|key, _| served.binary_search(key).is_ok());
        (self.known.len() < places).then(|| self.free_place())?
    }

    /// Learns from everything that has been reported; whether there was anything.
    pub(super) fn learn_all(&mut self, now_ns: u64) -> bool {
        let mut feedback = std::mem::take(&mut self.feedback);
        let mut any = false;
        feedback.retain_mut(|consumer| {
            let is_closed = consumer.is_closed();
            for outcome in consumer.drain() {
                any = true;
                self.learn(&outcome, now_ns);
            }
            if is_closed {
                self.dropped += consumer.dropped();
            }
            !is_closed
        });
        self.feedback = feedback;
        any
    }

    fn learn(&mut self, outcome: &hot::Outcome, now_ns: u64) {
        let (key, kernel) = (outcome.context, usize::from(outcome.plan.kernel));
        let flags = outcome.flags;
        if flags.contains(OutcomeFlags::FAILED) || flags.contains(OutcomeFlags::WRONG) {
            self.account.fail(kernel, flags);
            self.learn_failure(outcome, kernel, now_ns);
            return;
        }
        let work = Work { num_pairs: outcome.num_pairs, num_decodes: outcome.num_decodes };
        let scaled_ns = self.scaled_ns(key, kernel, work, outcome.nanoseconds);
        let reason = match outcome.ticket {
            Some(_) => self.learn_leg(outcome, scaled_ns, now_ns),
            None if flags.contains(OutcomeFlags::MISS) => ChoiceReason::Default,
            None if flags.contains(OutcomeFlags::FALLBACK) => ChoiceReason::Fallback,
            None => ChoiceReason::Incumbent,
        };
        let weight = match outcome.ticket {
            Some(_) => 1,
            None => u64::from(outcome.plan.report_every.max(1)),
        };
        self.account.count(key, kernel, reason, weight, outcome.nanoseconds);
        if outcome.ticket.is_some() {
            return;
        }
        if let Some(known) = self.known.get_mut(&key) {
            known.reports += 1;
            known.latest_ns = outcome.nanoseconds as f64;
            self.changed |= known.reports == EARLY_REPORTS;
            let waited = known.trial.as_mut().map_or(0, |trial| {
                trial.waited += 1;
                trial.waited
            });
            if waited > trial::PATIENCE {
                self.abandon_trial(key, now_ns);
            }
        }
        self.learn_call(key, kernel, scaled_ns, now_ns);
    }

    /// What a call would have taken had it been its context's own, going by the cost model.
    fn scaled_ns(&self, key: ContextKey, kernel: usize, work: Work, ns: u64) -> f64 {
        let ns = ns as f64;
        let Some(known) = self.known.get(&key) else { return ns };
        let arm = &self.policy.arms()[kernel];
        let weights = self.group.shape.weights_per_expert();
        let (pairs, decodes) = (u64::from(work.num_pairs), u64::from(work.num_decodes));
        let estimate = arm.cost.time_ns(decodes * weights, pairs * weights, pairs).max(1.0);
        let own = arm.estimate_ns(&features(&self.group, self.numeric, &known.call));
        ns * own / estimate
    }

    /// Records a leg of a pair. Where that is the one that proves a switch, the proof is noted.
    fn record_leg(&mut self, key: ContextKey, choice: Choice, scaled_ns: f64, now_ns: u64) {
        let mut before = None;
        if let Some(known) = self.known.get_mut(&key) {
            known.legs.insert(choice.kernel, scaled_ns.ln());
            let features = features(&self.group, self.numeric, &known.call);
            before = Some(self.policy.explain(&features));
        }
        let recorded = self.policy.record(choice.ticket, Outcome::LatencyNs(scaled_ns), now_ns);
        let Recorded::Switched { from, to } = recorded else { return };
        self.changed = true;
        let leg = |kernel| self.known.get(&key).and_then(|known| known.legs.get(&kernel)).copied();
        let gain = leg(from).zip(leg(to)).map_or(0.0, |(from, to)| from - to);
        let [from, to] = [from, to].map(|kernel| self.group.arms[kernel].id);
        self.account.switch(proof::of_switch(key, [from, to], before.as_ref(), gain));
    }

    /// Hands back a decision that will not be carried out.
    fn forget(&mut self, choice: Choice, now_ns: u64) {
        self.policy.record(choice.ticket, Outcome::LatencyNs(f64::NAN), now_ns);
    }

    /// Shows dispatchers the plan, where it has changed.
    pub(super) fn publish(&mut self) {
        let version = self.policy.plan_version();
        if !self.changed && version == self.published_version {
            return;
        }
        let serving: BTreeMap<ContextKey, Serving> = self.policy.serving_plan().collect();
        let is_learning = self.policy.mode() == Mode::Learn;
        let plans = self.known.iter().filter_map(|(key, known)| {
            let serving = serving.get(key);
            let plan = Plan {
                kernel: serving.map_or(NO_KERNEL, |serving| serving.kernel as u16),
                launch: known.trial.as_ref().map_or(0, |_| known.place as u16 + 1),
                // Nobody reads it, and equal plans are shared between tables.
                epoch: 0,
                report_every: report_every(known, serving.map_or(1, |serving| serving.ask_every)),
            };
            // While its incumbent is out of order, a context can still try whether it works again.
            (serving.is_some() || is_learning).then_some((*key, plan))
        });
        self.group.board.publish(PlanTable::new(plans));
        (self.published_version, self.changed) = (version, false);
    }

    /// Works out what the calls counted since the last time have cost more than they need have, and
    /// takes what has been learned since then.
    pub(super) fn settle(&mut self, now_unix_s: u64) {
        let incumbents: BTreeMap<ContextKey, usize> =
            self.policy.serving_plan().map(|(key, serving)| (key, serving.kernel)).collect();
        let (known, policy, group) = (&self.known, &self.policy, &self.group);
        let numeric = self.numeric;
        self.account.settle(&incumbents, |key| {
            let known = known.get(&key)?;
            Some(policy.explain(&features(group, numeric, &known.call)))
        });
        let evidence = self.policy.take_evidence();
        self.account.keep(evidence, now_unix_s);
    }
}

/// How many calls of a context one report stands for: all report while little is known, later as
/// many as learning can afford.
fn report_every(known: &Known, ask_every: u16) -> u16 {
    if known.reports < EARLY_REPORTS {
        return 1;
    }
    let affordable = REPORT_NS / REPORT_SHARE / known.latest_ns.max(1.0);
    (affordable.ceil().clamp(1.0, MAX_REPORT_EVERY) as u16).max(ask_every)
}

/// The features of a context's call, with the memory as it is now.
fn features<'a>(group: &Group, numeric: NumericClass, call: &'a KnownCall) -> CallFeatures<'a> {
    let memory = group.memory.figures();
    let facts = CallFacts {
        num_tokens: call.num_tokens,
        num_pairs: call.num_pairs,
        active_tuples: &call.tuples,
        numeric,
        workspace_limit: (memory.total > 0).then_some(memory.available),
    };
    CallFeatures { facts, shape: group.shape, loads: &call.loads }
}

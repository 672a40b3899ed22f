//! What one group of equal layers learns: the policy, and the bookkeeping between its decisions and
//! the calls that carry them out.
//!
//! A call that went by the plan is told to the policy afterwards, as a decision that has just been
//! made and answered. Where the policy would rather have launched something else, that becomes a
//! *trial*: its launches wait in the group for the next calls of the context.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use trellect_core::{CallFacts, KernelId, NumericClass};
use trellect_select::adaptive::{
    AdaptiveExplanation, AdaptivePolicy, CallFeatures, Choice, ChoiceReason, Conditions, Mode,
    Outcome, Recorded, Serving, Totals,
};
use trellect_select::hot::{self, FeedbackConsumer, OutcomeFlags, Plan, PlanTable};
use trellect_select::{ContextKey, Thresholds};
use trellect_tune::history::{ContextNote, SwitchNote};

use super::account::Account;
use super::call::KnownCall;
use super::group::Group;
use super::trials::{self, Legs, Trial};

/// Reports of a context after which only some of its calls report.
const EARLY_REPORTS: u64 = 256;
/// What a report may cost, as a share of the device time that it stands for.
const REPORT_SHARE: f64 = 0.005;
/// What learning from a report takes, in nanoseconds.
const REPORT_NS: f64 = 4_000.0;
/// Most calls that one report stands for on account of its cost.
const MAX_REPORT_EVERY: f64 = 64.0;

/// Reports of a context after which a trial in it is given up: its calls may not run the kernel, or
/// a report was lost.
const PATIENCE: u64 = 256;
/// The plan's kernel where there is none: the rules serve.
pub(super) const NO_KERNEL: u16 = u16::MAX;
/// Log ratio that a pair counts as at most, as in the policy's test.
const MAX_GAIN: f64 = 0.3;

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
}

/// A trial whose launches have not all been answered.
struct OpenTrial {
    id: u32,
    legs: [Option<Choice>; 2],
    /// Log latency of each leg that was answered, scaled to the context's call.
    measured: [Option<f64>; 2],
    /// Reports of the context since it was put up.
    waited: u64,
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
        let (trial, reports, latest_ns) = (None, 0, 0.0);
        self.known.insert(key, Known { call, default, place, trial, reports, latest_ns });
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
        let scaled_ns = self.scaled_ns(outcome, kernel);
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
            if waited > PATIENCE {
                self.abandon_trial(key, now_ns);
            }
        }
        self.learn_call(key, kernel, scaled_ns, now_ns);
    }

    /// What the call would have taken had it been the context's own, going by the cost model.
    fn scaled_ns(&self, outcome: &hot::Outcome, kernel: usize) -> f64 {
        let ns = outcome.nanoseconds as f64;
        let Some(known) = self.known.get(&outcome.context) else { return ns };
        let arm = &self.policy.arms()[kernel];
        let weights = self.group.shape.weights_per_expert();
        let (pairs, decodes) = (u64::from(outcome.num_pairs), u64::from(outcome.num_decodes));
        let estimate = arm.cost.time_ns(decodes * weights, pairs * weights, pairs).max(1.0);
        let own = arm.estimate_ns(&features(&self.group, self.numeric, &known.call));
        ns * own / estimate
    }

    /// A call that no trial asked for.
    fn learn_call(&mut self, key: ContextKey, kernel: usize, scaled_ns: f64, now_ns: u64) {
        let latency = Outcome::LatencyNs(scaled_ns);
        let decided = match self.known.get(&key) {
            Some(known) if self.policy.mode() == Mode::Learn => {
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
        known.trial = Some(OpenTrial { id, legs: choices, measured: [None; 2], waited: 0 });
        self.group.trials.put(known.place, Trial { id, legs });
        self.changed = true;
    }

    /// A launch that a trial asked for; why it did.
    fn learn_leg(&mut self, outcome: &hot::Outcome, scaled_ns: f64, now_ns: u64) -> ChoiceReason {
        let key = outcome.context;
        let Some((choice, leg)) = self.take_leg(outcome) else { return ChoiceReason::Probe };
        let evidence = self.evidence(key, choice, leg, scaled_ns);
        let recorded = self.policy.record(choice.ticket, Outcome::LatencyNs(scaled_ns), now_ns);
        if let Recorded::Switched { from, to } = recorded {
            let name = |kernel: usize| self.group.arms[kernel].id;
            self.account.switch(evidence.switch(key, name(from), name(to)));
            self.changed = true;
        }
        if choice.reason == ChoiceReason::Recovery {
            self.group.set_failed(choice.kernel, false);
        }
        self.close_trial(key);
        choice.reason
    }

    /// The open leg that an outcome answers, where its trial is still the context's.
    fn take_leg(&mut self, outcome: &hot::Outcome) -> Option<(Choice, usize)> {
        let (id, leg) = trials::named_by(outcome.ticket?);
        let trial = self.known.get_mut(&outcome.context)?.trial.as_mut()?;
        if trial.id != id {
            return None;
        }
        Some((trial.legs[leg].take()?, leg))
    }

    /// Ends a context's trial once all its launches have been answered.
    fn close_trial(&mut self, key: ContextKey) {
        let Some(known) = self.known.get_mut(&key) else { return };
        if known.trial.as_ref().is_some_and(|trial| trial.legs.iter().all(Option::is_none)) {
            known.trial = None;
            self.changed = true;
        }
    }

    fn learn_failure(&mut self, outcome: &hot::Outcome, kernel: usize, now_ns: u64) {
        let key = outcome.context;
        match self.take_leg(outcome) {
            Some((choice, _)) => {
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

    fn abandon_trial(&mut self, key: ContextKey, now_ns: u64) {
        let Some(known) = self.known.get_mut(&key) else { return };
        if let Some(trial) = known.trial.take() {
            self.group.trials.clear(known.place);
            trial.legs.into_iter().flatten().for_each(|choice| self.forget(choice, now_ns));
            self.changed = true;
        }
    }

    /// What the second leg of a pair will prove, if it does.
    fn evidence(&mut self, key: ContextKey, choice: Choice, leg: usize, scaled_ns: f64) -> Proof {
        let Some(known) = self.known.get_mut(&key) else { return Proof::default() };
        let Some(trial) = known.trial.as_mut() else { return Proof::default() };
        trial.measured[leg] = Some(scaled_ns.ln());
        let [Some(first), Some(second)] = trial.measured else { return Proof::default() };
        let other = if leg == 0 { second } else { first };
        let own = scaled_ns.ln();
        let gain = match choice.reason {
            ChoiceReason::Probe => other - own,
            _ => own - other,
        };
        // The pair's challenger is not the incumbent: the one that has raced in this trial.
        let explanation = self.policy.explain(&features(&self.group, self.numeric, &known.call));
        Proof { gain: gain.clamp(-MAX_GAIN, MAX_GAIN), explanation: Some(explanation) }
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

/// The state of a pair's test before its last leg, and what that leg adds.
#[derive(Default)]
struct Proof {
    gain: f64,
    explanation: Option<AdaptiveExplanation>,
}

impl Proof {
    fn switch(self, key: ContextKey, from: KernelId, to: KernelId) -> SwitchNote {
        let arm = self.explanation.as_ref().and_then(|explanation| {
            explanation.considered.iter().find(|considered| considered.kernel == to)
        });
        let (pairs, gain) = arm.map_or((0.0, 0.0), |arm| (arm.pairs, arm.gain));
        let needed = self.explanation.as_ref().and_then(|explanation| explanation.winning_wealth);
        SwitchNote {
            context: key.0,
            unix_s: super::unix_s(),
            from,
            to,
            pairs: pairs + 1.0,
            gain: (pairs * gain + self.gain) / (pairs + 1.0),
            log_wealth: needed.unwrap_or(0.0),
        }
    }
}

const fn is_trial(reason: ChoiceReason) -> bool {
    matches!(reason, ChoiceReason::Probe | ChoiceReason::Control | ChoiceReason::Recovery)
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

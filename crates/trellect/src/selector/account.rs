//! The account of what a group has selected: for the statistics of this process, for its metrics,
//! and as the journal that waits to be written to the history.

use std::collections::{BTreeMap, BTreeSet};

use trellect_core::{KernelId, LayerShape, NumericClass};
use trellect_select::adaptive::{AdaptiveExplanation, ArmVerdict, ChoiceReason, Evidence};
use trellect_select::hot::OutcomeFlags;
use trellect_select::{Bucket, ContextKey, LatencyStatistics};
use trellect_tune::history::{ContextNote, Journal, Record, SelectionCount, SwitchNote};

use super::call::KnownCall;
use super::observe;

/// Calls of one context that one kernel served for one reason.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    calls: u64,
    total_ns: u64,
    lost_ns: u64,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.calls += other.calls;
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.lost_ns = self.lost_ns.saturating_add(other.lost_ns);
    }
}

type Key = (ContextKey, usize, &'static str);
type Latencies = BTreeMap<(ContextKey, KernelId), (LatencyStatistics, u64, u64)>;

/// The account of a group.
pub(super) struct Account {
    numeric: NumericClass,
    names: Vec<KernelId>,
    contexts: BTreeMap<ContextKey, ContextNote>,
    /// Counted since the last settlement.
    fresh: BTreeMap<Key, Count>,
    /// Settled and not written yet.
    unsaved: BTreeMap<Key, Count>,
    /// Settled since the process began.
    settled: BTreeMap<Key, Count>,
    latencies: Latencies,
    unsaved_switches: Vec<SwitchNote>,
    switches: Vec<SwitchNote>,
    /// Contexts whose notes are not written yet.
    unsaved_contexts: BTreeSet<ContextKey>,
    failures: Vec<u64>,
    wrong: Vec<u64>,
}

impl Account {
    pub(super) fn new(numeric: NumericClass, names: Vec<KernelId>) -> Self {
        Self {
            numeric,
            failures: vec![0; names.len()],
            wrong: vec![0; names.len()],
            names,
            contexts: BTreeMap::new(),
            fresh: BTreeMap::new(),
            unsaved: BTreeMap::new(),
            settled: BTreeMap::new(),
            latencies: BTreeMap::new(),
            unsaved_switches: Vec::new(),
            switches: Vec::new(),
            unsaved_contexts: BTreeSet::new(),
        }
    }

    /// Notes a context.
    pub(super) fn open(
        &mut self,
        key: ContextKey,
        bucket: Bucket,
        call: &KnownCall,
        shape: LayerShape,
    ) {
        let note = ContextNote {
            context: key.0,
            unix_s: super::unix_s(),
            bucket: bucket.as_str().into(),
            call: call.to_store(shape),
            // The settlement names the real one.
            incumbent: self.names[0],
        };
        self.contexts.insert(key, note);
        self.unsaved_contexts.insert(key);
    }

    pub(super) fn count(
        &mut self,
        key: ContextKey,
        kernel: usize,
        reason: ChoiceReason,
        calls: u64,
        ns: u64,
    ) {
        let count = Count { calls, total_ns: ns.saturating_mul(calls), lost_ns: 0 };
        self.fresh.entry((key, kernel, reason.as_str())).or_default().add(count);
        observe::latency(self.names[kernel], self.bucket(key), ns);
    }

    pub(super) fn fail(&mut self, kernel: usize, flags: OutcomeFlags) {
        let counts = match flags.contains(OutcomeFlags::WRONG) {
            true => &mut self.wrong,
            false => &mut self.failures,
        };
        counts[kernel] += 1;
        observe::failure(self.names[kernel]);
    }

    pub(super) fn switch(&mut self, switch: SwitchNote) {
        observe::switch(&switch, self.bucket(ContextKey(switch.context)));
        self.switches.push(switch.clone());
        self.unsaved_switches.push(switch);
    }

    fn bucket(&self, key: ContextKey) -> &str {
        self.contexts.get(&key).map_or("unknown", |note| &note.bucket)
    }

    /// Says what was lost by the calls counted since the last time: the share of their time that
    /// the kernel now believed fastest would have saved.
    pub(super) fn settle(
        &mut self,
        incumbents: &BTreeMap<ContextKey, usize>,
        explain: impl Fn(ContextKey) -> Option<AdaptiveExplanation>,
    ) {
        for (key, note) in &mut self.contexts {
            if let Some(&incumbent) = incumbents.get(key)
                && note.incumbent != self.names[incumbent]
            {
                note.incumbent = self.names[incumbent];
                note.unix_s = super::unix_s();
                self.unsaved_contexts.insert(*key);
            }
        }
        let mut explained: Option<(ContextKey, Option<AdaptiveExplanation>)> = None;
        for ((key, kernel, reason), mut count) in std::mem::take(&mut self.fresh) {
            if explained.as_ref().is_none_or(|(known, _)| *known != key) {
                explained = Some((key, explain(key)));
            }
            let explanation = explained.as_ref().and_then(|(_, explanation)| explanation.as_ref());
            let share = explanation.map_or(0.0, |explanation| lost_share(explanation, kernel));
            // The cast saturates, and the share is below 1.
            count.lost_ns = (count.total_ns as f64 * share) as u64;
            observe::selections(self.names[kernel], reason, self.bucket(key), count.calls);
            observe::lost(reason, count.total_ns, count.lost_ns);
            self.unsaved.entry((key, kernel, reason)).or_default().add(count);
            self.settled.entry((key, kernel, reason)).or_default().add(count);
        }
    }

    /// Takes latencies that wait to be written.
    pub(super) fn keep(&mut self, evidence: Vec<Evidence>, now_unix_s: u64) {
        for Evidence { context, kernel, latencies, .. } in evidence {
            let empty = (LatencyStatistics::default(), now_unix_s, now_unix_s);
            let (sum, _, last) = self.latencies.entry((context, kernel)).or_insert(empty);
            sum.merge(&latencies);
            *last = now_unix_s;
        }
    }

    /// What waits to be written; `None`: nothing.
    pub(super) fn unsaved(&self, environment: &str) -> Option<Journal> {
        let record = |(&(context, kernel), (statistics, first, last)): (
            &(ContextKey, KernelId),
            &(_, u64, u64),
        )| Record {
            environment: environment.into(),
            kernel,
            context: context.0,
            class: self.numeric,
            statistics: LatencyStatistics::clone(statistics),
            first_unix_s: *first,
            last_unix_s: *last,
        };
        let notes = self.unsaved_contexts.iter().filter_map(|key| self.contexts.get(key));
        let journal = Journal {
            records: self.latencies.iter().map(record).collect(),
            contexts: notes.cloned().collect(),
            selections: self.list(&self.unsaved),
            switches: self.unsaved_switches.clone(),
        };
        (journal != Journal::default()).then_some(journal)
    }

    /// All of [`unsaved`](Self::unsaved) has been written.
    pub(super) fn saved(&mut self) {
        self.latencies.clear();
        self.unsaved_contexts.clear();
        self.unsaved.clear();
        self.unsaved_switches.clear();
    }

    pub(super) fn contexts(&self) -> impl Iterator<Item = &ContextNote> {
        self.contexts.values()
    }

    pub(super) fn selections(&self) -> Vec<SelectionCount> {
        self.list(&self.settled)
    }

    pub(super) fn switches(&self) -> &[SwitchNote] {
        &self.switches
    }

    /// Kernels that failed to launch or computed something wrong, with how often each.
    pub(super) fn failures(&self) -> impl Iterator<Item = (KernelId, u64, u64)> {
        let counts = self.names.iter().zip(self.failures.iter().zip(&self.wrong));
        counts
            .map(|(name, (failed, wrong))| (*name, *failed, *wrong))
            .filter(|(_, failed, wrong)| failed + wrong > 0)
    }

    fn list(&self, counts: &BTreeMap<Key, Count>) -> Vec<SelectionCount> {
        let list = counts.iter().map(|(&(context, kernel, reason), count)| SelectionCount {
            context: context.0,
            kernel: self.names[kernel],
            reason: reason.into(),
            calls: count.calls,
            total_ns: count.total_ns,
            lost_ns: count.lost_ns,
        });
        list.collect()
    }
}

/// The share of a kernel's time that the one believed fastest of those measured would save.
fn lost_share(explanation: &AdaptiveExplanation, kernel: usize) -> f64 {
    let serves =
        |verdict: &ArmVerdict| !matches!(verdict, ArmVerdict::Refused(_) | ArmVerdict::Unfit(_));
    let considered = &explanation.considered;
    let measured = considered.iter().filter(|arm| arm.samples > 0.0 && serves(&arm.verdict));
    let best = measured.map(|arm| arm.estimate_ns).fold(f64::INFINITY, f64::min);
    (1.0 - best / considered[kernel].estimate_ns).clamp(0.0, 1.0)
}

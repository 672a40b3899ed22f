//! Idle time: recent calls are repeated on every kernel that may win.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use half::{bf16, f16};
use trellect_core::{Call, Hidden, Routing};
use trellect_select::ContextKey;
use trellect_select::adaptive::Sweep;

use super::Dispatcher;
use super::choose::Chosen;
use crate::Failure;

/// Of so many calls one is kept even where its context has one: a prime number, so that no rhythm
/// of calls hides a context for ever.
const REFRESH_EVERY: u32 = 61;

/// What was done in idle time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleReport {
    /// Rounds begun.
    pub rounds: u32,
    /// Launches made.
    pub launches: u32,
    /// Time spent.
    pub spent: Duration,
}

impl Dispatcher {
    /// Bytes that are kept of recent calls at most, to repeat them in idle time.
    pub const RECENT_BYTES: usize = 16 << 20;

    /// Tells that nobody waits for this layer, for `budget` perhaps: recent calls are repeated on
    /// every kernel that might be the fastest, and their results thrown away. It is the evidence that
    /// costs no call anything.
    ///
    /// Ends with the budget, overdrawn by one launch at most, and before it where nothing is to be
    /// gained now: sweeps take a tenth of the time at most, learn in mode `learn` only, and not where
    /// memory is short.
    ///
    /// The first time begins to keep calls, their hidden states and routings: the latest of every
    /// context, as long as they fit in [`RECENT_BYTES`](Self::RECENT_BYTES). A caller that is never
    /// idle keeps nothing.
    pub fn idle(&mut self, budget: Duration) -> IdleReport {
        let start = Instant::now();
        let mut report = IdleReport::default();
        self.harvest();
        // Taken out, since launching borrows the rest.
        let mut recent = self.recent.take().unwrap_or_default();
        while start.elapsed() < budget {
            let Some(link) = &self.link else { break };
            let contexts: Vec<ContextKey> = recent.calls.iter().map(|call| call.context).collect();
            let Some(sweep) = link.sweep(&contexts) else { break };
            report.rounds += 1;
            self.run(&recent.calls[sweep.call], &sweep, &mut recent.out, &mut report, || {
                start.elapsed() < budget
            });
        }
        self.recent = Some(recent);
        report.spent = start.elapsed();
        report
    }

    /// Runs a round, as long as there is time.
    fn run(
        &mut self,
        recent: &RecentCall,
        sweep: &Sweep,
        out: &mut Vec<f32>,
        report: &mut IdleReport,
        has_time: impl Fn() -> bool,
    ) {
        let hidden = recent.hidden.view();
        let call = Call::new(self.layer.shape(), hidden, &recent.routing);
        let call = call.expect("it was a call of this layer");
        self.describe(&recent.routing);
        out.resize(hidden.len(), 0.0);
        for &choice in &sweep.choices {
            let Some(link) = &self.link else { return };
            if !has_time() {
                link.refuse(choice);
                continue;
            }
            let facts = self.sketch.facts(self.numeric, self.workspace_limit());
            let Some(pick) = link.accept(choice, &facts) else { continue };
            let spec = link.group.arms[pick.kernel];
            let pick = Some((recent.context, pick));
            let chosen = Chosen { kernel: spec.id, class: spec.class, pick };
            report.launches += 1;
            let launched = self.launch(spec.id, &call, out).map_err(Failure::Launch);
            let confirmed = launched.and_then(|launched| {
                self.confirm(&chosen, &call, out).map_err(Failure::Wrong)?;
                Ok(launched)
            });
            match confirmed {
                Ok(launched) => self.tell(&chosen, launched),
                Err(failure) => self.quarantine(&chosen, &failure),
            }
        }
    }
}

/// The latest call of every context, as many as fit.
#[derive(Default)]
pub(super) struct RecentCalls {
    /// Oldest first.
    calls: VecDeque<RecentCall>,
    bytes: usize,
    offered: u32,
    /// What sweeps compute.
    out: Vec<f32>,
}

struct RecentCall {
    context: ContextKey,
    hidden: OwnedHidden,
    routing: Routing,
    bytes: usize,
}

/// Hidden states of a call that is over.
enum OwnedHidden {
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    F32(Vec<f32>),
}

impl RecentCalls {
    /// Keeps a call of a context that has none, and every so often of one that has.
    pub(super) fn offer(&mut self, context: ContextKey, hidden: Hidden<'_>, routing: &Routing) {
        self.offered = self.offered.wrapping_add(1);
        let known = self.calls.iter().position(|call| call.context == context);
        let bytes = bytes_of(hidden, routing);
        let is_due = known.is_none() || self.offered.is_multiple_of(REFRESH_EVERY);
        if !is_due || bytes > Dispatcher::RECENT_BYTES {
            return;
        }
        if let Some(old) = known.and_then(|at| self.calls.remove(at)) {
            self.bytes -= old.bytes;
        }
        while self.bytes + bytes > Dispatcher::RECENT_BYTES {
            let oldest = self.calls.pop_front().expect("something takes the bytes");
            self.bytes -= oldest.bytes;
        }
        let (hidden, routing) = (OwnedHidden::of(hidden), routing.clone());
        self.calls.push_back(RecentCall { context, hidden, routing, bytes });
        self.bytes += bytes;
    }
}

impl OwnedHidden {
    fn of(hidden: Hidden<'_>) -> Self {
        match hidden {
            Hidden::F16(values) => Self::F16(values.to_vec()),
            Hidden::Bf16(values) => Self::Bf16(values.to_vec()),
            Hidden::F32(values) => Self::F32(values.to_vec()),
        }
    }

    fn view(&self) -> Hidden<'_> {
        match self {
            Self::F16(values) => Hidden::F16(values),
            Self::Bf16(values) => Hidden::Bf16(values),
            Self::F32(values) => Hidden::F32(values),
        }
    }
}

/// Bytes of a call: its hidden states, and ids, weights and groups of its routing.
fn bytes_of(hidden: Hidden<'_>, routing: &Routing) -> usize {
    let element = match hidden {
        Hidden::F16(_) | Hidden::Bf16(_) => size_of::<f16>(),
        Hidden::F32(_) => size_of::<f32>(),
    };
    let routed = routing.topk_ids().len()
        + routing.topk_weights().len()
        + routing.pairs_by_expert().len()
        + routing.group_offsets().len()
        + routing.active_experts().len();
    size_of::<RecentCall>() + hidden.len() * element + routed * size_of::<u32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(recent: &mut RecentCalls, context: u64, tokens: usize) {
        let ids = vec![0; tokens];
        let routing = Routing::new(1, 1, &ids, &vec![1.0; tokens]).unwrap();
        recent.offer(ContextKey(context), Hidden::F32(&vec![0.0; tokens << 10]), &routing);
    }

    #[test]
    fn what_is_kept_stays_within_its_bytes() {
        let mut recent = RecentCalls::default();
        for context in 0..1000 {
            offer(&mut recent, context, 1 + context as usize % 700);
            let bytes: usize = recent.calls.iter().map(|call| call.bytes).sum();
            assert_eq!(recent.bytes, bytes);
            assert!(bytes <= Dispatcher::RECENT_BYTES);
        }
        assert_eq!(recent.calls.back().unwrap().context, ContextKey(999), "the latest is kept");
        let before = recent.calls.len();
        offer(&mut recent, 2000, Dispatcher::RECENT_BYTES >> 12);
        assert_eq!(recent.calls.len(), before, "too large for the ring");
    }

    #[test]
    fn a_context_has_one_call_which_is_refreshed() {
        let mut recent = RecentCalls::default();
        for tokens in 1..=REFRESH_EVERY as usize {
            offer(&mut recent, 7, tokens);
            let [kept] = recent.calls.make_contiguous() else { panic!("one context") };
            let expected = if tokens < REFRESH_EVERY as usize { 1 } else { tokens };
            assert_eq!(kept.routing.num_tokens(), expected);
        }
    }
}

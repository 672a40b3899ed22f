use std::collections::BTreeMap;

use super::Ticket;
use crate::ContextKey;

/// A decision that waits for its feedback.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) context: ContextKey,
    pub(crate) kernel: usize,
    pub(crate) log_estimate: f64,
    pub(crate) pair: Option<u64>,
}

/// A pair and the leg that has come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) challenger: usize,
    pub(crate) epoch: u32,
    /// The kernel measured and its log latency.
    pub(crate) measured: Option<(usize, f64)>,
}

/// Decisions and pairs under way, bounded in number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tickets {
    next: u64,
    pending: BTreeMap<u64, Pending>,
    pairs: BTreeMap<u64, Pair>,
}

impl Tickets {
    pub(crate) fn issue(&mut self, pending: Pending, max_pending: usize) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        self.pending.insert(ticket, pending);
        while self.pending.len() > max_pending.max(1) {
            if let Some(pair) = self.pending.pop_first().and_then(|(_, lost)| lost.pair) {
                self.pairs.remove(&pair);
            }
        }
        Ticket(ticket)
    }

    pub(crate) fn take(&mut self, ticket: Ticket) -> Option<Pending> {
        self.pending.remove(&ticket.0)
    }

    pub(crate) const fn was_issued(&self, ticket: Ticket) -> bool {
        ticket.0 < self.next
    }

    /// Opens a pair under the number of the ticket that is issued next.
    pub(crate) fn open_pair(&mut self, challenger: usize, epoch: u32) -> u64 {
        self.pairs.insert(self.next, Pair { challenger, epoch, measured: None });
        self.next
    }

    pub(crate) fn pair_is_open(&self, pair: u64) -> bool {
        self.pairs.contains_key(&pair)
    }

    pub(crate) fn drop_pair(&mut self, pair: u64) {
        self.pairs.remove(&pair);
    }

    /// Adds a leg; with the second one the pair is closed and given back with the first leg in it.
    pub(crate) fn add_leg(&mut self, pair: u64, kernel: usize, log_latency: f64) -> Option<Pair> {
        let open = self.pairs.get_mut(&pair)?;
        if open.measured.is_some() {
            return self.pairs.remove(&pair);
        }
        open.measured = Some((kernel, log_latency));
        None
    }
}

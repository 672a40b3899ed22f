use std::collections::BTreeMap;

use super::Ticket;
use crate::ContextKey;

/// A decision that waits for its feedback.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) context: ContextKey,
    pub(crate) kernel: usize,
    pub(crate) log_estimate: f64,
    /// The pairs that it is a leg of: at most one, but for the control of an idle sweep.
    pub(crate) pairs: Vec<u64>,
    /// The rules' pick.
    pub(crate) default: usize,
    /// Whether a caller waits for it: not for an idle sweep.
    pub(crate) served: bool,
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
    next_pair: u64,
    pending: BTreeMap<u64, Pending>,
    pairs: BTreeMap<u64, Pair>,
}

impl Tickets {
    pub(crate) fn issue(&mut self, pending: Pending, max_pending: usize) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        self.pending.insert(ticket, pending);
        while self.pending.len() > max_pending.max(1) {
            if let Some((_, lost)) = self.pending.pop_first() {
                self.drop_pairs(&lost.pairs);
            }
        }
        Ticket(ticket)
    }

    pub(crate) fn take(&mut self, ticket: Ticket) -> Option<Pending> {
        self.pending.remove(&ticket.0)
    }

    /// The ticket that is issued next.
    pub(crate) const fn next(&self) -> Ticket {
        Ticket(self.next)
    }

    pub(crate) const fn was_issued(&self, ticket: Ticket) -> bool {
        ticket.0 < self.next
    }

    pub(crate) fn is_pending(&self, ticket: Ticket) -> bool {
        self.pending.contains_key(&ticket.0)
    }

    pub(crate) fn open_pair(&mut self, challenger: usize, epoch: u32) -> u64 {
        let pair = self.next_pair;
        self.next_pair += 1;
        self.pairs.insert(pair, Pair { challenger, epoch, measured: None });
        pair
    }

    pub(crate) fn pair_is_open(&self, pair: u64) -> bool {
        self.pairs.contains_key(&pair)
    }

    pub(crate) fn drop_pairs(&mut self, pairs: &[u64]) {
        for pair in pairs {
            self.pairs.remove(pair);
        }
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

    /// Decisions and pairs under way.
    #[cfg(test)]
    pub(crate) fn under_way(&self) -> (usize, usize) {
        (self.pending.len(), self.pairs.len())
    }
}

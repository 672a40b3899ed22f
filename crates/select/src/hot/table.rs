use std::fmt;

use super::plan::Plan;
use crate::ContextKey;

/// Plans by context, fixed once built.
///
/// Open addressing with linear probing over a power of two of 16-byte entries, at most three
/// quarters of them occupied: a lookup reads one or two cache lines.
pub struct PlanTable {
    entries: Box<[Entry]>,
    /// Marks the unoccupied entries; no context of this table has this key.
    vacant: u64,
    len: usize,
}

/// Aligned so that no entry straddles two cache lines.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct Entry {
    key: u64,
    plan: u64,
}

impl PlanTable {
    /// Builds the table of `plans`; of two plans for one context the later wins.
    ///
    /// Allocates 16 bytes for each entry, between 4/3 and 8/3 entries a plan.
    pub fn new(plans: impl IntoIterator<Item = (ContextKey, Plan)>) -> Self {
        let plans: Vec<_> = plans.into_iter().collect();
        let vacant = smallest_absent(plans.iter().map(|(context, _)| context.0), plans.len());
        let capacity = (plans.len() * 4).div_ceil(3).next_power_of_two();
        let mut table = Self {
            entries: vec![Entry { key: vacant, plan: 0 }; capacity].into_boxed_slice(),
            vacant,
            len: 0,
        };
        for (context, plan) in plans {
            table.insert(context.0, plan.to_bits());
        }
        table
    }

    /// The plan of `context`, or none if the table does not have it.
    #[inline]
    pub fn get(&self, context: ContextKey) -> Option<Plan> {
        let mask = self.entries.len() - 1;
        let mut at = home(context.0) & mask;
        loop {
            let entry = self.entries[at];
            if entry.key == self.vacant {
                return None;
            }
            if entry.key == context.0 {
                return Some(Plan::from_bits(entry.plan));
            }
            at = (at + 1) & mask;
        }
    }

    /// The number of contexts.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no context at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of entries, occupied or not.
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    fn insert(&mut self, key: u64, plan: u64) {
        let mask = self.entries.len() - 1;
        let mut at = home(key) & mask;
        while self.entries[at].key != self.vacant && self.entries[at].key != key {
            at = (at + 1) & mask;
        }
        self.len += usize::from(self.entries[at].key == self.vacant);
        self.entries[at] = Entry { key, plan };
    }
}

impl fmt::Debug for PlanTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let occupied = self.entries.iter().filter(|entry| entry.key != self.vacant);
        f.debug_map()
            .entries(occupied.map(|entry| (ContextKey(entry.key), Plan::from_bits(entry.plan))))
            .finish()
    }
}

/// Spreads a key over all bits: both halves of its product with an odd constant, folded together,
/// so that keys which differ in high bits alone part as well as those which differ in low bits.
#[inline]
pub(super) fn home(key: u64) -> usize {
    // 2⁶⁴ divided by the golden ratio.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let product = u128::from(key ^ SPREAD.rotate_left(32)) * u128::from(SPREAD);
    // The casts take the halves; a 32-bit target keeps the low bits.
    ((product >> 64) as u64 ^ product as u64) as usize
}

/// The smallest number that is none of at most `count` keys.
fn smallest_absent(keys: impl Iterator<Item = u64>, count: usize) -> u64 {
    // One of the first `count + 1` numbers is absent.
    let mut present = vec![false; count + 1];
    for key in keys {
        if let Some(seen) = usize::try_from(key).ok().and_then(|key| present.get_mut(key)) {
            *seen = true;
        }
    }
    let absent = present.iter().position(|seen| !seen);
    absent.expect("fewer keys than numbers") as u64
}

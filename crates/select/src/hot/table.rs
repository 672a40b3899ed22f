use std::fmt;
use std::sync::Arc;

use super::plan::Plan;
use crate::ContextKey;

/// Plans by context, fixed once built.
///
/// Contexts are spread over segments of at most 64 on average. In each, open addressing with linear
/// probing over 16-byte entries, at most three quarters of them occupied: a lookup reads one or two
/// cache lines, and the segment's head. A table that is published shares the segments that equal
/// those of the table before it, so that only what has changed is cold for its readers.
pub struct PlanTable {
    segments: Box<[Segment]>,
    len: usize,
}

#[derive(Clone, PartialEq, Eq)]
struct Segment {
    /// Marks the unoccupied entries, of which there is at least one; no context of this segment has
    /// this key.
    vacant: u64,
    entries: Arc<[Entry]>,
}

/// Aligned so that no entry straddles two cache lines.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(align(16))]
struct Entry {
    key: u64,
    plan: u64,
}

/// Contexts a segment should have at most.
const SEGMENT: usize = 64;

impl PlanTable {
    /// Builds the table of `plans`; of two plans for one context the later wins.
    ///
    /// Allocates 16 bytes for each entry, about 4/3 entries a plan.
    pub fn new(plans: impl IntoIterator<Item = (ContextKey, Plan)>) -> Self {
        let plans: Vec<_> = plans.into_iter().collect();
        // A power of two, so that the segments stay the same while contexts come and go.
        let count = plans.len().div_ceil(SEGMENT).next_power_of_two();
        let mut parts = vec![Vec::new(); count];
        for (context, plan) in plans {
            parts[segment_of(home(context.0), count)].push((context.0, plan.to_bits()));
        }
        let segments: Box<[Segment]> = parts.iter().map(|part| Segment::new(part)).collect();
        let len = segments.iter().map(Segment::len).sum();
        Self { segments, len }
    }

    /// The plan of `context`, or none if the table does not have it.
    #[inline]
    pub fn get(&self, context: ContextKey) -> Option<Plan> {
        let home = home(context.0);
        let Segment { vacant, entries } = &self.segments[segment_of(home, self.segments.len())];
        let mut at = place_of(home, entries.len());
        loop {
            let entry = entries[at];
            if entry.key == *vacant {
                return None;
            }
            if entry.key == context.0 {
                return Some(Plan::from_bits(entry.plan));
            }
            at = next(at, entries.len());
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
        self.segments.iter().map(|segment| segment.entries.len()).sum()
    }

    /// Takes the place of `before`: the same, with its segments where they are equal.
    pub(super) fn sharing(mut self, before: &Self) -> Self {
        if self.segments.len() == before.segments.len() {
            for (own, other) in self.segments.iter_mut().zip(&before.segments) {
                if own == other {
                    *own = other.clone();
                }
            }
        }
        self
    }

    /// How many segments are the very same in both.
    #[cfg(all(test, not(loom)))]
    pub(super) fn shared_segments(&self, other: &Self) -> (usize, usize) {
        let pairs = self.segments.iter().zip(&other.segments);
        let same = pairs.filter(|(own, other)| Arc::ptr_eq(&own.entries, &other.entries));
        (same.count(), self.segments.len())
    }
}

impl Segment {
    fn new(plans: &[(u64, u64)]) -> Self {
        let vacant = smallest_absent(plans.iter().map(|&(key, _)| key), plans.len());
        let capacity = (plans.len() * 4).div_ceil(3).max(1);
        let mut entries = vec![Entry { key: vacant, plan: 0 }; capacity];
        for &(key, plan) in plans {
            let mut at = place_of(home(key), capacity);
            while entries[at].key != vacant && entries[at].key != key {
                at = next(at, capacity);
            }
            entries[at] = Entry { key, plan };
        }
        Self { vacant, entries: entries.into() }
    }

    fn occupied(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.key != self.vacant)
    }

    fn len(&self) -> usize {
        self.occupied().count()
    }
}

impl fmt::Debug for PlanTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let occupied = self.segments.iter().flat_map(Segment::occupied);
        f.debug_map()
            .entries(occupied.map(|entry| (ContextKey(entry.key), Plan::from_bits(entry.plan))))
            .finish()
    }
}

/// Spreads a key over all bits: both halves of its product with an odd constant, folded together,
/// so that keys which differ in high bits alone part as well as those which differ in low bits.
#[inline]
pub(super) fn home(key: u64) -> u64 {
    // 2⁶⁴ divided by the golden ratio.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let product = u128::from(key ^ SPREAD.rotate_left(32)) * u128::from(SPREAD);
    (product >> 64) as u64 ^ product as u64
}

/// The segment, of so many, from the upper half of the key's home.
#[inline]
const fn segment_of(home: u64, segments: usize) -> usize {
    ((home >> 32).wrapping_mul(segments as u64) >> 32) as usize
}

/// The entry, of so many, from the lower half of the key's home.
#[inline]
const fn place_of(home: u64, entries: usize) -> usize {
    ((home & 0xffff_ffff).wrapping_mul(entries as u64) >> 32) as usize
}

#[inline]
const fn next(at: usize, entries: usize) -> usize {
    if at + 1 == entries { 0 } else { at + 1 }
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

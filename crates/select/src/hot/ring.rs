use std::fmt;
use std::num::NonZeroU32;
use std::ops::BitOr;

use super::plan::{Plan, Ticket};
use super::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::ContextKey;

/// What became of one use of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The context of the call.
    pub context: ContextKey,
    /// What was run: the plan found, or the caller's default.
    pub plan: Plan,
    /// The ticket that asked for this report, if one did.
    pub ticket: Option<Ticket>,
    /// What else there is to say.
    pub flags: OutcomeFlags,
    /// (token, expert) pairs of the call.
    pub num_pairs: u32,
    /// How often the kernel decoded an expert's weights for it.
    pub num_decodes: u32,
    /// The kernel's time; 0 if it was not measured.
    pub nanoseconds: u64,
}

/// Remarks on an [`Outcome`]; combine them with `|`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutcomeFlags(u32);

impl OutcomeFlags {
    /// Nothing remarkable.
    pub const NONE: Self = Self(0);
    /// The table did not know the context.
    pub const MISS: Self = Self(1);
    /// The launch failed, and another kernel served the call.
    pub const FAILED: Self = Self(2);
    /// The plan's kernel could not serve this call, and this one did in its place.
    pub const FALLBACK: Self = Self(4);
    /// The result was wrong, and another kernel served the call.
    pub const WRONG: Self = Self(8);

    /// Whether all remarks of `other` are made.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for OutcomeFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

type Words = [u64; 5];

impl Outcome {
    fn to_words(self) -> Words {
        let ticket = self.ticket.map_or(0, |ticket| ticket.0.get());
        let remarks = u64::from(ticket) | u64::from(self.flags.0) << 32;
        let work = u64::from(self.num_pairs) | u64::from(self.num_decodes) << 32;
        [self.context.0, self.plan.to_bits(), remarks, work, self.nanoseconds]
    }

    fn from_words([context, plan, remarks, work, nanoseconds]: Words) -> Self {
        Self {
            context: ContextKey(context),
            plan: Plan::from_bits(plan),
            // The casts take the halves.
            ticket: NonZeroU32::new(remarks as u32).map(Ticket),
            flags: OutcomeFlags((remarks >> 32) as u32),
            num_pairs: work as u32,
            num_decodes: (work >> 32) as u32,
            nanoseconds,
        }
    }
}

/// A bounded queue of [`Outcome`]s from one thread to another, in order.
///
/// Holds at least `capacity` records, rounded up to a power of two, of 64 bytes each. Either end
/// may be dropped first: what was pushed can still be drained, and pushing into a ring without a
/// consumer fills it and then only counts.
///
/// # Panics
///
/// If memory for `capacity` records cannot be had.
pub fn feedback_ring(capacity: usize) -> (FeedbackProducer, FeedbackConsumer) {
    let capacity = capacity.checked_next_power_of_two().expect("a capacity that fits in memory");
    let ring = Arc::new(Ring {
        records: (0..capacity).map(|_| Record::default()).collect(),
        head: Line(AtomicUsize::new(0)),
        tail: Line(AtomicUsize::new(0)),
        dropped: AtomicU64::new(0),
        closed: AtomicBool::new(false),
    });
    let producer = FeedbackProducer { ring: Arc::clone(&ring), tail: 0, head_seen: 0 };
    (producer, FeedbackConsumer { ring })
}

/// Positions count up without end and wrap; `position & (capacity - 1)` is the place.
struct Ring {
    records: Box<[Record]>,
    /// Where the consumer reads next; written by it alone.
    head: Line<AtomicUsize>,
    /// Where the producer writes next; written by it alone, as is all that follows.
    tail: Line<AtomicUsize>,
    dropped: AtomicU64,
    closed: AtomicBool,
}

/// Keeps what two threads write apart: two lines, since some processors fetch them in pairs.
#[repr(align(128))]
struct Line<T>(T);

/// One [`Outcome`] in words that may be read and written without unsafe code. Only the thread
/// between whose positions it lies touches it, so the words need no ordering of their own.
#[derive(Default)]
#[repr(align(64))]
struct Record([AtomicU64; 5]);

impl Record {
    fn store(&self, words: Words) {
        for (slot, word) in self.0.iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
    }

    fn load(&self) -> Words {
        self.0.each_ref().map(|slot| slot.load(Ordering::Relaxed))
    }
}

impl Ring {
    fn record(&self, position: usize) -> &Record {
        &self.records[position & (self.records.len() - 1)]
    }
}

/// The end that reports.
pub struct FeedbackProducer {
    ring: Arc<Ring>,
    tail: usize,
    /// A head of some time ago: the consumer's line is read only when the ring looks full.
    head_seen: usize,
}

impl FeedbackProducer {
    /// Appends `outcome`; if the ring is full, counts it as dropped and returns false.
    ///
    /// Wait-free; allocates nothing.
    #[inline]
    pub fn push(&mut self, outcome: Outcome) -> bool {
        let capacity = self.ring.records.len();
        if self.tail.wrapping_sub(self.head_seen) == capacity {
            // Acquire: the consumer has read what is about to be overwritten.
            self.head_seen = self.ring.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) == capacity {
                self.count_dropped();
                return false;
            }
        }
        self.ring.record(self.tail).store(outcome.to_words());
        self.tail = self.tail.wrapping_add(1);
        // Release: the record is there for those who see the new tail.
        self.ring.tail.0.store(self.tail, Ordering::Release);
        true
    }

    #[cold]
    fn count_dropped(&self) {
        // Nobody else writes it.
        let dropped = self.ring.dropped.load(Ordering::Relaxed) + 1;
        self.ring.dropped.store(dropped, Ordering::Relaxed);
    }
}

impl Drop for FeedbackProducer {
    fn drop(&mut self) {
        // Release: whoever sees it sees all records and the final count.
        self.ring.closed.store(true, Ordering::Release);
    }
}

impl fmt::Debug for FeedbackProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeedbackProducer").finish_non_exhaustive()
    }
}

/// The end that learns.
pub struct FeedbackConsumer {
    ring: Arc<Ring>,
}

impl FeedbackConsumer {
    /// Takes out the records that are there now, oldest first.
    ///
    /// Their places become free together when the iterator is dropped; records it was not asked
    /// for stay.
    pub fn drain(&mut self) -> Drain<'_> {
        Drain {
            head: self.ring.head.0.load(Ordering::Relaxed),
            // Acquire: pairs with the release in `push`.
            tail: self.ring.tail.0.load(Ordering::Acquire),
            consumer: self,
        }
    }

    /// How many records the ring had no room for, ever.
    pub fn dropped(&self) -> u64 {
        self.ring.dropped.load(Ordering::Relaxed)
    }

    /// Whether the producer is gone. Drain once more after seeing it, then nothing can come.
    pub fn is_closed(&self) -> bool {
        self.ring.closed.load(Ordering::Acquire)
    }
}

impl fmt::Debug for FeedbackConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeedbackConsumer")
            .field("dropped", &self.dropped())
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

/// The records being taken out by [`FeedbackConsumer::drain`].
#[derive(Debug)]
pub struct Drain<'a> {
    consumer: &'a FeedbackConsumer,
    head: usize,
    tail: usize,
}

impl Iterator for Drain<'_> {
    type Item = Outcome;

    fn next(&mut self) -> Option<Outcome> {
        if self.head == self.tail {
            return None;
        }
        let words = self.consumer.ring.record(self.head).load();
        self.head = self.head.wrapping_add(1);
        Some(Outcome::from_words(words))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.tail.wrapping_sub(self.head);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Drain<'_> {}

impl Drop for Drain<'_> {
    fn drop(&mut self) {
        // Release: all reads come before the producer overwrites.
        self.consumer.ring.head.0.store(self.head, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::thread;

    use super::*;

    const PUSHES: u64 = 3;

    fn outcome(number: u64) -> Outcome {
        Outcome {
            context: ContextKey(number),
            plan: Plan::from_bits(!number),
            ticket: None,
            flags: OutcomeFlags::NONE,
            num_pairs: 8,
            num_decodes: 4,
            nanoseconds: number + 1,
        }
    }

    /// Through a ring of `capacity`: what was accepted arrives once, whole and in order, and the
    /// rest is counted.
    fn check(capacity: usize) {
        loom::model(move || {
            let (mut producer, mut consumer) = feedback_ring(capacity);
            let pushing = thread::spawn(move || {
                (0..PUSHES).filter(|&number| producer.push(outcome(number))).collect::<Vec<_>>()
            });
            let mut received = Vec::new();
            received.extend(consumer.drain());
            let closed = consumer.is_closed();
            received.extend(consumer.drain());
            let by_closing = received.len();
            let accepted = pushing.join().unwrap();
            received.extend(consumer.drain());
            assert!(!closed || received.len() == by_closing, "a record after the end");
            assert_eq!(received, accepted.iter().copied().map(outcome).collect::<Vec<_>>());
            assert_eq!(consumer.dropped(), PUSHES - accepted.len() as u64);
        });
    }

    #[test]
    fn a_ring_of_one_loses_and_repeats_nothing() {
        check(1);
    }

    #[test]
    fn a_ring_of_two_loses_and_repeats_nothing() {
        check(2);
    }

    /// The consumer goes first: the producer fills the ring, then counts.
    #[test]
    fn a_ring_without_consumer_fills_up() {
        loom::model(|| {
            let (mut producer, consumer) = feedback_ring(2);
            let leaving = thread::spawn(move || drop(consumer));
            let accepted = (0..PUSHES).filter(|&number| producer.push(outcome(number))).count();
            assert_eq!(accepted, 2);
            leaving.join().unwrap();
        });
    }
}

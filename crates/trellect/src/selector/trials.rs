//! Decisions of the controller that wait for a call to run them: each is run once, by whichever
//! dispatcher comes first.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use trellect_select::hot::Ticket;

/// A pair of launches, or a single one, that calls of one context are to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trial {
    /// Numbers the trials of a group; 30 bits.
    pub(crate) id: u32,
    /// The kernels to launch, in this order.
    pub(crate) legs: Legs,
}

/// The launches of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Legs {
    /// One kernel that failed before.
    One(u16),
    /// A challenger and the incumbent, in either order.
    Two([u16; 2]),
}

/// A launch that a call may claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leg {
    /// Index of the kernel.
    pub(crate) kernel: u16,
    /// Whether it is a trial's only one.
    pub(crate) is_alone: bool,
    /// Names trial and leg in the feedback.
    pub(crate) ticket: Ticket,
    word: u64,
}

/// A place for one trial of every context.
///
/// A word holds, from the lowest bits up, the two kernels, the trial's number, whether it has one
/// leg only, and the legs left; claiming one is a compare-and-exchange, so no leg runs twice.
#[derive(Debug)]
pub(crate) struct Trials(Box<[AtomicU64]>);

/// Numbers of trials, which wrap.
const IDS: u64 = 1 << 29;

impl Trials {
    pub(crate) fn new(places: usize) -> Self {
        Self((0..places).map(|_| AtomicU64::new(0)).collect())
    }

    /// Number of places.
    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts a trial in place of what was there.
    pub(crate) fn put(&self, place: usize, trial: Trial) {
        let (first, second, alone, left) = match trial.legs {
            Legs::One(kernel) => (0, kernel, 1, 1),
            Legs::Two([first, second]) => (first, second, 0, 2),
        };
        let word = u64::from(first)
            | u64::from(second) << 16
            | (u64::from(trial.id) % IDS) << 32
            | alone << 61
            | left << 62;
        self.0[place].store(word, Ordering::Relaxed);
    }

    /// Takes away what is left of a trial.
    pub(crate) fn clear(&self, place: usize) {
        self.0[place].store(0, Ordering::Relaxed);
    }

    /// The next leg in `place`, which others may claim meanwhile.
    #[inline]
    pub(crate) fn peek(&self, place: usize) -> Option<Leg> {
        // Nothing but the word itself is read on account of it.
        let word = self.0.get(place)?.load(Ordering::Relaxed);
        let left = word >> 62;
        let first = match left {
            0 => return None,
            1 => 0,
            _ => 1,
        };
        let ticket = (word >> 32 & (IDS - 1)) << 1 | first;
        Some(Leg {
            // The casts take the fields.
            kernel: if first == 1 { word as u16 } else { (word >> 16) as u16 },
            is_alone: word >> 61 & 1 == 1,
            ticket: Ticket(NonZeroU32::new(ticket as u32 + 1)?),
            word,
        })
    }

    /// Whether the leg is the caller's to run.
    #[inline]
    pub(crate) fn claim(&self, place: usize, leg: Leg) -> bool {
        let next = leg.word - (1 << 62);
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        self.0[place].compare_exchange(leg.word, next, success, failure).is_ok()
    }
}

/// The trial's number and the leg's, 0 or 1, that a ticket names.
pub(crate) fn named_by(ticket: Ticket) -> (u32, usize) {
    let bits = ticket.0.get() - 1;
    (bits >> 1, 1 - (bits & 1) as usize)
}

/// The number after `id`.
pub(crate) const fn next_id(id: u32) -> u32 {
    (id + 1) % IDS as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leg_is_claimed_once_and_in_order() {
        let trials = Trials::new(2);
        assert_eq!((trials.peek(0), trials.peek(7)), (None, None));
        trials.put(1, Trial { id: IDS as u32 - 1, legs: Legs::Two([7, 65_535]) });
        let first = trials.peek(1).unwrap();
        assert_eq!((first.kernel, first.is_alone), (7, false));
        assert_eq!(named_by(first.ticket), (IDS as u32 - 1, 0));
        assert!(trials.claim(1, first));
        assert!(!trials.claim(1, first), "claimed before");
        let second = trials.peek(1).unwrap();
        assert_eq!((second.kernel, named_by(second.ticket)), (65_535, (IDS as u32 - 1, 1)));
        assert!(trials.claim(1, second));
        assert_eq!(trials.peek(1), None);

        trials.put(0, Trial { id: 0, legs: Legs::One(3) });
        let only = trials.peek(0).unwrap();
        assert_eq!((only.kernel, only.is_alone, named_by(only.ticket)), (3, true, (0, 1)));
        trials.clear(0);
        assert!(!trials.claim(0, only));
        assert_eq!(next_id(IDS as u32 - 1), 0);
    }

    #[test]
    fn threads_share_a_trial_without_running_a_leg_twice() {
        let trials = Trials::new(1);
        for id in 0..200 {
            trials.put(0, Trial { id, legs: Legs::Two([1, 2]) });
            let claimed: Vec<u16> = std::thread::scope(|scope| {
                let claim = || {
                    let mut mine = Vec::new();
                    while let Some(leg) = trials.peek(0) {
                        mine.extend(trials.claim(0, leg).then_some(leg.kernel));
                    }
                    mine
                };
                let threads = [scope.spawn(claim), scope.spawn(claim)];
                threads.map(|thread| thread.join().unwrap()).concat()
            });
            let mut sorted = claimed;
            sorted.sort_unstable();
            assert_eq!(sorted, [1, 2]);
        }
    }
}

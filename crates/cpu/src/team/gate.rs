//! The rendezvous of a [`Team`](super::Team), apart from threads and jobs so that it can be
//! checked exhaustively with loom.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Who may work on what is published: workers *enter* while the gate is open and *leave* when done;
/// the owner *closes* it and waits for those inside, never for one that did not come.
///
/// One word holds it all: epoch in the upper half, then the closed bit, then the number inside.
pub(super) struct Gate {
    state: AtomicU64,
}

const CLOSED: u64 = 1 << 31;
const INSIDE: u64 = CLOSED - 1;

/// Numbers the openings of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(u64);

impl Epoch {
    /// Before the first opening.
    pub(super) const NONE: Epoch = Epoch(0);
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { state: AtomicU64::new(CLOSED) }
    }

    /// Opens the gate for a new epoch. Only one thread may own the gate between `open` and the end
    /// of `close`.
    ///
    /// Everything written before is visible to those who enter.
    pub(super) fn open(&self) {
        let epoch = (self.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        // SeqCst: ordered before the owner's look at the number of sleepers.
        self.state.store(epoch << 32, Ordering::SeqCst);
    }

    /// Whether the gate is open for an epoch other than `last`.
    pub(super) fn is_open_after(&self, last: Epoch) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        state & CLOSED == 0 && Epoch(state >> 32) != last
    }

    /// Enters if the gate is open for an epoch other than `last`.
    pub(super) fn enter_after(&self, last: Epoch) -> Option<Epoch> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let epoch = Epoch(state >> 32);
            if state & CLOSED != 0 || epoch == last {
                return None;
            }
            let entered = self.state.compare_exchange_weak(
                state,
                state + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            match entered {
                Ok(_) => return Some(epoch),
                Err(now) => state = now,
            }
        }
    }

    /// Leaves; everything written inside is visible to the owner after `close`.
    pub(super) fn leave(&self) {
        self.state.fetch_sub(1, Ordering::Release);
    }

    /// Lets nobody in any more and calls `pause` until nobody is inside.
    pub(super) fn close(&self, mut pause: impl FnMut()) {
        self.state.fetch_or(CLOSED, Ordering::Relaxed);
        while self.state.load(Ordering::Acquire) & INSIDE != 0 {
            pause();
        }
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::thread;

    use super::*;

    struct Shared {
        gate: Gate,
        job: UnsafeCell<usize>,
        next: AtomicUsize,
        done: AtomicUsize,
    }

    // SAFETY: `job` is written only by the owner while the gate is closed and empty; this model
    // checks that this is so.
    unsafe impl Sync for Shared {}

    fn claim(shared: &Shared) {
        let items = shared.job.with(|job| {
            // SAFETY: inside the gate, or the owner itself.
            unsafe { *job }
        });
        while shared.next.fetch_add(1, Ordering::Relaxed) < items {
            shared.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Two regions on one worker: no item is lost or done twice, and no job is read while the
    /// owner writes the next one.
    #[test]
    fn regions_never_overlap() {
        loom::model(|| {
            let shared = Arc::new(Shared {
                gate: Gate::new(),
                job: UnsafeCell::new(0),
                next: AtomicUsize::new(0),
                done: AtomicUsize::new(0),
            });
            let worker = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let mut last = Epoch::NONE;
                    for _ in 0..2 {
                        if let Some(epoch) = shared.gate.enter_after(last) {
                            last = epoch;
                            claim(&shared);
                            shared.gate.leave();
                        }
                    }
                })
            };
            for items in [2, 1] {
                shared.job.with_mut(|job| {
                    // SAFETY: the gate is closed and empty.
                    unsafe { *job = items };
                });
                shared.next.store(0, Ordering::Relaxed);
                shared.done.store(0, Ordering::Relaxed);
                shared.gate.open();
                claim(&shared);
                shared.gate.close(thread::yield_now);
                assert_eq!(shared.done.load(Ordering::Relaxed), items);
            }
            worker.join().unwrap();
        });
    }
}

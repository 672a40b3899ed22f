//! Fork-join over a fixed set of threads, for regions of 10 µs to 1 ms.
//!
//! Items are claimed one by one, the caller works too, and a worker that the system did not
//! schedule in time is not waited for: the caller takes what nobody took. Idle workers spin for a
//! bounded time, then sleep.

mod gate;

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gate::{Epoch, Gate};

/// How long an idle worker looks at the gate before it sleeps. Waking a thread takes 50 µs and more,
/// as much as a call for one token can lose, so it outlasts what a model does between two layers.
const IDLE_SPIN: Duration = Duration::from_micros(200);

/// Looks at the gate between two at the clock, or, while a region ends, before other threads may run.
const SPINS: u32 = 100;

/// A fork-join team of `threads − 1` workers and whoever calls it.
pub(crate) struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the caller whose region runs.
    owner: Mutex<()>,
}

struct Shared {
    gate: Gate,
    job: UnsafeCell<Job>,
    next: AtomicUsize,
    panicked: AtomicBool,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
}

// SAFETY: `job` is written only by the owner of the region while the gate is closed and nobody is
// inside, and read only by those inside; `gate` orders the two (its loom model checks this).
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is used only during a region, whose closure is `Sync`.
unsafe impl Send for Shared {}

/// A region's closure with its type erased, and how many items it has.
#[derive(Clone, Copy)]
struct Job {
    closure: *const (),
    call: unsafe fn(*const (), usize, usize),
    items: usize,
}

impl Team {
    /// A team of `threads` threads in all; at least the caller's.
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            gate: Gate::new(),
            job: UnsafeCell::new(Job { closure: std::ptr::null(), call: nothing, items: 0 }),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let workers = (1..threads)
            .map_while(|worker| {
                let shared = Arc::clone(&shared);
                let name = format!("trellect-{worker}");
                // A system that grants no more threads still has a working, smaller team.
                std::thread::Builder::new().name(name).spawn(move || shared.work(worker)).ok()
            })
            .collect();
        Self { shared, workers, owner: Mutex::new(()) }
    }

    /// Threads that work on a region, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(worker, item)` once for every item below `items`, on all threads; `worker` is
    /// below [`threads`](Self::threads) and no two calls of one region with one worker number overlap.
    ///
    /// While another thread's region runs, the caller does its items alone.
    ///
    /// # Panics
    /// When `f` does.
    pub(crate) fn for_each<F: Fn(usize, usize) + Sync>(&self, items: usize, f: F) {
        let _owner = match self.owner.try_lock() {
            Ok(guard) if items > 1 && !self.workers.is_empty() => guard,
            // A panicking region poisons the lock but leaves the team whole.
            Err(TryLockError::Poisoned(poisoned)) if items > 1 => poisoned.into_inner(),
            _ => return (0..items).for_each(|item| f(0, item)),
        };
        let job = Job { closure: (&raw const f).cast(), call: trampoline::<F>, items };
        let cell = self.shared.job.get();
        // SAFETY: this thread holds `owner` and the gate is closed and empty, so nobody reads.
        unsafe { *cell = job };
        self.shared.next.store(0, Ordering::Relaxed);
        self.shared.panicked.store(false, Ordering::Relaxed);
        self.shared.gate.open();
        if self.shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _bed = self.shared.bed.lock();
            self.shared.wake.notify_all();
        }
        let region = Region { shared: &self.shared };
        self.shared.claim(0, job);
        drop(region);
        assert!(!self.shared.panicked.load(Ordering::Relaxed), "a worker of the team panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _bed = self.shared.bed.lock();
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches its items' panics, so joining cannot fail; if it did, the team is
            // gone all the same.
            let _ = worker.join();
        }
    }
}

/// Closes the gate when the caller is done, or unwinds: workers borrow from its stack.
struct Region<'a> {
    shared: &'a Shared,
}

impl Drop for Region<'_> {
    fn drop(&mut self) {
        let mut spins = 0;
        self.shared.gate.close(|| {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        });
    }
}

impl Shared {
    fn claim(&self, worker: usize, job: Job) {
        loop {
            let item = self.next.fetch_add(1, Ordering::Relaxed);
            if item >= job.items {
                return;
            }
            // SAFETY: the closure lives until the gate is closed and empty; this thread is inside,
            // or is the caller that closes it.
            unsafe { (job.call)(job.closure, worker, item) };
        }
    }

    fn work(&self, worker: usize) {
        let mut last = Epoch::NONE;
        while let Some(epoch) = self.next_region(last) {
            last = epoch;
            let cell = self.job.get();
            // SAFETY: inside the gate, so the owner does not write.
            let job = unsafe { *cell };
            if catch_unwind(AssertUnwindSafe(|| self.claim(worker, job))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.gate.leave();
        }
    }

    /// Enters the next region, or `None` when the team is dropped.
    fn next_region(&self, last: Epoch) -> Option<Epoch> {
        loop {
            let idle_since = Instant::now();
            while idle_since.elapsed() < IDLE_SPIN {
                for _ in 0..SPINS {
                    if let Some(epoch) = self.gate.enter_after(last) {
                        return Some(epoch);
                    }
                    if self.stop.load(Ordering::Relaxed) {
                        return None;
                    }
                    std::hint::spin_loop();
                }
            }
            let mut bed = self.bed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            while !self.gate.is_open_after(last) && !self.stop.load(Ordering::SeqCst) {
                bed = self.wake.wait(bed).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// # Safety
/// `closure` points to a live `F`.
unsafe fn trampoline<F: Fn(usize, usize) + Sync>(closure: *const (), worker: usize, item: usize) {
    // SAFETY: the caller's promise.
    let f = unsafe { &*closure.cast::<F>() };
    f(worker, item);
}

unsafe fn nothing(_: *const (), _: usize, _: usize) {}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn every_item_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let team = Team::new(threads);
            for items in [0, 1, 2, 7, 100] {
                let runs: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
                team.for_each(items, |worker, item| {
                    assert!(worker < team.threads());
                    runs[item].fetch_add(1, Ordering::Relaxed);
                });
                assert!(runs.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{threads} {items}");
            }
        }
    }

    #[test]
    fn many_short_regions_with_sleeps_between() {
        let rounds = if cfg!(miri) { 5 } else { 2_000 };
        let team = Team::new(4);
        let total = AtomicUsize::new(0);
        for round in 0..rounds {
            team.for_each(3, |_, item| {
                total.fetch_add(item + 1, Ordering::Relaxed);
            });
            if round % 500 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
        assert_eq!(total.into_inner(), 6 * rounds);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let team = Team::new(2);
        for bad in [0, 1, 5] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.for_each(6, |_, item| assert!(item != bad, "item {bad}"));
            }));
            assert!(caught.is_err());
            let count = AtomicUsize::new(0);
            team.for_each(10, |_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 10);
        }
    }

    #[test]
    fn callers_on_two_threads_and_nested_calls_share_a_team() {
        let team = Team::new(2);
        let total = AtomicUsize::new(0);
        let rounds = if cfg!(miri) { 3 } else { 200 };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        team.for_each(4, |_, _| {
                            team.for_each(2, |_, _| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 2 * 4 * 2 * rounds);
    }
}

//! Latency of the hot path: `cargo bench -p trellect-select --bench hot`.
//!
//! Percentiles come from single calls, each between two readings of the clock, less the median of
//! two readings with nothing between. The last column is the median of uninterrupted batches, for
//! each call: there calls overlap, as they may in a caller's loop. The first row is what the machine
//! adds by itself.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use trellect_select::ContextKey;
use trellect_select::hot::{Outcome, OutcomeFlags, Plan, PlanBoard, PlanTable, feedback_ring};

const CONTEXTS: u64 = 4096;
const KEYS: usize = 1 << 15;
const SINGLE_CALLS: usize = 1 << 22;
const BATCHES: usize = 1 << 13;
const BATCH: usize = 1024;
/// Plans that a usual table changes: that many contexts switched or settled in a millisecond.
const CHANGES: u64 = 16;
const PUBLISH_PERIOD: Duration = Duration::from_millis(1);

fn main() {
    let mut timer = Histogram::new();
    (0..SINGLE_CALLS).for_each(|_| timer.add(Instant::now().elapsed()));
    let timer_ns = timer.percentile_ns(0.5);
    println!("timer: {timer_ns} ns, subtracted from single calls\n");
    println!("{:<40} {:>8} {:>8} {:>8} {:>9}", "", "p50 ns", "p99 ns", "p99.9 ns", "batch ns");
    report("nothing", timer_ns, || {
        black_box(());
    });
    for report_every in [0, 100] {
        for changes in [None, Some(CHANGES), Some(CONTEXTS)] {
            select(timer_ns, report_every, changes);
        }
    }
    feedback(timer_ns);
}

/// SplitMix64: keys that look like hashes.
fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn context(number: u64) -> ContextKey {
    ContextKey(mix(number % CONTEXTS))
}

/// A table in which the plans of the first `changes` contexts are of this epoch, the others of the
/// first.
fn table(epoch: u16, report_every: u16, changes: u64) -> PlanTable {
    PlanTable::new((0..CONTEXTS).map(|number| {
        let epoch = if number < changes { epoch } else { 0 };
        let plan = Plan { kernel: (number % 7) as u16, launch: 0, epoch, report_every };
        (context(number), plan)
    }))
}

/// With `changes` a writer publishes a thousand tables a second, each with so many new plans.
fn select(timer_ns: usize, report_every: u16, changes: Option<u64>) {
    let keys: Vec<_> = (0..KEYS as u64).map(|at| context(mix(!at))).collect();
    let board = PlanBoard::new(table(0, report_every, 0));
    let mut reader = board.reader();
    for &key in &keys {
        assert!(reader.get(key).is_some());
    }
    let done = AtomicBool::new(false);
    let tables = AtomicU64::new(0);
    let started = Instant::now();
    thread::scope(|scope| {
        if let Some(changes) = changes {
            let (board, done, tables) = (&board, &done, &tables);
            scope.spawn(move || {
                for epoch in 1.. {
                    let next = Instant::now() + PUBLISH_PERIOD;
                    board.publish(table(epoch as u16, report_every, changes));
                    tables.store(epoch, Ordering::Relaxed);
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            });
        }
        let name = match report_every {
            0 => "select".to_owned(),
            every => format!("select, ticket every {every}"),
        };
        let name = match changes {
            None => name,
            Some(changes) => format!("{name}, writer of {changes}"),
        };
        let mut at = 0;
        report(&name, timer_ns, || {
            at = (at + 1) % KEYS;
            black_box(reader.select(keys[at]));
        });
        done.store(true, Ordering::Relaxed);
    });
    if changes.is_some() {
        let rate = tables.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
        println!("{:<40} {rate:.0} tables per second", "");
    }
}

/// The pushing thread empties the full ring itself, so that no push timed is one that only counts.
fn feedback(timer_ns: usize) {
    let (mut producer, mut consumer) = feedback_ring(1 << 12);
    let plan = Plan { kernel: 1, launch: 0, epoch: 0, report_every: 1 };
    let mut number = 0;
    report("feedback push", timer_ns, || {
        number += 1;
        let context = ContextKey(number);
        let outcome = Outcome {
            context,
            plan,
            ticket: None,
            flags: OutcomeFlags::NONE,
            num_pairs: 8,
            num_decodes: 8,
            nanoseconds: number,
        };
        if !producer.push(outcome) {
            consumer.drain().for_each(|outcome| {
                black_box(outcome);
            });
        }
    });
    assert!(consumer.dropped() <= number >> 12);
}

/// Times `call` singly and in batches and prints a line.
fn report(name: &str, timer_ns: usize, mut call: impl FnMut()) {
    let mut single = Histogram::new();
    for _ in 0..SINGLE_CALLS {
        let start = Instant::now();
        call();
        single.add(start.elapsed());
    }
    let mut batches: Vec<Duration> = (0..BATCHES)
        .map(|_| {
            let start = Instant::now();
            (0..BATCH).for_each(|_| call());
            start.elapsed()
        })
        .collect();
    batches.sort_unstable();
    let batch_ns = batches[BATCHES / 2].as_nanos() as f64 / BATCH as f64;
    let [p50, p99, p999] =
        [0.5, 0.99, 0.999].map(|share| single.percentile_ns(share).saturating_sub(timer_ns));
    println!("{name:<40} {p50:>8} {p99:>8} {p999:>8} {batch_ns:>9.2}");
}

/// Counts durations by the nanosecond, in little memory lest it evict what is measured.
struct Histogram {
    counts: Vec<u32>,
}

impl Histogram {
    fn new() -> Self {
        Self { counts: vec![0; 4096] }
    }

    fn add(&mut self, duration: Duration) {
        let last = self.counts.len() - 1;
        let ns = usize::try_from(duration.as_nanos()).map_or(last, |ns| ns.min(last));
        self.counts[ns] += 1;
    }

    fn percentile_ns(&self, share: f64) -> usize {
        let total: u64 = self.counts.iter().copied().map(u64::from).sum();
        let rank = (total as f64 * share) as u64;
        let mut below = 0;
        let reached = self.counts.iter().position(|&count| {
            below += u64::from(count);
            below > rank
        });
        reached.expect("the share is below 1")
    }
}

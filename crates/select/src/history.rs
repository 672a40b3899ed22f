use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};

use rustc_hash::FxBuildHasher;
use trellect_core::KernelId;

use crate::window::Window;
use crate::{Bucket, Timings};

/// What is known of one kernel's latencies in one bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HistoryRow {
    /// The kernel.
    pub kernel: KernelId,
    /// The row of the token table.
    pub bucket: Bucket,
    /// Number, mean, moving average and variance.
    pub timings: Timings,
    /// The median, in milliseconds.
    pub p50_ms: f64,
    /// The 95th percentile, in milliseconds, interpolated between the two nearest latencies.
    pub p95_ms: f64,
}

/// The latest latencies of every kernel, by bucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    buckets: [HashMap<Key, Window, FxBuildHasher>; Bucket::ALL.len()],
}

/// A kernel's name, all of it but its implementation hashed as one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key(KernelId);

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let KernelId { family, fp32_acc, tuple, variant } = self.0;
        let widths = tuple.map_or(0, |tuple| {
            tuple.widths().iter().fold(0, |packed, bits| packed << 4 | u64::from(bits.get()))
        });
        state.write_u64(widths << 8 | (family as u64) << 1 | u64::from(fp32_acc));
        if let Some(variant) = variant {
            variant.hash(state);
        }
    }
}

impl History {
    /// Adds a latency that has been checked.
    pub(crate) fn push(
        &mut self,
        kernel: KernelId,
        bucket: Bucket,
        latency_ms: f64,
        max_len: usize,
    ) {
        let windows = &mut self.buckets[bucket as usize];
        match windows.get_mut(&Key(kernel)) {
            Some(window) => window.push(latency_ms),
            None => {
                windows.insert(Key(kernel), Window::new(max_len, latency_ms));
            }
        }
    }

    #[inline]
    pub(crate) fn window(&self, kernel: KernelId, bucket: Bucket) -> Option<&Window> {
        self.buckets[bucket as usize].get(&Key(kernel))
    }

    pub(crate) fn timings(&self, kernel: KernelId, bucket: Bucket) -> Option<Timings> {
        self.window(kernel, bucket).map(Window::timings)
    }

    /// Number of kernels that were ever timed.
    pub(crate) fn tracked_kernels(&self) -> usize {
        self.buckets.iter().flat_map(HashMap::keys).map(|key| key.0).collect::<BTreeSet<_>>().len()
    }

    /// A row per kernel and bucket, by bucket and name.
    pub(crate) fn table(&self) -> Vec<HistoryRow> {
        let rows = Bucket::ALL.into_iter().flat_map(|bucket| {
            let windows = self.buckets[bucket as usize].iter();
            windows.map(move |(kernel, window)| {
                let sorted = window.sorted();
                HistoryRow {
                    kernel: kernel.0,
                    bucket,
                    timings: window.timings(),
                    p50_ms: quantile(&sorted, 0.5),
                    p95_ms: quantile(&sorted, 0.95),
                }
            })
        });
        let mut rows: Vec<HistoryRow> = rows.collect();
        rows.sort_by_key(|row| (row.bucket, row.kernel));
        rows
    }
}

/// The quantile of ascending latencies, linear between neighbours.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let below = sorted[position.floor() as usize];
    let above = sorted[position.ceil() as usize];
    below + position.fract() * (above - below)
}

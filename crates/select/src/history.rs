use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};

use rustc_hash::FxBuildHasher;
use trellect_core::KernelId;

use crate::feedback::is_faster;
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
    buckets: [Windows; Bucket::ALL.len()],
}

/// The windows of one bucket.
#[derive(Clone, Debug, Default)]
struct Windows {
    places: HashMap<Key, usize, FxBuildHasher>,
    windows: Vec<(KernelId, Window)>,
    /// What the latest baseline was, and then the candidate at each position, when last looked up.
    looked_up: Vec<LookedUp>,
}

/// Where a candidate's window is, and how it compares with the baseline's: a name is compared faster
/// than hashed, and a verdict read faster than reached.
#[derive(Clone, Copy, Debug)]
struct LookedUp {
    kernel: KernelId,
    place: Option<usize>,
    /// Windows that there were. A kernel without one may have one later.
    windows: usize,
    verdict: Verdict,
}

/// Whether a kernel is faster than a baseline, as long as neither has a new latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdict {
    baseline: usize,
    /// Latencies ever recorded of the baseline and of the kernel; never 0 where the verdict is one.
    recorded: [u64; 2],
    faster: bool,
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
        let Windows { places, windows, .. } = &mut self.buckets[bucket as usize];
        match places.get(&Key(kernel)) {
            Some(&place) => windows[place].1.push(latency_ms),
            None => {
                places.insert(Key(kernel), windows.len());
                windows.push((kernel, Window::new(max_len, latency_ms)));
            }
        }
    }

    pub(crate) fn timings(&self, kernel: KernelId, bucket: Bucket) -> Option<Timings> {
        let Windows { places, windows, .. } = &self.buckets[bucket as usize];
        places.get(&Key(kernel)).map(|&place| windows[place].1.timings())
    }

    /// The comparisons of one selection, by what earlier ones found.
    pub(crate) fn remembering(&mut self, bucket: Bucket) -> Remembering<'_> {
        Remembering { windows: &mut self.buckets[bucket as usize], baseline: None }
    }

    /// The comparisons of one selection, all made afresh.
    pub(crate) fn afresh(&self, bucket: Bucket) -> Afresh<'_> {
        Afresh { history: self, bucket, baseline: None }
    }

    /// Number of kernels that were ever timed.
    pub(crate) fn tracked_kernels(&self) -> usize {
        let windows = self.buckets.iter().flat_map(|bucket| &bucket.windows);
        windows.map(|(kernel, _)| kernel).collect::<BTreeSet<_>>().len()
    }

    /// A row per kernel and bucket, by bucket and name.
    pub(crate) fn table(&self) -> Vec<HistoryRow> {
        let rows = Bucket::ALL.into_iter().flat_map(|bucket| {
            let windows = self.buckets[bucket as usize].windows.iter();
            windows.map(move |(kernel, window)| {
                let sorted = window.sorted();
                HistoryRow {
                    kernel: *kernel,
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

/// Compares the kernels of one selection with the rules' own choice.
pub(crate) trait Compare {
    /// Sets the rules' own choice; its mean in milliseconds, where it was ever timed.
    fn baseline(&mut self, kernel: KernelId) -> Option<f64>;
    /// The mean of the candidate at a position of the list, where it is below `to_beat_ms` and the
    /// candidate faster than the baseline.
    fn faster(&mut self, position: usize, kernel: KernelId, to_beat_ms: f64) -> Option<f64>;
}

/// See [`History::afresh`].
pub(crate) struct Afresh<'a> {
    history: &'a History,
    bucket: Bucket,
    baseline: Option<Timings>,
}

impl Compare for Afresh<'_> {
    fn baseline(&mut self, kernel: KernelId) -> Option<f64> {
        self.baseline = self.history.timings(kernel, self.bucket);
        self.baseline.map(|baseline| baseline.mean_ms)
    }

    fn faster(&mut self, _: usize, kernel: KernelId, to_beat_ms: f64) -> Option<f64> {
        let own = self.history.timings(kernel, self.bucket)?;
        let faster = own.mean_ms < to_beat_ms && is_faster(&own, &self.baseline?);
        faster.then_some(own.mean_ms)
    }
}

/// See [`History::remembering`]: the same list of candidates again costs no hashing, and where
/// nothing was recorded in between no arithmetic.
pub(crate) struct Remembering<'a> {
    windows: &'a mut Windows,
    baseline: Option<usize>,
}

impl Compare for Remembering<'_> {
    #[inline]
    fn baseline(&mut self, kernel: KernelId) -> Option<f64> {
        self.baseline = self.windows.place(0, kernel);
        self.baseline.map(|place| self.windows.windows[place].1.mean_ms())
    }

    #[inline]
    fn faster(&mut self, position: usize, kernel: KernelId, to_beat_ms: f64) -> Option<f64> {
        let baseline = self.baseline?;
        let place = self.windows.place(position + 1, kernel)?;
        let mean_ms = self.windows.windows[place].1.mean_ms();
        (mean_ms < to_beat_ms && self.windows.faster(position + 1, place, baseline))
            .then_some(mean_ms)
    }
}

impl Windows {
    #[inline]
    fn place(&mut self, position: usize, kernel: KernelId) -> Option<usize> {
        match self.looked_up.get(position) {
            Some(known) if known.kernel == kernel => match known.place {
                None if known.windows != self.windows.len() => self.look_up(position, kernel),
                place => place,
            },
            _ => self.look_up(position, kernel),
        }
    }

    #[cold]
    fn look_up(&mut self, position: usize, kernel: KernelId) -> Option<usize> {
        let place = self.places.get(&Key(kernel)).copied();
        let verdict = Verdict::default();
        let found = LookedUp { kernel, place, windows: self.windows.len(), verdict };
        if position >= self.looked_up.len() {
            self.looked_up.resize(position + 1, found);
        }
        self.looked_up[position] = found;
        place
    }

    #[inline]
    fn faster(&mut self, position: usize, place: usize, baseline: usize) -> bool {
        let (own, other) = (&self.windows[place].1, &self.windows[baseline].1);
        let recorded = [other.recorded(), own.recorded()];
        let known = &mut self.looked_up[position].verdict;
        if (known.baseline, known.recorded) != (baseline, recorded) {
            let faster = is_faster(&own.timings(), &other.timings());
            *known = Verdict { baseline, recorded, faster };
        }
        known.faster
    }
}

/// The quantile of ascending latencies, linear between neighbours.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let below = sorted[position.floor() as usize];
    let above = sorted[position.ceil() as usize];
    below + position.fract() * (above - below)
}

//! The latest latencies of one kernel in one bucket, and the moments that the feedback rule reads.
//!
//! The moments follow each latency by Welford's update, with the removal of the one that leaves the
//! window. Removing loses the digits that a large latency had covered, so the moments are computed
//! afresh once a lap of the ring, and at once where the spread falls to a millionth of what it was.

/// Weight of the newest latency in the exponential moving average: the latest 19 latencies
/// (2 / weight − 1) carry about as much information as the average.
pub(crate) const EMA_WEIGHT: f64 = 0.1;

/// Latencies whose memory is taken at once; a longer window grows to its length as they come.
const PREALLOCATED: usize = 1024;

/// Fall of the sum of squares that makes its digits untrustworthy.
const LOST_DIGITS: f64 = 1e-6;

/// How often a kernel was timed, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timings {
    /// Latencies in the window.
    pub n: usize,
    /// Their mean, in milliseconds.
    pub mean_ms: f64,
    /// Their exponential moving average, in milliseconds: begun with the first latency ever
    /// recorded, each later one moves it a tenth of the way. It is not bound to the window.
    pub ema_ms: f64,
    /// Their sample variance, with `n − 1`; 0 for a single latency.
    pub variance: f64,
}

/// A ring of the latest latencies.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    n: f64,
    mean: f64,
    sum_of_squares: f64,
    ema: f64,
    largest_sum_of_squares: f64,
    recorded: u64,
    max_len: usize,
    oldest: usize,
    samples: Vec<f64>,
}

impl Window {
    /// A window of `max_len` latencies, at least 1, that holds `first_ms`.
    pub(crate) fn new(max_len: usize, first_ms: f64) -> Self {
        let mut samples = Vec::with_capacity(max_len.min(PREALLOCATED));
        samples.push(first_ms);
        Self {
            n: 1.0,
            mean: first_ms,
            sum_of_squares: 0.0,
            ema: first_ms,
            largest_sum_of_squares: 0.0,
            recorded: 1,
            max_len,
            oldest: 0,
            samples,
        }
    }

    /// Adds a latency; the oldest leaves a full window. Constant time but for one pass over the
    /// window in every `max_len` calls.
    pub(crate) fn push(&mut self, latency_ms: f64) {
        self.recorded += 1;
        self.ema += EMA_WEIGHT * (latency_ms - self.ema);
        if self.samples.len() < self.max_len {
            self.samples.push(latency_ms);
            self.n += 1.0;
            let before = latency_ms - self.mean;
            self.mean += before / self.n;
            self.sum_of_squares += before * (latency_ms - self.mean);
        } else {
            let gone = std::mem::replace(&mut self.samples[self.oldest], latency_ms);
            let (change, before) = (latency_ms - gone, self.mean);
            self.mean += change / self.n;
            self.sum_of_squares += change * ((latency_ms - self.mean) + (gone - before));
            self.oldest += 1;
            let lap = self.oldest == self.max_len;
            if lap {
                self.oldest = 0;
            }
            let trusted = self.sum_of_squares >= LOST_DIGITS * self.largest_sum_of_squares;
            if lap || !trusted {
                self.recompute();
            }
        }
        self.largest_sum_of_squares = self.largest_sum_of_squares.max(self.sum_of_squares);
    }

    /// The moments in two passes; equal latencies give exactly their mean and no spread.
    fn recompute(&mut self) {
        let (origin, share) = (self.samples[0], 1.0 / self.n);
        let offset: f64 = self.samples.iter().map(|sample| (sample - origin) * share).sum();
        self.mean = origin + offset;
        self.sum_of_squares = self.samples.iter().map(|sample| (sample - self.mean).powi(2)).sum();
        self.largest_sum_of_squares = self.sum_of_squares;
    }

    #[inline]
    pub(crate) const fn mean_ms(&self) -> f64 {
        self.mean
    }

    /// Latencies ever recorded, at least 1.
    #[inline]
    pub(crate) const fn recorded(&self) -> u64 {
        self.recorded
    }

    #[inline]
    pub(crate) fn timings(&self) -> Timings {
        let variance = if self.n > 1.0 { self.sum_of_squares / (self.n - 1.0) } else { 0.0 };
        Timings { n: self.samples.len(), mean_ms: self.mean, ema_ms: self.ema, variance }
    }

    /// The latencies in ascending order.
    pub(crate) fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

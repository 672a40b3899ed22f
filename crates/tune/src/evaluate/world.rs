use trellect_select::adaptive::{Arm, CallFeatures};

/// What a policy may know when it chooses.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// The context's index.
    pub context: usize,
    /// The call.
    pub features: CallFeatures<'a>,
    /// The kernels that may serve, ascending.
    pub open: &'a [usize],
    /// The prior's estimate for every kernel, nanoseconds.
    pub prior_ns: &'a [f64],
    /// The rules' pick.
    pub default: usize,
    /// The true latencies, infinite where a kernel may not serve: only for an oracle.
    pub truth_ns: &'a [f64],
    /// Device time spent so far.
    pub now_ns: u64,
}

impl Sight<'_> {
    /// The open kernel for which `value` is lowest.
    pub(super) fn lowest(&self, mut value: impl FnMut(usize) -> f64) -> usize {
        let valued = self.open.iter().map(|&kernel| (kernel, value(kernel)));
        valued.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(self.default, |(kernel, _)| kernel)
    }
}

/// What is learned before a run, on times that are not those of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trained {
    /// The kernel that serves all contexts fastest, weighted as they occur.
    pub single: usize,
    /// The fastest kernel of every context.
    pub table: Vec<usize>,
}

/// Calls, and what kernels take for them. Equal seeds give equal calls, whatever is chosen.
pub trait World {
    /// The kernels.
    fn arms(&self) -> &[Arm];

    /// Calls of a run.
    fn calls(&self) -> usize;

    /// Number of contexts.
    fn contexts(&self) -> usize;

    /// What a table tuned beforehand would hold.
    fn trained(&self) -> &Trained;

    /// Goes on to call number `call`: its context, and whether the truth has changed.
    fn next_call(&mut self, call: usize) -> (usize, bool);

    /// What a policy sees of the present call, which is of `context`.
    fn sight(&self, context: usize) -> Sight<'_>;

    /// The true latencies of a context's kernels, what slows all of them left out; infinite where
    /// one may not serve.
    fn truth_ns(&self, context: usize) -> &[f64];

    /// Runs an open kernel: its latency, `None` where its launch fails.
    fn run(&mut self, context: usize, kernel: usize) -> Option<f64>;
}

/// Index of the smallest number.
pub(crate) fn best_of(numbers: &[f64]) -> usize {
    (0..numbers.len()).min_by(|&a, &b| numbers[a].total_cmp(&numbers[b])).unwrap_or(0)
}

/// `1 / rank` summed up: where a number drawn evenly from 0 to the last sum falls tells a context
/// whose frequency follows Zipf's law.
pub(crate) fn zipf(contexts: usize) -> Vec<f64> {
    let weights = (1..=contexts).map(|rank| 1.0 / rank as f64);
    let sums = weights.scan(0.0, |sum, weight| {
        *sum += weight;
        Some(*sum)
    });
    sums.collect()
}

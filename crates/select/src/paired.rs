//! The paired test of two kernels that a `benchmark_kernel` callback makes possible.

use rand::{Rng, RngExt};
use trellect_core::KernelId;

use crate::{Decision, LatencyError, Reason, SelectError};

/// Runs of each kernel in a paired test.
pub const PAIRS: usize = 2 * BLOCKS;

/// A block runs the kernels as ABBA: a steady drift of the clock burdens both alike.
const BLOCKS: usize = 2;

/// Share of the incumbent's latency by which a challenger must be faster to win.
pub const TIE_BAND: f64 = 0.01;

/// Two kernels to be run against each other in an order already drawn.
#[derive(Debug)]
pub(crate) struct PairedTest {
    incumbent: Decision,
    challenger: Decision,
    incumbent_begins: [bool; BLOCKS],
}

/// What the runs of a paired test took.
#[derive(Debug)]
pub(crate) struct PairedResult {
    test: PairedTest,
    incumbent_ms: [f64; PAIRS],
    challenger_ms: [f64; PAIRS],
}

impl PairedTest {
    pub(crate) fn draw(rng: &mut impl Rng, incumbent: Decision, challenger: Decision) -> Self {
        let incumbent_begins = std::array::from_fn(|_| rng.random());
        Self { incumbent, challenger, incumbent_begins }
    }

    /// Runs both kernels, [`PAIRS`] times each; stops at the first latency that is none.
    pub(crate) fn run(
        self,
        benchmark: &mut dyn FnMut(KernelId) -> f64,
    ) -> Result<PairedResult, SelectError> {
        let mut run = |kernel: KernelId| {
            let latency_ms = benchmark(kernel);
            match LatencyError::check(latency_ms) {
                Ok(()) => Ok(latency_ms),
                Err(LatencyError { found }) => Err(SelectError::Benchmark { kernel, found }),
            }
        };
        let (mut incumbent_ms, mut challenger_ms) = ([0.0; PAIRS], [0.0; PAIRS]);
        for pair in 0..PAIRS {
            let second_half = pair % 2 == 1;
            if self.incumbent_begins[pair / 2] != second_half {
                incumbent_ms[pair] = run(self.incumbent.kernel)?;
                challenger_ms[pair] = run(self.challenger.kernel)?;
            } else {
                challenger_ms[pair] = run(self.challenger.kernel)?;
                incumbent_ms[pair] = run(self.incumbent.kernel)?;
            }
        }
        Ok(PairedResult { test: self, incumbent_ms, challenger_ms })
    }
}

impl PairedResult {
    /// Both kernels' latencies.
    pub(crate) fn latencies(&self) -> impl Iterator<Item = (KernelId, f64)> {
        let PairedTest { incumbent, challenger, .. } = &self.test;
        let pairs = self.incumbent_ms.iter().zip(&self.challenger_ms);
        pairs.flat_map(|(one, other)| [(incumbent.kernel, *one), (challenger.kernel, *other)])
    }

    /// Whether the challenger is not faster by more than the [`TIE_BAND`], by the median of the
    /// pairs' differences.
    pub(crate) fn incumbent_stands(&self) -> bool {
        let differences = std::array::from_fn(|i| self.incumbent_ms[i] - self.challenger_ms[i]);
        median(differences) <= TIE_BAND * median(self.incumbent_ms)
    }

    /// The winner serves this one call.
    pub(crate) fn decision(&self) -> Decision {
        let PairedTest { incumbent, challenger, .. } = self.test;
        match self.incumbent_stands() {
            true => Decision { reason: Reason::Exploration, explored: true, ..incumbent },
            false => challenger,
        }
    }
}

fn median(mut values: [f64; PAIRS]) -> f64 {
    values.sort_by(f64::total_cmp);
    // Halved before the sum, which could overflow.
    values[PAIRS / 2 - 1] / 2.0 + values[PAIRS / 2] / 2.0
}

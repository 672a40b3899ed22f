use trellect_core::{KernelId, Rejection};

/// A number that should be a share and is not: NaN, infinite, or outside 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{parameter} is {found}: expected a finite number from 0 to 1")]
pub struct NotAShare {
    /// The name of the parameter.
    pub parameter: &'static str,
    /// The value found.
    pub found: f64,
}

impl NotAShare {
    pub(crate) fn check(parameter: &'static str, found: f64) -> Result<(), Self> {
        // NaN is in no range.
        if (0.0..=1.0).contains(&found) { Ok(()) } else { Err(Self { parameter, found }) }
    }
}

/// A number that should be a latency and is not: NaN, infinite or negative.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("latency_ms is {found}: expected a finite number, 0 or more")]
pub struct LatencyError {
    /// The value found.
    pub found: f64,
}

impl LatencyError {
    pub(crate) fn check(found: f64) -> Result<(), Self> {
        if found.is_finite() && found >= 0.0 { Ok(()) } else { Err(Self { found }) }
    }
}

/// A latency that is not recorded.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A call without tokens; no kernel ran.
    #[error("num_tokens is 0: expected 1 or more")]
    NoTokens,
    /// No latency.
    #[error(transparent)]
    Latency(#[from] LatencyError),
}

/// A configuration that no policy can have.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A share outside 0 to 1.
    #[error(transparent)]
    Share(#[from] NotAShare),
    /// A history that holds nothing.
    #[error("history_len is 0: expected 1 or more")]
    NoHistory,
    /// Rows of the token table that do not ascend.
    #[error(
        "the token table starts its rows at prefill4_from {prefill4_from}, base_from {base_from} \
         and large_batch_from {large_batch_from}: expected 1 or more, in ascending order"
    )]
    TableOrder {
        /// First token count of the prefill4 row.
        prefill4_from: usize,
        /// First token count of the base row.
        base_from: usize,
        /// First token count of the large-batch row.
        large_batch_from: usize,
    },
}

/// A request without a decision.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// A call without tokens; it needs no kernel.
    #[error("num_tokens is 0: expected 1 or more")]
    NoTokens,
    /// A share outside 0 to 1.
    #[error(transparent)]
    Share(#[from] NotAShare),
    /// A list of available kernels that lists none.
    #[error("the list of available kernels is empty: expected at least one, or no list")]
    NoneAvailable,
    /// A benchmark that returned no latency.
    #[error("the benchmark of {kernel} returned {found} ms: expected a finite number, 0 or more")]
    Benchmark {
        /// The kernel that was run.
        kernel: KernelId,
        /// What it returned.
        found: f64,
    },
    /// No candidate may serve this call.
    #[error("no kernel can serve this call: {}", describe(refusals))]
    NothingLegal {
        /// Every candidate and why it cannot, in the order of the candidates.
        refusals: Vec<Rejection>,
    },
}

fn describe(refusals: &[Rejection]) -> String {
    if refusals.is_empty() {
        return "there are no candidates".into();
    }
    refusals.iter().map(Rejection::to_string).collect::<Vec<_>>().join("; ")
}

//! Choosing the kernel of one call: the rule policy, its reasons and its metadata.
//!
//! This crate is handed numbers and returns decisions; it knows nothing of files, devices, threads
//! or clocks. Start at [`RulePolicy::select`]: a [`Request`] (what the call is) and the candidates
//! (what the backend can run) become a [`Decision`] (which kernel, and why).
//! [`RulePolicy::explain`] tells what became of every candidate.
//!
//! The order of the rules; the first that applies wins:
//!
//! 1. The request is checked; a bad one is a [`SelectError`] and counts as nothing.
//! 2. Only candidates that can compute the call, in the numeric class asked for and among the
//!    kernels made available, are considered.
//! 3. Memory pressure above the threshold: the base kernel ([`Reason::MemoryPressure`]).
//! 4. With the exploration rate's probability another legal candidate, drawn evenly, or a paired
//!    test of the two ([`RulePolicy::select_with_benchmark`]; [`Reason::Exploration`]).
//! 5. A legal candidate that the history shows to be faster than the choice of rule 6
//!    ([`Reason::FeedbackOptimization`]).
//! 6. The table of token counts ([`Thresholds`]): [`Reason::ActivationPatternSkewed`] where one
//!    expert takes most of the work, else [`Reason::Heuristic`].
//! 7. Where the choice of rule 3 or 6 cannot serve, the base kernel or another legal one, and only
//!    where there is none a kernel of another class, which is always said
//!    ([`Reason::FallbackAvailability`], [`Reason::FallbackWorkspace`],
//!    [`Reason::FallbackLegality`]).
//!
//! # What the history decides
//!
//! [`RulePolicy::record`] keeps the latest [`RuleConfig::history_len`] latencies of each kernel in
//! each [`Bucket`]. Rule 5 takes the legal candidate with the lowest mean of those that, against
//! the choice of rule 6,
//!
//! - have, like it, at least [`MIN_TIMINGS`] latencies in the bucket,
//! - are faster by Welch's t-test, two-sided at 95 % ([`WelchTest`]), and
//! - have the lower exponential moving average: a kernel that was fast in most of the window but has
//!   become slower since is not preferred. A change that slows both leaves the verdict alone.
//!
//! The test's 5 % hold for one look at data gathered beforehand, of which 2.5 % are false verdicts
//! of "faster". This rule looks at every selection, so its errors add up. Of 500 simulated runs of
//! two equal kernels, 1000 latencies of 3 % noise each, a last look alone preferred the wrong one in
//! 3 % where the noise was independent and in 10 % where it was correlated (0.5 from one latency to
//! the next); looking after each pair did so at some time in 72 % and 98 %. Such a verdict costs
//! little, for it needs two kernels of about equal speed, and it goes with the window; but this
//! policy promises nothing about how often it switches. That takes a sequential test.
//!
//! ```
//! use trellect_core::{BitTuple, CallFacts, NumericClass};
//! use trellect_select::{Request, RuleConfig, RulePolicy, Thresholds, catalogue};
//!
//! let config = RuleConfig { exploration_rate: 0.0, ..RuleConfig::default() };
//! let candidates = catalogue(&Thresholds::default());
//! let mut policy = RulePolicy::new(config)?;
//! let decision = policy.select(
//!     &Request::new(CallFacts {
//!         num_tokens: 1,
//!         num_pairs: 8,
//!         active_tuples: &[BitTuple::new(6, 2, 3)?],
//!         numeric: NumericClass::Half,
//!         workspace_limit: None,
//!     }),
//!     &candidates,
//! )?;
//! assert_eq!(decision.kernel.to_string(), "moe_trellis_swiglu_decode_6_2_3");
//! assert_eq!(decision.reason.as_str(), "heuristic");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

pub mod adaptive;
mod catalogue;
mod config;
mod context_key;
mod decision;
mod error;
mod explain;
mod feedback;
mod history;
pub mod hot;
mod latency_statistics;
mod paired;
mod policy;
mod request;
mod rules;
mod shared;
mod statistics;
mod welch;
mod window;

#[cfg(test)]
mod tests;

pub use catalogue::{catalogue, reachable_kernels};
pub use config::{RuleConfig, Thresholds};
pub use context_key::ContextKey;
pub use decision::{Bucket, Decision, HeuristicFamily, Reason};
pub use error::{ConfigError, LatencyError, NotAShare, RecordError, SelectError};
pub use explain::{Considered, Evidence, Explanation, Verdict};
pub use history::HistoryRow;
pub use latency_statistics::LatencyStatistics;
pub use paired::{PAIRS, TIE_BAND};
pub use policy::RulePolicy;
pub use request::Request;
pub use shared::SharedRulePolicy;
pub use statistics::Statistics;
pub use welch::{MIN_TIMINGS, WelchTest};
pub use window::Timings;

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
//! 4. With the exploration rate's probability another legal candidate, drawn evenly
//!    ([`Reason::Exploration`]).
//! 5. The table of token counts ([`Thresholds`]): [`Reason::ActivationPatternSkewed`] where one
//!    expert takes most of the work, else [`Reason::Heuristic`].
//! 6. Where the choice of rule 3 or 5 cannot serve, the base kernel or another legal one, and only
//!    where there is none a kernel of another class, which is always said
//!    ([`Reason::FallbackAvailability`], [`Reason::FallbackWorkspace`],
//!    [`Reason::FallbackLegality`]).
//!
//! ```
//! use trellect_core::{BitTuple, CallFacts, NumericClass};
//! use trellect_select::{Request, RuleConfig, RulePolicy, catalogue};
//!
//! let config = RuleConfig { exploration_rate: 0.0, ..RuleConfig::default() };
//! let candidates = catalogue(&config.thresholds);
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
#![forbid(unsafe_code)]

pub mod adaptive;
mod catalogue;
mod config;
mod decision;
mod error;
mod explain;
mod policy;
mod request;
mod rules;
mod statistics;

#[cfg(test)]
mod tests;

pub use catalogue::{catalogue, reachable_kernels};
pub use config::{RuleConfig, Thresholds};
pub use decision::{Bucket, Decision, HeuristicFamily, Reason};
pub use error::{ConfigError, NotAShare, SelectError};
pub use explain::{Considered, Explanation, Verdict};
pub use policy::RulePolicy;
pub use request::Request;
pub use statistics::Statistics;

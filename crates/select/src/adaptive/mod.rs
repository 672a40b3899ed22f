//! The adaptive policy: serve by proof, probe by value.
//!
//! A pure state machine: [`AdaptivePolicy::choose`] names a kernel for a call,
//! [`AdaptivePolicy::record`] learns what it took. Time is handed in, random numbers come from a
//! seed; equal inputs give equal decisions. It is the controller, not the hot path: what it decides
//! is published by [`AdaptivePolicy::serving_plan`].
//!
//! - *Contexts* ([`ContextKey`](crate::ContextKey)) are calls that should rank the kernels alike.
//! - A *prior* ([`CostCoefficients`]) predicts latencies; what is learned is `ln t − ln t̂ − clock`,
//!   pooled from the context to the token bucket to the kernel.
//! - A context's *incumbent* serves. It starts as the rules' pick, or the prior's best where that
//!   promises enough, and changes only by proof: pairs measured afresh in random order, and a bet
//!   ([`log_wealth`]) that one may look at after every pair.
//! - *Probes* go to the kernel that a Thompson draw puts first, within a budget of expected loss.
//! - An *unproven start* is taken back once its pairs with the rules' pick speak against it, and probes
//!   lose at most 0.2 % of any ten seconds beyond what serving saves: never worse than the rules, but
//!   for a moment.
//! - *Idle time* goes into full-information rounds ([`AdaptivePolicy::sweep`]).
//! - What was measured is handed out and taken in as mergeable [`Evidence`]: a prior elsewhere, never
//!   a proof. What was decided is logged as [`DecisionRecord`]s, from which [`Mode::Replay`]
//!   reproduces every choice.
//! - A shift of one incumbent restarts its context's race; a shift of all of them is the clock's
//!   ([`CommonMode`]) and restarts nothing.
//!
//! Validity of the proof: the bet by blocks allows serially correlated noise because its variance
//! is the long-run one ([`NoiseModel`]), estimated, not known; the bet by pairs asks for a gain
//! beyond what correlated noise reaches.

mod budget;
mod choice;
mod config;
mod context;
mod drift;
mod evidence;
mod explain;
mod features;
mod health;
mod learning;
mod ledger;
mod log;
mod memory;
mod moments;
mod noise;
mod plan;
mod policy;
mod prior;
mod probe;
mod replay;
mod serving;
mod sweep;
mod tickets;

#[cfg(test)]
mod tests;

pub use budget::ProbeBudget;
pub use choice::{
    Choice, ChoiceReason, ChooseError, Conditions, Outcome, Recorded, Ticket, UnknownChoiceReason,
};
pub use config::{AdaptiveConfig, Mode};
pub use context::Retirement;
pub use drift::{CommonMode, Cusum};
pub use evidence::{MAX_GAIN, PairedTest, Wealth, log_wealth};
pub use explain::{AdaptiveExplanation, ArmVerdict, ConsideredArm};
pub use features::{CallFeatures, Coordinates, Cuts, ExpertLoad};
pub use health::{Fitness, Health, MAX_FAILURES};
pub use ledger::{Evidence, ImportEvidenceError, ImportSummary, Provenance};
pub use log::DecisionRecord;
pub use memory::{MemoryGauge, MemoryLevel};
pub use moments::Moments;
pub use noise::NoiseModel;
pub use plan::Serving;
pub use policy::{AdaptivePolicy, ArmsError, Totals};
pub use prior::{Arm, CostCoefficients, MachineLimits};
pub use replay::ReplayMismatch;
pub use sweep::Sweep;

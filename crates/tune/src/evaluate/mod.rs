//! Judging selection policies in simulated worlds whose truth is known (T0).
//!
//! A [`World`] draws calls and latencies; a [`Policy`] chooses and learns; [`simulate`] brings them
//! together and [`Run`] holds the figures. [`table::regret_table`] and [`table::safety_table`]
//! repeat that over seeds and give every figure with a bootstrap interval. These are toys: they
//! rank policies and find faults, they predict no device.

mod baselines;
mod policy;
mod run;
mod summary;
pub mod table;
#[cfg(test)]
mod tests;
mod world;

pub use baselines::{
    DiscountedThompson, EpsilonGreedy, FirstCallAutotune, Oracle, PlainMean, StaticRules,
    StaticTable, Ucb1, UniformKernel,
};
pub use policy::{Adaptive, Policy, Sight, Switch};
pub use run::{Run, simulate};
pub use summary::Summary;
pub use world::{Drift, World, WorldConfig};

//! Judging selection policies where every kernel's time is known.
//!
//! A [`World`] draws calls and latencies: a [`SimulatedWorld`] (T0) with chosen faults, or a
//! [`RecordedWorld`] (T1) of a matrix of real times. A [`Policy`] chooses and learns; [`simulate`]
//! brings them together and [`Run`] holds the figures. A [`Scenario`] repeats that over seeds and
//! gives every figure with a bootstrap interval. Simulations rank policies and find faults, they
//! predict no device; a recording speaks for its machine and layer.

mod baselines;
mod kind;
pub mod plot;
mod policy;
mod recorded;
mod run;
mod scenario;
mod simulated;
mod summary;
pub mod table;
#[cfg(test)]
mod tests;
mod trace;
mod world;

pub use baselines::{
    DiscountedThompson, EpsilonGreedy, FirstCallAutotune, Oracle, PlainMean, PriorAlone,
    StaticRules, StaticTable, Ucb1, UniformKernel,
};
pub use kind::{PolicyKind, UnknownPolicy};
pub use policy::{Adaptive, Event, Policy};
pub use recorded::{RecordedWorld, Recording, RecordingError};
pub use run::{CURVE_POINTS, Run, simulate};
pub use scenario::{FIRST_SEED, Figures, Scenario};
pub use simulated::{Drift, SimulatedWorld, WorldConfig};
pub use summary::Summary;
pub use trace::{Trace, TraceError};
pub use world::{Sight, Trained, World};

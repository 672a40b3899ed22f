use std::fmt;
use std::str::FromStr;

use trellect_select::adaptive::AdaptiveConfig;

use super::{
    Adaptive, DiscountedThompson, EpsilonGreedy, FirstCallAutotune, Oracle, PlainMean, Policy,
    PriorAlone, StaticRules, StaticTable, Ucb1, UniformKernel, World,
};

/// The policies of a comparison, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// [`UniformKernel`]: the single best one, trained beforehand.
    Uniform,
    /// [`StaticRules`].
    Rules,
    /// [`PriorAlone`].
    Prior,
    /// [`StaticTable`].
    StaticTable,
    /// [`FirstCallAutotune`].
    FirstCall,
    /// [`PlainMean`].
    PlainMean,
    /// [`EpsilonGreedy`].
    EpsilonGreedy,
    /// [`Ucb1`].
    Ucb1,
    /// [`DiscountedThompson`] that keeps 0.998 of the past at every call.
    Thompson,
    /// [`DiscountedThompson`] that keeps 0.99 of the past at every call.
    ThompsonFast,
    /// [`Adaptive`] with its default constants.
    Adaptive,
    /// [`Oracle`].
    Oracle,
}

impl PolicyKind {
    /// Every policy, in the order of the tables.
    pub const ALL: [PolicyKind; 12] = [
        Self::Uniform,
        Self::Rules,
        Self::Prior,
        Self::StaticTable,
        Self::FirstCall,
        Self::PlainMean,
        Self::EpsilonGreedy,
        Self::Ucb1,
        Self::Thompson,
        Self::ThompsonFast,
        Self::Adaptive,
        Self::Oracle,
    ];

    /// Its name in flags and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Rules => "rules",
            Self::Prior => "prior",
            Self::StaticTable => "static-table",
            Self::FirstCall => "first-call",
            Self::PlainMean => "plain-mean",
            Self::EpsilonGreedy => "epsilon-greedy",
            Self::Ucb1 => "ucb1",
            Self::Thompson => "thompson",
            Self::ThompsonFast => "thompson-fast",
            Self::Adaptive => "adaptive",
            Self::Oracle => "oracle",
        }
    }

    /// A fresh policy for `world`; what it draws comes from `seed`.
    pub fn make(self, world: &dyn World, seed: u64) -> Box<dyn Policy> {
        match self {
            Self::Uniform => Box::new(UniformKernel(world.trained().single)),
            Self::Rules => Box::new(StaticRules),
            Self::Prior => Box::new(PriorAlone),
            Self::StaticTable => Box::new(StaticTable::new(world)),
            Self::FirstCall => Box::new(FirstCallAutotune::default()),
            Self::PlainMean => Box::new(PlainMean::new(seed)),
            Self::EpsilonGreedy => Box::new(EpsilonGreedy::new(seed)),
            Self::Ucb1 => Box::new(Ucb1::default()),
            Self::Thompson => Box::new(DiscountedThompson::new(seed, 0.998)),
            Self::ThompsonFast => Box::new(DiscountedThompson::new(seed, 0.99)),
            Self::Adaptive => {
                Box::new(Adaptive::new(world, AdaptiveConfig { seed, ..AdaptiveConfig::default() }))
            }
            Self::Oracle => Box::new(Oracle),
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| UnknownPolicy { found: text.into() })
    }
}

/// A text that names no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no policy: expected one of {}", PolicyKind::ALL.map(PolicyKind::name).join(", "))]
pub struct UnknownPolicy {
    /// The text found.
    pub found: Box<str>,
}

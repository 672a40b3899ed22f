use std::fmt;

use trellect_core::{KernelId, WhyNot};

use crate::rules::Rules;
use crate::{Decision, Reason, SelectError};

/// A decision and what became of every candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What is decided where nothing is explored.
    pub decision: Decision,
    /// The probability that one of the alternatives is tried instead; 0 where the decision leaves
    /// no room for it.
    pub exploration_rate: f64,
    /// Every candidate, in the order of the candidates. A caller that knows of kernels that cannot
    /// run here may add them.
    pub considered: Vec<Considered>,
}

/// A candidate and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// The candidate.
    pub kernel: KernelId,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It serves.
    Chosen(Reason),
    /// It could serve, but is not the rules' choice.
    Alternative,
    /// It may not serve.
    Refused(WhyNot),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen(reason) => write!(f, "chosen: {reason}"),
            Self::Alternative => f.write_str("legal, not the rules' choice"),
            Self::Refused(why) => why.fmt(f),
        }
    }
}

impl Explanation {
    pub(crate) fn new(rules: &Rules<'_>) -> Result<Self, SelectError> {
        let decision = rules.baseline()?;
        let considered = rules.candidates.iter().map(|spec| {
            let verdict = match rules.request.legal_as(spec, decision.class_asked) {
                _ if spec.id == decision.kernel => Verdict::Chosen(decision.reason),
                Ok(()) => Verdict::Alternative,
                Err(why) => Verdict::Refused(why),
            };
            Considered { kernel: spec.id, verdict }
        });
        let exploration_rate = match rules.alternatives(&decision).next() {
            Some(_) => rules.config.exploration_rate,
            None => 0.0,
        };
        Ok(Self { decision, exploration_rate, considered: considered.collect() })
    }
}

impl fmt::Display for Explanation {
    /// The decision, then one line a candidate.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decision { kernel, reason, bucket, heuristic_family, .. } = self.decision;
        writeln!(f, "{kernel} ({reason}; row {bucket}, bits {heuristic_family})")?;
        if let Some(message) = self.decision.message() {
            writeln!(f, "{message}")?;
        }
        if self.decision.numeric_downgrade() {
            let Decision { class, class_asked, .. } = self.decision;
            writeln!(f, "numeric downgrade: {class_asked} was asked for, {class} serves")?;
        }
        if self.exploration_rate > 0.0 {
            writeln!(f, "an alternative is tried with probability {}", self.exploration_rate)?;
        }
        let name = |considered: &Considered| considered.kernel.to_string();
        let width = self.considered.iter().map(|c| name(c).len()).max().unwrap_or(0);
        for considered in &self.considered {
            writeln!(f, "  {:width$}  {}", name(considered), considered.verdict)?;
        }
        Ok(())
    }
}

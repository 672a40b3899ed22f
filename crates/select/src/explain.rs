use std::fmt;

use trellect_core::{KernelId, WhyNot};

use crate::feedback::{feedback, has_drifted};
use crate::history::History;
use crate::rules::Rules;
use crate::{Decision, Reason, SelectError, Timings, WelchTest};

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
#[derive(Clone, Debug, PartialEq)]
pub struct Considered {
    /// The candidate.
    pub kernel: KernelId,
    /// What became of it.
    pub verdict: Verdict,
    /// Its history in the call's bucket, where it has one.
    pub evidence: Option<Evidence>,
}

impl Considered {
    /// A kernel that may not serve, and of which nothing else is said.
    pub const fn refused(kernel: KernelId, why: WhyNot) -> Self {
        Self { kernel, verdict: Verdict::Refused(why), evidence: None }
    }
}

/// What the history says of a candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// How often it was timed and how long it took.
    pub timings: Timings,
    /// Its comparison with [`Decision::baseline_kernel`], where it is another legal kernel and both
    /// were timed often enough.
    pub against_baseline: Option<WelchTest>,
    /// Whether it is faster by that test but its moving average is not, so that it is not preferred.
    pub drifted: bool,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Timings { n, mean_ms, ema_ms, .. } = self.timings;
        write!(f, "n = {n}, mean {mean_ms:.4} ms, EMA {ema_ms:.4} ms")?;
        if let Some(test) = self.against_baseline {
            write!(f, ", t = {:.3}, p = {:.2e}", test.t, test.p_value())?;
        }
        if self.drifted {
            f.write_str(", drifted")?;
        }
        Ok(())
    }
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
    pub(crate) fn new(rules: &Rules<'_>, history: &History) -> Result<Self, SelectError> {
        let baseline = rules.baseline()?;
        let decision =
            feedback(rules, &baseline, history.afresh(baseline.bucket)).unwrap_or(baseline);
        let own = history.timings(baseline.kernel, baseline.bucket);
        let considered = rules.candidates.iter().map(|spec| {
            let verdict = match rules.request.legal_as(spec, decision.class_asked) {
                _ if spec.id == decision.kernel => Verdict::Chosen(decision.reason),
                Ok(()) => Verdict::Alternative,
                Err(why) => Verdict::Refused(why),
            };
            let comparable = spec.id != baseline.kernel && !matches!(verdict, Verdict::Refused(_));
            let evidence = history.timings(spec.id, baseline.bucket).map(|timings| {
                let own = own.filter(|_| comparable);
                let against_baseline = own.and_then(|own| WelchTest::compare(&timings, &own));
                let faster = against_baseline.is_some_and(|test| test.says_faster());
                let drifted = faster && own.is_some_and(|own| has_drifted(&timings, &own));
                Evidence { timings, against_baseline, drifted }
            });
            Considered { kernel: spec.id, verdict, evidence }
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
            write!(f, "  {:width$}  {}", name(considered), considered.verdict)?;
            match considered.evidence {
                Some(evidence) => writeln!(f, " ({evidence})")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

use crate::{BitTuple, Call, CallError, CallFacts, KernelId, LaunchError, NumericClass};

/// Token counts that a kernel can compute, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRange {
    /// Fewest tokens.
    pub min: usize,
    /// Most tokens; `None`: any number.
    pub max: Option<usize>,
}

impl TokenRange {
    /// Any number of tokens.
    pub const ANY: TokenRange = TokenRange { min: 0, max: None };
    /// At most one token.
    pub const ONE: TokenRange = TokenRange { min: 0, max: Some(1) };

    /// Whether `tokens` lies within.
    #[inline]
    pub fn contains(&self, tokens: usize) -> bool {
        tokens >= self.min && self.max.is_none_or(|max| tokens <= max)
    }
}

/// Workspace of a call as a function of its size; an exact figure, not an estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkspaceModel {
    /// Bytes whatever the call.
    pub fixed_bytes: u64,
    /// Bytes per (token, expert) pair.
    pub bytes_per_pair: u64,
    /// Pairs above which the workspace no longer grows; `None`: it always grows.
    pub max_pairs: Option<u64>,
}

impl WorkspaceModel {
    /// Bytes for a call of `num_pairs` pairs.
    pub fn bytes(&self, num_pairs: usize) -> u64 {
        let pairs = (num_pairs as u64).min(self.max_pairs.unwrap_or(u64::MAX));
        self.fixed_bytes.saturating_add(self.bytes_per_pair.saturating_mul(pairs))
    }
}

/// What a backend says of one runnable kernel of a prepared layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelSpec {
    /// Its name.
    pub id: KernelId,
    /// Its numeric class.
    pub class: NumericClass,
    /// Token counts that it computes.
    pub tokens: TokenRange,
    /// Columns of one work item.
    pub tile_n: usize,
    /// Most rows of one expert that share one decoding of its weights.
    pub rows_per_decode: usize,
    /// Its workspace.
    pub workspace: WorkspaceModel,
    /// Whether it may run while a graph is captured.
    pub capture_safe: bool,
    /// Whether equal input always gives equal bits.
    pub deterministic: bool,
}

impl KernelSpec {
    /// Whether this kernel can compute a call, its numeric class aside.
    ///
    /// # Errors
    /// The first [`WhyNot`] otherwise.
    #[inline]
    pub fn can_compute(&self, facts: &CallFacts<'_>) -> Result<(), WhyNot> {
        if !self.tokens.contains(facts.num_tokens) {
            return Err(WhyNot::Tokens { found: facts.num_tokens, accepted: self.tokens });
        }
        if let Some(only) = self.id.tuple
            && let Some(&found) = facts.active_tuples.iter().find(|&&tuple| tuple != only)
        {
            return Err(WhyNot::Tuple { found, only });
        }
        let Some(available) = facts.workspace_limit else { return Ok(()) };
        let needed = self.workspace.bytes(facts.num_pairs);
        match needed > available {
            true => Err(WhyNot::Workspace { needed, available }),
            false => Ok(()),
        }
    }

    /// What a queue checks before a launch: that `out` is as long as the hidden states, and that this
    /// kernel can compute the call on a layer whose experts have `expert_tuples`. Allocates nothing.
    ///
    /// # Errors
    /// [`LaunchError::Call`] or [`LaunchError::Illegal`].
    pub fn check_launch(
        &self,
        call: &Call<'_>,
        expert_tuples: &[BitTuple],
        out: &[f32],
    ) -> Result<(), LaunchError> {
        let expected = call.hidden().len();
        if out.len() != expected {
            return Err(CallError::Output { found: out.len(), expected }.into());
        }
        let routing = call.routing();
        let facts = CallFacts {
            num_tokens: routing.num_tokens(),
            num_pairs: routing.num_pairs(),
            active_tuples: &[],
            numeric: self.class,
            workspace_limit: None,
        };
        let illegal = |why| LaunchError::Illegal { kernel: self.id, why };
        self.can_compute(&facts).map_err(illegal)?;
        // Tuples one by one, so that a launch needs no list of the distinct ones.
        for &expert in routing.active_experts() {
            let active_tuples = &expert_tuples[expert as usize..=expert as usize];
            self.can_compute(&CallFacts { active_tuples, ..facts }).map_err(illegal)?;
        }
        Ok(())
    }

    /// Whether this kernel may serve a call: it can compute it, in the class asked for.
    ///
    /// # Errors
    /// The first [`WhyNot`] otherwise.
    #[inline]
    pub fn legal(&self, facts: &CallFacts<'_>) -> Result<(), WhyNot> {
        if self.class != facts.numeric {
            return Err(WhyNot::Class { found: self.class, wanted: facts.numeric });
        }
        self.can_compute(facts)
    }
}

/// A kernel that a backend knows of: runnable here, or the reason why it is not.
pub type Candidate = Result<KernelSpec, Rejection>;

/// A kernel that cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kernel}: {why}")]
pub struct Rejection {
    /// The kernel.
    pub kernel: KernelId,
    /// Why it cannot run.
    pub why: WhyNot,
}

/// Why a kernel cannot serve: a value to be shown, not a failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WhyNot {
    /// The machine lacks an instruction set.
    #[error("this machine has no {0}")]
    MissingIsa(&'static str),
    /// An environment variable caps the instruction sets.
    #[error("its instruction set is switched off by TRELLECT_MAX_ISA")]
    Capped,
    /// The machine has no such device.
    #[error("no device: {0}")]
    NoDevice(Box<str>),
    /// A token count that it does not compute.
    #[error("{found} tokens, computes {}", describe(accepted))]
    Tokens {
        /// Tokens of the call.
        found: usize,
        /// Tokens that it computes.
        accepted: TokenRange,
    },
    /// An active expert has another tuple.
    #[error("an active expert is {found}, computes only {only}")]
    Tuple {
        /// The first other tuple.
        found: BitTuple,
        /// Its own tuple.
        only: BitTuple,
    },
    /// The active experts' tuples are not known.
    #[error("the active experts' tuples are not known, computes only {only}")]
    UnknownTuples {
        /// Its own tuple.
        only: BitTuple,
    },
    /// Another numeric class.
    #[error("is of class {found}, wanted {wanted}")]
    Class {
        /// Its class.
        found: NumericClass,
        /// The class asked for.
        wanted: NumericClass,
    },
    /// Not enough memory.
    #[error("needs {needed} bytes of workspace, {available} are available")]
    Workspace {
        /// Bytes that it would take.
        needed: u64,
        /// Bytes that it may take.
        available: u64,
    },
    /// The caller did not list it.
    #[error("not among the kernels that the caller made available")]
    NotListed,
    /// Its compiler has not finished.
    #[error("is still being compiled")]
    Compiling,
    /// Its compiler or the device refused it.
    #[error("could not be built: {0}")]
    NotBuilt(Box<str>),
    /// It failed before.
    #[error("quarantined after {failures} failed launches")]
    Quarantined {
        /// Failures so far.
        failures: u32,
    },
}

fn describe(range: &TokenRange) -> String {
    match range.max {
        None => format!("{} and more", range.min),
        Some(max) => format!("{} to {max}", range.min),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Family, Hidden, LayerShape, NumericClass, Routing};

    fn spec(tuple: Option<BitTuple>) -> KernelSpec {
        KernelSpec {
            id: KernelId { tuple, ..KernelId::new(Family::Decode) },
            class: NumericClass::Half,
            tokens: TokenRange::ONE,
            tile_n: 16,
            rows_per_decode: 1,
            workspace: WorkspaceModel { fixed_bytes: 100, bytes_per_pair: 10, max_pairs: Some(4) },
            capture_safe: true,
            deterministic: true,
        }
    }

    #[test]
    fn every_reason_is_found() {
        let tuple = |g, u, d| BitTuple::new(g, u, d).unwrap();
        let (own, other) = (tuple(6, 2, 3), tuple(2, 2, 2));
        let mixed = [own, other];
        let facts = CallFacts {
            num_tokens: 1,
            num_pairs: 4,
            active_tuples: &[own],
            numeric: NumericClass::Half,
            workspace_limit: Some(140),
        };
        let special = spec(Some(own));
        assert_eq!(special.legal(&facts), Ok(()));
        let why = |spec: KernelSpec, facts| spec.legal(&facts).unwrap_err().to_string();
        assert_eq!(why(special, CallFacts { num_tokens: 2, ..facts }), "2 tokens, computes 0 to 1");
        assert_eq!(
            why(special, CallFacts { active_tuples: &mixed, ..facts }),
            "an active expert is 2_2_2, computes only 6_2_3"
        );
        assert_eq!(
            why(special, CallFacts { numeric: NumericClass::Exact, ..facts }),
            "is of class half, wanted exact"
        );
        assert_eq!(
            why(special, CallFacts { workspace_limit: Some(139), ..facts }),
            "needs 140 bytes of workspace, 139 are available"
        );
        assert_eq!(spec(None).legal(&CallFacts { active_tuples: &mixed, ..facts }), Ok(()));
    }

    #[test]
    fn a_launch_is_checked_against_the_experts_that_have_tokens() {
        let tuple = |g, u, d| BitTuple::new(g, u, d).unwrap();
        let tuples = [tuple(6, 2, 3), tuple(2, 2, 2)];
        let shape = LayerShape::new(4, 128, 2).unwrap();
        let check = |ids: &[i32], out: usize| {
            let routing = Routing::new(2, 1, ids, &vec![1.0; ids.len()]).unwrap();
            let hidden = vec![0.0; 4 * ids.len()];
            let call = Call::new(&shape, Hidden::F32(&hidden), &routing).unwrap();
            let checked = spec(Some(tuples[0])).check_launch(&call, &tuples, &vec![0.0; out]);
            checked.map_err(|error| error.to_string())
        };
        assert_eq!(check(&[0], 4), Ok(()));
        assert_eq!(check(&[], 0), Ok(()));
        assert_eq!(check(&[0], 5).unwrap_err(), "the output has 5 elements: expected 4");
        let name = "moe_trellis_swiglu_decode_6_2_3";
        let other = format!("{name}: an active expert is 2_2_2, computes only 6_2_3");
        assert_eq!(check(&[1], 4).unwrap_err(), other);
        assert_eq!(check(&[0, 0], 8).unwrap_err(), format!("{name}: 2 tokens, computes 0 to 1"));
    }

    #[test]
    fn workspace_stops_growing_at_its_cap() {
        let model = spec(None).workspace;
        assert_eq!([0, 3, 4, 400].map(|pairs| model.bytes(pairs)), [100, 130, 140, 140]);
    }
}

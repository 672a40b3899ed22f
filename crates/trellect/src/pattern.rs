use trellect_core::Routing;

/// How a call's tokens spread over the experts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ActivationPattern {
    /// Experts with at least one token.
    pub active_experts: usize,
    /// Their share of all experts, 0 to 1.
    pub activation_rate: f64,
    /// Mean number of (token, expert) pairs per active expert.
    pub tokens_per_expert: f64,
    /// Pairs of the busiest expert.
    pub max_tokens_per_expert: usize,
    /// The busiest expert's share of all pairs, 0 to 1.
    pub top_expert_share: f64,
    /// Entropy of the pairs' distribution over experts, in bits: 0 when one expert has all, log₂ of
    /// the number of experts when all have as many.
    pub entropy_bits: f64,
}

impl ActivationPattern {
    /// The pattern of a routing; all zero when it has no token.
    pub fn of(routing: &Routing) -> Self {
        let pairs = routing.num_pairs() as f64;
        if routing.num_pairs() == 0 {
            return Self::default();
        }
        let active_experts = routing.active_experts().len();
        let max = routing.tokens_per_expert().max().unwrap_or(0);
        let surprise = |tokens: usize| match tokens {
            0 => 0.0,
            _ => -(tokens as f64 / pairs) * (tokens as f64 / pairs).log2(),
        };
        Self {
            active_experts,
            activation_rate: active_experts as f64 / routing.num_experts() as f64,
            tokens_per_expert: pairs / active_experts as f64,
            max_tokens_per_expert: max,
            top_expert_share: max as f64 / pairs,
            // A sum of −0.0 terms would print as "-0".
            entropy_bits: routing.tokens_per_expert().map(surprise).sum::<f64>() + 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(ids: &[i32]) -> ActivationPattern {
        ActivationPattern::of(&Routing::new(8, 2, ids, &vec![0.5; ids.len()]).unwrap())
    }

    #[test]
    fn even_skewed_and_empty_routings() {
        let even = pattern(&[0, 1, 2, 3]);
        assert_eq!((even.active_experts, even.activation_rate), (4, 0.5));
        assert_eq!((even.tokens_per_expert, even.top_expert_share), (1.0, 0.25));
        assert_eq!(even.entropy_bits, 2.0);
        let skewed = pattern(&[5, 5, 5, 5]);
        assert_eq!((skewed.max_tokens_per_expert, skewed.top_expert_share), (4, 1.0));
        assert_eq!(skewed.entropy_bits.to_string(), "0");
        assert_eq!(pattern(&[]), ActivationPattern::default());
    }
}

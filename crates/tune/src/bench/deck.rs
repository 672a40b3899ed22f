//! Dealing a layer's experts to calls, so that none comes again before all others had their turn.

use rand::Rng;
use trellect_core::{Routing, RoutingError};

use crate::rounds::shuffled;

/// The experts of a layer in a fixed random order, gone round and round.
pub(super) struct Deck {
    experts: Vec<usize>,
    next: usize,
}

impl Deck {
    pub(super) fn new(num_experts: usize, rng: &mut impl Rng) -> Self {
        Self { experts: shuffled(num_experts, rng), next: 0 }
    }

    /// The same routing with other names for the experts: the active ones are now the next of the
    /// deck. A uniform routing stays uniform.
    pub(super) fn deal(&mut self, routing: &Routing) -> Result<Routing, RoutingError> {
        let mut dealt = vec![0; routing.num_experts()];
        for &expert in routing.active_experts() {
            dealt[expert as usize] = self.experts[self.next] as i32;
            self.next = (self.next + 1) % self.experts.len();
        }
        let ids: Vec<i32> = routing.topk_ids().iter().map(|&id| dealt[id as usize]).collect();
        Routing::new(routing.num_experts(), routing.top_k(), &ids, routing.topk_weights())
    }
}

#[cfg(test)]
mod tests {
    use chacha20::ChaCha8Rng;
    use rand::SeedableRng;
    use trellect_exl3::synth;

    use super::*;

    #[test]
    fn an_expert_comes_again_after_all_others() {
        let mut deck = Deck::new(8, &mut ChaCha8Rng::seed_from_u64(0));
        let mut seen: Vec<u32> = Vec::new();
        for seed in 0..8 {
            let drawn = synth::routing(1, 8, 2, seed).unwrap();
            let dealt = deck.deal(&drawn).unwrap();
            assert_eq!(dealt.topk_weights(), drawn.topk_weights());
            seen.extend(dealt.active_experts());
        }
        for four_calls in seen.chunks(8) {
            let mut experts = four_calls.to_vec();
            experts.sort_unstable();
            assert_eq!(experts, [0, 1, 2, 3, 4, 5, 6, 7]);
        }
    }

    #[test]
    fn rows_keep_their_company() {
        let mut deck = Deck::new(6, &mut ChaCha8Rng::seed_from_u64(1));
        let drawn = synth::routing(20, 6, 2, 3).unwrap();
        let dealt = deck.deal(&drawn).unwrap();
        let loads = |routing: &Routing| {
            let mut loads: Vec<usize> = routing.tokens_per_expert().collect();
            loads.sort_unstable();
            loads
        };
        assert_eq!(loads(&dealt), loads(&drawn));
    }
}

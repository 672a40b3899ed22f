use half::f16;
use rand::Rng;
use trellect_core::{Routing, RoutingError};

use super::{Domain, below, normal, random_stream};

/// One channel in this many is an outlier.
const OUTLIER_SPACING: usize = 64;
const OUTLIER_FACTOR: f64 = 6.0;

/// Activations like a model's, `[num_tokens, hidden_size]`: standard normal, but for a few
/// channels, the same for all tokens, that are six times as large.
pub fn hidden(num_tokens: usize, hidden_size: usize, seed: u64) -> Vec<f16> {
    let mut rng = random_stream(Domain::Hidden, seed, 0);
    let mut factors = vec![1.0; hidden_size];
    for _ in 0..hidden_size.div_ceil(OUTLIER_SPACING) {
        factors[below(&mut rng, hidden_size)] = OUTLIER_FACTOR;
    }
    let mut rng = random_stream(Domain::Hidden, seed, 1);
    let token = |_| factors.iter().map(|f| f16::from_f64(f * normal(&mut rng))).collect::<Vec<_>>();
    (0..num_tokens).flat_map(token).collect()
}

/// A routing of every token to `top_k` distinct experts, uniformly drawn, with positive weights
/// that descend and sum to 1.
///
/// # Errors
/// [`RoutingError`] when `top_k` is 0 or above `num_experts`, or the pairs are too many.
pub fn routing(
    num_tokens: usize,
    num_experts: usize,
    top_k: usize,
    seed: u64,
) -> Result<Routing, RoutingError> {
    draw_routing(num_tokens, num_experts, top_k, seed, Slot0::Any)
}

/// As [`routing`], but slot 0 of every token is one and the same expert.
///
/// # Errors
/// As [`routing`].
pub fn skewed_routing(
    num_tokens: usize,
    num_experts: usize,
    top_k: usize,
    seed: u64,
) -> Result<Routing, RoutingError> {
    draw_routing(num_tokens, num_experts, top_k, seed, Slot0::Fixed)
}

#[derive(Clone, Copy, PartialEq)]
enum Slot0 {
    Any,
    Fixed,
}

fn draw_routing(
    num_tokens: usize,
    num_experts: usize,
    top_k: usize,
    seed: u64,
    slot0: Slot0,
) -> Result<Routing, RoutingError> {
    if top_k == 0 || top_k > num_experts {
        return Err(RoutingError::TopK { top_k, num_experts });
    }
    let pairs = num_tokens.saturating_mul(top_k);
    if pairs > Routing::MAX_PAIRS {
        return Err(RoutingError::TooMany { pairs });
    }
    let mut rng = random_stream(Domain::Routing, seed, 0);
    let mut experts: Vec<i32> = (0..num_experts).map(|expert| expert as i32).collect();
    experts.swap(0, below(&mut rng, num_experts));
    let first_free = match slot0 {
        Slot0::Any => 0,
        Slot0::Fixed => 1,
    };
    let (mut ids, mut weights) = (Vec::with_capacity(pairs), Vec::with_capacity(pairs));
    for _ in 0..num_tokens {
        for slot in first_free..top_k {
            experts.swap(slot, slot + below(&mut rng, num_experts - slot));
        }
        ids.extend_from_slice(&experts[..top_k]);
        weights.extend(softmax_of_normals(top_k, &mut rng));
    }
    Routing::new(num_experts, top_k, &ids, &weights)
}

/// The softmax of `count` standard normal numbers, descending.
fn softmax_of_normals(count: usize, rng: &mut impl Rng) -> Vec<f32> {
    let mut weights: Vec<f64> = (0..count).map(|_| normal(rng).exp()).collect();
    weights.sort_by(|a, b| b.total_cmp(a));
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| (weight / sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_choose_distinct_experts_with_weights_of_sum_one() {
        let routing = routing(40, 9, 4, 1).unwrap();
        for ids in routing.topk_ids().chunks_exact(4) {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), 4);
        }
        for weights in routing.topk_weights().chunks_exact(4) {
            assert!(weights.is_sorted_by(|a, b| a >= b) && weights[3] > 0.0);
            assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
        assert_eq!(routing.active_experts().len(), 9);
    }

    #[test]
    fn a_skewed_routing_has_one_expert_in_slot_0() {
        let routing = skewed_routing(20, 6, 2, 3).unwrap();
        let favourite = routing.topk_ids()[0];
        assert_eq!(routing.pairs_of(favourite as usize).len(), 20);
        assert!(routing.topk_ids().chunks_exact(2).all(|ids| ids[0] == favourite));
        assert!(routing.active_experts().len() > 2);
    }

    #[test]
    fn impossible_routings_are_refused() {
        assert!(matches!(routing(1, 4, 5, 0), Err(RoutingError::TopK { top_k: 5, .. })));
        assert!(matches!(routing(1, 4, 0, 0), Err(RoutingError::TopK { .. })));
        assert!(matches!(routing(usize::MAX, 4, 2, 0), Err(RoutingError::TooMany { .. })));
        assert_eq!(routing(0, 4, 2, 0).unwrap().num_tokens(), 0);
    }

    #[test]
    fn activations_are_normal_with_outlier_channels() {
        let x = hidden(500, 128, 9);
        assert_eq!(x, hidden(500, 128, 9));
        assert_ne!(x, hidden(500, 128, 10));
        let rms = |channel: usize| {
            let squares = x.chunks_exact(128).map(|token| token[channel].to_f64().powi(2));
            (squares.sum::<f64>() / 500.0).sqrt()
        };
        let outliers = (0..128).filter(|&channel| rms(channel) > 4.0).count();
        assert!((1..=2).contains(&outliers));
        assert_eq!((0..128).filter(|&c| (0.8..1.2).contains(&rms(c))).count(), 128 - outliers);
        assert!(hidden(3, 0, 1).is_empty() && hidden(0, 64, 1).is_empty());
    }
}

/// Which experts compute which tokens: validated once, grouped by expert once, then read by every
/// kernel without further checks.
///
/// A *pair* is one (token, slot) assignment, numbered `token · top_k + slot`. A token may name one
/// expert in several slots; its contributions add up.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    num_experts: usize,
    top_k: usize,
    topk_ids: Vec<u32>,
    topk_weights: Vec<f32>,
    group_offsets: Vec<u32>,
    pairs_by_expert: Vec<u32>,
    active_experts: Vec<u32>,
}

impl Routing {
    /// Most pairs of one call; keeps pair numbers within 31 bits.
    pub const MAX_PAIRS: usize = 1 << 30;

    /// Checks and groups an assignment; `topk_ids` and `topk_weights` are `[num_tokens, top_k]`
    /// row-major. No token at all is a valid, empty routing.
    ///
    /// # Errors
    /// [`RoutingError`] when `top_k` is 0 or above `num_experts`, the lengths disagree or are no
    /// multiple of `top_k`, an id is outside `0..num_experts`, or a weight is not finite.
    pub fn new(
        num_experts: usize,
        top_k: usize,
        topk_ids: &[i32],
        topk_weights: &[f32],
    ) -> Result<Self, RoutingError> {
        if top_k == 0 || top_k > num_experts {
            return Err(RoutingError::TopK { top_k, num_experts });
        }
        if topk_ids.len() != topk_weights.len() {
            let (ids, weights) = (topk_ids.len(), topk_weights.len());
            return Err(RoutingError::Lengths { ids, weights });
        }
        if !topk_ids.len().is_multiple_of(top_k) {
            return Err(RoutingError::Ragged { ids: topk_ids.len(), top_k });
        }
        if topk_ids.len() > Self::MAX_PAIRS {
            return Err(RoutingError::TooMany { pairs: topk_ids.len() });
        }
        let place = |pair: usize| (pair / top_k, pair % top_k);
        let mut ids = Vec::with_capacity(topk_ids.len());
        for (pair, &id) in topk_ids.iter().enumerate() {
            match u32::try_from(id) {
                Ok(id) if (id as usize) < num_experts => ids.push(id),
                _ => {
                    let (token, slot) = place(pair);
                    return Err(RoutingError::Expert { token, slot, found: id, num_experts });
                }
            }
        }
        if let Some(pair) = topk_weights.iter().position(|weight| !weight.is_finite()) {
            let (token, slot) = place(pair);
            return Err(RoutingError::Weight { token, slot, found: topk_weights[pair] });
        }
        let (group_offsets, pairs_by_expert) = group(&ids, num_experts);
        let mut start = 0;
        let mut active_experts = Vec::new();
        for (expert, &end) in (0u32..).zip(&group_offsets) {
            if end > start {
                active_experts.push(expert);
            }
            start = end;
        }
        Ok(Self {
            num_experts,
            top_k,
            topk_ids: ids,
            topk_weights: topk_weights.to_vec(),
            group_offsets,
            pairs_by_expert,
            active_experts,
        })
    }

    /// Number of tokens.
    pub fn num_tokens(&self) -> usize {
        self.topk_ids.len() / self.top_k
    }

    /// Experts per token.
    pub const fn top_k(&self) -> usize {
        self.top_k
    }

    /// Experts of the layer.
    pub const fn num_experts(&self) -> usize {
        self.num_experts
    }

    /// Number of (token, slot) pairs.
    pub fn num_pairs(&self) -> usize {
        self.topk_ids.len()
    }

    /// Expert of every pair, `[num_tokens, top_k]`.
    pub fn topk_ids(&self) -> &[u32] {
        &self.topk_ids
    }

    /// Weight of every pair, `[num_tokens, top_k]`.
    pub fn topk_weights(&self) -> &[f32] {
        &self.topk_weights
    }

    /// Cumulative *end* offset of every expert's group in
    /// [`pairs_by_expert`](Self::pairs_by_expert); an empty group ends where it starts.
    pub fn group_offsets(&self) -> &[u32] {
        &self.group_offsets
    }

    /// All pairs, grouped by ascending expert and in ascending order within a group.
    pub fn pairs_by_expert(&self) -> &[u32] {
        &self.pairs_by_expert
    }

    /// The pairs of one expert.
    ///
    /// # Panics
    /// When `expert` is not below [`num_experts`](Self::num_experts).
    pub fn pairs_of(&self, expert: usize) -> &[u32] {
        &self.pairs_by_expert[self.group_start(expert)..self.group_offsets[expert] as usize]
    }

    /// Where an expert's group starts in [`pairs_by_expert`](Self::pairs_by_expert).
    ///
    /// # Panics
    /// When `expert` is not below [`num_experts`](Self::num_experts).
    pub fn group_start(&self, expert: usize) -> usize {
        match expert {
            0 => 0,
            _ => self.group_offsets[expert - 1] as usize,
        }
    }

    /// Experts with at least one token, ascending.
    pub fn active_experts(&self) -> &[u32] {
        &self.active_experts
    }

    /// Number of pairs of every expert.
    pub fn tokens_per_expert(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        (0..self.num_experts).map(|expert| self.pairs_of(expert).len())
    }
}

/// Counting sort of pairs by expert: cumulative end offsets and the sorted pairs.
fn group(ids: &[u32], num_experts: usize) -> (Vec<u32>, Vec<u32>) {
    let mut ends = vec![0u32; num_experts];
    for &id in ids {
        ends[id as usize] += 1;
    }
    let mut total = 0;
    for end in &mut ends {
        total += *end;
        *end = total;
    }
    let mut next: Vec<u32> =
        (0..num_experts).map(|expert| if expert == 0 { 0 } else { ends[expert - 1] }).collect();
    let mut pairs = vec![0u32; ids.len()];
    for (pair, &id) in (0u32..).zip(ids) {
        let place = &mut next[id as usize];
        pairs[*place as usize] = pair;
        *place += 1;
    }
    (ends, pairs)
}

/// An assignment that no layer could compute.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RoutingError {
    /// `top_k` of 0 or above the number of experts.
    #[error("top_k is {top_k}: expected 1 to the layer's {num_experts} experts")]
    TopK {
        /// The value found.
        top_k: usize,
        /// Experts of the layer.
        num_experts: usize,
    },
    /// Ids and weights of different lengths.
    #[error("topk_ids has {ids} elements and topk_weights {weights}: expected as many")]
    Lengths {
        /// Elements of `topk_ids`.
        ids: usize,
        /// Elements of `topk_weights`.
        weights: usize,
    },
    /// Ids that do not fill whole rows.
    #[error("topk_ids has {ids} elements: expected a multiple of top_k = {top_k}")]
    Ragged {
        /// Elements of `topk_ids`.
        ids: usize,
        /// Experts per token.
        top_k: usize,
    },
    /// More pairs than one call may have.
    #[error("{pairs} (token, expert) pairs in one call: expected at most {max}", max = Routing::MAX_PAIRS)]
    TooMany {
        /// Number of pairs.
        pairs: usize,
    },
    /// An expert that the layer does not have.
    #[error("token {token}, slot {slot}: expert {found} does not exist, expected 0 to {}", num_experts - 1)]
    Expert {
        /// Row of the id.
        token: usize,
        /// Column of the id.
        slot: usize,
        /// The id found.
        found: i32,
        /// Experts of the layer.
        num_experts: usize,
    },
    /// A weight that is NaN or infinite.
    #[error("token {token}, slot {slot}: weight is {found}, expected a finite number")]
    Weight {
        /// Row of the weight.
        token: usize,
        /// Column of the weight.
        slot: usize,
        /// The weight found.
        found: f32,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn groups_hold_each_experts_pairs_in_order() {
        let routing = Routing::new(4, 2, &[2, 0, 0, 2, 2, 2], &[0.5; 6]).unwrap();
        assert_eq!(routing.group_offsets(), [2, 2, 6, 6]);
        assert_eq!(routing.pairs_of(0), [1, 2]);
        assert_eq!(routing.pairs_of(1), [0u32; 0]);
        assert_eq!(routing.pairs_of(2), [0, 3, 4, 5]);
        assert_eq!(routing.active_experts(), [0, 2]);
        assert_eq!(routing.num_tokens(), 3);
    }

    #[test]
    fn no_token_is_a_valid_routing() {
        let routing = Routing::new(8, 2, &[], &[]).unwrap();
        assert_eq!((routing.num_tokens(), routing.active_experts().len()), (0, 0));
    }

    #[test]
    fn bad_assignments_are_named() {
        let new = |experts, top_k, ids: &[i32], weights: &[f32]| {
            Routing::new(experts, top_k, ids, weights).unwrap_err().to_string()
        };
        assert_eq!(new(4, 5, &[], &[]), "top_k is 5: expected 1 to the layer's 4 experts");
        assert_eq!(new(4, 0, &[], &[]), "top_k is 0: expected 1 to the layer's 4 experts");
        assert!(new(4, 2, &[0, 1], &[0.5]).contains("topk_weights 1"));
        assert!(new(4, 2, &[0, 1, 2], &[0.5; 3]).contains("multiple of top_k = 2"));
        assert!(new(4, 1, &[0, 4], &[0.5; 2]).contains("token 1, slot 0: expert 4"));
        assert!(new(4, 2, &[0, -1], &[0.5; 2]).contains("token 0, slot 1: expert -1"));
        assert!(new(4, 2, &[0, 1], &[0.5, f32::NAN]).contains("weight is NaN"));
        assert!(new(4, 2, &[0, 1], &[f32::INFINITY, 0.5]).contains("weight is inf"));
    }

    proptest! {
        #[test]
        fn grouping_is_a_permutation_sorted_by_expert(
            top_k in 1usize..4,
            ids in proptest::collection::vec(0i32..7, 0..64),
        ) {
            let ids = &ids[..ids.len() / top_k * top_k];
            let routing = Routing::new(7, top_k, ids, &vec![1.0; ids.len()]).unwrap();
            let mut seen: Vec<u32> = routing.pairs_by_expert().to_vec();
            prop_assert!(seen.is_sorted_by_key(|&pair| (routing.topk_ids()[pair as usize], pair)));
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..ids.len() as u32));
            prop_assert_eq!(routing.tokens_per_expert().sum::<usize>(), ids.len());
        }
    }
}

//! How much work a call is, in the units of the cost model.

use trellect_core::{LayerShape, Routing};

/// The work of one call on one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    weights_per_expert: u64,
    loads: Vec<u32>,
}

impl Workload {
    /// The work of a call whose experts get `loads` rows, one entry per expert.
    pub fn new(shape: &LayerShape, loads: Vec<u32>) -> Self {
        Self { weights_per_expert: shape.weights_per_expert(), loads }
    }

    /// The work of a routed call.
    pub fn of(shape: &LayerShape, routing: &Routing) -> Self {
        let loads = routing.tokens_per_expert().map(|rows| rows as u32);
        Self::new(shape, loads.collect())
    }

    /// Rows of every expert.
    pub fn loads(&self) -> &[u32] {
        &self.loads
    }

    /// (token, expert) pairs.
    pub fn num_pairs(&self) -> u64 {
        self.loads.iter().map(|&rows| u64::from(rows)).sum()
    }

    /// Experts with at least one row.
    pub fn active_experts(&self) -> usize {
        self.loads.iter().filter(|&&rows| rows > 0).count()
    }

    /// Rows of the most loaded expert.
    pub fn max_load(&self) -> u32 {
        self.loads.iter().copied().max().unwrap_or(0)
    }

    /// Multiply-adds of all pairs through three projections, padding included.
    pub fn macs(&self) -> u64 {
        self.num_pairs().saturating_mul(self.weights_per_expert)
    }

    /// Weights decoded by a kernel that shares one decoding between at most `rows_per_decode` rows
    /// of an expert: `Σ_experts ⌈rows / rows_per_decode⌉ · weights of an expert`.
    pub fn decoded_weights(&self, rows_per_decode: usize) -> u64 {
        let rows_per_decode = u64::try_from(rows_per_decode.max(1)).unwrap_or(u64::MAX);
        let passes: u64 =
            self.loads.iter().map(|&rows| u64::from(rows).div_ceil(rows_per_decode)).sum();
        passes.saturating_mul(self.weights_per_expert)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_an_expert_share_a_decoding() {
        let shape = LayerShape::new(100, 128, 4).unwrap();
        let expert = 3 * 128 * 128;
        let work = Workload::new(&shape, vec![5, 0, 1, 4]);
        assert_eq!((work.num_pairs(), work.active_experts(), work.max_load()), (10, 3, 5));
        assert_eq!(work.macs(), 10 * expert);
        let decoded = [1, 4, 16, usize::MAX].map(|rows| work.decoded_weights(rows) / expert);
        assert_eq!(decoded, [10, 4, 3, 3]);

        let routing = Routing::new(4, 2, &[0, 2, 0, 3], &[0.5; 4]).unwrap();
        assert_eq!(Workload::of(&shape, &routing).loads(), [2, 0, 1, 1]);
    }
}

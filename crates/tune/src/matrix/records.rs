//! A matrix's samples as records of the history.

use std::num::NonZeroU64;

use trellect_core::{BitTuple, CallFacts};
use trellect_select::adaptive::{CallFeatures, Coordinates, ExpertLoad, MemoryLevel};

use super::{Cell, Matrix, Round, Tuple};
use crate::history::Record;
use trellect_select::LatencyStatistics;

impl Matrix {
    /// The active experts of a round.
    pub fn loads(&self, round: &Round) -> Vec<ExpertLoad> {
        let experts = self.layers[round.layer].iter().zip(&round.loads);
        let active = experts.filter(|(_, rows)| **rows > 0);
        active.map(|(&Tuple(tuple), &rows)| ExpertLoad { tuple, rows }).collect()
    }

    /// The samples of one round of a context, a record each, under the key that the adaptive policy
    /// has for such a call; taken in `environment` at `unix_s`.
    ///
    /// # Panics
    /// When there is no such context or round.
    pub fn records(
        &self,
        context: usize,
        round: usize,
        environment: &str,
        unix_s: u64,
    ) -> Vec<Record> {
        let it = &self.contexts[context];
        let loads = self.loads(&it.rounds[round]);
        let tuples: Vec<BitTuple> =
            self.rows_per_tuple(&it.rounds[round]).into_iter().map(|(tuple, _)| tuple).collect();
        let facts = CallFacts {
            num_tokens: it.num_tokens,
            num_pairs: it.num_tokens * self.shape.top_k,
            active_tuples: &tuples,
            numeric: self.numeric,
            workspace_limit: None,
        };
        let features = CallFeatures { facts, shape: self.shape.layer(), loads: &loads };
        let specs: Vec<_> = self.kernels.iter().map(|kernel| kernel.spec(self.numeric)).collect();
        let key = Coordinates::of(&features, &specs, MemoryLevel::Normal).key(&features);
        let measured = self.kernels.iter().zip(&it.cells).filter_map(|(kernel, cell)| match cell {
            Cell::Ns(ns) => Some((kernel, NonZeroU64::new(ns[round])?)),
            Cell::Skipped(_) => None,
        });
        let record = |(kernel, ns): (&super::MatrixKernel, NonZeroU64)| {
            let mut statistics = LatencyStatistics::default();
            statistics.observe(ns);
            Record {
                environment: environment.into(),
                kernel: kernel.name,
                context: key.0,
                class: self.numeric,
                statistics,
                first_unix_s: unix_s,
                last_unix_s: unix_s,
            }
        };
        measured.map(record).collect()
    }
}

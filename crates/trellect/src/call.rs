use smallvec::SmallVec;
use trellect_core::{BitTuple, Bits, CallFacts, LayerShape, NumericClass, Routing};
use trellect_select::adaptive::{CallFeatures, ExpertLoad};

/// (token, expert) pairs per bit tuple, by ascending tuple. Allocates only beyond eight tuples.
pub type TupleRows = SmallVec<[(BitTuple, usize); 8]>;

/// What selection goes by in one call, in buffers that the next call uses again.
#[derive(Debug, Default)]
pub(crate) struct CallSketch {
    pub(crate) num_tokens: usize,
    pub(crate) num_pairs: usize,
    /// Trellis bytes of the active experts.
    pub(crate) active_bytes: u64,
    pub(crate) rows_per_tuple: TupleRows,
    /// The tuples of `rows_per_tuple`.
    tuples: SmallVec<[BitTuple; 8]>,
    /// The widths of every active expert's projections.
    pub(crate) widths: Vec<Bits>,
    pub(crate) loads: Vec<ExpertLoad>,
}

impl CallSketch {
    /// Looks at a call on a layer with these experts.
    pub(crate) fn draw(&mut self, shape: &LayerShape, experts: &[BitTuple], routing: &Routing) {
        self.num_tokens = routing.num_tokens();
        self.num_pairs = routing.num_pairs();
        self.active_bytes = 0;
        self.rows_per_tuple.clear();
        self.tuples.clear();
        self.widths.clear();
        self.loads.clear();
        for &expert in routing.active_experts() {
            let tuple = experts[expert as usize];
            let rows = routing.pairs_of(expert as usize).len();
            match self.rows_per_tuple.iter_mut().find(|(known, _)| *known == tuple) {
                Some((_, sum)) => *sum += rows,
                None => self.rows_per_tuple.push((tuple, rows)),
            }
            self.widths.extend(tuple.widths());
            // A routing has at most `Routing::MAX_PAIRS` pairs, which fit.
            self.loads.push(ExpertLoad { tuple, rows: rows as u32 });
            self.active_bytes +=
                tuple.trellis_bytes(shape.padded_hidden(), shape.padded_intermediate());
        }
        self.rows_per_tuple.sort_unstable();
        self.tuples.extend(self.rows_per_tuple.iter().map(|(tuple, _)| *tuple));
    }

    /// What legality goes by.
    pub(crate) fn facts(
        &self,
        numeric: NumericClass,
        workspace_limit: Option<u64>,
    ) -> CallFacts<'_> {
        CallFacts {
            num_tokens: self.num_tokens,
            num_pairs: self.num_pairs,
            active_tuples: &self.tuples,
            numeric,
            workspace_limit,
        }
    }

    /// What the adaptive policy goes by.
    pub(crate) fn features<'a>(
        &'a self,
        shape: &LayerShape,
        facts: CallFacts<'a>,
    ) -> CallFeatures<'a> {
        CallFeatures { facts, shape: *shape, loads: &self.loads }
    }

    /// How often a kernel decodes an expert's weights in this call.
    pub(crate) fn decodes(&self, rows_per_decode: usize) -> u32 {
        let rows_per_decode = rows_per_decode.max(1) as u32;
        self.loads.iter().map(|load| load.rows.div_ceil(rows_per_decode)).sum()
    }
}

use trellect_core::{BitTuple, LayerShape};
use trellect_select::adaptive::ExpertLoad;
use trellect_tune::history::{ContextCall, ContextLoad};

/// The call that stands for a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownCall {
    pub(crate) num_tokens: usize,
    pub(crate) num_pairs: usize,
    /// The distinct tuples of the loads, ascending.
    pub(crate) tuples: Vec<BitTuple>,
    /// By ascending tuple.
    pub(crate) loads: Vec<ExpertLoad>,
}

impl KnownCall {
    /// A call of `num_tokens` tokens that gives experts these loads.
    pub(crate) fn new(num_tokens: usize, mut loads: Vec<ExpertLoad>) -> Self {
        loads.sort_unstable_by_key(|load| (load.tuple, load.rows));
        let mut tuples: Vec<BitTuple> = loads.iter().map(|load| load.tuple).collect();
        tuples.dedup();
        let num_pairs = loads.iter().map(|load| load.rows as usize).sum();
        Self { num_tokens, num_pairs, tuples, loads }
    }

    /// A call that was stored for a layer of this shape.
    pub(crate) fn stored(call: &ContextCall, shape: &LayerShape) -> Option<Self> {
        let &ContextCall { hidden_size, intermediate_size, num_experts, num_tokens, .. } = call;
        if *shape != (LayerShape { hidden_size, intermediate_size, num_experts }) {
            return None;
        }
        let load = |load: &ContextLoad| ExpertLoad { tuple: load.tuple, rows: load.rows };
        Some(Self::new(num_tokens, call.loads.iter().map(load).collect()))
    }

    /// The call as it is stored.
    pub(crate) fn to_store(&self, shape: LayerShape) -> ContextCall {
        let LayerShape { hidden_size, intermediate_size, num_experts } = shape;
        let load = |load: &ExpertLoad| ContextLoad { tuple: load.tuple, rows: load.rows };
        let loads = self.loads.iter().map(load).collect();
        ContextCall {
            hidden_size,
            intermediate_size,
            num_experts,
            num_tokens: self.num_tokens,
            loads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_call_comes_back_for_its_own_shape() {
        let tuple = |gate| BitTuple::new(gate, 2, 3).unwrap();
        let load = |gate, rows| ExpertLoad { tuple: tuple(gate), rows };
        let call = KnownCall::new(3, vec![load(6, 2), load(4, 3), load(6, 1)]);
        assert_eq!((call.num_pairs, call.tuples.as_slice()), (6, &[tuple(4), tuple(6)][..]));
        let shape = LayerShape::new(256, 128, 8).unwrap();
        let stored = call.to_store(shape);
        assert_eq!(KnownCall::stored(&stored, &shape), Some(call));
        assert_eq!(KnownCall::stored(&stored, &LayerShape::new(256, 128, 9).unwrap()), None);
    }
}

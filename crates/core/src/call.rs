use crate::{BitTuple, Hidden, LayerShape, NumericClass, Routing};

/// One forward call on a layer: hidden states and their routing, checked against each other.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    hidden: Hidden<'a>,
    routing: &'a Routing,
}

impl<'a> Call<'a> {
    /// Pairs `hidden`, `[num_tokens, hidden_size]`, with its routing.
    ///
    /// # Errors
    /// [`CallError`] when the lengths, or the routing's and the layer's experts, disagree.
    pub fn new(
        shape: &LayerShape,
        hidden: Hidden<'a>,
        routing: &'a Routing,
    ) -> Result<Self, CallError> {
        if routing.num_experts() != shape.num_experts {
            let (found, expected) = (routing.num_experts(), shape.num_experts);
            return Err(CallError::Experts { found, expected });
        }
        let (num_tokens, hidden_size) = (routing.num_tokens(), shape.hidden_size);
        if num_tokens.checked_mul(hidden_size) != Some(hidden.len()) {
            return Err(CallError::Hidden { found: hidden.len(), num_tokens, hidden_size });
        }
        Ok(Self { hidden, routing })
    }

    /// The hidden states.
    pub const fn hidden(&self) -> Hidden<'a> {
        self.hidden
    }

    /// The routing.
    pub const fn routing(&self) -> &'a Routing {
        self.routing
    }
}

/// Hidden states and routing that do not belong together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The routing is of another layer.
    #[error("the routing is for {found} experts, the layer has {expected}")]
    Experts {
        /// Experts of the routing.
        found: usize,
        /// Experts of the layer.
        expected: usize,
    },
    /// The hidden states have another size.
    #[error(
        "hidden states have {found} elements: expected {num_tokens} tokens x {hidden_size} = {}",
        num_tokens * hidden_size
    )]
    Hidden {
        /// Elements found.
        found: usize,
        /// Tokens of the routing.
        num_tokens: usize,
        /// Width of a token.
        hidden_size: usize,
    },
    /// The output slice has another size.
    #[error("the output has {found} elements: expected {expected}")]
    Output {
        /// Elements found.
        found: usize,
        /// `num_tokens · hidden_size`.
        expected: usize,
    },
}

/// What legality and selection know of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CallFacts<'a> {
    /// Number of tokens.
    pub num_tokens: usize,
    /// Number of (token, expert) pairs.
    pub num_pairs: usize,
    /// The distinct tuples of the experts that have tokens.
    pub active_tuples: &'a [BitTuple],
    /// The class asked for.
    pub numeric: NumericClass,
    /// Bytes that a workspace may take; `None`: no limit known.
    pub workspace_limit: Option<u64>,
}

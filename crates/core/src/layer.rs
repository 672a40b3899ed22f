use std::fmt;

use crate::{BitTuple, HADAMARD, LayerShape, LinearView};

/// One of an expert's three linears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Projection {
    /// `hidden_size → intermediate_size`, through SiLU.
    Gate,
    /// `hidden_size → intermediate_size`, multiplied in.
    Up,
    /// `intermediate_size → hidden_size`.
    Down,
}

impl Projection {
    /// Gate, up and down, the order of every tuple.
    pub const ALL: [Projection; 3] = [Self::Gate, Self::Up, Self::Down];
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// One expert: `y = (silu(x·gate) ∘ (x·up))·down`.
#[derive(Clone, Copy, Debug)]
pub struct ExpertView<'a> {
    /// The gate projection.
    pub gate: LinearView<'a>,
    /// The up projection.
    pub up: LinearView<'a>,
    /// The down projection.
    pub down: LinearView<'a>,
}

impl<'a> ExpertView<'a> {
    /// The linear of `projection`.
    pub const fn linear(&self, projection: Projection) -> &LinearView<'a> {
        match projection {
            Projection::Gate => &self.gate,
            Projection::Up => &self.up,
            Projection::Down => &self.down,
        }
    }

    /// The three bit widths.
    pub const fn tuple(&self) -> BitTuple {
        BitTuple { gate: self.gate.bits(), up: self.up.bits(), down: self.down.bits() }
    }
}

/// A validated MoE layer, borrowed from wherever its tensors live: what a backend prepares from.
///
/// All experts have the padded sizes of [`shape`](Self::shape); widths and codebooks are each
/// linear's own.
#[derive(Clone, Debug)]
pub struct LayerView<'a> {
    shape: LayerShape,
    experts: Vec<ExpertView<'a>>,
}

impl<'a> LayerView<'a> {
    /// Puts experts together to a layer of logical sizes `hidden_size` and `intermediate_size`
    /// (`None`: the padded size is the logical one).
    ///
    /// # Errors
    /// [`LayerError`] when there is no expert, or a linear's sizes are not those of the layer
    /// rounded up to whole Hadamard blocks.
    pub fn new(
        experts: Vec<ExpertView<'a>>,
        hidden_size: Option<usize>,
        intermediate_size: Option<usize>,
    ) -> Result<Self, LayerError> {
        let first = experts.first().ok_or(LayerError::NoExperts)?;
        let (hidden, intermediate) = (first.gate.in_features(), first.gate.out_features());
        for (expert, view) in experts.iter().enumerate() {
            for projection in Projection::ALL {
                let linear = view.linear(projection);
                let found = (linear.in_features(), linear.out_features());
                let expected = match projection {
                    Projection::Gate | Projection::Up => (hidden, intermediate),
                    Projection::Down => (intermediate, hidden),
                };
                if found != expected {
                    return Err(LayerError::Disagree { expert, projection, found, expected });
                }
            }
        }
        let logical = |dimension, given: Option<usize>, padded: usize| {
            let size = given.unwrap_or(padded);
            if size == 0 || size.checked_next_multiple_of(HADAMARD) != Some(padded) {
                return Err(LayerError::Padding { dimension, logical: size, padded });
            }
            Ok(size)
        };
        let shape = LayerShape::new(
            logical("hidden_size", hidden_size, hidden)?,
            logical("intermediate_size", intermediate_size, intermediate)?,
            experts.len(),
        )?;
        Ok(Self { shape, experts })
    }

    /// The layer's logical dimensions.
    pub const fn shape(&self) -> &LayerShape {
        &self.shape
    }

    /// The experts, by id.
    pub fn experts(&self) -> &[ExpertView<'a>] {
        &self.experts
    }

    /// Bytes of all trellis tensors.
    pub fn trellis_bytes(&self) -> u64 {
        let linears =
            self.experts.iter().flat_map(|e| Projection::ALL.map(|p| e.linear(p).trellis().len()));
        linears.map(|bytes| bytes as u64).sum()
    }
}

/// Experts that do not make a layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// No expert at all.
    #[error("a layer needs at least one expert")]
    NoExperts,
    /// A projection whose sizes differ from expert 0's gate.
    #[error(
        "expert {expert}: {projection} is {}x{}, expected {}x{}",
        found.0, found.1, expected.0, expected.1
    )]
    Disagree {
        /// The expert's id.
        expert: usize,
        /// The projection that differs.
        projection: Projection,
        /// Its padded `(in_features, out_features)`.
        found: (usize, usize),
        /// What the layer asks for.
        expected: (usize, usize),
    },
    /// A logical size that does not pad to the tensors' size.
    #[error("{dimension} is {logical}, but the tensors are padded to {padded}")]
    Padding {
        /// `hidden_size` or `intermediate_size`.
        dimension: &'static str,
        /// The logical size given.
        logical: usize,
        /// The size of the tensors.
        padded: usize,
    },
    /// A size that no model has.
    #[error(transparent)]
    Shape(#[from] crate::ShapeError),
}

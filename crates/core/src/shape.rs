use crate::HADAMARD;

/// Dimensions of one MoE layer as the model sees them.
///
/// The tensors on disk are zero-padded up to multiples of [`HADAMARD`]; the padded sizes are
/// [`padded_hidden`](Self::padded_hidden) and [`padded_intermediate`](Self::padded_intermediate).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LayerShape {
    /// Width of a token.
    pub hidden_size: usize,
    /// Inner width of an expert.
    pub intermediate_size: usize,
    /// Number of routed experts.
    pub num_experts: usize,
}

impl LayerShape {
    /// Largest size accepted for one dimension; keeps every index within 32 bits.
    pub const MAX_DIMENSION: usize = 1 << 20;

    /// Checks a shape.
    ///
    /// # Errors
    /// [`ShapeError`] when a dimension is 0 or above [`MAX_DIMENSION`](Self::MAX_DIMENSION).
    pub fn new(
        hidden_size: usize,
        intermediate_size: usize,
        num_experts: usize,
    ) -> Result<Self, ShapeError> {
        for (dimension, found) in [
            ("hidden_size", hidden_size),
            ("intermediate_size", intermediate_size),
            ("num_experts", num_experts),
        ] {
            if !(1..=Self::MAX_DIMENSION).contains(&found) {
                return Err(ShapeError { dimension, found });
            }
        }
        Ok(Self { hidden_size, intermediate_size, num_experts })
    }

    /// `hidden_size` rounded up to a whole Hadamard block.
    pub const fn padded_hidden(&self) -> usize {
        self.hidden_size.next_multiple_of(HADAMARD)
    }

    /// `intermediate_size` rounded up to a whole Hadamard block.
    pub const fn padded_intermediate(&self) -> usize {
        self.intermediate_size.next_multiple_of(HADAMARD)
    }

    /// Weights of one expert's three projections, padding included, since it is computed too.
    pub const fn weights_per_expert(&self) -> u64 {
        3 * self.padded_hidden() as u64 * self.padded_intermediate() as u64
    }
}

/// A dimension of zero, or one too large to be a model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{dimension} is {found}: expected 1 to {max}", max = LayerShape::MAX_DIMENSION)]
pub struct ShapeError {
    /// The name of the dimension.
    pub dimension: &'static str,
    /// The value found.
    pub found: usize,
}

/// A shape that benchmarks and flags know by the name of its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedShape {
    /// The model's name.
    pub name: &'static str,
    /// The layer's dimensions.
    pub shape: LayerShape,
    /// Experts per token.
    pub top_k: usize,
}

/// The shapes of well-known models, called A to D in tables of measurements.
pub const NAMED_SHAPES: [NamedShape; 4] = [
    named("glm-4.7-flash", 2048, 1536, 64, 4),
    named("qwen3-30b-a3b", 2048, 768, 128, 8),
    named("glm-4.5-air", 4096, 1408, 128, 8),
    named("mixtral-8x7b", 4096, 14336, 8, 2),
];

const fn named(
    name: &'static str,
    hidden_size: usize,
    intermediate_size: usize,
    num_experts: usize,
    top_k: usize,
) -> NamedShape {
    NamedShape { name, shape: LayerShape { hidden_size, intermediate_size, num_experts }, top_k }
}

impl NamedShape {
    /// The shape called `name`, by its model or its letter, if there is one.
    pub fn find(name: &str) -> Option<Self> {
        let mut named = ["A", "B", "C", "D"].into_iter().zip(NAMED_SHAPES);
        named.find(|(letter, shape)| *letter == name || shape.name == name).map(|(_, shape)| shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_rounds_up_to_hadamard_blocks() {
        let shape = LayerShape::new(100, 129, 4).unwrap();
        assert_eq!((shape.padded_hidden(), shape.padded_intermediate()), (128, 256));
        let air = NamedShape::find("glm-4.5-air").unwrap().shape;
        assert_eq!(air.padded_intermediate(), air.intermediate_size);
        assert_eq!(NamedShape::find("C").unwrap().shape, air);
        assert_eq!(NamedShape::find("E"), None);
    }

    #[test]
    fn empty_and_absurd_dimensions_are_refused() {
        assert_eq!(LayerShape::new(0, 1, 1).unwrap_err().dimension, "hidden_size");
        assert_eq!(LayerShape::new(1, usize::MAX, 1).unwrap_err().dimension, "intermediate_size");
    }
}

use half::{bf16, f16};
use trellect_core::{Hidden, Routing};

use super::{RouterConfig, RouterError, expect_length};

/// Borrowed little-endian numbers, of no particular alignment.
#[derive(Clone, Copy, Debug)]
pub enum FloatBytes<'a> {
    /// float16, two bytes each.
    F16(&'a [u8]),
    /// bfloat16, two bytes each.
    Bf16(&'a [u8]),
    /// float32, four bytes each.
    F32(&'a [u8]),
}

impl<'a> FloatBytes<'a> {
    /// Number of elements.
    pub const fn len(&self) -> usize {
        match self {
            Self::F16(bytes) | Self::Bf16(bytes) => bytes.len() / 2,
            Self::F32(bytes) => bytes.len() / 4,
        }
    }

    /// Whether there is no element.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    pub const fn bytes(&self) -> &'a [u8] {
        match self {
            Self::F16(bytes) | Self::Bf16(bytes) | Self::F32(bytes) => bytes,
        }
    }

    /// All elements in order, as f32 (exact for every type).
    pub fn iter(&self) -> impl Iterator<Item = f32> + 'a {
        let this = *self;
        let (pairs, _) = this.bytes().as_chunks::<2>();
        let (quads, _) = this.bytes().as_chunks::<4>();
        (0..this.len()).map(move |index| match this {
            Self::F16(_) => f16::from_le_bytes(pairs[index]).to_f32(),
            Self::Bf16(_) => bf16::from_le_bytes(pairs[index]).to_f32(),
            Self::F32(_) => f32::from_le_bytes(quads[index]),
        })
    }
}

/// A router's weight `[num_experts, hidden_size]` and, where it has one, its correction bias.
#[derive(Clone, Debug)]
pub struct RouterView<'a> {
    weight: FloatBytes<'a>,
    num_experts: usize,
    hidden_size: usize,
    correction_bias: Option<Vec<f32>>,
}

impl<'a> RouterView<'a> {
    /// Puts a router together.
    ///
    /// # Errors
    /// [`RouterError::Length`] when a part has another length than the sizes ask for.
    pub fn new(
        weight: FloatBytes<'a>,
        num_experts: usize,
        hidden_size: usize,
        correction_bias: Option<Vec<f32>>,
    ) -> Result<Self, RouterError> {
        let expected = num_experts.saturating_mul(hidden_size);
        expect_length("gate.weight", weight.len(), expected)?;
        if let Some(bias) = &correction_bias {
            expect_length("correction bias", bias.len(), num_experts)?;
        }
        Ok(Self::from_parts(weight, num_experts, hidden_size, correction_bias))
    }

    /// Parts whose lengths the caller has checked.
    pub(crate) const fn from_parts(
        weight: FloatBytes<'a>,
        num_experts: usize,
        hidden_size: usize,
        correction_bias: Option<Vec<f32>>,
    ) -> Self {
        Self { weight, num_experts, hidden_size, correction_bias }
    }

    /// The weight, row-major, one row an expert.
    pub const fn weight(&self) -> FloatBytes<'a> {
        self.weight
    }

    /// Number of experts.
    pub const fn num_experts(&self) -> usize {
        self.num_experts
    }

    /// Width of a token.
    pub const fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// `e_score_correction_bias`: added to the scores for selection only.
    pub fn correction_bias(&self) -> Option<&[f32]> {
        self.correction_bias.as_deref()
    }

    /// `logits[t, e] = Σᵢ hidden[t, i] · weight[e, i]`, `[num_tokens, num_experts]`.
    ///
    /// Sums in f64 and rounds each logit to float16, as the reference implementation does: the
    /// experts it would select are those selected here. Converts the weight to f32 once a call.
    ///
    /// # Errors
    /// [`RouterError::Length`] when `hidden` does not hold whole tokens.
    pub fn logits(&self, hidden: Hidden<'_>) -> Result<Vec<f32>, RouterError> {
        let width = self.hidden_size;
        if width == 0 || !hidden.len().is_multiple_of(width) {
            let (found, expected) = (hidden.len(), hidden.len().next_multiple_of(width.max(1)));
            return Err(RouterError::Length { part: "hidden", found, expected });
        }
        let weight: Vec<f32> = self.weight.iter().collect();
        let num_tokens = hidden.len() / width;
        let mut logits = Vec::with_capacity(num_tokens * self.num_experts);
        let mut row = vec![0.0; width];
        for token in 0..num_tokens {
            hidden.read_f32(token * width, &mut row);
            let dots = weight.chunks_exact(width).map(|expert| dot(&row, expert));
            logits.extend(dots.map(|logit| f16::from_f64(logit).to_f32()));
        }
        Ok(logits)
    }

    /// Routes tokens: [`logits`](Self::logits), then [`RouterConfig::route`].
    ///
    /// # Errors
    /// As those two.
    pub fn route(&self, config: &RouterConfig, hidden: Hidden<'_>) -> Result<Routing, RouterError> {
        config.route(&self.logits(hidden)?, self.correction_bias(), self.num_experts)
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 8;
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(*a) * f64::from(*b));
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}

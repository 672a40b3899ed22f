use chacha20::ChaCha8Rng;
use half::f16;
use rand::Rng;
use trellect_core::{
    BitTuple, Bits, Codebook, ExpertView, HADAMARD, LayerShape, LayerView, LinearView, Projection,
    ShapeError, TILE, VectorView,
};

use super::{Domain, normal, random_stream, shuffle};
use crate::codebook::standard_deviation;

/// Spread of the logarithm of suh.
const SUH_SIGMA: f64 = 0.25;
/// Spread of the logarithm of svh.
const SVH_SIGMA: f64 = 0.20;
/// Standard deviation of a bias.
const BIAS_SIGMA: f64 = 0.1;

/// What a synthetic layer shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct SynthSpec {
    /// The logical dimensions; the tensors are padded.
    pub shape: LayerShape,
    /// Bit widths of every expert.
    pub tuples: Vec<BitTuple>,
    /// Codebook of every expert.
    pub codebooks: Vec<Codebook>,
    /// Whether the linears have a bias.
    pub bias: bool,
    /// All randomness comes from here.
    pub seed: u64,
}

impl SynthSpec {
    /// Experts that are all alike, without biases.
    pub fn uniform(shape: LayerShape, tuple: BitTuple, codebook: Codebook, seed: u64) -> Self {
        let tuples = vec![tuple; shape.num_experts];
        let codebooks = vec![codebook; shape.num_experts];
        Self { shape, tuples, codebooks, bias: false, seed }
    }

    /// 80 % of the experts (6,2,3), 15 % (6,3,4) and 5 % (6,2,4), spread at random; of two experts
    /// one is (6,3,4), and from three on every tuple occurs.
    pub fn mixed(shape: LayerShape, codebook: Codebook, seed: u64) -> Self {
        let tuple = |gate, up, down| BitTuple::new(gate, up, down).expect("widths are 1 to 8");
        let mut spec = Self::uniform(shape, tuple(6, 2, 3), codebook, seed);
        let share = |percent: usize, least: usize| {
            let rounded = (shape.num_experts * percent + 50) / 100;
            if shape.num_experts >= least { rounded.max(1) } else { 0 }
        };
        let (share_634, share_624) = (share(15, 2), share(5, 3));
        spec.tuples[..share_634].fill(tuple(6, 3, 4));
        spec.tuples[share_634..share_634 + share_624].fill(tuple(6, 2, 4));
        shuffle(&mut spec.tuples, &mut random_stream(Domain::Tuples, seed, 0));
        spec
    }
}

/// A specification that no layer can follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// A dimension of zero or beyond all models.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A list that has not one entry per expert.
    #[error("`{list}` has {found} entries: expected one for each of the {expected} experts")]
    Experts {
        /// `tuples` or `codebooks`.
        list: &'static str,
        /// Entries found.
        found: usize,
        /// Experts of the shape.
        expected: usize,
    },
    /// Not enough memory.
    #[error("the layer needs {needed} bytes, which could not be allocated")]
    OutOfMemory {
        /// Bytes of all trellises.
        needed: u64,
    },
}

/// A synthetic layer: random trellises, scales that keep the variance of unit-variance input.
///
/// svh and bias are zero in the padded output columns. The padded input rows are as random as the
/// others: what they are multiplied with is zero.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnedLayer {
    shape: LayerShape,
    experts: Vec<[OwnedLinear; 3]>,
}

impl OwnedLayer {
    /// Makes the layer of `spec`. Every linear has its own random stream.
    ///
    /// # Errors
    /// [`SynthError`] when the lists do not fit the shape, or the layer does not fit in memory.
    pub fn new(spec: &SynthSpec) -> Result<Self, SynthError> {
        let LayerShape { hidden_size, intermediate_size, num_experts } = spec.shape;
        let shape = LayerShape::new(hidden_size, intermediate_size, num_experts)?;
        for (list, found) in [("tuples", spec.tuples.len()), ("codebooks", spec.codebooks.len())] {
            if found != num_experts {
                return Err(SynthError::Experts { list, found, expected: num_experts });
            }
        }
        let (hidden, intermediate) = (shape.padded_hidden(), shape.padded_intermediate());
        let needed = spec.tuples.iter().map(|tuple| tuple.trellis_bytes(hidden, intermediate));
        let needed = needed.fold(0, u64::saturating_add);
        let experts = spec.tuples.iter().zip(&spec.codebooks).enumerate();
        let experts = experts.map(|(expert, (tuple, &codebook))| {
            let linear = |projection: Projection| {
                let (bits, in_features, out_features) = match projection {
                    Projection::Gate => (tuple.gate, hidden_size, intermediate_size),
                    Projection::Up => (tuple.up, hidden_size, intermediate_size),
                    Projection::Down => (tuple.down, intermediate_size, hidden_size),
                };
                let stream = 3 * expert as u64 + projection as u64;
                let mut rng = random_stream(Domain::Layer, spec.seed, stream);
                let parts = Parts { bits, codebook, in_features, out_features, bias: spec.bias };
                OwnedLinear::draw(parts, &mut rng).ok_or(SynthError::OutOfMemory { needed })
            };
            let [gate, up, down] = Projection::ALL.map(linear);
            Ok([gate?, up?, down?])
        });
        Ok(Self { shape, experts: experts.collect::<Result<_, SynthError>>()? })
    }

    /// The layer as backends and the oracle take it.
    pub fn view(&self) -> LayerView<'_> {
        let experts = self.experts.iter().map(|[gate, up, down]| ExpertView {
            gate: gate.view(),
            up: up.view(),
            down: down.view(),
        });
        let (hidden, intermediate) = (self.shape.hidden_size, self.shape.intermediate_size);
        LayerView::new(experts.collect(), Some(hidden), Some(intermediate))
            .expect("the tensors were made for this shape")
    }
}

/// What a linear shall be, in logical sizes.
#[derive(Clone, Copy)]
struct Parts {
    bits: Bits,
    codebook: Codebook,
    in_features: usize,
    out_features: usize,
    bias: bool,
}

/// One linear's tensors as a file would hold them.
#[derive(Clone, Debug, PartialEq)]
struct OwnedLinear {
    bits: Bits,
    codebook: Codebook,
    in_features: usize,
    out_features: usize,
    trellis: Vec<u8>,
    suh: Vec<u8>,
    svh: Vec<u8>,
    bias: Option<Vec<u8>>,
}

impl OwnedLinear {
    /// Draws a linear; `None` when its trellis does not fit in memory.
    fn draw(parts: Parts, rng: &mut ChaCha8Rng) -> Option<Self> {
        let in_features = parts.in_features.next_multiple_of(HADAMARD);
        let out_features = parts.out_features.next_multiple_of(HADAMARD);
        let tiles = (in_features / TILE).checked_mul(out_features / TILE)?;
        let bytes = tiles.checked_mul(32 * usize::from(parts.bits.get()))?;
        let mut trellis = Vec::new();
        trellis.try_reserve_exact(bytes).ok()?;
        trellis.resize(bytes, 0);
        rng.fill_bytes(&mut trellis);

        let deviation = standard_deviation(parts.codebook);
        let scale = (deviation * (parts.in_features as f64).sqrt()).recip();
        let suh = halves(in_features, in_features, || scale * signed_lognormal(SUH_SIGMA, rng));
        let svh = halves(parts.out_features, out_features, || signed_lognormal(SVH_SIGMA, rng));
        let bias = parts
            .bias
            .then(|| halves(parts.out_features, out_features, || BIAS_SIGMA * normal(rng)));
        let Parts { bits, codebook, .. } = parts;
        Some(Self { bits, codebook, in_features, out_features, trellis, suh, svh, bias })
    }

    fn view(&self) -> LinearView<'_> {
        LinearView::new(
            &self.trellis,
            self.bits,
            self.codebook,
            self.in_features,
            self.out_features,
            VectorView::F16(&self.suh),
            VectorView::F16(&self.svh),
            self.bias.as_deref().map(VectorView::F16),
        )
        .expect("the tensors were made for these sizes")
    }
}

/// `count` drawn float16 numbers, then zeros up to `padded_count`, little-endian.
fn halves(count: usize, padded_count: usize, mut draw: impl FnMut() -> f64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..count).flat_map(|_| f16::from_f64(draw()).to_le_bytes()).collect();
    bytes.resize(2 * padded_count, 0);
    bytes
}

/// A log-normal magnitude of median 1 with a random sign.
fn signed_lognormal(sigma: f64, rng: &mut impl Rng) -> f64 {
    let magnitude = (sigma * normal(rng)).exp();
    if rng.next_u32() & 1 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{oracle, synth};
    use trellect_core::Hidden;

    fn shape(hidden_size: usize, intermediate_size: usize, num_experts: usize) -> LayerShape {
        LayerShape::new(hidden_size, intermediate_size, num_experts).unwrap()
    }

    #[test]
    fn a_layer_depends_on_its_seed_alone() {
        let make = |num_experts, seed| {
            let spec = SynthSpec::mixed(shape(200, 128, num_experts), Codebook::Mcg, seed);
            let tuple = BitTuple::new(3, 3, 3).unwrap();
            let spec = SynthSpec { tuples: vec![tuple; num_experts], bias: true, ..spec };
            OwnedLayer::new(&spec).unwrap()
        };
        let layer = make(3, 7);
        assert_eq!(layer, make(3, 7));
        assert_eq!(layer.experts[..2], make(2, 7).experts);
        assert_ne!(layer, make(3, 8));
        let trellises: Vec<_> =
            layer.experts.iter().flatten().map(|linear| &linear.trellis).collect();
        for (i, trellis) in trellises.iter().enumerate() {
            assert!(!trellises[..i].contains(trellis), "linear {i} repeats another");
        }
    }

    #[test]
    fn a_mixed_layer_has_its_shares_exactly() {
        let counts = |num_experts| {
            let tuples = SynthSpec::mixed(shape(128, 128, num_experts), Codebook::Mul1, 5).tuples;
            assert_eq!(tuples.len(), num_experts);
            ["6_2_3", "6_3_4", "6_2_4"]
                .map(|name| tuples.iter().filter(|tuple| tuple.to_string() == name).count())
        };
        assert_eq!(counts(1), [1, 0, 0]);
        assert_eq!(counts(2), [1, 1, 0]);
        assert_eq!(counts(3), [1, 1, 1]);
        assert_eq!(counts(8), [6, 1, 1]);
        assert_eq!(counts(64), [51, 10, 3]);
        assert_eq!(counts(100), [80, 15, 5]);
    }

    #[test]
    fn specifications_that_do_not_fit_are_named() {
        let tuple = BitTuple::new(4, 4, 4).unwrap();
        let spec = SynthSpec::uniform(shape(128, 128, 2), tuple, Codebook::Mul1, 0);
        let error = |spec: SynthSpec| OwnedLayer::new(&spec).unwrap_err().to_string();
        let short = SynthSpec { tuples: vec![tuple], ..spec.clone() };
        assert!(error(short).starts_with("`tuples` has 1 entries"));
        let long = SynthSpec { codebooks: vec![Codebook::Mcg; 3], ..spec.clone() };
        assert!(error(long).starts_with("`codebooks` has 3 entries"));
        let empty = SynthSpec { shape: LayerShape { hidden_size: 0, ..spec.shape }, ..spec };
        assert!(error(empty).starts_with("hidden_size is 0"));
    }

    #[test]
    fn padded_output_columns_are_zero() {
        let spec = SynthSpec::mixed(shape(200, 100, 1), Codebook::ThreeInst, 1);
        let layer = OwnedLayer::new(&SynthSpec { bias: true, ..spec }).unwrap();
        let expert = layer.view().experts()[0];
        assert_eq!((expert.gate.in_features(), expert.gate.out_features()), (256, 128));
        for (linear, logical) in [(expert.gate, 100), (expert.up, 100), (expert.down, 200)] {
            for vector in [linear.svh(), linear.bias().unwrap()] {
                assert!(vector.iter().take(logical).all(|value| value != 0.0));
                assert!(vector.iter().skip(logical).all(|value| value == 0.0));
            }
        }
    }

    #[test]
    fn outputs_are_of_a_plausible_size() {
        for (codebook, shape) in [
            (Codebook::ThreeInst, shape(128, 128, 3)),
            (Codebook::Mcg, shape(640, 300, 4)),
            (Codebook::Mul1, shape(1024, 512, 8)),
            (Codebook::Mul1, shape(100, 1408, 2)),
        ] {
            let layer = OwnedLayer::new(&SynthSpec::mixed(shape, codebook, 2)).unwrap();
            let x = synth::hidden(4, shape.hidden_size, 3);
            let routing = synth::routing(4, shape.num_experts, 2, 4).unwrap();
            let y = oracle::forward(&layer.view(), Hidden::F16(&x), &routing);
            let rms = (y.iter().map(|y| y * y).sum::<f64>() / y.len() as f64).sqrt();
            assert!((0.05..5.0).contains(&rms), "{shape:?}: {rms}");
        }
    }
}

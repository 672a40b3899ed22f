//! The synthetic layers of the check, and how tokens go to their experts.

use trellect_core::{BitTuple, Codebook, LayerShape, Routing};
use trellect_exl3::synth::{self, SynthSpec};

/// Most tokens of a call on the layers of [`width_specs`].
pub(super) const MOST_TOKENS: usize = 129;

pub(super) fn shape(hidden: usize, intermediate: usize, experts: usize) -> LayerShape {
    LayerShape::new(hidden, intermediate, experts).expect("positive sizes")
}

fn tuple(gate: u64, up: u64, down: u64) -> BitTuple {
    BitTuple::new(gate, up, down).expect("widths are 1 to 8")
}

/// How tokens go to four experts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spread {
    Random,
    /// Experts 1 and 3 stay empty.
    EmptyExperts,
    /// In both slots.
    OneExpert,
}

impl Spread {
    pub(super) fn routing(self) -> anyhow::Result<Routing> {
        let weights: Vec<f32> =
            (0..2 * MOST_TOKENS).map(|pair| 0.1 + (pair % 7) as f32 / 10.0).collect();
        let ids: Vec<i32> = match self {
            Self::Random => return Ok(synth::routing(MOST_TOKENS, 4, 2, 11)?),
            Self::EmptyExperts => {
                (0..MOST_TOKENS).flat_map(|t| if t % 3 == 0 { [0, 2] } else { [2, 0] }).collect()
            }
            Self::OneExpert => vec![3; 2 * MOST_TOKENS],
        };
        Ok(Routing::new(4, 2, &ids, &weights)?)
    }
}

/// Every width, every codebook, and sizes of one block, of odd multiples, and such that need
/// padding. Most pad to the same sizes, which shares compilations.
pub(super) fn width_specs() -> Vec<(SynthSpec, Spread)> {
    let spec = |(hidden, intermediate), tuple, codebook, bias| {
        let uniform = SynthSpec::uniform(shape(hidden, intermediate, 4), tuple, codebook, 5);
        SynthSpec { bias, ..uniform }
    };
    let uniform = |bits: u64| tuple(bits, bits, bits);
    let mut specs = Vec::new();
    for bits in 1..=8 {
        specs.push((spec((256, 384), uniform(bits), Codebook::Mul1, false), Spread::Random));
        specs.push((spec((200, 300), uniform(bits), Codebook::Mul1, true), Spread::EmptyExperts));
    }
    for (bits, codebook) in [2, 3, 6]
        .into_iter()
        .flat_map(|bits| [Codebook::Mcg, Codebook::ThreeInst].map(|codebook| (bits, codebook)))
    {
        specs.push((spec((256, 384), uniform(bits), codebook, true), Spread::OneExpert));
    }
    for sizes in [(128, 128), (640, 128), (128, 640)] {
        specs.push((spec(sizes, tuple(6, 2, 3), Codebook::Mul1, true), Spread::Random));
    }
    specs
}

/// The usual mix of three tuples, on sizes that the other cases share.
pub(super) fn mix(num_experts: usize) -> SynthSpec {
    SynthSpec::mixed(shape(256, 384, num_experts), Codebook::Mul1, 3)
}

/// Every width in every projection and all three codebooks.
pub(super) fn all_widths() -> SynthSpec {
    let mut spec = mix(11);
    for expert in 0..8 {
        let bits = expert as u64 + 1;
        spec.tuples[expert] = tuple(bits, 9 - bits, (bits + 4) % 8 + 1);
    }
    for (expert, codebook) in spec.codebooks.iter_mut().enumerate() {
        *codebook = Codebook::ALL[expert % 3];
    }
    spec
}

//! Layers of real sizes in no time: every bit string is a valid trellis, so experts borrow theirs
//! from one pool of random bytes. On the device each has its own memory.

use half::f16;
use trellect_core::{
    BitTuple, Codebook, ExpertView, LayerShape, LayerView, LinearView, Projection, VectorView,
};
use trellect_exl3::codebook::standard_deviation;

/// Where a linear's bytes may start.
const STARTS: usize = 1 << 18;
const START_BYTES: usize = 64;

pub(crate) struct Pool {
    bytes: Vec<u8>,
    signs: Vec<u8>,
    /// Scales that keep the variance of an input of `hidden` and of `intermediate` values.
    svh: [Vec<u8>; 2],
    shape: LayerShape,
    codebook: Codebook,
}

/// The next of a sequence of random numbers (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

impl Pool {
    pub(crate) fn new(shape: LayerShape, codebook: Codebook) -> Self {
        let (hidden, intermediate) = (shape.padded_hidden(), shape.padded_intermediate());
        let mut state = 1;
        let words = (hidden * intermediate + STARTS * START_BYTES) / 8;
        let bytes = (0..words).flat_map(|_| next(&mut state).to_le_bytes()).collect();
        let most = hidden.max(intermediate);
        let halves = |values: &mut dyn FnMut() -> f32| -> Vec<u8> {
            (0..most).flat_map(|_| f16::from_f32(values()).to_le_bytes()).collect()
        };
        let mut sign = || if next(&mut state) & 1 == 0 { 1.0 } else { -1.0 };
        let signs = halves(&mut sign);
        let svh = [hidden, intermediate].map(|inputs| {
            let scale = 1.0 / (standard_deviation(codebook) * (inputs as f64).sqrt());
            halves(&mut || sign() * scale as f32)
        });
        Self { bytes, signs, svh, shape, codebook }
    }

    /// A layer whose bytes depend on `seed`.
    pub(crate) fn layer(&self, tuples: &[BitTuple], seed: u64) -> LayerView<'_> {
        let mut state = seed;
        let mut expert = |tuple: &BitTuple| {
            let mut linear = |projection| {
                let start = next(&mut state) as usize % STARTS * START_BYTES;
                self.linear(projection, *tuple, start)
            };
            let [gate, up, down] = Projection::ALL.map(&mut linear);
            ExpertView { gate, up, down }
        };
        let experts = tuples.iter().map(&mut expert).collect();
        LayerView::new(experts, Some(self.shape.hidden_size), Some(self.shape.intermediate_size))
            .expect("made for this shape")
    }

    fn linear(&self, projection: Projection, tuple: BitTuple, start: usize) -> LinearView<'_> {
        let (hidden, intermediate) = (self.shape.padded_hidden(), self.shape.padded_intermediate());
        let (bits, inputs, outputs, svh) = match projection {
            Projection::Gate => (tuple.gate, hidden, intermediate, &self.svh[0]),
            Projection::Up => (tuple.up, hidden, intermediate, &self.svh[0]),
            Projection::Down => (tuple.down, intermediate, hidden, &self.svh[1]),
        };
        let len = inputs * outputs / 8 * usize::from(bits.get());
        LinearView::new(
            &self.bytes[start..start + len],
            bits,
            self.codebook,
            inputs,
            outputs,
            VectorView::F16(&self.signs[..2 * inputs]),
            VectorView::F16(&svh[..2 * outputs]),
            None,
        )
        .expect("the parts have the lengths of the sizes")
    }
}

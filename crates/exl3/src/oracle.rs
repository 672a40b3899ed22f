//! What every kernel is compared with: the layer in float64, straight from `docs/formats.md`.
//!
//! The only rounding before float64 is the codebook's own: its float16 values are exact here.
//! Nothing is vectorised by hand, packed, fused or threaded. NaN and infinity propagate.
//!
//! Start at [`forward`]; [`linear`] is the format, [`expert`] the arithmetic of one expert.

use half::f16;
use trellect_core::{
    Call, ExpertView, Hidden, LayerShape, LayerView, LinearView, Routing, TILE, VectorView,
};

use crate::{codebook, hadamard, tile};

/// The decoded weights Ŵ of `linear`, before any transform or scale: row-major
/// `[in_features, out_features]`.
pub fn decode_weights(linear: &LinearView<'_>) -> Vec<f16> {
    let mut weights = Vec::with_capacity(linear.in_features() * linear.out_features());
    for tile_row in 0..linear.in_features() / TILE {
        // Codebook values are float16 numbers: narrowing loses nothing.
        weights.extend(decode_tile_row(linear, tile_row).into_iter().map(f16::from_f64));
    }
    weights
}

/// Rows `16·tile_row..` of Ŵ, row-major `[16, out_features]`.
fn decode_tile_row(linear: &LinearView<'_>, tile_row: usize) -> Vec<f64> {
    let values = codebook::table(linear.codebook());
    let out_features = linear.out_features();
    let mut rows = vec![0.0; TILE * out_features];
    for tile_column in 0..out_features / TILE {
        let states = tile::states(linear.tile(tile_row, tile_column), linear.bits());
        for (position, &state) in states.iter().enumerate() {
            let (row, column) = tile::row_col(position);
            rows[row * out_features + TILE * tile_column + column] = values[usize::from(state)];
        }
    }
    rows
}

/// The weights W = diag(suh)·(I⊗H)·Ŵ·(I⊗H)·diag(svh) that `linear` multiplies with: row-major
/// `[in_features, out_features]`, in the padded sizes. Its bias is no part of them.
pub fn weights(linear: &LinearView<'_>) -> Vec<f64> {
    let (in_features, out_features) = (linear.in_features(), linear.out_features());
    let mut rows: Vec<f64> = decode_weights(linear).into_iter().map(f64::from).collect();
    hadamard::transform(&mut rows);
    multiply(&mut rows, linear.svh());
    let mut columns = transpose(&rows, out_features);
    hadamard::transform(&mut columns);
    multiply(&mut columns, linear.suh());
    transpose(&columns, in_features)
}

/// `[rows, columns]` as `[columns, rows]`.
fn transpose(values: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}

/// `y = x·W + bias` with `W = diag(suh)·(I⊗H)·Ŵ·(I⊗H)·diag(svh)`.
///
/// `x` is `[rows, in_features]`, the result `[rows, out_features]`, both row-major in the padded
/// sizes of the tensors. Every weight is decoded once, whatever the number of rows.
///
/// # Panics
/// When the length of `x` is no multiple of `in_features`.
pub fn linear(x: &[f64], linear: &LinearView<'_>) -> Vec<f64> {
    let (in_features, out_features) = (linear.in_features(), linear.out_features());
    assert!(x.len().is_multiple_of(in_features), "x must be [rows, {in_features}]");

    let mut rotated = x.to_vec();
    multiply(&mut rotated, linear.suh());
    hadamard::transform(&mut rotated);

    let mut y = vec![0.0; x.len() / in_features * out_features];
    for tile_row in 0..in_features / TILE {
        let weights = decode_tile_row(linear, tile_row);
        for (x, y) in rotated.chunks_exact(in_features).zip(y.chunks_exact_mut(out_features)) {
            let x = &x[TILE * tile_row..][..TILE];
            for (x, weights) in x.iter().zip(weights.chunks_exact(out_features)) {
                for (y, weight) in y.iter_mut().zip(weights) {
                    *y += x * weight;
                }
            }
        }
    }

    hadamard::transform(&mut y);
    multiply(&mut y, linear.svh());
    if let Some(bias) = linear.bias() {
        for y in y.chunks_exact_mut(out_features) {
            y.iter_mut().zip(bias.iter()).for_each(|(y, bias)| *y += f64::from(bias));
        }
    }
    y
}

/// Multiplies every row of `rows`, `[_, scales.len()]`, by `scales`.
fn multiply(rows: &mut [f64], scales: VectorView<'_>) {
    for row in rows.chunks_exact_mut(scales.len()) {
        row.iter_mut().zip(scales.iter()).for_each(|(value, scale)| *value *= f64::from(scale));
    }
}

/// What one expert computes on the way to its output; every part is row-major, in the layer's
/// logical sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertTrace {
    /// `x·gate`: `[rows, intermediate_size]`.
    pub gate: Vec<f64>,
    /// `x·up`: `[rows, intermediate_size]`.
    pub up: Vec<f64>,
    /// `silu(gate) ∘ up`: `[rows, intermediate_size]`.
    pub act: Vec<f64>,
    /// `act·down`, the expert's output: `[rows, hidden_size]`.
    pub down: Vec<f64>,
}

/// `(silu(x·gate) ∘ (x·up))·down` of one expert of a layer of `shape`; `x` is
/// `[rows, hidden_size]`.
///
/// Where the tensors are padded, inputs are continued with zeros and outputs cut off.
///
/// # Panics
/// When the length of `x` is no multiple of `hidden_size`, or the expert's padded sizes are below
/// those of `shape`.
pub fn expert(x: &[f64], expert: &ExpertView<'_>, shape: &LayerShape) -> ExpertTrace {
    let project = |x: &[f64], view: &LinearView<'_>, from: usize, to: usize| {
        let x = resize_rows(x, from, view.in_features());
        resize_rows(&linear(&x, view), view.out_features(), to)
    };
    let (hidden, intermediate) = (shape.hidden_size, shape.intermediate_size);
    assert!(x.len().is_multiple_of(hidden), "x must be [rows, {hidden}]");
    let gate = project(x, &expert.gate, hidden, intermediate);
    let up = project(x, &expert.up, hidden, intermediate);
    let act: Vec<f64> = gate.iter().zip(&up).map(|(&gate, &up)| silu(gate) * up).collect();
    let down = project(&act, &expert.down, intermediate, hidden);
    ExpertTrace { gate, up, act, down }
}

/// `x · sigmoid(x)`.
fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Continues every row of `rows`, `[_, from]`, with zeros, or cuts it off, so that it becomes
/// `[_, to]`.
fn resize_rows(rows: &[f64], from: usize, to: usize) -> Vec<f64> {
    let mut resized = vec![0.0; rows.len() / from * to];
    let kept = from.min(to);
    for (row, resized) in rows.chunks_exact(from).zip(resized.chunks_exact_mut(to)) {
        resized[..kept].copy_from_slice(&row[..kept]);
    }
    resized
}

/// The routed sum `y[t] = Σ_slots weight · expert(hidden[t])` of every token: row-major
/// `[num_tokens, hidden_size]`. Shared experts are not part of it.
///
/// # Panics
/// When `hidden` or `routing` is not for this layer ([`Call::new`] says what belongs together).
pub fn forward(layer: &LayerView<'_>, hidden: Hidden<'_>, routing: &Routing) -> Vec<f64> {
    let tokens: Vec<usize> = (0..routing.num_tokens()).collect();
    forward_tokens(layer, hidden, routing, &tokens)
}

/// [`forward`] for some tokens only, row-major `[tokens.len(), hidden_size]` in the order of
/// `tokens`. Only the experts of these tokens are decoded.
///
/// # Panics
/// As [`forward`], and when a token does not exist.
pub fn forward_tokens(
    layer: &LayerView<'_>,
    hidden: Hidden<'_>,
    routing: &Routing,
    tokens: &[usize],
) -> Vec<f64> {
    let (shape, top_k) = (layer.shape(), routing.top_k());
    if let Err(mismatch) = Call::new(shape, hidden, routing) {
        panic!("the oracle was asked for an impossible call: {mismatch}");
    }
    let hidden_size = shape.hidden_size;
    let mut y = vec![0.0; tokens.len() * hidden_size];
    for (expert_id, view) in layer.experts().iter().enumerate() {
        let mut pairs = Vec::new();
        for (row, token) in tokens.iter().enumerate() {
            let slots = token * top_k..(token + 1) * top_k;
            pairs.extend(slots.filter_map(|pair| {
                let chosen = routing.topk_ids()[pair] as usize == expert_id;
                chosen.then_some((row, pair))
            }));
        }
        if pairs.is_empty() {
            continue;
        }
        let mut x = Vec::with_capacity(pairs.len() * hidden_size);
        for (_, pair) in &pairs {
            let mut token = vec![0.0; hidden_size];
            hidden.read_f32(pair / top_k * hidden_size, &mut token);
            x.extend(token.into_iter().map(f64::from));
        }
        let output = expert(&x, view, shape).down;
        for ((row, pair), output) in pairs.into_iter().zip(output.chunks_exact(hidden_size)) {
            let weight = f64::from(routing.topk_weights()[pair]);
            let y = &mut y[row * hidden_size..][..hidden_size];
            y.iter_mut().zip(output).for_each(|(y, output)| *y += weight * output);
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use trellect_core::{Codebook, Projection};

    use super::*;
    use crate::synth::{self, OwnedLayer, SynthSpec};

    fn layer(hidden_size: usize, intermediate_size: usize, num_experts: usize) -> OwnedLayer {
        let shape = LayerShape::new(hidden_size, intermediate_size, num_experts).unwrap();
        let spec = SynthSpec::mixed(shape, Codebook::Mul1, 11);
        OwnedLayer::new(&SynthSpec { bias: true, ..spec }).unwrap()
    }

    fn without_bias<'a>(view: &LinearView<'a>) -> LinearView<'a> {
        let (bits, codebook) = (view.bits(), view.codebook());
        let (in_features, out_features) = (view.in_features(), view.out_features());
        let (suh, svh) = (view.suh(), view.svh());
        LinearView::new(view.trellis(), bits, codebook, in_features, out_features, suh, svh, None)
            .unwrap()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found - expected).abs() < 1e-11, "{i}: {found}, expected {expected}");
        }
    }

    #[test]
    fn the_weights_are_what_the_rows_of_the_identity_become() {
        let layer = layer(128, 256, 1);
        for linear in [layer.view().experts()[0].gate, layer.view().experts()[0].down] {
            let mut identity = vec![0.0; linear.in_features() * linear.in_features()];
            identity.iter_mut().step_by(linear.in_features() + 1).for_each(|value| *value = 1.0);
            assert_close(&weights(&linear), &super::linear(&identity, &without_bias(&linear)));
        }
    }

    #[test]
    fn the_bias_is_added_last() {
        let layer = layer(128, 256, 1);
        let gate = layer.view().experts()[0].gate;
        let x: Vec<f64> = (0..2 * 128).map(|i| f64::from(i % 17) - 8.0).collect();
        let mut expected = linear(&x, &without_bias(&gate));
        for (i, y) in expected.iter_mut().enumerate() {
            *y += f64::from(gate.bias().unwrap().get(i % 256));
        }
        assert_close(&linear(&x, &gate), &expected);
    }

    #[test]
    fn a_padded_layer_computes_the_unpadded_product() {
        let (hidden, intermediate) = (100, 72);
        let owned = layer(128, 128, 1);
        let view = owned.view();
        let expert = view.experts()[0];
        let cut = LayerView::new(vec![expert], Some(hidden), Some(intermediate)).unwrap();
        let x: Vec<f32> = (0..hidden).map(|i| (i % 7) as f32 - 3.0).collect();

        let multiply = |x: &[f64], projection: Projection, outputs: usize| -> Vec<f64> {
            let linear = expert.linear(projection);
            let weights = weights(linear);
            let column = |n: usize| {
                let products = x.iter().enumerate().map(|(k, x)| x * weights[128 * k + n]);
                products.sum::<f64>() + f64::from(linear.bias().unwrap().get(n))
            };
            (0..outputs).map(column).collect()
        };
        let wide: Vec<f64> = x.iter().copied().map(f64::from).collect();
        let gate = multiply(&wide, Projection::Gate, intermediate);
        let up = multiply(&wide, Projection::Up, intermediate);
        let act: Vec<f64> = gate.iter().zip(&up).map(|(&g, &u)| silu(g) * u).collect();
        let expected = multiply(&act, Projection::Down, hidden);

        let routing = Routing::new(1, 1, &[0], &[1.0]).unwrap();
        assert_close(&forward(&cut, Hidden::F32(&x), &routing), &expected);
    }

    #[test]
    fn some_tokens_are_computed_as_all_are() {
        let layer = layer(128, 100, 5);
        let x = synth::hidden(6, 128, 1);
        let routing = synth::routing(6, 5, 2, 1).unwrap();
        let all = forward(&layer.view(), Hidden::F16(&x), &routing);
        let some = forward_tokens(&layer.view(), Hidden::F16(&x), &routing, &[4, 1, 4]);
        let rows = [4, 1, 4].map(|token| &all[128 * token..][..128]);
        assert_eq!(some, rows.concat());
        assert!(forward_tokens(&layer.view(), Hidden::F16(&x), &routing, &[]).is_empty());
    }

    #[test]
    fn an_expert_named_twice_counts_twice() {
        let layer = layer(128, 128, 3);
        let x = synth::hidden(1, 128, 1);
        let forward = |top_k, ids: &[i32], weights: &[f32]| {
            let routing = Routing::new(3, top_k, ids, weights).unwrap();
            forward(&layer.view(), Hidden::F16(&x), &routing)
        };
        assert_close(&forward(2, &[1, 1], &[0.25, 0.5]), &forward(1, &[1], &[0.75]));
    }

    #[test]
    fn nan_and_infinity_reach_their_token_only() {
        let layer = layer(128, 128, 2);
        let mut x = vec![0.5f32; 3 * 128];
        (x[5], x[2 * 128 + 9]) = (f32::NAN, f32::INFINITY);
        let routing = Routing::new(2, 1, &[0, 0, 1], &[1.0; 3]).unwrap();
        let y = forward(&layer.view(), Hidden::F32(&x), &routing);
        let finite: Vec<bool> = y.iter().map(|value| value.is_finite()).collect();
        assert_eq!(finite, [[false; 128], [true; 128], [false; 128]].concat());
    }

    #[test]
    #[should_panic(expected = "the routing is for 3 experts, the layer has 2")]
    fn an_impossible_call_panics() {
        let routing = Routing::new(3, 1, &[0], &[1.0]).unwrap();
        forward(&layer(128, 128, 2).view(), Hidden::F32(&[0.0; 128]), &routing);
    }
}

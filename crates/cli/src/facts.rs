//! What a layer is, counted: shared by the commands that describe one.

use std::collections::BTreeMap;

use trellect::core::{LayerView, Projection};

use crate::table;

/// Number of experts of every bit tuple, named as in kernel names.
pub(crate) fn tuples(view: &LayerView<'_>) -> BTreeMap<String, usize> {
    count(view.experts().iter().map(|expert| expert.tuple().to_string()))
}

/// Number of linears of every codebook.
pub(crate) fn codebooks(view: &LayerView<'_>) -> BTreeMap<&'static str, usize> {
    let linears =
        view.experts().iter().flat_map(|expert| Projection::ALL.map(|p| *expert.linear(p)));
    count(linears.map(|linear| linear.codebook().name()))
}

/// Trellis bits per stored weight.
pub(crate) fn bits_per_weight(view: &LayerView<'_>) -> f64 {
    let shape = view.shape();
    let per_linear = shape.padded_hidden() as f64 * shape.padded_intermediate() as f64;
    view.trellis_bytes() as f64 * 8.0 / (per_linear * 3.0 * view.experts().len() as f64)
}

/// `51 x 6_2_3, 10 x 6_3_4`: the most frequent first.
pub(crate) fn describe_tuples(tuples: &BTreeMap<String, usize>) -> String {
    let mut counted: Vec<_> = tuples.iter().collect();
    counted.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let texts = counted.into_iter().map(|(tuple, count)| format!("{count} x {tuple}"));
    texts.collect::<Vec<_>>().join(", ")
}

/// `hidden 2048, intermediate 1536, 64 experts`.
pub(crate) fn describe_shape(shape: &trellect::core::LayerShape) -> String {
    let experts = table::plural(shape.num_experts, "expert");
    format!("hidden {}, intermediate {}, {experts}", shape.hidden_size, shape.intermediate_size)
}

fn count<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    counts
}

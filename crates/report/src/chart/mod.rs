//! The charts: one file each, every one a function from data to SVG.
//!
//! All are [`WIDTH`] wide, so that a page sets them side by side or, on a phone, one below the other,
//! and a paper in one column. [`frame`] has what they share.

pub(crate) mod comparisons;
pub(crate) mod context;
pub(crate) mod evidence;
pub(crate) mod frame;
pub(crate) mod latency;
pub(crate) mod lost;
pub(crate) mod matrix;
pub(crate) mod picks;
pub(crate) mod uniform;
pub(crate) mod winners;

/// Width of every chart.
pub(crate) const WIDTH: f64 = 420.0;
/// From the top to below a chart's title.
pub(crate) const TITLE: f64 = 30.0;

/// A chart, and the name of its file.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    /// Letters, digits and hyphens.
    pub(crate) name: String,
    /// The drawing.
    pub(crate) svg: String,
}

impl Chart {
    /// A chart named after the parts, which may be any text.
    pub(crate) fn new(parts: &[&str], svg: String) -> Self {
        let parts = parts.iter().flat_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric()));
        let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        Self { name: parts.join("-").to_ascii_lowercase(), svg }
    }
}

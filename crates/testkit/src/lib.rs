//! What Trellect's tests share: the [`golden`] data and the error measure.
//!
//! Not for production code: what is missing or malformed here is a broken checkout, and panics.

pub mod golden;
mod measure;

pub use measure::relative_error;

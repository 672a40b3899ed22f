//! What Trellect's tests share: the [`golden`] data, SciPy's [`statistics`], the error measure and an
//! allocator that counts.
//!
//! Not for production code: what is missing or malformed here is a broken checkout, and panics.

mod allocator;
pub mod golden;
mod measure;
pub mod statistics;

pub use allocator::CountingAllocator;
pub use measure::relative_error;

//! The words that every Trellect crate shares: shapes, bit widths, routing, kernel names, and the
//! [`Backend`] trait that a device implements.
//!
//! This crate computes nothing on weights and touches no file, device, thread or clock. Start at
//! [`LayerView`] (what a layer is), [`Routing`] (what one call asks of it), [`KernelSpec`] (who can
//! answer) and [`Backend`] (how it is answered).
#![forbid(unsafe_code)]

mod backend;
mod bits;
mod call;
mod codebook;
mod hidden;
mod kernel_id;
mod layer;
mod linear;
mod numeric;
mod routing;
mod shape;
mod spec;

pub use backend::{
    Backend, DeviceDescription, DeviceTime, LaunchError, LaunchId, MemoryFigures, PrepareError,
    PrepareProgress, PreparedLayer, Queue,
};
pub use bits::{BitTuple, Bits, BitsError, TupleParseError};
pub use call::{Call, CallError, CallFacts};
pub use codebook::Codebook;
pub use hidden::Hidden;
pub use kernel_id::{BackendKind, Family, KernelId, KernelNameError, Variant, VariantError};
pub use layer::{ExpertView, LayerError, LayerView, Projection};
pub use linear::{LinearError, LinearView, VectorView};
pub use numeric::NumericClass;
pub use routing::{Routing, RoutingError};
pub use shape::{LayerShape, NAMED_SHAPES, NamedShape, ShapeError};
pub use spec::{Candidate, KernelSpec, Rejection, TokenRange, WhyNot, WorkspaceModel};

/// Rows and columns of one trellis tile.
pub const TILE: usize = 16;

/// Width of one Hadamard block, and the multiple that every linear's dimensions are padded to.
pub const HADAMARD: usize = 128;

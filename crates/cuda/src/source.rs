//! The CUDA C++ of the kernels, part of the program.

/// A file that kernels include.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
}

/// A file that is compiled, with different macros, to different kernels.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Unit {
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
}

pub(crate) static HEADERS: [Header; 5] = [
    Header { name: "activations.cuh", source: include_str!("../kernels/activations.cuh") },
    Header { name: "route.cuh", source: include_str!("../kernels/route.cuh") },
    Header { name: "layer.cuh", source: include_str!("../kernels/layer.cuh") },
    Header { name: "wgmma.cuh", source: include_str!("../kernels/wgmma.cuh") },
    Header { name: "trellis.cuh", source: include_str!("../kernels/trellis.cuh") },
];

pub(crate) static SMALL_BATCH: Unit =
    Unit { name: "small_batch.cu", source: include_str!("../kernels/small_batch.cu") };

pub(crate) static BATCH: Unit =
    Unit { name: "batch.cu", source: include_str!("../kernels/batch.cu") };

pub(crate) static LARGE_BATCH: Unit =
    Unit { name: "large_batch.cu", source: include_str!("../kernels/large_batch.cu") };

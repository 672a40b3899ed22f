//! Measuring and judging how kernels are selected. Start at [`evaluate`].
#![forbid(unsafe_code)]

pub mod evaluate;

//! A call's arguments in device memory.

use std::sync::Arc;

use trellect_core::{Hidden, Routing};
use trellect_cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError};
use trellect_cuda::{DeviceCall, Element};
use zerocopy::IntoBytes;

/// Routing and output of one call; hidden states are shared between calls.
pub(crate) struct DeviceArguments {
    pub(crate) ids: CudaSlice<i32>,
    pub(crate) weights: CudaSlice<f32>,
    num_tokens: usize,
    top_k: usize,
}

pub(crate) fn ids(routing: &Routing) -> Vec<i32> {
    routing.topk_ids().iter().map(|&id| id as i32).collect()
}

impl DeviceArguments {
    pub(crate) fn new(stream: &Arc<CudaStream>, routing: &Routing) -> Result<Self, DriverError> {
        Ok(Self {
            ids: stream.clone_htod(&ids(routing))?,
            weights: stream.clone_htod(routing.topk_weights())?,
            num_tokens: routing.num_tokens(),
            top_k: routing.top_k(),
        })
    }

    pub(crate) fn call(
        &self,
        stream: &CudaStream,
        (hidden, element): &(CudaSlice<u8>, Element),
        out: &CudaSlice<f32>,
    ) -> DeviceCall {
        DeviceCall {
            hidden: hidden.device_ptr(stream).0,
            element: *element,
            topk_ids: self.ids.device_ptr(stream).0,
            topk_weights: self.weights.device_ptr(stream).0,
            out: out.device_ptr(stream).0,
            num_tokens: self.num_tokens,
            top_k: self.top_k,
        }
    }
}

/// Copies hidden states to the device.
pub(crate) fn upload(
    stream: &Arc<CudaStream>,
    hidden: Hidden<'_>,
) -> Result<(CudaSlice<u8>, Element), DriverError> {
    let (bytes, element) = match hidden {
        Hidden::F16(values) => (values.as_bytes(), Element::F16),
        Hidden::Bf16(values) => (values.as_bytes(), Element::Bf16),
        Hidden::F32(values) => (values.as_bytes(), Element::F32),
    };
    Ok((stream.clone_htod(bytes)?, element))
}

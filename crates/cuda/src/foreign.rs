//! Launching in order with a stream that another library made.

use std::sync::Arc;

use cudarc::driver::sys::CUstream;
use cudarc::driver::{CudaEvent, CudaStream, DriverError, result};
use trellect_core::{KernelId, LaunchError, LaunchId};

use crate::error::while_launching;
use crate::queue::{CudaQueue, DeviceCall};

/// What orders a queue's stream with others.
pub(crate) struct Crossing {
    /// Of the other stream: what is in it when a launch comes.
    before: CudaEvent,
    /// Of the queue's stream: the launch.
    after: CudaEvent,
}

impl Crossing {
    pub(crate) fn new(stream: &CudaStream) -> Result<Self, DriverError> {
        let event = || stream.context().new_event(None);
        Ok(Self { before: event()?, after: event()? })
    }

    /// Makes `own` wait for all that is in `other` now.
    ///
    /// # Safety
    /// `other` is a stream of the device's primary context.
    unsafe fn enter(&self, own: &Arc<CudaStream>, other: CUstream) -> Result<(), DriverError> {
        own.context().bind_to_thread()?;
        // SAFETY: the event is this queue's own, and the caller vouches for the stream.
        unsafe { result::event::record(self.before.cu_event(), other) }?;
        own.wait(&self.before)
    }

    /// Makes `other` wait for all that is in `own` now.
    ///
    /// # Safety
    /// As [`enter`](Self::enter).
    unsafe fn leave(&self, own: &Arc<CudaStream>, other: CUstream) -> Result<(), DriverError> {
        self.after.record(own)?;
        let flags = cudarc::driver::sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: as above.
        unsafe { result::stream::wait_event(other, self.after.cu_event(), flags) }
    }
}

impl CudaQueue {
    /// As [`launch_device`](Self::launch_device), for a caller that works on `stream`, a handle of
    /// the driver's (0: its default stream): the launch comes after what is in that stream now, and
    /// before what is put there from now on. The work itself runs on the queue's own stream.
    ///
    /// # Errors
    /// [`LaunchError`]; `out` is then unspecified.
    ///
    /// # Safety
    /// As for `launch_device`, where what is in `stream` now may still write the arguments; and
    /// `stream` is a living stream of the primary context of the layer's device.
    pub unsafe fn launch_device_in(
        &mut self,
        stream: u64,
        kernel: KernelId,
        call: &DeviceCall,
    ) -> Result<LaunchId, LaunchError> {
        let other = stream as CUstream;
        let failed = while_launching(kernel, 0);
        let (own, crossing) = self.crossing().map_err(&failed)?;
        // SAFETY: the caller's promise.
        unsafe { crossing.enter(&own, other) }.map_err(&failed)?;
        // SAFETY: the caller's promise.
        let launched = unsafe { self.launch_device(kernel, call) };
        // Also after a failure: a capture must come back to the stream that it started in.
        // SAFETY: the caller's promise.
        unsafe { crossing.leave(&own, other) }.map_err(&failed)?;
        launched
    }
}

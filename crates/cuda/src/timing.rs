//! Device times of launches, by events that are asked later and never waited for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError};
use trellect_core::{DeviceTime, LaunchId};

/// Timings kept until they are harvested; older ones are dropped.
const TIMINGS: usize = 64;

/// The launches in flight, oldest first, and events for more.
pub(crate) struct Timings {
    pending: VecDeque<(LaunchId, Span)>,
    spare: Vec<Span>,
}

/// Before and after a launch.
pub(crate) struct Span {
    start: CudaEvent,
    end: CudaEvent,
}

impl Timings {
    /// Makes all events at once, so that a launch makes none.
    pub(crate) fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        let event = || context.new_event(Some(CU_EVENT_DEFAULT));
        let span = |_| Ok(Span { start: event()?, end: event()? });
        let spare = (0..TIMINGS).map(span).collect::<Result<_, DriverError>>()?;
        Ok(Self { pending: VecDeque::with_capacity(TIMINGS), spare })
    }

    /// Marks the start of a launch; without a free event the oldest timing is given up.
    pub(crate) fn start(&mut self, stream: &CudaStream) -> Result<Span, DriverError> {
        let free = self.spare.pop().or_else(|| self.pending.pop_front().map(|(_, span)| span));
        let span = free.expect("every event is either spare or pending");
        span.start.record(stream)?;
        Ok(span)
    }

    /// Marks its end.
    pub(crate) fn end(
        &mut self,
        launch: LaunchId,
        span: Span,
        stream: &CudaStream,
    ) -> Result<(), DriverError> {
        span.end.record(stream)?;
        self.pending.push_back((launch, span));
        Ok(())
    }

    /// Gives an unfinished span back.
    pub(crate) fn abandon(&mut self, span: Span) {
        self.spare.push(span);
    }

    /// Hands over what is finished; a launch that failed on the device has no time.
    pub(crate) fn harvest(&mut self, sink: &mut dyn FnMut(DeviceTime)) {
        while let Some((_, span)) = self.pending.front() {
            let finished = match span.end.try_is_complete() {
                Ok(false) => return,
                Ok(true) => span.start.elapsed_ms(&span.end).ok(),
                Err(_) => None,
            };
            let (launch, span) = self.pending.pop_front().expect("there is a front");
            if let Some(milliseconds) = finished {
                let elapsed = Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) * 1e-3);
                sink(DeviceTime { launch, elapsed });
            }
            self.spare.push(span);
        }
    }
}

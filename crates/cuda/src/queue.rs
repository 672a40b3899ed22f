//! Launching: checks, workspace, streams, timing.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError, result};
use trellect_core::{
    Call, CallFacts, DeviceTime, Hidden, KernelId, LaunchError, LaunchId, Queue, Routing, WhyNot,
};
use zerocopy::IntoBytes;

use crate::error::while_launching;
use crate::foreign::Crossing;
use crate::kernel::{Kernel, Memory};
use crate::prepared::CudaLayer;
use crate::timing::Timings;

/// Every part of a host call's buffer starts on a multiple of this.
const ALIGNMENT: usize = 256;

/// Element type of hidden states in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl Element {
    const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// `dtype` of `kernels/layer.cuh`.
    const fn number(self) -> i32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 2,
        }
    }
}

/// A call whose arguments are in device memory, by address.
#[derive(Clone, Copy, Debug)]
pub struct DeviceCall {
    /// `[num_tokens, hidden_size]` of `element`.
    pub hidden: u64,
    /// Type of the hidden states.
    pub element: Element,
    /// `[num_tokens, top_k]` i32.
    pub topk_ids: u64,
    /// `[num_tokens, top_k]` f32.
    pub topk_weights: u64,
    /// `[num_tokens, hidden_size]` f32, overwritten.
    pub out: u64,
    /// Number of tokens.
    pub num_tokens: usize,
    /// Experts per token.
    pub top_k: usize,
}

/// A queue on one stream: launches run in order, and in order with whatever else is on it.
pub struct CudaQueue {
    layer: Arc<CudaLayer>,
    /// What a lost device refused is told by the first launch, since making a queue cannot fail.
    lane: Result<Lane, DriverError>,
    launches: u64,
}

/// What a queue owns on the device.
struct Lane {
    stream: Arc<CudaStream>,
    timings: Timings,
    /// Of all queues on the stream that were made from each other.
    workspace: Arc<Mutex<Workspace>>,
    /// Arguments and result of a host call.
    staging: Option<CudaSlice<u8>>,
    crossing: Arc<Crossing>,
}

impl CudaQueue {
    pub(crate) fn new(layer: Arc<CudaLayer>, stream: Result<Arc<CudaStream>, DriverError>) -> Self {
        let lane = stream.and_then(|stream| Lane::new(stream, Arc::default()));
        Self { layer, lane, launches: 0 }
    }

    /// A queue of another layer on the same stream. The two share one workspace, since what runs on
    /// a stream runs in order: a model needs the workspace of its largest layer, not of all.
    ///
    /// # Panics
    /// When the layer is on another device.
    pub fn sibling(&self, layer: &Arc<CudaLayer>) -> Self {
        let context = &layer.device.context;
        assert_eq!(context, &self.layer.device.context, "a layer of the same device");
        let shared = |lane: &Lane| (Arc::clone(&lane.stream), Arc::clone(&lane.workspace));
        let lane = self.lane.as_ref().map(shared).map_err(|error| *error);
        let lane = lane.and_then(|(stream, workspace)| Lane::new(stream, workspace));
        Self { layer: Arc::clone(layer), lane, launches: 0 }
    }

    /// Puts a call on device memory into the stream and returns at once: the host reads nothing,
    /// the routing included. On a stream that is being captured the launch becomes part of the
    /// graph, has no time of its own, and finds a workspace that was
    /// [reserved](Queue::reserve) before; the graph may be replayed for as long as the queue lives,
    /// one replay at a time.
    ///
    /// Since the active experts are unknown here, a kernel for one tuple serves only a layer that
    /// has no other.
    ///
    /// # Errors
    /// [`LaunchError`]; `out` is then unspecified.
    ///
    /// # Safety
    /// The addresses are of memory of the layer's device, of the lengths that `call` states,
    /// aligned to their elements (`out` to 16 bytes), not written (`out`: not touched) by anything
    /// else until the work is done; every expert id is in `0..num_experts`.
    pub unsafe fn launch_device(
        &mut self,
        kernel: KernelId,
        call: &DeviceCall,
    ) -> Result<LaunchId, LaunchError> {
        let found = self.layer.kernel(kernel)?;
        let num_experts = self.layer.weights.shape().num_experts;
        let pairs = call.num_tokens.saturating_mul(call.top_k);
        let message = if call.top_k == 0 || call.top_k > num_experts {
            Some(format!("top_k is {}: expected 1 to the {num_experts} experts", call.top_k))
        } else if pairs > Routing::MAX_PAIRS {
            Some(format!("{pairs} pairs in one call: at most {} are possible", Routing::MAX_PAIRS))
        } else {
            None
        };
        if let Some(message) = message {
            return Err(LaunchError::Device { kernel, message });
        }
        let illegal = |why| LaunchError::Illegal { kernel, why };
        let tuples = self.layer.weights.tuples();
        let facts = CallFacts {
            num_tokens: call.num_tokens,
            num_pairs: pairs,
            active_tuples: &tuples[..1],
            numeric: found.spec.class,
            workspace_limit: None,
        };
        found.spec.can_compute(&facts).map_err(illegal)?;
        if let Some(only) = found.spec.id.tuple
            && tuples.iter().any(|&tuple| tuple != only)
        {
            return Err(illegal(WhyNot::UnknownTuples { only }));
        }
        // SAFETY: the caller's promise.
        unsafe { self.start(&found, call) }
    }

    /// The queue's stream, and what orders it with others.
    pub(crate) fn crossing(&self) -> Result<(Arc<CudaStream>, Arc<Crossing>), DriverError> {
        let lane = self.lane.as_ref().map_err(|error| *error)?;
        Ok((Arc::clone(&lane.stream), Arc::clone(&lane.crossing)))
    }

    /// # Safety
    /// As [`launch_device`](Self::launch_device).
    unsafe fn start(
        &mut self,
        kernel: &Kernel,
        call: &DeviceCall,
    ) -> Result<LaunchId, LaunchError> {
        let id = kernel.spec.id;
        let needed = kernel.spec.workspace.bytes(call.num_tokens * call.top_k);
        let failed = while_launching(id, needed);
        let lane = self.lane.as_mut().map_err(|error| failed(*error))?;
        let capturing = lane.is_capturing().map_err(&failed)?;
        // Locked until the launch is in the stream: a sibling that grows it then frees it after.
        let workspace = Arc::clone(&lane.workspace);
        let mut workspace = workspace.lock().unwrap_or_else(PoisonError::into_inner);
        if workspace.bytes() < needed {
            if capturing {
                let message = "the workspace must be reserved before a capture".into();
                return Err(LaunchError::Device { kernel: id, message });
            }
            workspace.reserve(needed, &lane.stream).map_err(&failed)?;
        }
        workspace.is_captured |= capturing;
        let hidden_size = self.layer.weights.shape().hidden_size;
        let memory = Memory {
            layer: self.layer.weights.argument(),
            hidden: call.hidden,
            hidden_row: (hidden_size * call.element.bytes()) as u64,
            dtype: call.element.number(),
            topk_ids: call.topk_ids,
            topk_weights: call.topk_weights,
            out: call.out,
            out_row: (hidden_size * size_of::<f32>()) as u64,
            num_tokens: call.num_tokens,
            top_k: call.top_k,
            workspace: workspace.address(&lane.stream),
        };
        let launch = LaunchId(self.launches);
        // SAFETY: the caller's promise, and a workspace of the size that the kernel asked for.
        unsafe { lane.run(kernel, &memory, launch, capturing) }.map_err(&failed)?;
        self.launches += 1;
        Ok(launch)
    }
}

/// Memory that kernels leave their intermediate results in.
#[derive(Default)]
struct Workspace {
    memory: Option<CudaSlice<u8>>,
    /// Former ones that a captured graph may still use.
    former: Vec<CudaSlice<u8>>,
    is_captured: bool,
}

impl Workspace {
    fn bytes(&self) -> u64 {
        self.memory.as_ref().map_or(0, |memory| memory.num_bytes() as u64)
    }

    fn address(&self, stream: &CudaStream) -> u64 {
        self.memory.as_ref().map_or(0, |memory| memory.device_ptr(stream).0)
    }

    fn reserve(&mut self, needed: u64, stream: &Arc<CudaStream>) -> Result<(), DriverError> {
        if self.bytes() < needed {
            // The old one goes first, where it may: both at once may not fit.
            let old = self.memory.take();
            self.former.extend(old.filter(|_| self.is_captured));
            self.memory = Some(allocate(needed, stream)?);
        }
        Ok(())
    }
}

/// Memory of any contents.
fn allocate(bytes: u64, stream: &Arc<CudaStream>) -> Result<CudaSlice<u8>, DriverError> {
    // The driver refuses to allocate nothing, which a call without tokens needs.
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).max(1);
    // SAFETY: kernels write what they read of a workspace, and so do the copies to staging.
    unsafe { stream.alloc::<u8>(bytes) }
}

impl Lane {
    fn new(stream: Arc<CudaStream>, workspace: Arc<Mutex<Workspace>>) -> Result<Self, DriverError> {
        let timings = Timings::new(stream.context())?;
        let crossing = Arc::new(Crossing::new(&stream)?);
        Ok(Self { stream, timings, workspace, staging: None, crossing })
    }

    fn is_capturing(&self) -> Result<bool, DriverError> {
        Ok(self.stream.capture_status()? != CU_STREAM_CAPTURE_STATUS_NONE)
    }

    /// # Safety
    /// As [`Kernel::launch`].
    unsafe fn run(
        &mut self,
        kernel: &Kernel,
        memory: &Memory,
        launch: LaunchId,
        capturing: bool,
    ) -> Result<(), DriverError> {
        self.stream.context().bind_to_thread()?;
        if capturing {
            // SAFETY: the caller's promise.
            return unsafe { kernel.launch(&self.stream, memory) };
        }
        let span = self.timings.start(&self.stream)?;
        // SAFETY: the caller's promise.
        match unsafe { kernel.launch(&self.stream, memory) } {
            Ok(()) => self.timings.end(launch, span, &self.stream),
            Err(error) => {
                self.timings.abandon(span);
                Err(error)
            }
        }
    }

    /// Copies a host call's arguments to device memory, each part where [`StagedParts`] says.
    fn stage(&mut self, call: &Call<'_>) -> Result<StagedParts, DriverError> {
        let routing = call.routing();
        let (hidden, element) = match call.hidden() {
            Hidden::F16(values) => (values.as_bytes(), Element::F16),
            Hidden::Bf16(values) => (values.as_bytes(), Element::Bf16),
            Hidden::F32(values) => (values.as_bytes(), Element::F32),
        };
        let (ids, weights) = (routing.topk_ids().as_bytes(), routing.topk_weights().as_bytes());
        let out_bytes = call.hidden().len() * size_of::<f32>();
        let [at_ids, at_weights, at_out, end] = [hidden.len(), ids.len(), weights.len(), out_bytes]
            .map({
                let mut end = 0;
                move |bytes: usize| {
                    end += bytes.next_multiple_of(ALIGNMENT);
                    end
                }
            });
        if self.staging.as_ref().is_none_or(|staging| staging.len() < end) {
            self.staging = None;
            self.staging = Some(allocate(end as u64, &self.stream)?);
        }
        let staging = self.staging.as_ref().expect("allocated above");
        let base = staging.device_ptr(&self.stream).0;
        for (at, bytes) in [(0, hidden), (at_ids, ids), (at_weights, weights)] {
            let to = base + at as u64;
            // SAFETY: the part lies within the buffer, and a copy from pageable memory has read its
            // source when it returns.
            unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream())? };
        }
        let [topk_ids, topk_weights, out] = [at_ids, at_weights, at_out].map(|at| base + at as u64);
        Ok(StagedParts { hidden: base, element, topk_ids, topk_weights, out })
    }

    /// Waits for the stream and copies the result.
    fn fetch(&self, from: u64, out: &mut [f32]) -> Result<(), DriverError> {
        // SAFETY: `from` is of as many elements in staging, and `out` is not touched before the
        // stream is synchronised.
        unsafe { result::memcpy_dtoh_async(out, from, self.stream.cu_stream())? };
        self.stream.synchronize()
    }
}

/// Addresses of a host call's arguments.
struct StagedParts {
    hidden: u64,
    element: Element,
    topk_ids: u64,
    topk_weights: u64,
    out: u64,
}

impl Queue for CudaQueue {
    fn reserve(&mut self, kernel: KernelId, num_pairs: usize) -> Result<(), LaunchError> {
        let needed = self.layer.kernel(kernel)?.spec.workspace.bytes(num_pairs);
        let failed = while_launching(kernel, needed);
        let lane = self.lane.as_ref().map_err(|error| failed(*error))?;
        let mut workspace = lane.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        workspace.reserve(needed, &lane.stream).map_err(&failed)
    }

    fn workspace_bytes(&self) -> u64 {
        let bytes =
            |lane: &Lane| lane.workspace.lock().unwrap_or_else(PoisonError::into_inner).bytes();
        self.lane.as_ref().map_or(0, bytes)
    }

    /// Copies the arguments to the device and the result back, and waits for it; a caller whose
    /// data is on the device uses [`launch_device`](CudaQueue::launch_device).
    fn launch(
        &mut self,
        kernel: KernelId,
        call: &Call<'_>,
        out: &mut [f32],
    ) -> Result<LaunchId, LaunchError> {
        let found = self.layer.kernel(kernel)?;
        found.spec.check_launch(call, self.layer.weights.tuples(), out)?;
        let routing = call.routing();
        let bytes = (out.len() * 2 * size_of::<f32>() + routing.num_pairs() * 8) as u64;
        let failed = while_launching(kernel, bytes);
        let lane = self.lane.as_mut().map_err(|error| failed(*error))?;
        let staged = lane.stage(call).map_err(&failed)?;
        let device_call = DeviceCall {
            hidden: staged.hidden,
            element: staged.element,
            topk_ids: staged.topk_ids,
            topk_weights: staged.topk_weights,
            out: staged.out,
            num_tokens: routing.num_tokens(),
            top_k: routing.top_k(),
        };
        // SAFETY: staging holds every part in full, nobody else has it, and a routing names only
        // experts of its layer, which `Call::new` compared with.
        let launch = unsafe { self.start(&found, &device_call)? };
        let lane = self.lane.as_ref().map_err(|error| failed(*error))?;
        lane.fetch(staged.out, out).map_err(&failed)?;
        Ok(launch)
    }

    fn harvest(&mut self, sink: &mut dyn FnMut(DeviceTime)) {
        // To ask for an event would break a capture.
        if let Ok(lane) = &mut self.lane
            && lane.is_capturing() == Ok(false)
        {
            lane.timings.harvest(sink);
        }
    }
}

impl Drop for CudaQueue {
    /// Waits for the stream, since the layer's weights may go with the queue.
    fn drop(&mut self) {
        if let Ok(lane) = &self.lane {
            // A lost device has no work to wait for.
            let _ = lane.stream.synchronize();
        }
    }
}

//! Calls that follow each other on one stream, and how they are put there.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use trellect_core::{Hidden, KernelSpec, NamedShape, Queue, Routing};
use trellect_cuda::cudarc::driver::sys::CUgraphInstantiate_flags;
use trellect_cuda::cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
use trellect_cuda::cudarc::driver::{CudaGraph, CudaSlice, CudaStream};
use trellect_cuda::{CudaQueue, Element};
use trellect_exl3::synth;

use crate::device_memory::{DeviceArguments, upload};

/// Fewest calls of a chain whose calls are short.
const CALLS: usize = 40;
/// Chains of this many tokens a call and more have one call per layer.
const LONG_CALL: usize = 64;
const HOST_CALLS: usize = 100;

/// The calls of one chain: layer by layer, round by round, each with a routing of its own.
pub(super) struct Chain {
    stream: Arc<CudaStream>,
    routings: Vec<Routing>,
    arguments: Vec<DeviceArguments>,
    hidden: (CudaSlice<u8>, Element),
    out: CudaSlice<f32>,
}

impl Chain {
    /// Calls of `tokens` tokens on `layers` layers.
    pub(super) fn new(
        stream: &Arc<CudaStream>,
        NamedShape { shape, top_k, .. }: &NamedShape,
        layers: usize,
        tokens: usize,
    ) -> anyhow::Result<Self> {
        let rounds = if tokens < LONG_CALL { CALLS.div_ceil(layers) } else { 1 };
        let routings = (0..rounds * layers)
            .map(|call| synth::routing(tokens, shape.num_experts, *top_k, call as u64))
            .collect::<Result<Vec<_>, _>>()?;
        let arguments = routings.iter().map(|routing| DeviceArguments::new(stream, routing));
        let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        let hidden = synth::hidden(tokens, shape.hidden_size, 1);
        let out = stream.alloc_zeros::<f32>(hidden.len())?;
        let hidden = upload(stream, Hidden::F16(&hidden))?;
        Ok(Self { stream: Arc::clone(stream), routings, arguments, hidden, out })
    }

    /// Number of calls.
    pub(super) fn len(&self) -> usize {
        self.routings.len()
    }

    pub(super) fn routing(&self, call: usize) -> &Routing {
        &self.routings[call]
    }

    /// A graph of all calls. `queues` are those of the layers.
    pub(super) fn capture(
        &self,
        queues: &mut [CudaQueue],
        spec: &KernelSpec,
    ) -> anyhow::Result<CudaGraph> {
        queues[0].reserve(spec.id, self.routings[0].num_pairs())?;
        self.stream.synchronize()?;
        self.stream.begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let launched = self.launch(queues, spec, self.len());
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0))?;
        launched?;
        let graph = graph.context("an empty capture")?;
        graph.upload()?;
        Ok(graph)
    }

    /// Wall time of putting one call into the stream.
    pub(super) fn host_microseconds(
        &self,
        queues: &mut [CudaQueue],
        spec: &KernelSpec,
    ) -> anyhow::Result<f64> {
        self.stream.synchronize()?;
        let start = Instant::now();
        self.launch(queues, spec, HOST_CALLS)?;
        let elapsed = start.elapsed();
        self.stream.synchronize()?;
        Ok(elapsed.as_secs_f64() * 1e6 / HOST_CALLS as f64)
    }

    fn launch(
        &self,
        queues: &mut [CudaQueue],
        spec: &KernelSpec,
        calls: usize,
    ) -> anyhow::Result<()> {
        let layers = queues.len();
        for call in 0..calls {
            let arguments = &self.arguments[call % self.len()];
            let call_arguments = arguments.call(&self.stream, &self.hidden, &self.out);
            // SAFETY: the chain's buffers have the lengths of the call and outlive the stream's
            // work, which is waited for before they are dropped.
            unsafe { queues[call % layers].launch_device(spec.id, &call_arguments)? };
        }
        Ok(())
    }
}

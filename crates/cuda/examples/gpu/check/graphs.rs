//! Calls on device memory: in graphs that are replayed, and on several devices at once.

use std::sync::Arc;

use anyhow::Context;
use half::f16;
use trellect_core::{Hidden, KernelSpec, Queue, Routing};
use trellect_cuda::cudarc::driver::sys::CUgraphInstantiate_flags;
use trellect_cuda::cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
use trellect_cuda::cudarc::driver::{CudaGraph, CudaSlice, CudaStream};
use trellect_cuda::{CudaBackend, CudaLayer, CudaQueue, Element, devices};
use trellect_exl3::oracle;
use trellect_exl3::synth::{self, OwnedLayer};
use zerocopy::IntoBytes;

use super::layers::mix;
use super::{Outcome, computing};
use crate::device_memory::{DeviceArguments, ids, upload};

const EXPERTS: usize = 8;

/// Hidden states and a routing.
type Input = (Vec<f16>, Routing);

fn inputs(tokens: usize) -> anyhow::Result<[Input; 2]> {
    let input = |seed| -> anyhow::Result<Input> {
        let routing = synth::routing(tokens, EXPERTS, 3, seed)?;
        Ok((synth::hidden(tokens, 256, seed), routing))
    };
    Ok([input(1)?, input(2)?])
}

/// One kernel's calls of one size, with all they need on the device.
struct Calls {
    stream: Arc<CudaStream>,
    queue: CudaQueue,
    spec: KernelSpec,
    hidden: (CudaSlice<u8>, Element),
    arguments: DeviceArguments,
    out: CudaSlice<f32>,
}

impl Calls {
    fn new(
        backend: &CudaBackend,
        layer: &Arc<CudaLayer>,
        spec: KernelSpec,
        (hidden, routing): &Input,
    ) -> anyhow::Result<Self> {
        let stream = backend.context().new_stream()?;
        let mut queue = layer.queue_on(Arc::clone(&stream));
        queue.reserve(spec.id, routing.num_pairs())?;
        Ok(Self {
            queue,
            spec,
            hidden: upload(&stream, Hidden::F16(hidden))?,
            arguments: DeviceArguments::new(&stream, routing)?,
            out: stream.alloc_zeros::<f32>(hidden.len())?,
            stream,
        })
    }

    /// Puts an input's copies into the stream, over an output full of NaN.
    fn set(&mut self, (hidden, routing): &Input) -> anyhow::Result<()> {
        self.stream.memcpy_htod(hidden.as_bytes(), &mut self.hidden.0)?;
        self.stream.memcpy_htod(&ids(routing), &mut self.arguments.ids)?;
        self.stream.memcpy_htod(routing.topk_weights(), &mut self.arguments.weights)?;
        self.stream.memcpy_htod(&vec![f32::NAN; hidden.len()], &mut self.out)?;
        Ok(())
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let call = self.arguments.call(&self.stream, &self.hidden, &self.out);
        // SAFETY: the buffers have the lengths of the call and live until the stream was waited
        // for, by who reads the output or by the queue when it is dropped.
        unsafe { self.queue.launch_device(self.spec.id, &call)? };
        Ok(())
    }

    fn capture(&mut self) -> anyhow::Result<CudaGraph> {
        self.stream.synchronize()?;
        self.stream.begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let launched = self.launch();
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0))?;
        launched?;
        graph.context("an empty capture")
    }

    /// Waits for the output and judges it.
    fn judge(
        &self,
        outcome: &mut Outcome<'_>,
        expected: &[f64],
        case: &dyn std::fmt::Debug,
    ) -> anyhow::Result<()> {
        outcome.judge(&self.spec, &self.stream.clone_dtoh(&self.out)?, expected, case);
        Ok(())
    }
}

/// Every kernel in a graph that is replayed with other hidden states and another routing.
pub(super) fn capture(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let owned = OwnedLayer::new(&mix(EXPERTS))?;
    let layer = outcome.prepare(&owned.view())?;
    for tokens in [1, 5, 32, 200] {
        let inputs = inputs(tokens)?;
        let expected = inputs
            .each_ref()
            .map(|(hidden, routing)| oracle::forward(&owned.view(), Hidden::F16(hidden), routing));
        // Over all experts alike: which of them are active changes between replays.
        for spec in computing(&layer, &inputs[0].1).into_iter().filter(|spec| spec.capture_safe) {
            let mut calls = Calls::new(outcome.backend, &layer, spec, &inputs[0])?;
            let graph = calls.capture()?;
            for (input, expected) in inputs.iter().zip(&expected) {
                calls.set(input)?;
                graph.launch()?;
                calls.judge(outcome, expected, &("graph", tokens))?;
            }
        }
    }
    Ok(())
}

/// A layer on every device of the machine, and calls of every kernel on all of them at once, one by
/// one and as graphs.
pub(super) fn several_devices(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let count = devices()?.len();
    if count == 1 {
        println!("skipped: this machine has one device, the case needs two");
        return Ok(());
    }
    let mut prepared = Vec::new();
    for ordinal in 0..count {
        let backend = CudaBackend::open(ordinal)?;
        // Another layer on each.
        let owned = OwnedLayer::new(&synth::SynthSpec { seed: ordinal as u64, ..mix(EXPERTS) })?;
        let layer = backend.prepare_layer(&owned.view(), &mut |_| {})?;
        layer.wait_for_compiler();
        prepared.push((backend, owned, layer));
    }
    for tokens in [1, 5, 32, 200] {
        let inputs = inputs(tokens)?;
        for spec in computing(&prepared[0].2, &inputs[0].1) {
            let mut all = Vec::new();
            for (backend, _, layer) in &prepared {
                all.push(Calls::new(backend, layer, spec, &inputs[0])?);
            }
            let graphs = all.iter_mut().map(Calls::capture).collect::<Result<Vec<_>, _>>()?;
            for (number, input) in inputs.iter().enumerate() {
                for replayed in [false, true] {
                    for (calls, graph) in all.iter_mut().zip(&graphs) {
                        calls.set(input)?;
                        match replayed {
                            true => graph.launch()?,
                            false => calls.launch()?,
                        }
                    }
                    for (device, (calls, (_, owned, _))) in all.iter().zip(&prepared).enumerate() {
                        let expected =
                            oracle::forward(&owned.view(), Hidden::F16(&input.0), &input.1);
                        let case = ("device", device, tokens, number, replayed);
                        calls.judge(outcome, &expected, &case)?;
                    }
                }
            }
        }
    }
    println!("{count} devices");
    Ok(())
}

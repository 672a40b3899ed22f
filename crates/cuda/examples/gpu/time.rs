//! Times kernels as the targets ask: cold weights, a CUDA graph chain over several layers, a new
//! routing in every call, kernels interleaved, median over replays.

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use trellect_core::{
    Backend, BitTuple, Call, Hidden, KernelSpec, LayerView, NamedShape, PreparedLayer, Queue,
    Routing,
};
use trellect_cuda::cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use trellect_cuda::cudarc::driver::sys::CUgraphInstantiate_flags;
use trellect_cuda::cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
use trellect_cuda::cudarc::driver::{CudaGraph, CudaSlice, CudaStream};
use trellect_cuda::{CudaBackend, CudaLayer, CudaQueue, DeviceCall, Element};
use trellect_exl3::oracle;
use trellect_exl3::synth::{self, SynthSpec};
use trellect_testkit::relative_error;

use crate::TimeArguments;
use crate::ceiling::copy_gb_per_s;
use crate::check::first_tokens;
use crate::device_memory::{DeviceArguments, upload};
use crate::peer;
use crate::pool::Pool;
use crate::report::{Cell, Machine, Report, median, quantile};

/// Layers are made until their weights take this much, far beyond the second-level cache.
const WEIGHT_BYTES: u64 = 3 << 30;
const LAYERS: std::ops::RangeInclusive<usize> = 4..=16;
/// Fewest calls of a chain whose calls are short.
const CALLS: usize = 48;
/// Chains of this many tokens a call and more have one call per layer.
const LONG_CALL: usize = 64;
/// Replays of every kernel's chain: about this many seconds of them, within these limits.
const SECONDS: f64 = 0.2;
const REPLAYS: std::ops::RangeInclusive<usize> = 7..=40;
/// Most tokens of a call whose host time is measured.
const HOST_TOKENS: usize = 8;
const HOST_CALLS: usize = 200;

const METHOD: &str = "Random trellis bits, all experts of several layers resident (at least 3 GiB of them), every call on \
another layer with its own uniform routing: weights come from memory. CUDA graph chains of the calls, kernels interleaved, \
median over replays; hidden states f16. Peer: exllamav3 1.4.1 on an H100 80GB HBM3, the same method.";

/// Times everything that was asked for and writes the reports.
pub(crate) fn run(backend: &CudaBackend, arguments: &TimeArguments) -> anyhow::Result<()> {
    let before = copy_gb_per_s(backend)?;
    println!("copy: {before:.0} GB/s");
    let mut cells = Vec::new();
    for letter in &arguments.shapes {
        let shape = named_shape(letter)?;
        let pool = Pool::new(shape.shape, arguments.codebook);
        let bits = match arguments.bits.is_empty() {
            false => arguments.bits.clone(),
            true => peer::widths(letter).into_iter().chain(["mixed".into()]).collect(),
        };
        for bits in bits {
            let group = Group::new(backend, arguments, letter, &shape, &bits, &pool)?;
            for &tokens in &arguments.tokens {
                cells.extend(group.time(tokens, before)?);
            }
        }
    }
    let description = backend.describe();
    let machine = Machine {
        device: description.name,
        facts: description.facts,
        copy_gb_per_s_before: before,
        copy_gb_per_s_after: copy_gb_per_s(backend)?,
    };
    let report = Report { machine, method: METHOD, cells };
    let markdown = report.markdown();
    println!("{markdown}");
    if let Some(folder) = &arguments.out {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())
        };
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        write("table.md", markdown)?;
        write("table.json", serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(())
}

fn named_shape(letter: &str) -> anyhow::Result<NamedShape> {
    let name = match letter {
        "A" => "glm-4.7-flash",
        "B" => "qwen3-30b-a3b",
        "C" => "glm-4.5-air",
        "D" => "mixtral-8x7b",
        _ => bail!("--shapes: `{letter}` is no shape: expected A, B, C or D"),
    };
    Ok(NamedShape::find(name).expect("a shape of the table"))
}

/// The layers of one shape and mix of widths.
struct Group<'a> {
    arguments: &'a TimeArguments,
    letter: &'a str,
    shape: &'a NamedShape,
    bits: String,
    stream: Arc<CudaStream>,
    /// What the first layer was made from, for the oracle.
    view: LayerView<'a>,
    layers: Vec<Arc<CudaLayer>>,
}

/// The calls of one chain: layer by layer, round by round, each with a routing of its own.
struct Chain {
    routings: Vec<Routing>,
    arguments: Vec<DeviceArguments>,
    hidden: (CudaSlice<u8>, Element),
    out: CudaSlice<f32>,
}

impl<'a> Group<'a> {
    fn new(
        backend: &CudaBackend,
        arguments: &'a TimeArguments,
        letter: &'a str,
        shape: &'a NamedShape,
        bits: &str,
        pool: &'a Pool,
    ) -> anyhow::Result<Self> {
        let tuples = match bits {
            "mixed" => SynthSpec::mixed(shape.shape, arguments.codebook, 1).tuples,
            bits => vec![bits.parse::<BitTuple>()?; shape.shape.num_experts],
        };
        let view = pool.layer(&tuples, 0);
        let wanted = WEIGHT_BYTES.div_ceil(view.trellis_bytes()) as usize;
        let count = wanted.clamp(*LAYERS.start(), *LAYERS.end());
        let start = Instant::now();
        let layers = (0..count)
            .map(|index| backend.prepare_layer(&pool.layer(&tuples, index as u64), &mut |_| {}))
            .collect::<Result<Vec<_>, _>>()?;
        layers[0].wait_for_compiler();
        for rejection in layers[0].candidates().iter().filter_map(|c| c.as_ref().err()) {
            println!("skipped: {rejection}");
        }
        println!("{letter} {bits}: {count} layers in {:.1} s", start.elapsed().as_secs_f64());
        let stream = backend.context().new_stream()?;
        let bits = bits.replace(',', "_");
        Ok(Self { arguments, letter, shape, bits, stream, view, layers })
    }

    /// The kernels that were asked for and can serve any routing of `tokens` tokens.
    fn kernels(&self, tokens: usize) -> Vec<KernelSpec> {
        let named = |spec: &KernelSpec| {
            let (name, filters) = (spec.id.to_string(), &self.arguments.kernels);
            filters.is_empty() || filters.iter().any(|part| name.contains(part.as_str()))
        };
        // The widths of a layer with one tuple are constants in every kernel.
        let serves = |spec: &&KernelSpec| {
            spec.tokens.contains(tokens)
                && spec.class == self.arguments.numeric
                && spec.id.tuple.is_none()
                && named(spec)
        };
        self.layers[0].specs().filter(serves).copied().collect()
    }

    fn chain(&self, tokens: usize) -> anyhow::Result<Chain> {
        let layers = self.layers.len();
        let rounds = if tokens < LONG_CALL { CALLS.div_ceil(layers) } else { 1 };
        let NamedShape { shape, top_k, .. } = self.shape;
        let routings = (0..rounds * layers)
            .map(|call| synth::routing(tokens, shape.num_experts, *top_k, call as u64))
            .collect::<Result<Vec<_>, _>>()?;
        let arguments = routings.iter().map(|routing| DeviceArguments::new(&self.stream, routing));
        let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        let hidden = synth::hidden(tokens, shape.hidden_size, 1);
        let out = self.stream.alloc_zeros::<f32>(hidden.len())?;
        let hidden = upload(&self.stream, Hidden::F16(&hidden))?;
        Ok(Chain { routings, arguments, hidden, out })
    }

    fn time(&self, tokens: usize, copy_gb_per_s: f64) -> anyhow::Result<Vec<Cell>> {
        let chain = self.chain(tokens)?;
        let kernels = self.kernels(tokens);
        let mut queues = vec![self.layers[0].queue_on(Arc::clone(&self.stream))];
        for layer in &self.layers[1..] {
            queues.push(queues[0].sibling(layer));
        }
        let expected = self.expected(&chain)?;
        let mut measured = Vec::new();
        for spec in kernels {
            let error = self.error(&mut queues[0], &spec, &chain, &expected)?;
            let graph = self.capture(&mut queues, &spec, &chain)?;
            let host_us = match tokens <= HOST_TOKENS {
                true => Some(self.host_microseconds(&mut queues, &spec, &chain)?),
                false => None,
            };
            measured.push((spec, graph, error, host_us, Vec::new()));
        }
        let calls = chain.routings.len() as f64;
        let mut replays = *REPLAYS.start();
        let mut replay = 0;
        while replay < replays {
            let mut seconds = 0.0;
            for (_, graph, _, _, times) in &mut measured {
                let start = self.stream.record_event(Some(CU_EVENT_DEFAULT))?;
                graph.launch()?;
                let end = self.stream.record_event(Some(CU_EVENT_DEFAULT))?;
                let milliseconds = f64::from(start.elapsed_ms(&end)?);
                seconds += milliseconds / 1e3;
                // The first replay warms up.
                if replay > 0 {
                    times.push(milliseconds * 1e3 / calls);
                }
            }
            let mean = seconds / measured.len().max(1) as f64;
            replays = ((SECONDS / mean) as usize).clamp(*REPLAYS.start(), *REPLAYS.end());
            replay += 1;
        }
        let load = self.load(&chain, tokens);
        let cells = measured.iter().map(|(spec, _, error, host_us, times)| {
            let median_us = median(times);
            let floor_us =
                peer::floor_microseconds(load.bytes, load.weights, load.macs, copy_gb_per_s);
            let peer_us = peer::microseconds(self.letter, &self.bits, tokens);
            Cell {
                shape: self.letter.into(),
                bits: self.bits.clone(),
                codebook: self.arguments.codebook.name(),
                tokens,
                kernel: spec.id.to_string(),
                numeric: spec.class.name(),
                median_us,
                p10_us: quantile(times, 0.1),
                p90_us: quantile(times, 0.9),
                gb_per_s: load.bytes / median_us / 1e3,
                floor_us,
                share_of_floor: floor_us / median_us,
                peer_us,
                ratio_to_peer: peer_us.map(|peer_us| median_us / peer_us),
                error: *error,
                host_us: *host_us,
                workspace_bytes: spec.workspace.bytes(tokens * self.shape.top_k),
                fastest: false,
            }
        });
        let mut cells: Vec<Cell> = cells.collect();
        let fastest = cells.iter_mut().min_by(|a, b| a.median_us.total_cmp(&b.median_us));
        if let Some(cell) = fastest {
            cell.fastest = true;
        }
        for cell in &cells {
            let Cell { kernel, median_us, p10_us, p90_us, gb_per_s, error, .. } = cell;
            let mark = if cell.fastest { '*' } else { ' ' };
            let ratio = cell.ratio_to_peer.map_or_else(String::new, |r| format!("{r:.2} of peer"));
            println!(
                "{mark} {} {} {tokens:4} tokens {median_us:8.2} us ({p10_us:.2}-{p90_us:.2}) \
                 {gb_per_s:5.0} GB/s, {:.2} of floor, {ratio}, error {error:.1e}  {kernel}",
                self.letter, self.bits, cell.share_of_floor
            );
        }
        Ok(cells)
    }

    /// The oracle's first token of the first call.
    fn expected(&self, chain: &Chain) -> anyhow::Result<Vec<f64>> {
        let routing = first_tokens(&chain.routings[0], 1);
        let hidden = synth::hidden(1, self.shape.shape.hidden_size, 1);
        Ok(oracle::forward(&self.view, Hidden::F16(&hidden), &routing))
    }

    fn error(
        &self,
        queue: &mut CudaQueue,
        spec: &KernelSpec,
        chain: &Chain,
        expected: &[f64],
    ) -> anyhow::Result<f64> {
        let routing = &chain.routings[0];
        let hidden = synth::hidden(routing.num_tokens(), self.shape.shape.hidden_size, 1);
        let mut out = vec![f32::NAN; hidden.len()];
        let call = Call::new(&self.shape.shape, Hidden::F16(&hidden), routing)?;
        queue.launch(spec.id, &call, &mut out)?;
        let error = relative_error(&out[..expected.len()], expected);
        let limit = spec.class.max_relative_error();
        if !matches!(error.partial_cmp(&limit), Some(order) if order.is_le()) {
            bail!("{}: error {error:.2e} above {limit:.0e}: not timed", spec.id);
        }
        Ok(error)
    }

    fn capture(
        &self,
        queues: &mut [CudaQueue],
        spec: &KernelSpec,
        chain: &Chain,
    ) -> anyhow::Result<CudaGraph> {
        queues[0].reserve(spec.id, chain.routings[0].num_pairs())?;
        self.stream.synchronize()?;
        self.stream.begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let launched = self.launch_chain(queues, spec, chain, chain.routings.len());
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0))?;
        launched?;
        let graph = graph.context("an empty capture")?;
        graph.upload()?;
        Ok(graph)
    }

    /// Wall time of putting one call into the stream.
    fn host_microseconds(
        &self,
        queues: &mut [CudaQueue],
        spec: &KernelSpec,
        chain: &Chain,
    ) -> anyhow::Result<f64> {
        self.stream.synchronize()?;
        let start = Instant::now();
        self.launch_chain(queues, spec, chain, HOST_CALLS)?;
        let elapsed = start.elapsed();
        self.stream.synchronize()?;
        Ok(elapsed.as_secs_f64() * 1e6 / HOST_CALLS as f64)
    }

    fn launch_chain(
        &self,
        queues: &mut [CudaQueue],
        spec: &KernelSpec,
        chain: &Chain,
        calls: usize,
    ) -> anyhow::Result<()> {
        for call in 0..calls {
            let arguments = &chain.arguments[call % chain.arguments.len()];
            let call_arguments: DeviceCall =
                arguments.call(&self.stream, &chain.hidden, &chain.out);
            let queue = &mut queues[call % self.layers.len()];
            // SAFETY: the chain's buffers have the lengths of the call and outlive the stream's
            // work, which is waited for before they are dropped.
            unsafe { queue.launch_device(spec.id, &call_arguments)? };
        }
        Ok(())
    }

    /// The mean work of a call.
    fn load(&self, chain: &Chain, tokens: usize) -> Load {
        let shape = &self.shape.shape;
        let (hidden, intermediate) = (shape.padded_hidden(), shape.padded_intermediate());
        let (mut bytes, mut experts) = (0.0, 0.0);
        for (call, routing) in chain.routings.iter().enumerate() {
            let tuples = self.layers[call % self.layers.len()].expert_tuples();
            for &expert in routing.active_experts() {
                bytes += tuples[expert as usize].trellis_bytes(hidden, intermediate) as f64;
                experts += 1.0;
            }
        }
        let calls = chain.routings.len() as f64;
        let per_expert = shape.weights_per_expert() as f64;
        Load {
            bytes: bytes / calls,
            weights: experts / calls * per_expert,
            macs: (tokens * self.shape.top_k) as f64 * per_expert,
        }
    }
}

/// Work of one call.
struct Load {
    bytes: f64,
    weights: f64,
    macs: f64,
}

//! Times kernels as the targets ask: cold weights, a CUDA graph chain over several layers, a new
//! routing in every call, kernels interleaved, median over replays.

mod chain;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, bail};
use trellect_core::{
    Backend, BitTuple, Call, Family, Hidden, KernelSpec, LayerView, NamedShape, NumericClass,
    PreparedLayer, Queue, Routing, WhyNot,
};
use trellect_cuda::cudarc::driver::CudaStream;
use trellect_cuda::cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use trellect_cuda::{CudaBackend, CudaLayer, CudaQueue, LayerKind};
use trellect_exl3::oracle;
use trellect_exl3::synth::{self, SynthSpec};
use trellect_testkit::relative_error;

use crate::TimeArguments;
use crate::ceiling::copy_gb_per_s;
use crate::peer;
use crate::pool::Pool;
use crate::report::{Cell, Machine, Report, median, quantile};
use chain::Chain;

/// Layers are made until their weights take this much, far beyond the second-level cache.
const WEIGHT_BYTES: u64 = 3 << 29;
const LAYERS: std::ops::RangeInclusive<usize> = 4..=8;
/// Replays of every kernel's chain, after one that warms up.
const REPLAYS: usize = 9;
/// Most tokens of a call whose host time is measured.
const HOST_TOKENS: usize = 8;

const METHOD: &str = "Random trellis bits, all experts of several layers resident (at least 1.5 GiB of them), every call on \
another layer with its own uniform routing: weights come from memory. CUDA graph chains of the calls, kernels interleaved, \
median over replays; hidden states f16. Peer: exllamav3 1.4.1 on an H100 80GB HBM3, the same method.";

/// Times everything that was asked for and writes the reports, anew after every group of cells.
pub(crate) fn run(backend: &CudaBackend, arguments: &TimeArguments) -> anyhow::Result<()> {
    let (filters, numeric) = (arguments.kernels.clone(), arguments.numeric);
    let backend = backend.with_kernels(move |id| {
        let name = id.to_string();
        // The widths of a layer with one tuple are constants in every kernel.
        id.tuple.is_none()
            && id.fp32_acc == (numeric == NumericClass::Exact)
            && (filters.is_empty() || filters.iter().any(|part| name.contains(part.as_str())))
    });
    let groups = groups(arguments)?;
    let start = Instant::now();
    let kinds: Vec<LayerKind> = groups
        .iter()
        .map(|(_, shape, _, tuples)| LayerKind {
            shape: shape.shape,
            tuples: tuples.clone(),
            codebooks: vec![arguments.codebook],
        })
        .collect();
    let count = backend.compile_ahead(&kinds);
    println!("{count} compilations in {:.1} s", start.elapsed().as_secs_f64());

    let copy_gb_per_s_before = copy_gb_per_s(&backend)?;
    println!("copy: {copy_gb_per_s_before:.0} GB/s");
    let description = backend.describe();
    let machine = Machine {
        device: description.name,
        facts: description.facts,
        copy_gb_per_s_before,
        copy_gb_per_s_after: copy_gb_per_s_before,
    };
    let mut report = Report { machine, method: METHOD, cells: Vec::new() };
    for (letter, shape, bits, tuples) in &groups {
        let pool = Pool::new(shape.shape, arguments.codebook);
        let group = Group::new(&backend, arguments, letter, shape, bits, tuples, &pool)?;
        for &tokens in &arguments.tokens {
            report.cells.extend(group.time(tokens, copy_gb_per_s_before)?);
        }
        report.machine.copy_gb_per_s_after = copy_gb_per_s(&backend)?;
        if let Some(folder) = &arguments.out {
            write(&report, folder)?;
        }
    }
    println!("{}", report.markdown());
    Ok(())
}

/// Shape by letter, name of the widths, tuples of the experts.
type GroupKind = (String, NamedShape, String, Vec<BitTuple>);

fn groups(arguments: &TimeArguments) -> anyhow::Result<Vec<GroupKind>> {
    let mut groups = Vec::new();
    for letter in &arguments.shapes {
        let shape = named_shape(letter)?;
        let all = match arguments.bits.is_empty() {
            false => arguments.bits.clone(),
            true => peer::widths(letter).into_iter().chain(["mixed".into()]).collect(),
        };
        for bits in all {
            let tuples = match bits.as_str() {
                "mixed" => SynthSpec::mixed(shape.shape, arguments.codebook, 1).tuples,
                bits => vec![bits.parse::<BitTuple>()?; shape.shape.num_experts],
            };
            groups.push((letter.clone(), shape, bits.replace(',', "_"), tuples));
        }
    }
    Ok(groups)
}

fn write(report: &Report, folder: &Path) -> anyhow::Result<()> {
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    write("table.md", report.markdown())?;
    write("table.json", serde_json::to_string_pretty(report)? + "\n")
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
    bits: &'a str,
    stream: Arc<CudaStream>,
    /// The oracle's first token of the first call on the first layer, which is the same for any
    /// number of tokens.
    expected: Vec<f64>,
    layers: Vec<Arc<CudaLayer>>,
}

impl<'a> Group<'a> {
    fn new(
        backend: &CudaBackend,
        arguments: &'a TimeArguments,
        letter: &'a str,
        shape: &'a NamedShape,
        bits: &'a str,
        tuples: &[BitTuple],
        pool: &'a Pool,
    ) -> anyhow::Result<Self> {
        let view = pool.layer(tuples, 0);
        let wanted = WEIGHT_BYTES.div_ceil(view.trellis_bytes()) as usize;
        let count = wanted.clamp(*LAYERS.start(), *LAYERS.end());
        let start = Instant::now();
        let layers = (0..count)
            .map(|index| backend.prepare_layer(&pool.layer(tuples, index as u64), &mut |_| {}))
            .collect::<Result<Vec<_>, _>>()?;
        let rejections = layers[0].candidates().iter().filter_map(|c| c.as_ref().err());
        for rejection in rejections.filter(|rejection| rejection.why != WhyNot::NotListed) {
            println!("skipped: {rejection}");
        }
        let prepared = start.elapsed().as_secs_f64();
        let expected = first_token(&view, shape)?;
        let all = start.elapsed().as_secs_f64();
        println!(
            "{letter} {bits}: {count} layers in {prepared:.1} s, oracle {:.1} s",
            all - prepared
        );
        let stream = backend.context().new_stream()?;
        Ok(Self { arguments, letter, shape, bits, stream, expected, layers })
    }

    /// The kernels that could be the fastest for `tokens` tokens, or all with `--every`.
    fn kernels(&self, tokens: usize) -> Vec<KernelSpec> {
        let sensible = |spec: &KernelSpec| match spec.id.family {
            Family::Decode => tokens == 1,
            Family::Prefill4 => tokens <= 16,
            Family::Base | Family::Grouped => (4..=256).contains(&tokens),
            Family::LargeBatch if spec.rows_per_decode <= 32 => (64..=512).contains(&tokens),
            Family::LargeBatch => tokens >= 128,
        };
        let serves = |spec: &&KernelSpec| {
            spec.tokens.contains(tokens) && (self.arguments.every || sensible(spec))
        };
        self.layers[0].specs().filter(serves).copied().collect()
    }

    fn time(&self, tokens: usize, copy_gb_per_s: f64) -> anyhow::Result<Vec<Cell>> {
        let chain = Chain::new(&self.stream, self.shape, self.layers.len(), tokens)?;
        let kernels = self.kernels(tokens);
        let mut queues = vec![self.layers[0].queue_on(Arc::clone(&self.stream))];
        for layer in &self.layers[1..] {
            queues.push(queues[0].sibling(layer));
        }
        let mut measured = Vec::new();
        for spec in kernels {
            let error = self.error(&mut queues[0], &spec, &chain)?;
            let graph = chain.capture(&mut queues, &spec)?;
            let host_us = match tokens <= HOST_TOKENS {
                true => Some(chain.host_microseconds(&mut queues, &spec)?),
                false => None,
            };
            measured.push((spec, graph, error, host_us, Vec::new()));
        }
        let calls = chain.len() as f64;
        for replay in 0..=REPLAYS {
            for (_, graph, _, _, times) in &mut measured {
                let start = self.stream.record_event(Some(CU_EVENT_DEFAULT))?;
                graph.launch()?;
                let end = self.stream.record_event(Some(CU_EVENT_DEFAULT))?;
                let milliseconds = f64::from(start.elapsed_ms(&end)?);
                if replay > 0 {
                    times.push(milliseconds * 1e3 / calls);
                }
            }
        }
        let load = self.load(&chain);
        let cells = measured.iter().map(|(spec, _, error, host_us, times)| {
            let median_us = median(times);
            let floor_us =
                peer::floor_microseconds(load.bytes, load.weights, load.macs, copy_gb_per_s);
            let peer_us = peer::microseconds(self.letter, self.bits, tokens);
            Cell {
                shape: self.letter.into(),
                bits: self.bits.into(),
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

    fn error(
        &self,
        queue: &mut CudaQueue,
        spec: &KernelSpec,
        chain: &Chain,
    ) -> anyhow::Result<f64> {
        let routing = chain.routing(0);
        let hidden = synth::hidden(routing.num_tokens(), self.shape.shape.hidden_size, 1);
        let mut out = vec![f32::NAN; hidden.len()];
        let call = Call::new(&self.shape.shape, Hidden::F16(&hidden), routing)?;
        queue.launch(spec.id, &call, &mut out)?;
        let error = relative_error(&out[..self.expected.len()], &self.expected);
        let limit = spec.class.max_relative_error();
        if !matches!(error.partial_cmp(&limit), Some(order) if order.is_le()) {
            bail!("{}: error {error:.2e} above {limit:.0e}: not timed", spec.id);
        }
        Ok(error)
    }

    /// The mean work of a call.
    fn load(&self, chain: &Chain) -> Load {
        let NamedShape { shape, top_k, .. } = self.shape;
        let (hidden, intermediate) = (shape.padded_hidden(), shape.padded_intermediate());
        let (mut bytes, mut experts) = (0.0, 0.0);
        for call in 0..chain.len() {
            let tuples = self.layers[call % self.layers.len()].expert_tuples();
            for &expert in chain.routing(call).active_experts() {
                bytes += tuples[expert as usize].trellis_bytes(hidden, intermediate) as f64;
                experts += 1.0;
            }
        }
        let calls = chain.len() as f64;
        let per_expert = shape.weights_per_expert() as f64;
        Load {
            bytes: bytes / calls,
            weights: experts / calls * per_expert,
            macs: (chain.routing(0).num_tokens() * top_k) as f64 * per_expert,
        }
    }
}

/// Work of one call.
struct Load {
    bytes: f64,
    weights: f64,
    macs: f64,
}

/// What the oracle says of the first token of call 0, its experts on a thread each.
fn first_token(view: &LayerView<'_>, shape: &NamedShape) -> anyhow::Result<Vec<f64>> {
    let NamedShape { shape, top_k, .. } = *shape;
    let hidden = synth::hidden(1, shape.hidden_size, 1);
    let routing = synth::routing(1, shape.num_experts, top_k, 0)?;
    let slots = (0..top_k).map(|slot| {
        let (id, weight) = (routing.topk_ids()[slot] as i32, routing.topk_weights()[slot]);
        Routing::new(shape.num_experts, 1, &[id], &[weight])
    });
    let slots = slots.collect::<Result<Vec<_>, _>>()?;
    let mut sum = vec![0.0; shape.hidden_size];
    thread::scope(|scope| {
        let hidden = Hidden::F16(&hidden);
        let compute = |slot| scope.spawn(move || oracle::forward(view, hidden, slot));
        let threads: Vec<_> = slots.iter().map(compute).collect();
        for thread in threads {
            let share = thread.join().expect("the oracle does not panic on a valid call");
            sum.iter_mut().zip(share).for_each(|(sum, share)| *sum += share);
        }
    });
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use trellect_core::{Codebook, LayerShape};

    use super::*;

    #[test]
    fn the_first_token_is_that_of_any_number_of_tokens() {
        let shape = LayerShape::new(200, 300, 5).expect("positive");
        let named = NamedShape { name: "small", shape, top_k: 3 };
        let pool = Pool::new(shape, Codebook::Mcg);
        let tuples = SynthSpec::mixed(shape, Codebook::Mcg, 1).tuples;
        let view = pool.layer(&tuples, 7);
        let found = first_token(&view, &named).expect("a valid call");
        let hidden = synth::hidden(4, 200, 1);
        let routing = synth::routing(4, 5, 3, 0).expect("a valid routing");
        let all = oracle::forward(&view, Hidden::F16(&hidden), &routing);
        let largest = all.iter().fold(0.0f64, |most, value| most.max(value.abs()));
        // The pool's scales keep a layer's outputs of the order of its inputs.
        assert!((0.01..100.0).contains(&largest), "{largest}");
        assert!(found.iter().zip(&all).all(|(a, b)| (a - b).abs() < 1e-12 * largest));
    }
}

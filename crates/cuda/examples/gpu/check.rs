//! Every kernel against the float64 oracle.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};
use half::{bf16, f16};
use trellect_core::{
    BitTuple, Call, Codebook, Hidden, KernelSpec, LayerShape, LayerView, PreparedLayer, Queue,
    Routing, WhyNot,
};
use trellect_cuda::cudarc::driver::sys::CUgraphInstantiate_flags;
use trellect_cuda::cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
use trellect_cuda::{CudaBackend, CudaLayer, CudaQueue, LayerKind};
use trellect_exl3::synth::{self, OwnedLayer, SynthSpec};
use trellect_exl3::{Checkpoint, oracle};
use trellect_testkit::{golden, relative_error};
use zerocopy::IntoBytes;

use crate::device_memory::{DeviceArguments, ids, upload};

const TOKENS: [usize; 11] = [0, 1, 2, 3, 4, 5, 16, 17, 33, 65, 129];
const MOST_TOKENS: usize = 129;

/// What was found so far: the largest error of every kernel, and what went wrong.
struct Outcome<'b> {
    backend: &'b CudaBackend,
    /// The same device with the kernels that compile soon for many widths at once.
    few_kernels: &'b CudaBackend,
    worst: BTreeMap<String, (f64, usize)>,
    failures: Vec<String>,
}

/// A named group of cases.
type Case = (&'static str, fn(&mut Outcome<'_>) -> anyhow::Result<()>);

const CASES: [Case; 9] = [
    ("golden", golden_layers),
    ("widths", widths),
    ("mixed", mixed),
    ("large", large),
    ("elements", elements),
    ("not-finite", not_finite),
    ("magnitudes", magnitudes),
    ("deterministic", deterministic),
    ("capture", capture),
];

/// Layers with more pairs of width and codebook than this are run with few kernels.
const MANY_KINDS: usize = 8;

/// Runs the cases whose name contains `only`; whether all of them hold.
pub(crate) fn run(backend: &CudaBackend, only: &str) -> anyhow::Result<bool> {
    let few_kernels = backend.with_kernels(|id| {
        let name = id.to_string();
        ["@cuda.k256", "@cuda.r8", "@cuda.ordered"].iter().any(|end| name.ends_with(end))
    });
    compile_ahead(backend, &few_kernels)?;
    let (worst, failures) = (BTreeMap::new(), Vec::new());
    let mut outcome = Outcome { backend, few_kernels: &few_kernels, worst, failures };
    for (name, case) in CASES.into_iter().filter(|(name, _)| name.contains(only)) {
        let (start, before) = (Instant::now(), outcome.failures.len());
        if let Err(error) = case(&mut outcome) {
            outcome.failures.push(format!("{name}: {error:#}"));
        }
        let failed = outcome.failures.len() - before;
        println!("{name}: {failed} failures, {:.1} s", start.elapsed().as_secs_f64());
    }
    println!("\nlargest relative error of every kernel, and in how many calls:");
    for (kernel, (error, calls)) in &outcome.worst {
        println!("{error:9.2e} {calls:5}  {kernel}");
    }
    for failure in &outcome.failures {
        println!("WRONG: {failure}");
    }
    println!("{} failures", outcome.failures.len());
    Ok(outcome.failures.is_empty())
}

/// Compiles for all cases at once, whichever are asked for: one after the other is many times as
/// slow.
fn compile_ahead(backend: &CudaBackend, few_kernels: &CudaBackend) -> anyhow::Result<()> {
    let mut kinds: Vec<LayerKind> = Vec::new();
    let checkpoint = Checkpoint::open(&golden::model_dir())?;
    for number in 0..golden::index().layers.len() {
        let layer = checkpoint.layer(number)?;
        kinds.extend(
            [Some(layer.view()), layer.shared_expert()].into_iter().flatten().map(LayerKind::of),
        );
    }
    for spec in width_specs().iter().map(|(spec, _)| spec).chain(&[all_widths(), mix(11)]) {
        let (tuples, codebooks) = (spec.tuples.clone(), spec.codebooks.clone());
        kinds.push(LayerKind { shape: spec.shape, tuples, codebooks });
    }
    let (many, few): (Vec<_>, Vec<_>) = kinds.into_iter().partition(has_many_kinds);
    let start = Instant::now();
    let count = thread::scope(|scope| {
        // Few compilations that take long, beside many that do not.
        let long = scope.spawn(|| few_kernels.compile_ahead(&many));
        let short = backend.compile_ahead(&few);
        println!("{short} compilations in {:.1} s", start.elapsed().as_secs_f64());
        short + long.join().expect("a compilation reports what goes wrong")
    });
    println!("{count} compilations in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn has_many_kinds(kind: &LayerKind) -> bool {
    let distinct = |values: &mut dyn Iterator<Item = u8>| values.collect::<HashSet<_>>().len();
    let widths: usize = (0..3)
        .map(|p| distinct(&mut kind.tuples.iter().map(|tuple| tuple.widths()[p].get())))
        .sum();
    widths * distinct(&mut kind.codebooks.iter().map(|codebook| *codebook as u8)) > MANY_KINDS
}

impl Outcome<'_> {
    fn prepare(&self, view: &LayerView<'_>) -> anyhow::Result<Arc<CudaLayer>> {
        let backend = match has_many_kinds(&LayerKind::of(view)) {
            true => self.few_kernels,
            false => self.backend,
        };
        let layer = backend.prepare_layer(view, &mut |_| {})?;
        layer.wait_for_compiler();
        let rejections = layer.candidates().iter().filter_map(|candidate| candidate.as_ref().err());
        for rejection in rejections.filter(|rejection| rejection.why != WhyNot::NotListed) {
            println!("skipped: {rejection}");
        }
        Ok(layer)
    }

    /// Compares every kernel that can compute the call with `expected`.
    fn compare(
        &mut self,
        layer: &Arc<CudaLayer>,
        hidden: Hidden<'_>,
        routing: &Routing,
        expected: &[f64],
        case: &dyn std::fmt::Debug,
    ) -> anyhow::Result<()> {
        let all: Vec<usize> = (0..routing.num_tokens()).collect();
        self.compare_tokens(layer, hidden, routing, (&all, expected), case)
    }

    /// The same for some tokens of a call that is too large for the oracle.
    fn compare_tokens(
        &mut self,
        layer: &Arc<CudaLayer>,
        hidden: Hidden<'_>,
        routing: &Routing,
        (tokens, expected): (&[usize], &[f64]),
        case: &dyn std::fmt::Debug,
    ) -> anyhow::Result<()> {
        let width = layer.shape().hidden_size;
        let mut queue = layer.cuda_queue();
        for spec in computing(layer, routing) {
            let out = match launch(&mut queue, &spec, layer, hidden, routing) {
                Ok(out) => out,
                Err(error) => {
                    self.failures.push(format!("{}: {error:#} in {case:?}", spec.id));
                    continue;
                }
            };
            let rows = tokens.iter().flat_map(|token| &out[token * width..][..width]);
            let error = relative_error(&rows.copied().collect::<Vec<_>>(), expected);
            let worst = self.worst.entry(spec.id.plain_with_variant()).or_insert((0.0, 0));
            // A NaN stays.
            worst.0 = if error > worst.0 || error.is_nan() { error } else { worst.0 };
            worst.1 += 1;
            let limit = spec.class.max_relative_error();
            if !matches!(error.partial_cmp(&limit), Some(o) if o.is_le()) {
                self.failures.push(format!("{}: error {error:.2e} in {case:?}", spec.id));
            }
        }
        Ok(())
    }
}

/// Names without the tuple, so that the summary has one line a kernel.
trait PlainWithVariant {
    fn plain_with_variant(self) -> String;
}

impl PlainWithVariant for trellect_core::KernelId {
    fn plain_with_variant(self) -> String {
        let tuple = if self.tuple.is_some() { " (one tuple)" } else { "" };
        format!("{}{tuple}", Self { tuple: None, ..self })
    }
}

/// The kernels that can compute a call of this routing.
fn computing(layer: &CudaLayer, routing: &Routing) -> Vec<KernelSpec> {
    let tuples = layer.expert_tuples();
    let fits = |spec: &&KernelSpec| {
        let active = |&expert: &u32| spec.id.tuple.is_none_or(|t| t == tuples[expert as usize]);
        spec.tokens.contains(routing.num_tokens()) && routing.active_experts().iter().all(active)
    };
    layer.specs().filter(fits).copied().collect()
}

/// Runs one kernel into an output full of NaN.
fn launch(
    queue: &mut CudaQueue,
    spec: &KernelSpec,
    layer: &CudaLayer,
    hidden: Hidden<'_>,
    routing: &Routing,
) -> anyhow::Result<Vec<f32>> {
    let call = Call::new(layer.shape(), hidden, routing)?;
    let mut out = vec![f32::NAN; hidden.len()];
    queue.launch(spec.id, &call, &mut out)?;
    Ok(out)
}

/// The first `tokens` tokens of a routing.
pub(crate) fn first_tokens(routing: &Routing, tokens: usize) -> Routing {
    let pairs = tokens * routing.top_k();
    let weights = &routing.topk_weights()[..pairs];
    Routing::new(routing.num_experts(), routing.top_k(), &ids(routing)[..pairs], weights)
        .expect("was valid")
}

fn shape(hidden: usize, intermediate: usize, experts: usize) -> LayerShape {
    LayerShape::new(hidden, intermediate, experts).expect("positive sizes")
}

fn tuple(gate: u64, up: u64, down: u64) -> BitTuple {
    BitTuple::new(gate, up, down).expect("widths are 1 to 8")
}

fn golden_layers(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&golden::model_dir())?;
    let expected = golden::expected();
    for (number, index) in golden::index().layers.iter().enumerate() {
        let moe = checkpoint.layer(number)?;
        let get = |name: &str| format!("{}.{name}", index.prefix);
        let hidden = expected.f16(&get("x_f16")).data;
        let ids = expected.i32(&get("topk_ids_i32")).data;
        let weights = expected.f16(&get("topk_weights_f16")).data;
        let weights: Vec<f32> = weights.iter().map(|weight| weight.to_f32()).collect();
        let routing = Routing::new(index.num_experts, index.top_k, &ids, &weights)?;
        let y = expected.f64(&get("y_routed_f64")).data;
        let layer = outcome.prepare(moe.view())?;
        for tokens in [routing.num_tokens(), 1] {
            let len = tokens * index.hidden_size;
            let (hidden, case) = (Hidden::F16(&hidden[..len]), (&index.prefix, tokens));
            outcome.compare(&layer, hidden, &first_tokens(&routing, tokens), &y[..len], &case)?;
        }
        if let Some(shared) = moe.shared_expert() {
            let layer = outcome.prepare(shared)?;
            let tokens = hidden.len() / index.hidden_size;
            let routing = Routing::new(1, 1, &vec![0; tokens], &vec![1.0; tokens])?;
            let y = expected.f64(&get("y_shared_f64")).data;
            outcome.compare(&layer, Hidden::F16(&hidden), &routing, &y, &"shared expert")?;
        }
    }
    Ok(())
}

/// How tokens go to four experts.
#[derive(Clone, Copy, Debug)]
enum Spread {
    Random,
    /// Experts 1 and 3 stay empty.
    EmptyExperts,
    /// In both slots.
    OneExpert,
}

impl Spread {
    fn routing(self) -> anyhow::Result<Routing> {
        let weights: Vec<f32> =
            (0..2 * MOST_TOKENS).map(|pair| 0.1 + (pair % 7) as f32 / 10.0).collect();
        let ids: Vec<i32> = match self {
            Self::Random => return Ok(synth::routing(MOST_TOKENS, 4, 2, 11)?),
            Self::EmptyExperts => {
                (0..MOST_TOKENS).flat_map(|t| if t % 3 == 0 { [0, 2] } else { [2, 0] }).collect()
            }
            Self::OneExpert => vec![3; 2 * MOST_TOKENS],
        };
        Ok(Routing::new(4, 2, &ids, &weights)?)
    }
}

/// Every width, every codebook, and sizes of one block, of odd multiples, and such that need
/// padding. Most pad to the same sizes, which shares compilations.
fn width_specs() -> Vec<(SynthSpec, Spread)> {
    let spec = |(hidden, intermediate), tuple, codebook, bias| {
        let uniform = SynthSpec::uniform(shape(hidden, intermediate, 4), tuple, codebook, 5);
        SynthSpec { bias, ..uniform }
    };
    let uniform = |bits: u64| tuple(bits, bits, bits);
    let mut specs = Vec::new();
    for bits in 1..=8 {
        specs.push((spec((256, 384), uniform(bits), Codebook::Mul1, false), Spread::Random));
        specs.push((spec((200, 300), uniform(bits), Codebook::Mul1, true), Spread::EmptyExperts));
    }
    for (bits, codebook) in [2, 3, 6]
        .into_iter()
        .flat_map(|bits| [Codebook::Mcg, Codebook::ThreeInst].map(|codebook| (bits, codebook)))
    {
        specs.push((spec((256, 384), uniform(bits), codebook, true), Spread::OneExpert));
    }
    for sizes in [(128, 128), (640, 128), (128, 640)] {
        specs.push((spec(sizes, tuple(6, 2, 3), Codebook::Mul1, true), Spread::Random));
    }
    specs
}

fn widths(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    for (spec, spread) in width_specs() {
        let owned = OwnedLayer::new(&spec)?;
        let layer = outcome.prepare(&owned.view())?;
        let hidden_size = spec.shape.hidden_size;
        let hidden = synth::hidden(MOST_TOKENS, hidden_size, 7);
        let routing = spread.routing()?;
        let expected = oracle::forward(&owned.view(), Hidden::F16(&hidden), &routing);
        for tokens in TOKENS {
            let len = tokens * hidden_size;
            let case = (spec.shape, spread, spec.tuples[0], spec.codebooks[0], tokens);
            let hidden = Hidden::F16(&hidden[..len]);
            let routing = first_tokens(&routing, tokens);
            outcome.compare(&layer, hidden, &routing, &expected[..len], &case)?;
        }
    }
    Ok(())
}

/// The usual mix of three tuples, on sizes that the other cases share.
fn mix(num_experts: usize) -> SynthSpec {
    SynthSpec::mixed(shape(256, 384, num_experts), Codebook::Mul1, 3)
}

/// Every width in every projection and all three codebooks.
fn all_widths() -> SynthSpec {
    let mut spec = mix(11);
    for expert in 0..8 {
        let bits = expert as u64 + 1;
        spec.tuples[expert] = tuple(bits, 9 - bits, (bits + 4) % 8 + 1);
    }
    for (expert, codebook) in spec.codebooks.iter_mut().enumerate() {
        *codebook = Codebook::ALL[expert % 3];
    }
    spec
}

/// Several tuples in one launch; top_k from one to all experts.
fn mixed(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    for spec in [mix(11), all_widths()] {
        let owned = OwnedLayer::new(&spec)?;
        let layer = outcome.prepare(&owned.view())?;
        for (tokens, top_k) in [(1, 1), (1, 11), (2, 3), (9, 4), (33, 11), (40, 3), (300, 5)] {
            let hidden = synth::hidden(tokens, 256, 1);
            let routing = synth::routing(tokens, 11, top_k, 2)?;
            let expected = oracle::forward(&owned.view(), Hidden::F16(&hidden), &routing);
            let case = ("mixed", tokens, top_k);
            outcome.compare(&layer, Hidden::F16(&hidden), &routing, &expected, &case)?;
        }
    }
    Ok(())
}

/// More rows of one expert than any tile, and more pairs than one pass takes.
fn large(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let owned = OwnedLayer::new(&mix(6))?;
    let layer = outcome.prepare(&owned.view())?;
    for tokens in [1500, 22_000] {
        let hidden = synth::hidden(tokens, 256, 1);
        let hidden = Hidden::F16(&hidden);
        let routing = synth::skewed_routing(tokens, 6, 3, 2)?;
        let some: Vec<usize> = (0..tokens).step_by(tokens / 60).chain([tokens - 1]).collect();
        let expected = oracle::forward_tokens(&owned.view(), hidden, &routing, &some);
        outcome.compare_tokens(&layer, hidden, &routing, (&some, &expected), &tokens)?;
    }
    Ok(())
}

fn elements(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let owned = OwnedLayer::new(&SynthSpec { shape: shape(200, 300, 4), ..mix(4) })?;
    let layer = outcome.prepare(&owned.view())?;
    let routing = synth::routing(3, 4, 2, 2)?;
    let f16s = synth::hidden(3, 200, 4);
    let f32s: Vec<f32> = f16s.iter().map(|value| value.to_f32() * 1.000_1).collect();
    let bf16s: Vec<bf16> = f32s.iter().map(|&value| bf16::from_f32(value)).collect();
    for hidden in [Hidden::F16(&f16s), Hidden::Bf16(&bf16s), Hidden::F32(&f32s)] {
        let expected = oracle::forward(&owned.view(), hidden, &routing);
        outcome.compare(&layer, hidden, &routing, &expected, &"element type")?;
    }
    Ok(())
}

/// A token that is not finite poisons its own output and nobody else's.
fn not_finite(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let owned = OwnedLayer::new(&mix(4))?;
    let layer = outcome.prepare(&owned.view())?;
    let routing = synth::routing(3, 4, 4, 2)?;
    for bad in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
        let mut hidden = synth::hidden(3, 256, 4);
        hidden[256 + 50] = bad;
        let mut queue = layer.cuda_queue();
        for spec in computing(&layer, &routing) {
            let out = launch(&mut queue, &spec, &layer, Hidden::F16(&hidden), &routing)?;
            let finite = [0, 1, 2].map(|token| {
                let row = &out[256 * token..][..256];
                (row.iter().all(|v| v.is_finite()), row.iter().any(|v| v.is_finite()))
            });
            if !matches!(finite, [(true, _), (_, false), (true, _)]) {
                outcome
                    .failures
                    .push(format!("{}: {bad} spreads, or is lost: {finite:?}", spec.id));
            }
        }
    }
    Ok(())
}

/// Hidden states at the ends of float16 and beyond it.
fn magnitudes(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let owned = OwnedLayer::new(&mix(4))?;
    let layer = outcome.prepare(&owned.view())?;
    let routing = synth::routing(2, 4, 2, 2)?;
    let hidden = synth::hidden(2, 256, 4);
    for scale in [6e-8, 1e-3, 1e4, 1e8] {
        let hidden: Vec<f32> = hidden.iter().map(|value| value.to_f32() * scale).collect();
        let hidden = Hidden::F32(&hidden);
        let expected = oracle::forward(&owned.view(), hidden, &routing);
        outcome.compare(&layer, hidden, &routing, &expected, &("scale", scale))?;
    }
    Ok(())
}

/// Equal bits from equal input, twenty times, where a kernel promises it.
fn deterministic(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let owned = OwnedLayer::new(&mix(16))?;
    let layer = outcome.prepare(&owned.view())?;
    let mut promised = 0;
    for tokens in [1, 7, 64, 300] {
        let hidden = synth::hidden(tokens, 256, 1);
        let routing = synth::routing(tokens, 16, 4, 2)?;
        let mut queue = layer.cuda_queue();
        for spec in computing(&layer, &routing).iter().filter(|spec| spec.deterministic) {
            promised += 1;
            let mut run = || launch(&mut queue, spec, &layer, Hidden::F16(&hidden), &routing);
            let first = run()?;
            for _ in 0..20 {
                let again = run()?;
                if first.iter().zip(&again).any(|(a, b)| a.to_bits() != b.to_bits()) {
                    outcome.failures.push(format!("{}: differs, {tokens} tokens", spec.id));
                    break;
                }
            }
        }
    }
    ensure!(promised > 0, "no kernel promises equal bits");
    Ok(())
}

/// Every kernel in a graph that is replayed with other hidden states and another routing.
fn capture(outcome: &mut Outcome<'_>) -> anyhow::Result<()> {
    let owned = OwnedLayer::new(&mix(8))?;
    let layer = outcome.prepare(&owned.view())?;
    for tokens in [1, 5, 32, 200] {
        let inputs = [1, 2].map(|seed| {
            (synth::hidden(tokens, 256, seed), synth::routing(tokens, 8, 3, seed).expect("valid"))
        });
        let mut expected = Vec::new();
        for (hidden, routing) in &inputs {
            expected.push(oracle::forward(&owned.view(), Hidden::F16(hidden), routing));
        }
        // Over all experts alike: which of them are active changes between replays.
        for spec in computing(&layer, &inputs[0].1).iter().filter(|spec| spec.capture_safe) {
            let results = replay(outcome.backend, &layer, spec, &inputs)?;
            for (result, expected) in results.iter().zip(&expected) {
                let (error, limit) =
                    (relative_error(result, expected), spec.class.max_relative_error());
                if !matches!(error.partial_cmp(&limit), Some(o) if o.is_le()) {
                    let case = format!("error {error:.2e} in a graph, {tokens} tokens");
                    outcome.failures.push(format!("{}: {case}", spec.id));
                }
            }
        }
    }
    Ok(())
}

/// Captures the call on the first input, then replays it on all.
fn replay(
    backend: &CudaBackend,
    layer: &Arc<CudaLayer>,
    spec: &KernelSpec,
    inputs: &[(Vec<f16>, Routing); 2],
) -> anyhow::Result<Vec<Vec<f32>>> {
    let stream = backend.context().new_stream()?;
    let mut queue = layer.queue_on(Arc::clone(&stream));
    let (hidden, routing) = &inputs[0];
    let mut hidden_buffer = upload(&stream, Hidden::F16(hidden))?;
    let mut arguments = DeviceArguments::new(&stream, routing)?;
    let mut out = stream.alloc_zeros::<f32>(hidden.len())?;
    queue.reserve(spec.id, routing.num_pairs())?;
    stream.synchronize()?;
    stream.begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let call = arguments.call(&stream, &hidden_buffer, &out);
    // SAFETY: the buffers have the lengths of the call and live until the last replay is done.
    let launched = unsafe { queue.launch_device(spec.id, &call) };
    let graph = stream.end_capture(CUgraphInstantiate_flags(0))?;
    launched?;
    let graph = graph.context("an empty capture")?;
    let mut results = Vec::new();
    for (hidden, routing) in inputs {
        stream.memcpy_htod(hidden.as_bytes(), &mut hidden_buffer.0)?;
        stream.memcpy_htod(&ids(routing), &mut arguments.ids)?;
        stream.memcpy_htod(routing.topk_weights(), &mut arguments.weights)?;
        stream.memcpy_htod(&vec![f32::NAN; hidden.len()], &mut out)?;
        graph.launch()?;
        results.push(stream.clone_dtoh(&out)?);
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_of_the_cases_can_be_made() {
        for (spec, spread) in width_specs() {
            let owned = OwnedLayer::new(&spec).expect("a small layer");
            assert!(!has_many_kinds(&LayerKind::of(&owned.view())));
            assert_eq!(spread.routing().expect("valid").num_experts(), spec.shape.num_experts);
        }
        let many = OwnedLayer::new(&all_widths()).expect("a small layer");
        assert!(has_many_kinds(&LayerKind::of(&many.view())));
        assert!(!has_many_kinds(&LayerKind::of(&OwnedLayer::new(&mix(11)).expect("small").view())));
    }
}

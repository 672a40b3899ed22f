//! Every kernel against the float64 oracle.

mod cases;
mod graphs;
mod layers;

use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use trellect_core::{Call, Hidden, KernelSpec, LayerView, PreparedLayer, Queue, Routing, WhyNot};
use trellect_cuda::{CudaBackend, CudaLayer, CudaQueue, LayerKind};
use trellect_exl3::Checkpoint;
use trellect_exl3::synth::SynthSpec;
use trellect_testkit::{golden, relative_error};

use crate::device_memory::ids;
use layers::{all_widths, mix, width_specs};

/// What to check.
#[derive(clap::Args)]
pub(crate) struct CheckArguments {
    /// Only the cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Of the layers of the case `widths`, only one part of several, as in 2/4.
    #[arg(long, default_value = "1/1")]
    part: Part,
}

/// Every `count`-th of a list, from the `number`-th on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    number: usize,
    count: usize,
}

impl Part {
    fn of<T>(self, list: Vec<T>) -> impl Iterator<Item = T> {
        list.into_iter().skip(self.number - 1).step_by(self.count)
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once('/').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match parts {
            Some((number, count)) if (1..=count).contains(&number) => Ok(Self { number, count }),
            _ => Err("expected a part as in 2/4".into()),
        }
    }
}

/// What was found so far: the largest error of every kernel, and what went wrong.
struct Outcome<'b> {
    backend: &'b CudaBackend,
    /// The same device with the kernels that compile soon for many widths at once.
    few_kernels: &'b CudaBackend,
    part: Part,
    worst: BTreeMap<String, (f64, usize)>,
    failures: Vec<String>,
}

/// A named group of cases.
struct Case {
    name: &'static str,
    /// Its layers, as far as the compiler knows them.
    kinds: fn(Part) -> anyhow::Result<Vec<LayerKind>>,
    run: fn(&mut Outcome<'_>) -> anyhow::Result<()>,
}

const CASES: [Case; 10] = [
    Case { name: "golden", kinds: golden_kinds, run: cases::golden_layers },
    Case { name: "widths", kinds: width_kinds, run: cases::widths },
    Case { name: "mixed", kinds: many_kinds, run: cases::mixed },
    Case { name: "large", kinds: mixed_kinds, run: cases::large },
    Case { name: "elements", kinds: mixed_kinds, run: cases::elements },
    Case { name: "not-finite", kinds: mixed_kinds, run: cases::not_finite },
    Case { name: "magnitudes", kinds: mixed_kinds, run: cases::magnitudes },
    Case { name: "deterministic", kinds: mixed_kinds, run: cases::deterministic },
    Case { name: "capture", kinds: mixed_kinds, run: graphs::capture },
    Case { name: "devices", kinds: mixed_kinds, run: graphs::several_devices },
];

/// Layers with more pairs of width and codebook than this are run with few kernels.
const MANY_KINDS: usize = 8;

/// Runs the cases that are asked for; whether all of them hold.
pub(crate) fn run(backend: &CudaBackend, arguments: &CheckArguments) -> anyhow::Result<bool> {
    let few_kernels = backend.with_kernels(|id| {
        let name = id.to_string();
        ["@cuda.k256", "@cuda.r8", "@cuda.ordered"].iter().any(|end| name.ends_with(end))
    });
    let part = arguments.part;
    let wanted = || CASES.iter().filter(|case| case.name.contains(&arguments.only));
    let kinds = wanted().map(|case| (case.kinds)(part)).collect::<Result<Vec<_>, _>>()?;
    compile_ahead(backend, &few_kernels, kinds.concat());
    let (worst, failures) = (BTreeMap::new(), Vec::new());
    let mut outcome = Outcome { backend, few_kernels: &few_kernels, part, worst, failures };
    for Case { name, run, .. } in wanted() {
        let (start, before) = (Instant::now(), outcome.failures.len());
        if let Err(error) = run(&mut outcome) {
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

/// Compiles for all cases at once: one after the other is many times as slow.
fn compile_ahead(backend: &CudaBackend, few_kernels: &CudaBackend, kinds: Vec<LayerKind>) {
    let (many, few): (Vec<_>, Vec<_>) = kinds.into_iter().partition(has_many_kinds);
    let start = Instant::now();
    let count = thread::scope(|scope| {
        // Few compilations that take long, beside many that do not.
        let long = scope.spawn(|| few_kernels.compile_ahead(&many));
        let short = backend.compile_ahead(&few);
        short + long.join().expect("a compilation reports what goes wrong")
    });
    println!("{count} compilations in {:.1} s", start.elapsed().as_secs_f64());
}

fn golden_kinds(_: Part) -> anyhow::Result<Vec<LayerKind>> {
    let checkpoint = Checkpoint::open(&golden::model_dir())?;
    let mut kinds = Vec::new();
    for number in 0..golden::index().layers.len() {
        let layer = checkpoint.layer(number)?;
        let views = [Some(layer.view()), layer.shared_expert()];
        kinds.extend(views.into_iter().flatten().map(LayerKind::of));
    }
    Ok(kinds)
}

fn width_kinds(part: Part) -> anyhow::Result<Vec<LayerKind>> {
    Ok(part.of(width_specs()).map(|(spec, _)| kind_of(&spec)).collect())
}

fn mixed_kinds(_: Part) -> anyhow::Result<Vec<LayerKind>> {
    Ok(vec![kind_of(&mix(11))])
}

fn many_kinds(_: Part) -> anyhow::Result<Vec<LayerKind>> {
    Ok(vec![kind_of(&mix(11)), kind_of(&all_widths())])
}

fn kind_of(spec: &SynthSpec) -> LayerKind {
    let (tuples, codebooks) = (spec.tuples.clone(), spec.codebooks.clone());
    LayerKind { shape: spec.shape, tuples, codebooks }
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
            self.judge(&spec, &rows.copied().collect::<Vec<_>>(), expected, case);
        }
        Ok(())
    }

    /// Notes a result's error, and that it is wrong where the kernel's class has less.
    fn judge(
        &mut self,
        spec: &KernelSpec,
        found: &[f32],
        expected: &[f64],
        case: &dyn std::fmt::Debug,
    ) {
        let error = relative_error(found, expected);
        let worst = self.worst.entry(spec.id.plain_with_variant()).or_insert((0.0, 0));
        // A NaN stays.
        worst.0 = if error > worst.0 || error.is_nan() { error } else { worst.0 };
        worst.1 += 1;
        let limit = spec.class.max_relative_error();
        if !matches!(error.partial_cmp(&limit), Some(o) if o.is_le()) {
            self.failures.push(format!("{}: error {error:.2e} in {case:?}", spec.id));
        }
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

#[cfg(test)]
mod tests {
    use trellect_exl3::synth::OwnedLayer;

    use super::*;

    #[test]
    fn parts_together_are_the_whole() {
        let list = |text: &str| text.parse::<Part>().expect("a part").of((0..7).collect());
        let all: HashSet<i32> = ["1/3", "2/3", "3/3"].iter().flat_map(|text| list(text)).collect();
        assert_eq!(all, (0..7).collect());
        assert_eq!(list("2/3").collect::<Vec<_>>(), [1, 4]);
        for wrong in ["", "1", "0/2", "3/2", "1/0", "a/b"] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }

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

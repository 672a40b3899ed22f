//! Records a full-information matrix of a synthetic layer on the CPU backend.
//!
//! ```text
//! cargo run --release -p trellect-tune --example record -- \
//!     --shape glm-4.7-flash --bits mixed --out bench-record/machine/glm-4.7-flash-mixed.json
//! ```

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Parser;
use trellect_core::{
    Backend, BitTuple, Codebook, KernelSpec, NamedShape, NumericClass, PreparedLayer, Routing,
    RoutingError,
};
use trellect_cpu::{CpuBackend, CpuOptions};
use trellect_exl3::synth::{self, OwnedLayer, SynthSpec};
use trellect_tune::matrix::{ContextPlan, Inputs, Matrix, RecordPlan, record};

/// Times every kernel in every context and writes the matrix.
#[derive(Parser)]
struct Args {
    /// Name of the shape, as in `glm-4.7-flash`.
    #[arg(long)]
    shape: String,
    /// A bit tuple for all experts, or `mixed`.
    #[arg(long, default_value = "mixed")]
    bits: String,
    /// Token counts.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32,64")]
    tokens: Vec<usize>,
    /// Token counts to record under skewed routing, too.
    #[arg(long, value_delimiter = ',', default_value = "8,32")]
    skewed: Vec<usize>,
    /// Samples of every cell.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Layers to take turns on.
    #[arg(long, default_value_t = 2)]
    layers: usize,
    /// Most tokens on which portable kernels are measured.
    #[arg(long, default_value_t = 4)]
    generic_tokens: usize,
    /// MiB read before every launch.
    #[arg(long, default_value_t = 320)]
    cold_mib: usize,
    /// Circumstances that a reader should know.
    #[arg(long, default_value = "")]
    note: String,
    /// The file to write; without it only the summary is printed.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let named = NamedShape::find(&args.shape)
        .with_context(|| format!("`{}` is no shape of a known model", args.shape))?;
    let backend = CpuBackend::new(CpuOptions::from_env()?);
    let layers = prepare(&backend, &args, named)?;
    let hidden_size = named.shape.hidden_size;
    let draw = move |context: &ContextPlan, tuples: &[BitTuple], seed: u64| {
        let routing = route(context, tuples, named.top_k, seed)?;
        Ok(Inputs { hidden: synth::hidden(context.num_tokens, hidden_size, seed), routing })
    };
    let skip = |spec: &KernelSpec, context: &ContextPlan| {
        let portable = spec.id.variant.is_some_and(|variant| variant.name() == "generic");
        let limit = args.generic_tokens;
        (portable && context.num_tokens > limit)
            .then(|| format!("portable kernels are measured up to {limit} tokens"))
    };
    let plan = RecordPlan {
        name: format!("{} {}", args.shape, args.bits),
        note: args.note.clone(),
        top_k: named.top_k,
        numeric: NumericClass::Half,
        contexts: contexts(&args),
        rounds: args.rounds,
        cold_bytes: args.cold_mib << 20,
        threads: NonZeroUsize::new(backend.threads()).unwrap_or(NonZeroUsize::MIN),
        skip: &skip,
        draw: &draw,
    };
    let matrix = record(&backend, &layers, &plan, |progress| {
        eprint!("\r{} of {} ", progress.done, progress.total);
    })?;
    eprintln!();
    if let Some(path) = &args.out {
        matrix.write(path)?;
    }
    summarise(&matrix);
    Ok(())
}

fn prepare(
    backend: &CpuBackend,
    args: &Args,
    named: NamedShape,
) -> anyhow::Result<Vec<Arc<dyn PreparedLayer>>> {
    if args.layers == 0 || args.rounds == 0 {
        bail!("--layers and --rounds are at least 1");
    }
    let mut layers = Vec::new();
    for seed in 0..args.layers as u64 {
        let spec = match args.bits.as_str() {
            "mixed" => SynthSpec::mixed(named.shape, Codebook::Mul1, seed),
            tuple => SynthSpec::uniform(named.shape, tuple.parse()?, Codebook::Mul1, seed),
        };
        layers.push(backend.prepare(&OwnedLayer::new(&spec)?.view(), &mut |_| {})?);
    }
    Ok(layers)
}

fn contexts(args: &Args) -> Vec<ContextPlan> {
    let context = |num_tokens, routing: &str| ContextPlan { num_tokens, routing: routing.into() };
    let mut contexts: Vec<ContextPlan> =
        args.tokens.iter().map(|&tokens| context(tokens, "uniform")).collect();
    contexts.extend(args.skewed.iter().map(|&tokens| context(tokens, "skewed")));
    if args.bits == "mixed" && args.tokens.contains(&1) {
        contexts.push(context(1, "one_tuple"));
    }
    contexts
}

/// `uniform` and `skewed` as the generators of that name; `one_tuple`: uniform over the experts
/// that have the most common tuple.
fn route(
    context: &ContextPlan,
    tuples: &[BitTuple],
    top_k: usize,
    seed: u64,
) -> Result<Routing, RoutingError> {
    let (tokens, num_experts) = (context.num_tokens, tuples.len());
    match context.routing.as_str() {
        "skewed" => synth::skewed_routing(tokens, num_experts, top_k, seed),
        "one_tuple" => {
            let alike = |tuple| (0..num_experts).filter(move |&expert| tuples[expert] == tuple);
            let common = tuples.iter().max_by_key(|&&tuple| alike(tuple).count());
            let experts: Vec<usize> = common.into_iter().flat_map(|&tuple| alike(tuple)).collect();
            let routing = synth::routing(tokens, experts.len(), top_k, seed)?;
            let ids: Vec<i32> =
                routing.topk_ids().iter().map(|&id| experts[id as usize] as i32).collect();
            Routing::new(num_experts, top_k, &ids, routing.topk_weights())
        }
        _ => synth::routing(tokens, num_experts, top_k, seed),
    }
}

fn summarise(matrix: &Matrix) {
    println!("{} on {}", matrix.name, matrix.machine.device);
    for context in &matrix.contexts {
        let ceilings: f64 = context.rounds.iter().map(|round| round.ceiling_gib_per_s).sum();
        let ceiling = ceilings / context.rounds.len() as f64;
        println!(
            "{:>3} tokens, {}; memory delivers {ceiling:.1} GiB/s",
            context.num_tokens, context.routing
        );
        let Some((best, best_ns)) = matrix.best(context) else { continue };
        for (index, (kernel, cell)) in matrix.kernels.iter().zip(&context.cells).enumerate() {
            let Some(ns) = cell.median_ns() else { continue };
            let mark = if index == best { "  best" } else { "" };
            println!("    {:9.3} ms  {:5.2}x  {}{mark}", ns / 1e6, ns / best_ns, kernel.name);
        }
    }
    for (index, kernel) in matrix.kernels.iter().enumerate() {
        if let Some(regret) = matrix.uniform_regret(index) {
            println!("always {}: loses {:.1} % on average", kernel.name, 100.0 * regret);
        }
    }
}

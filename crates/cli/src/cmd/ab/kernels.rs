//! Two kernels in this process, on the same layers.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use trellect::core::{Candidate, KernelSpec};
use trellect_tune::bench::{Bench, CellPlan, CellTimes, KernelTimes};

use super::{AbArgs, Pairs, Side, SideReport};
use crate::args::DeviceArgs;
use crate::cmd::bench::group::{Group, GroupPlan};
use crate::cmd::bench::{kernels, machine};

/// Measures pairs on the calls of one bench.
///
/// # Errors
/// When a kernel cannot compute the calls, or fails.
pub(super) fn measure(args: &AbArgs, pairs: &mut Pairs) -> anyhow::Result<[SideReport; 2]> {
    let named = Side::BOTH.map(|side| args.kernel(side));
    let stop = pairs.stop();
    on_bench(args, args.threads, &named, &stop, |ready| {
        let Ready { bench, times, .. } = ready;
        let mut told = 0;
        while !pairs.are_enough() {
            let ended =
                |kernels: &[KernelTimes]| stop() || complete(kernels).count() >= pairs.most();
            let flow = bench.extend(args.tokens, times, &ended)?;
            for pair in complete(&times.kernels).skip(told) {
                told += 1;
                if !pairs.are_enough() {
                    pairs.push(pair);
                }
            }
            if flow.is_break() {
                break;
            }
        }
        Ok([0, 1].map(|at| ready.side(at)))
    })
}

/// A bench on which kernels have been launched once.
pub(super) struct Ready<'a, 'b> {
    pub(super) bench: &'a mut Bench<'b>,
    pub(super) times: &'a mut CellTimes,
    threads: Option<usize>,
}

impl Ready<'_, '_> {
    /// What is known of the kernel number `at`.
    pub(super) fn side(&self, at: usize) -> SideReport {
        let KernelTimes { spec, error, .. } = &self.times.kernels[at];
        SideReport {
            name: spec.id.to_string(),
            threads: self.threads,
            environment: Vec::new(),
            error: Some(*error).filter(|error| error.is_finite()),
        }
    }
}

/// Prepares layers, launches the kernels once each, and hands over to `measure`. `kernels` are names
/// with the flags that they come from.
pub(super) fn on_bench<T>(
    args: &AbArgs,
    threads: Option<NonZeroUsize>,
    named: &[(&str, &str)],
    stop: &dyn Fn() -> bool,
    measure: impl FnOnce(&mut Ready<'_, '_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let device = DeviceArgs { backend: args.backend, threads }.open()?;
    let beyond_caches = machine::beyond_caches(&machine::describe(&device), &device);
    let cold_bytes = args.cold.bytes(beyond_caches);
    let threads = device.threads();
    let plan = GroupPlan { shape: &args.shape, bits: args.bits, codebook: args.codebook };
    let group = Group::new(&plan, &[Arc::new(device)], cold_bytes)?;
    let candidates: Vec<Candidate> = group.layer(0).candidates().to_vec();
    let specs = named.iter().map(|(flag, text)| kernels::find(flag, text, &candidates).1);
    let specs: Vec<KernelSpec> = specs.collect();
    let draw = group.draw();
    let mut benches = group.benches(&draw, cold_bytes);
    let bench = &mut benches[0];
    let cell = CellPlan {
        num_tokens: args.tokens,
        kernels: &specs,
        keep: None,
        drop_above: None,
        rounds: 0,
        time: Duration::MAX,
    };
    for (spec, legality) in specs.iter().zip(bench.legality(&cell)?) {
        if let Err(why) = legality {
            bail!("{}: {why}", spec.id);
        }
    }
    let mut times = bench.begin(&cell, stop)?;
    if let Some(left) = times.left_out.first() {
        bail!("{}: {}", left.kernel, left.why);
    }
    if times.kernels.len() < specs.len() {
        bail!("ended before the first pair");
    }
    measure(&mut Ready { bench, times: &mut times, threads })
}

/// Milliseconds of the rounds that both kernels were launched in.
fn complete(kernels: &[KernelTimes]) -> impl Iterator<Item = (f64, f64)> + '_ {
    let ms = |ns: u64| ns as f64 / 1e6;
    let (baseline, optimized) = (&kernels[0].ns, &kernels[1].ns);
    baseline
        .iter()
        .zip(optimized)
        .filter_map(move |(one, other)| Some((ms((*one)?), ms((*other)?))))
}

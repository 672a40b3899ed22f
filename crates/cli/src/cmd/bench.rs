//! `trellect bench`: every legal kernel on shapes, widths and tokens, on cold weights.
//!
//! [`group`] makes the layers, [`machine`] describes where, [`pick`] asks the selector, [`report`]
//! is the text, and [`markdown`] the tables that are kept.

pub(super) mod group;
pub(super) mod kernels;
pub(super) mod machine;
mod markdown;
mod peers;
mod pick;
mod report;
mod schedule;

use std::io::Write;
use std::num::NonZeroUsize;
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use trellect::core::{Backend, Codebook, NumericClass};
use trellect_tune::bandwidth::BandwidthProbe;
use trellect_tune::bench::{BenchMethod, BenchRun, BenchWorkload, Ceiling, CellPlan};
use trellect_tune::statistics::median;

use crate::args::{
    BackendArg, BitsArg, Cli, DeviceArgs, PolicyArg, ShapeArg, parse_codebook, parse_numeric,
    parse_some_tokens, parse_threads,
};
use crate::device::Device;
use crate::interrupt::on_interrupt;
use crate::output;
use crate::progress::Progress;
use group::{Group, GroupPlan};
use peers::Peers;
use pick::Picker;
use report::BenchReport;
use schedule::Schedule;

const EXAMPLES: &str = "\
Kernels take turns in rounds of random order. Between two launches on the same call, other weights of
twice the last-level cache are read, so that weights come from memory as they do in a model. What is
too slow to matter is dropped after a first look, which is said. Ends after --rounds, after --budget,
or at Ctrl-C; what was measured is kept. docs/benchmarking.md says how to read the figures.

Examples:
  trellect bench --shape 256x128x8x2 --bits 6,2,3 mixed --tokens 1,4 --threads 1 --rounds 3 --cold-mib 1
  trellect bench --shape 256x128x8x2 --tokens 1 --numeric exact,half --rounds 3 --cold-mib 1 --output b.json --markdown b.md
  trellect bench --shape 256x128x8x2 --tokens 1 --rounds 3 --cold-mib 1 --policy rules --json";

/// The flags of `bench`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArgs {
    /// Shapes of layers: a model's name, its letter A to D, or HIDDENxINTERxEXPERTSxTOPK.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "glm-4.7-flash")]
    shape: Vec<ShapeArg>,
    /// Bit widths of all experts: gate, up and down as in 6,2,3, or `mixed`: 80 % of the experts
    /// 6,2,3, 15 % 6,3,4 and 5 % 6,2,4. Several, with blanks between them.
    #[arg(long, value_name = "BITS", num_args = 1.., default_value = "mixed")]
    bits: Vec<BitsArg>,
    /// Numbers of tokens.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,4,16,64",
          value_parser = parse_some_tokens)]
    tokens: Vec<usize>,
    /// Numeric classes: exact, half, int8.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "half",
          value_parser = parse_numeric)]
    numeric: Vec<NumericClass>,
    /// Where to run.
    #[arg(long, value_enum, default_value_t = BackendArg::Cpu)]
    backend: BackendArg,
    /// Numbers of threads of the cpu backend [default: all that this process may use].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_threads)]
    threads: Vec<NonZeroUsize>,
    /// Only these kernels; a name without implementation means all of its implementations.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    kernels: Vec<String>,
    /// The trellis codebook: 3inst, mcg or mul1.
    #[arg(long, value_name = "NAME", default_value = "mul1", value_parser = parse_codebook)]
    codebook: Codebook,
    /// Samples of every kernel and workload, at least.
    #[arg(long, value_name = "N", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Seconds that the whole run may take; long workloads then have fewer samples, but three.
    #[arg(long, value_name = "SECONDS", default_value_t = 180,
          value_parser = clap::value_parser!(u32).range(1..))]
    budget: u32,
    /// Measure every kernel in full, however slow.
    #[arg(long)]
    every: bool,
    #[command(flatten)]
    cold: ColdArgs,
    /// Whose pick to mark: the rules', or what the adaptive policy serves before it has learned from
    /// this run, going by a calibration and the history.
    #[arg(long, value_enum, default_value_t = PolicyArg::Adaptive)]
    policy: PolicyArg,
    /// The history that the adaptive policy goes by, and adds its few calls to [default: none].
    #[arg(long, value_name = "PATH")]
    history: Option<PathBuf>,
    /// Fail with exit code 3 where the picks take more than this many times the fastest kernels'
    /// time: in the geometric mean, or proved on a workload.
    #[arg(long, value_name = "RATIO", value_parser = parse_ratio)]
    assert_regret: Option<f64>,
    /// An earlier run's file, to be compared cell by cell; exit code 3 where a kernel is proved to
    /// have become slower.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Other engines' times, for the ratios in the tables.
    #[arg(long, value_name = "FILE")]
    peers: Option<PathBuf>,
    /// Write the JSON here, anew after every layer.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write Markdown tables here.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Where the weights are before a launch.
#[derive(Clone, Debug, Args)]
pub(super) struct ColdArgs {
    /// Launch on one and the same call, over and over, with what the caches hold.
    #[arg(long, conflicts_with = "cold_mib")]
    warm: bool,
    /// MiB of other weights to read between two launches on one call [default: twice the last-level
    /// cache].
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    cold_mib: Option<u32>,
}

impl ColdArgs {
    /// Bytes to read between two launches; 0: none.
    pub(super) fn bytes(&self, beyond_caches: u64) -> u64 {
        match (self.warm, self.cold_mib) {
            (true, _) => 0,
            (false, Some(mib)) => u64::from(mib) << 20,
            (false, None) => beyond_caches,
        }
    }
}

/// How many times as long as the fastest a kernel may take to be measured in full.
const DROP_ABOVE: f64 = 2.0;

/// Measures, writes the files and prints what was found.
///
/// # Errors
/// When no kernel is legal, one fails or is not exact enough, a file cannot be read or written;
/// [`output::Regression`] where one was looked for and found.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let baseline = args.compare.as_deref().map(BenchRun::read).transpose()?;
    let peers = args.peers.as_deref().map(Peers::read).transpose()?;
    let args = &args.without_repetitions();
    let devices = devices(args)?;
    let names = kernels::named(args, &devices[0]);
    let interrupted = on_interrupt("what is measured so far")?;
    let mut bench = Measurement::new(args, &devices, names, &interrupted)?;
    let measured = bench.run();
    bench.finish();
    let run = bench.run;
    if let Some(path) = &args.output {
        write_json(path, &run)?;
    }
    if let Some(path) = &args.markdown {
        write(path, &markdown::render(&run, peers.as_ref()))?;
    }
    measured?;
    let report = BenchReport::new(&run, baseline.as_ref(), peers.as_ref());
    match args.json {
        true => output::print_json(&report)?,
        false => output::print(&report.to_string())?,
    }
    report.check(args.assert_regret)
}

impl BenchArgs {
    /// Every value of a list once.
    fn without_repetitions(&self) -> Self {
        fn once<T: PartialEq + Clone>(values: &[T]) -> Vec<T> {
            let repeats = |at: usize| values[..at].contains(&values[at]);
            (0..values.len()).filter(|&at| !repeats(at)).map(|at| values[at].clone()).collect()
        }
        Self {
            shape: once(&self.shape),
            bits: once(&self.bits),
            tokens: once(&self.tokens),
            numeric: once(&self.numeric),
            threads: once(&self.threads),
            ..self.clone()
        }
    }
}

/// The backend, once per number of threads.
fn devices(args: &BenchArgs) -> anyhow::Result<Vec<Arc<Device>>> {
    let open = |threads| DeviceArgs { backend: args.backend, threads }.open().map(Arc::new);
    match args.threads.is_empty() {
        true => Ok(vec![open(None)?]),
        false if args.backend != BackendArg::Cpu => {
            let message = "--threads is for the cpu backend only";
            Cli::command().error(ErrorKind::ArgumentConflict, message).exit()
        }
        false => args.threads.iter().map(|&threads| open(Some(threads))).collect(),
    }
}

/// A run under way.
struct Measurement<'a> {
    args: &'a BenchArgs,
    devices: &'a [Arc<Device>],
    names: Vec<trellect::core::KernelId>,
    interrupted: &'a AtomicBool,
    /// One per device; none where the device's memory is not the host's.
    probes: Vec<Option<BandwidthProbe>>,
    /// What they have measured so far.
    read_gb_per_s: Vec<Vec<f64>>,
    cold_bytes: u64,
    run: BenchRun,
    start: Instant,
}

impl<'a> Measurement<'a> {
    fn new(
        args: &'a BenchArgs,
        devices: &'a [Arc<Device>],
        names: Vec<trellect::core::KernelId>,
        interrupted: &'a AtomicBool,
    ) -> anyhow::Result<Self> {
        let start = Instant::now();
        let machine = machine::describe(&devices[0]);
        let beyond_caches = machine::beyond_caches(&machine, &devices[0]);
        let cold_bytes = args.cold.bytes(beyond_caches);
        let probe = |device: &Arc<Device>| {
            let threads = NonZeroUsize::new(device.threads()?)?;
            Some(BandwidthProbe::new(usize::try_from(beyond_caches).ok()?, threads))
        };
        let method = BenchMethod {
            cold_bytes,
            codebook: args.codebook.name().into(),
            rounds: args.rounds as usize,
            budget_seconds: args.budget.into(),
            drop_above: (!args.every).then_some(DROP_ABOVE),
            policy: pick::name(args.policy).into(),
        };
        Ok(Self {
            args,
            devices,
            names,
            interrupted,
            probes: devices.iter().map(probe).collect(),
            read_gb_per_s: vec![Vec::new(); devices.len()],
            cold_bytes,
            run: BenchRun::new(machine, method),
            start,
        })
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let args = self.args;
        let plans: Vec<GroupPlan<'_>> = args
            .shape
            .iter()
            .flat_map(|shape| args.bits.iter().map(move |bits| (shape, *bits)))
            .map(|(shape, bits)| GroupPlan { shape, bits, codebook: args.codebook })
            .collect();
        let budget = Duration::from_secs(args.budget.into());
        let per_group = args.numeric.len() * self.devices.len();
        let mut schedule = Schedule::new(budget, self.start, plans.len(), per_group, &args.tokens);
        let progress = Progress::with_estimate();
        for device in 0..self.devices.len() {
            self.read(device);
        }
        let selectors: Vec<_> = self.devices.iter().map(|_| pick::selector(args)).collect();
        for plan in &plans {
            schedule.prepare();
            let show = |schedule: &Schedule, doing: String| {
                progress.show(schedule.share_done(), schedule.remaining(), doing);
            };
            show(&schedule, format!("preparing {plan}"));
            let group = Group::new(plan, self.devices, self.cold_bytes)?;
            schedule.prepared();
            let draw = group.draw();
            let mut benches = group.benches(&draw, self.cold_bytes);
            for &numeric in &args.numeric {
                for (device, bench) in benches.iter_mut().enumerate() {
                    let Some(kernels) = self.kernels(&group, device, numeric)? else { continue };
                    let (layer, selector) = (group.layer(device), selectors[device].as_ref());
                    let at = &self.devices[device];
                    let mut picker = Picker::new(at, layer, numeric, &kernels, selector)?;
                    for &num_tokens in &args.tokens {
                        if self.interrupted.load(Ordering::Relaxed) || schedule.is_over() {
                            self.run.interrupted = true;
                            return Ok(());
                        }
                        show(&schedule, format!("{plan}, {num_tokens} tokens"));
                        let time = schedule.next(num_tokens);
                        let mut cell = CellPlan {
                            num_tokens,
                            kernels: &kernels,
                            keep: None,
                            drop_above: self.run.method.drop_above,
                            rounds: args.rounds as usize,
                            time,
                        };
                        let legal = bench.legal(&cell)?;
                        if !legal.is_empty() {
                            cell.keep = picker.pick(&group.inputs(num_tokens, 0)?);
                            let before = self.read(device);
                            let times = bench
                                .measure(&cell, &|| self.interrupted.load(Ordering::Relaxed))?;
                            let ceiling = before.zip(self.read(device)).map(|(a, b)| a.max(b));
                            let workload = BenchWorkload {
                                shape: &plan.shape.name,
                                bits: &plan.bits.to_string(),
                                tokens: num_tokens,
                                threads: self.devices[device].threads(),
                                backend: self.devices[device].kind().name(),
                                numeric: numeric.name(),
                            };
                            let picked = cell.keep.map(|kernel| kernel.to_string());
                            self.run.add(&workload, &times, picked.as_deref(), ceiling);
                        }
                        schedule.measured(num_tokens);
                    }
                }
            }
            if let Some(path) = &args.output {
                write_json(path, &self.run)?;
            }
        }
        if self.run.cells.is_empty() {
            bail!(
                "no kernel is legal for any of these calls; `trellect doctor` lists what there is"
            );
        }
        Ok(())
    }

    /// The kernels of a class that were asked for, on a device; `None` where there are none, which
    /// is said.
    fn kernels(
        &self,
        group: &Group<'_>,
        device: usize,
        numeric: NumericClass,
    ) -> anyhow::Result<Option<Vec<trellect::core::KernelSpec>>> {
        let kernels = kernels::of_class(&self.names, group.layer(device), numeric);
        if kernels.is_empty() {
            output::note(&format!("{}: no kernel of class {numeric}", group.plan()));
        }
        Ok((!kernels.is_empty()).then_some(kernels))
    }

    /// Measures the memory's bandwidth with the threads of a device.
    fn read(&mut self, device: usize) -> Option<f64> {
        let gib_per_s = self.probes[device].as_ref()?.measure_gib_per_s();
        let gb_per_s = gib_per_s * f64::from(1 << 30) / 1e9;
        self.read_gb_per_s[device].push(gb_per_s);
        Some(gb_per_s)
    }

    /// Notes what the machine delivered and how long it took.
    fn finish(&mut self) {
        self.run.interrupted |= self.interrupted.load(Ordering::Relaxed);
        self.run.seconds = (self.start.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        let round = |figure: f64| (figure * 100.0).round() / 100.0;
        let ceilings = self.devices.iter().zip(&self.read_gb_per_s).filter_map(|(device, all)| {
            let peak = device.measure_peak();
            Some(Ceiling {
                threads: device.threads()?,
                read_gb_per_s_before: round(*all.first()?),
                read_gb_per_s_after: round(*all.last()?),
                read_gb_per_s: round(median(all.clone())?),
                fp32_fma_gflop_per_s: peak.fp32_fma_gflop_per_s.map(round),
                int8_dot_gop_per_s: peak.int8_dot_gop_per_s.map(round),
            })
        });
        self.run.machine.ceilings = ceilings.collect();
    }
}

fn write_json(path: &Path, run: &BenchRun) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(run).context("making JSON")?;
    text.push('\n');
    write(path, &text)
}

/// Writes a file as a whole or not at all.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        // As any new file: what the user's mask leaves of it.
        builder.permissions(PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder.unwrap_or(Path::new(".")))?;
        file.write_all(text.as_bytes())?;
        file.persist(path)?;
        anyhow::Ok(())
    };
    write().with_context(|| format!("writing {}", path.display()))
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if ratio.is_finite() && ratio >= 1.0 => Ok(ratio),
        _ => Err("expected a finite ratio of at least 1".into()),
    }
}

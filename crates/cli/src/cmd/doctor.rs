//! `trellect doctor`: what this machine can run, and what it lacks.

use std::env;
use std::fmt;

use clap::Args;
use serde::Serialize;
use trellect::core::{
    Backend, BackendKind, BitTuple, Candidate, LayerShape, MemoryFigures, NamedShape,
};
use trellect::cpu::MAX_ISA_VARIABLE;
use trellect::tune::history::{HISTORY_VARIABLE, default_location};

use crate::args::DeviceArgs;
use crate::device::Device;
use crate::output;
use crate::table::{self, Column};

const EXAMPLES: &str = "\
Examples:
  trellect doctor
  TRELLECT_MAX_ISA=avx2 trellect doctor --json";

/// The environment variables that this program reads.
const KNOBS: &[(&str, &str)] = &[
    (
        MAX_ISA_VARIABLE,
        "strongest instruction set to use: generic, neon, neon_i8mm, avx2, avx512 or amx",
    ),
    (HISTORY_VARIABLE, "the file that keeps what is learned"),
    #[cfg(feature = "cuda")]
    (trellect::cuda::CACHE_VARIABLE, "directory of compiled GPU kernels"),
];

/// The flags of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What a machine can run.
#[derive(Debug, Serialize)]
struct DoctorReport {
    version: &'static str,
    device: String,
    /// Of the cpu backend.
    threads: Option<usize>,
    facts: Vec<Fact>,
    memory: Memory,
    /// For a layer of the shape glm-4.7-flash with experts (6,2,3).
    kernels: Vec<Kernel>,
    environment: Vec<Knob>,
    backends: Vec<BackendState>,
    history: HistoryReport,
}

/// Where what is learned is kept.
#[derive(Debug, Serialize)]
struct HistoryReport {
    path: Option<String>,
    exists: bool,
}

#[derive(Debug, Serialize)]
struct Fact {
    name: &'static str,
    value: String,
}

#[derive(Debug, Serialize)]
struct Memory {
    available_bytes: u64,
    total_bytes: u64,
    pressure: f64,
}

#[derive(Debug, Serialize)]
struct Kernel {
    kernel_name: String,
    runnable: bool,
    numeric: Option<&'static str>,
    /// Why it cannot run.
    why: Option<String>,
}

#[derive(Debug, Serialize)]
struct Knob {
    name: &'static str,
    meaning: &'static str,
    value: Option<String>,
}

#[derive(Debug, Serialize)]
struct BackendState {
    name: &'static str,
    state: String,
}

/// Prints what this machine can run.
///
/// # Errors
/// When an environment variable has a value without meaning.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let report = match args.device.open() {
        Ok(backend) => DoctorReport::new(&backend),
        #[cfg(feature = "cuda")]
        Err(error) => match error.downcast_ref() {
            Some(why) => DoctorReport::without_gpu(why),
            None => return Err(error),
        },
        #[cfg(not(feature = "cuda"))]
        Err(error) => return Err(error),
    };
    match args.json {
        true => output::print_json(&report),
        false => output::print(&report.to_string()),
    }
}

impl DoctorReport {
    fn new(backend: &Device) -> Self {
        let (shape, tuple) = sample();
        let description = backend.describe();
        let facts = description.facts.into_iter().map(|(name, value)| Fact { name, value });
        Self {
            device: description.name,
            threads: backend.threads(),
            facts: facts.collect(),
            memory: Memory::new(backend.memory()),
            ..Self::of_kernels(&backend.kernels(&shape, &[tuple]))
        }
    }

    #[cfg(feature = "cuda")]
    fn without_gpu(why: &trellect::cuda::NoDevice) -> Self {
        let (shape, tuple) = sample();
        Self::of_kernels(&trellect::cuda::absent_kernels(&shape, &[tuple], why))
    }

    /// What does not depend on a device being there.
    fn of_kernels(kernels: &[Candidate]) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            device: "no device".into(),
            threads: None,
            facts: Vec::new(),
            memory: Memory::new(MemoryFigures { available: 0, total: 0 }),
            kernels: kernels.iter().map(Kernel::new).collect(),
            environment: KNOBS.iter().map(|(name, meaning)| Knob::read(name, meaning)).collect(),
            backends: [BackendKind::Cpu, BackendKind::Cuda, BackendKind::Wgpu]
                .map(|kind| BackendState { name: kind.name(), state: state(kind) })
                .into(),
            history: HistoryReport::new(),
        }
    }
}

impl HistoryReport {
    fn new() -> Self {
        let path = default_location();
        let exists = path.as_ref().is_some_and(|path| path.exists());
        Self { path: path.map(|path| path.display().to_string()), exists }
    }
}

fn sample() -> (LayerShape, BitTuple) {
    let shape = NamedShape::find("glm-4.7-flash").expect("a shape of the table").shape;
    (shape, BitTuple::new(6, 2, 3).expect("widths are 1 to 8"))
}

fn state(kind: BackendKind) -> String {
    match kind {
        BackendKind::Cpu => "ready".into(),
        #[cfg(feature = "cuda")]
        BackendKind::Cuda => gpus(),
        #[cfg(not(feature = "cuda"))]
        BackendKind::Cuda => "not built into this version".into(),
        BackendKind::Wgpu => "not built into this version".into(),
    }
}

/// Every GPU and whether it can be used, or why there is none.
#[cfg(feature = "cuda")]
fn gpus() -> String {
    use trellect::cuda::{CudaBackend, DeviceFacts, devices};
    let describe = |DeviceFacts { ordinal, name, arch, .. }: &DeviceFacts| {
        let state = match CudaBackend::open(*ordinal) {
            Ok(_) => "ready".into(),
            Err(why) => why.to_string(),
        };
        format!("{ordinal}: {name} ({arch}): {state}")
    };
    match devices() {
        Ok(devices) if devices.is_empty() => "a driver, but no GPU".into(),
        Ok(devices) => devices.iter().map(describe).collect::<Vec<_>>().join("; "),
        Err(why) => why.to_string(),
    }
}

impl Memory {
    fn new(figures: MemoryFigures) -> Self {
        Self {
            available_bytes: figures.available,
            total_bytes: figures.total,
            pressure: figures.pressure(),
        }
    }
}

impl Kernel {
    fn new(candidate: &Candidate) -> Self {
        match candidate {
            Ok(spec) => Self {
                kernel_name: spec.id.to_string(),
                runnable: true,
                numeric: Some(spec.class.name()),
                why: None,
            },
            Err(rejection) => Self {
                kernel_name: rejection.kernel.to_string(),
                runnable: false,
                numeric: None,
                why: Some(rejection.why.to_string()),
            },
        }
    }
}

impl Knob {
    fn read(name: &'static str, meaning: &'static str) -> Self {
        let value = env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        Self { name, meaning, value }
    }
}

impl fmt::Display for DoctorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "trellect {} on {}", self.version, self.device)?;
        for Fact { name, value } in &self.facts {
            writeln!(f, "  {name}: {value}")?;
        }
        let Memory { available_bytes, total_bytes, pressure } = self.memory;
        match total_bytes {
            0 => writeln!(f, "  memory: unknown")?,
            _ => writeln!(
                f,
                "  memory: {} available of {} (pressure {pressure:.2})",
                table::bytes(available_bytes),
                table::bytes(total_bytes)
            )?,
        }
        let (runnable, absent): (Vec<_>, Vec<_>) = self.kernels.iter().partition(|k| k.runnable);
        let (shape, tuple) = sample();
        writeln!(
            f,
            "\n{} of {} kernels can run (layer {} x {}, bits {tuple}):\n",
            runnable.len(),
            self.kernels.len(),
            shape.hidden_size,
            shape.intermediate_size
        )?;
        write_kernels(f, "numeric class", &runnable, |kernel| kernel.numeric.map(String::from))?;
        if !absent.is_empty() {
            writeln!(f)?;
            write_kernels(f, "why it cannot run", &absent, |kernel| kernel.why.clone())?;
        }
        writeln!(f)?;
        let columns =
            [Column::Left("environment variable"), Column::Left("value"), Column::Left("meaning")];
        let cells = self.environment.iter().map(|knob| {
            let value = knob.value.clone().unwrap_or_else(|| "not set".into());
            vec![knob.name.into(), value, knob.meaning.into()]
        });
        writeln!(f, "{}", table::render(&columns, cells.collect()))?;
        let columns = [Column::Left("backend"), Column::Left("state")];
        let cells = self.backends.iter().map(|b| vec![b.name.into(), b.state.clone()]);
        writeln!(f, "{}", table::render(&columns, cells.collect()))?;
        match (&self.history.path, self.history.exists) {
            (Some(path), true) => writeln!(f, "history: {path}"),
            (Some(path), false) => writeln!(f, "history: {path}, not begun yet"),
            (None, _) => writeln!(f, "history: this user has no home directory to keep it in"),
        }
    }
}

fn write_kernels(
    f: &mut fmt::Formatter<'_>,
    heading: &'static str,
    kernels: &[&Kernel],
    describe: impl Fn(&Kernel) -> Option<String>,
) -> fmt::Result {
    let columns = [Column::Left("kernel"), Column::Left(heading)];
    let cells = kernels
        .iter()
        .map(|kernel| vec![kernel.kernel_name.clone(), describe(kernel).unwrap_or_default()]);
    f.write_str(&table::render(&columns, cells.collect()))
}

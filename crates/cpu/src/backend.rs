use std::num::NonZeroUsize;
use std::sync::Arc;

use sysinfo::{MemoryRefreshKind, System};
use trellect_core::{
    Backend, BackendKind, BitTuple, Candidate, DeviceDescription, LayerShape, LayerView,
    MemoryFigures, PrepareError, PrepareProgress, PreparedLayer,
};

use crate::catalogue::entries;
use crate::isa::{Isa, MAX_ISA_VARIABLE, UnknownIsa};
use crate::prepared::Weights;
use crate::queue::CpuLayer;
use crate::team::Team;

/// How the CPU is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads that work on a launch; `None`: as many as this process may run at once.
    pub threads: Option<NonZeroUsize>,
    /// Strongest instruction set to use.
    pub max_isa: Isa,
}

impl CpuOptions {
    /// All threads, and the cap of the environment variable `TRELLECT_MAX_ISA`, if set.
    ///
    /// # Errors
    /// [`UnknownIsa`] when the variable names no instruction set.
    pub fn from_env() -> Result<Self, UnknownIsa> {
        let max_isa = match std::env::var_os(MAX_ISA_VARIABLE) {
            None => Isa::ALL[0],
            Some(name) => name.to_string_lossy().parse()?,
        };
        Ok(Self { threads: None, max_isa })
    }
}

/// The host's processor as a backend. Clones share their threads.
#[derive(Clone)]
pub struct CpuBackend {
    team: Arc<Team>,
    max_isa: Isa,
}

impl CpuBackend {
    /// Starts the threads.
    pub fn new(options: CpuOptions) -> Self {
        let threads = options.threads.or_else(|| std::thread::available_parallelism().ok());
        let team = Arc::new(Team::new(threads.map_or(1, NonZeroUsize::get)));
        Self { team, max_isa: options.max_isa }
    }

    /// Threads that work on a launch.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    pub(crate) fn team(&self) -> &Team {
        &self.team
    }

    /// The cap on instruction sets.
    pub fn max_isa(&self) -> Isa {
        self.max_isa
    }
}

impl Backend for CpuBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Cpu
    }

    fn describe(&self) -> DeviceDescription {
        let usable: Vec<&str> = Isa::ALL
            .into_iter()
            .filter(|&isa| isa <= self.max_isa && isa.is_detected())
            .map(Isa::name)
            .collect();
        DeviceDescription {
            name: processor_name(),
            facts: vec![
                ("threads", self.threads().to_string()),
                ("kernel instruction sets", usable.join(" ")),
                ("processor features", processor_features()),
                ("kernel code", env!("TRELLECT_KERNEL_CODE").into()),
            ],
        }
    }

    fn kernels(&self, shape: &LayerShape, tuples: &[BitTuple]) -> Vec<Candidate> {
        let entries = entries(shape, tuples, self.threads(), self.max_isa);
        entries.into_iter().map(|entry| entry.candidate).collect()
    }

    fn prepare(
        &self,
        layer: &LayerView<'_>,
        progress: PrepareProgress<'_>,
    ) -> Result<Arc<dyn PreparedLayer>, PrepareError> {
        let weights = Weights::prepare(layer, &self.team, progress)?;
        let entries = entries(weights.shape(), weights.tuples(), self.threads(), self.max_isa);
        Ok(Arc::new(CpuLayer::new(weights, Arc::clone(&self.team), entries)))
    }

    fn memory(&self) -> MemoryFigures {
        memory()
    }
}

/// The memory that this process may use: the machine's, or the share that its control group has.
pub fn memory() -> MemoryFigures {
    // A system that does not tell leaves the total unknown: no pressure, no limit.
    let Ok(mut system) = System::new() else {
        return MemoryFigures { available: 0, total: 0 };
    };
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let whole =
        MemoryFigures { available: system.available_memory(), total: system.total_memory() };
    match system.cgroup_limits() {
        Some(group) if group.total_memory < whole.total => MemoryFigures {
            available: group.free_memory.min(whole.available),
            total: group.total_memory,
        },
        _ => whole,
    }
}

#[cfg(target_arch = "x86_64")]
fn processor_name() -> String {
    let brand = raw_cpuid::CpuId::new().get_processor_brand_string();
    brand.map_or_else(|| "x86-64 processor".into(), |brand| brand.as_str().trim().into())
}

#[cfg(not(target_arch = "x86_64"))]
fn processor_name() -> String {
    format!("{} processor", std::env::consts::ARCH)
}

/// Features that this crate's kernels use or could use.
#[cfg(target_arch = "x86_64")]
fn processor_features() -> String {
    let features = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avxvnni", is_x86_feature_detected!("avxvnni")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vbmi", is_x86_feature_detected!("avx512vbmi")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx512fp16", is_x86_feature_detected!("avx512fp16")),
        ("amx-tile", amx(|f| f.has_amx_tile())),
        ("amx-int8", amx(|f| f.has_amx_int8())),
        ("amx-bf16", amx(|f| f.has_amx_bf16())),
    ];
    let present: Vec<&str> =
        features.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    present.join(" ")
}

#[cfg(target_arch = "x86_64")]
fn amx(has: impl Fn(&raw_cpuid::ExtendedFeatures) -> bool) -> bool {
    raw_cpuid::CpuId::new().get_extended_feature_info().is_some_and(|features| has(&features))
}

#[cfg(target_arch = "aarch64")]
fn processor_features() -> String {
    let features = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
    ];
    let present: Vec<&str> =
        features.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    present.join(" ")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn processor_features() -> String {
    "unknown".into()
}

//! Calibrates a synthetic layer on the CPU backend and prints the models and the memory bandwidth.
//!
//! ```text
//! cargo run --release -p trellect-tune --example calibrate -- --shape glm-4.7-flash
//! ```

use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use trellect_core::{Backend, Codebook, NamedShape, NumericClass};
use trellect_cpu::{CpuBackend, CpuOptions};
use trellect_exl3::synth::{OwnedLayer, SynthSpec};
use trellect_tune::bandwidth::BandwidthProbe;
use trellect_tune::calibrate::calibrate;

/// Fits the cost models of all kernels.
#[derive(Parser)]
struct Args {
    /// Name of the shape, as in `glm-4.7-flash`.
    #[arg(long)]
    shape: String,
    /// Milliseconds that it may take.
    #[arg(long, default_value_t = 200)]
    budget_ms: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let named = NamedShape::find(&args.shape)
        .with_context(|| format!("`{}` is no shape of a known model", args.shape))?;
    let backend = CpuBackend::new(CpuOptions::from_env()?);
    let layer = OwnedLayer::new(&SynthSpec::mixed(named.shape, Codebook::Mul1, 0))?;
    let layers = [backend.prepare(&layer.view(), &mut |_| {})?];
    let budget = Duration::from_millis(args.budget_ms);
    let found = calibrate(&layers, NumericClass::Half, budget)?;
    println!(
        "{:.0} ms; {} kernels not probed",
        found.elapsed.as_secs_f64() * 1e3,
        found.unprobed.len()
    );
    for model in &found.kernels {
        println!(
            "{:2} probes, error {:5.1} %: {:8.0} ns + {:.4} ns/decoded weight + {:.4} ns/MAC + {:.0} ns/pair  {}",
            model.probes,
            100.0 * model.relative_error,
            model.cost.launch_ns,
            model.cost.ns_per_decoded_weight,
            model.cost.ns_per_mac,
            model.cost.ns_per_pair,
            model.kernel,
        );
    }
    let threads = NonZeroUsize::new(backend.threads()).unwrap_or(NonZeroUsize::MIN);
    let probe = BandwidthProbe::new(256 << 20, threads);
    println!("memory delivers {:.1} GiB/s", probe.measure_gib_per_s());
    Ok(())
}

//! Which kernels the flags ask for.

use std::sync::Arc;

use clap::CommandFactory;
use clap::error::ErrorKind;
use trellect::core::{Backend, Candidate, KernelId, KernelSpec, NumericClass, PreparedLayer};

use super::BenchArgs;
use crate::args::{BitsArg, Cli};
use crate::device::Device;

/// Names that are suggested for an unknown one.
const SUGGESTIONS: usize = 3;

/// Ends the process as for wrong usage where a name is that of no kernel of the device; else the
/// names.
pub(super) fn named(args: &BenchArgs, device: &Device) -> Vec<KernelId> {
    let candidates: Vec<Candidate> =
        args.shape.iter().flat_map(|shape| device.kernels(&shape.shape, &tuples(args))).collect();
    args.kernels.iter().map(|text| find("--kernels", text, &candidates).0).collect()
}

/// The name that `text` is, and the first of the candidates that it means. Ends the process as for
/// wrong usage of `flag` where there is none.
pub(crate) fn find(flag: &str, text: &str, candidates: &[Candidate]) -> (KernelId, KernelSpec) {
    let Ok(name) = text.parse::<KernelId>() else {
        wrong_usage(flag, &unknown(text, candidates));
    };
    if let Some(spec) = candidates.iter().flatten().find(|spec| name.names(spec.id)) {
        return (name, *spec);
    }
    let mut rejections = candidates.iter().filter_map(|candidate| candidate.as_ref().err());
    match rejections.find(|rejection| name.names(rejection.kernel)) {
        Some(rejection) => wrong_usage(flag, &rejection.to_string()),
        None => wrong_usage(flag, &unknown(text, candidates)),
    }
}

/// Says which names are near.
fn unknown(text: &str, candidates: &[Candidate]) -> String {
    let mut names: Vec<String> = Vec::new();
    for spec in candidates.iter().flatten() {
        for name in [spec.id.plain().to_string(), spec.id.to_string()] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names.sort_by_cached_key(|name| strsim::damerau_levenshtein(text, name));
    names.truncate(SUGGESTIONS);
    format!("no kernel `{text}` here; near: {}", names.join(", "))
}

fn wrong_usage(flag: &str, message: &str) -> ! {
    Cli::command().error(ErrorKind::InvalidValue, format!("{flag}: {message}")).exit()
}

/// Every tuple that the flags ask for.
fn tuples(args: &BenchArgs) -> Vec<trellect::core::BitTuple> {
    let shape = args.shape[0].shape;
    let tuples = args.bits.iter().flat_map(|bits| match bits {
        BitsArg::Mixed => trellect::exl3::synth::SynthSpec::mixed(shape, args.codebook, 0).tuples,
        BitsArg::Uniform(tuple) => vec![*tuple],
    });
    let mut tuples: Vec<_> = tuples.collect();
    tuples.sort_unstable();
    tuples.dedup();
    tuples
}

/// The layer's kernels of a class that are among `names`, where there are names.
pub(super) fn of_class(
    names: &[KernelId],
    layer: &Arc<dyn PreparedLayer>,
    numeric: NumericClass,
) -> Vec<KernelSpec> {
    let wanted = |spec: &&KernelSpec| {
        spec.class == numeric && (names.is_empty() || names.iter().any(|name| name.names(spec.id)))
    };
    layer.specs().filter(wanted).copied().collect()
}

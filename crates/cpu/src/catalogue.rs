//! Every kernel of this backend: families × instruction sets × classes.

use trellect_core::{
    BackendKind, BitTuple, Candidate, Family, KernelId, KernelSpec, LayerShape, Rejection,
    TokenRange, Variant, WhyNot,
};

use crate::driver::{Driver, Plan, Run};
use crate::isa::Isa;
use crate::micro::generic::{GenericExact, GenericHalf};

/// Pairs that the workspace of a fast family is made for: enough that a chunk's phases dwarf the
/// joins between them.
const CHUNK_PAIRS: usize = 4096;

const DECODE: Plan =
    Plan { block_rows: 1, chunk_pairs: CHUNK_PAIRS, by_tuple: false, constant_widths: false };
const PREFILL4: Plan = Plan { block_rows: 4, ..DECODE };
const BASE: Plan = Plan { block_rows: 16, chunk_pairs: 64, ..DECODE };
const LARGE_BATCH: Plan = Plan { block_rows: 256, ..DECODE };
const GROUPED: Plan = Plan { by_tuple: true, constant_widths: true, ..PREFILL4 };
const SPECIALISED: Plan = Plan { constant_widths: true, ..DECODE };

/// A kernel of this machine, or the reason why it is none.
pub(crate) struct Entry {
    pub(crate) candidate: Candidate,
    pub(crate) run: Option<Box<dyn Run>>,
}

/// All kernels for a layer of `shape` with `tuples` among its experts, best first within a family.
pub(crate) fn entries(
    shape: &LayerShape,
    tuples: &[BitTuple],
    threads: usize,
    max_isa: Isa,
) -> Vec<Entry> {
    let mut distinct = tuples.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let specialised = distinct
        .into_iter()
        .map(|tuple| (KernelId::new(Family::Decode).with_tuple(tuple), SPECIALISED));
    let plain = [
        (Family::Decode, DECODE),
        (Family::Prefill4, PREFILL4),
        (Family::Base, BASE),
        (Family::LargeBatch, LARGE_BATCH),
        (Family::Grouped, GROUPED),
    ];
    let fp32_acc = [(Family::Decode, DECODE), (Family::Prefill4, PREFILL4), (Family::Base, BASE)];
    let kernels = specialised
        .chain(plain.map(|(family, plan)| (KernelId::new(family), plan)))
        .chain(fp32_acc.map(|(family, plan)| (KernelId::new(family).with_fp32_acc(true), plan)));
    kernels
        .flat_map(|(id, plan)| Isa::ALL.map(|isa| entry(id, plan, isa, shape, threads, max_isa)))
        .collect()
}

fn entry(
    id: KernelId,
    plan: Plan,
    isa: Isa,
    shape: &LayerShape,
    threads: usize,
    max_isa: Isa,
) -> Entry {
    let variant = Variant::new(BackendKind::Cpu, isa.name()).expect("a short lower-case name");
    let kernel = id.with_variant(variant);
    let run = match isa > max_isa {
        true => Err(WhyNot::Capped),
        false => driver(isa, id.fp32_acc, plan).ok_or(WhyNot::MissingIsa(isa.requirement())),
    };
    match run {
        Err(why) => Entry { candidate: Err(Rejection { kernel, why }), run: None },
        Ok(run) => {
            let spec = KernelSpec {
                id: kernel,
                class: run.class(),
                tokens: if plan.block_rows == 1 { TokenRange::ONE } else { TokenRange::ANY },
                tile_n: trellect_core::HADAMARD,
                rows_per_decode: plan.block_rows,
                workspace: run.workspace(shape, threads),
                capture_safe: true,
                deterministic: true,
            };
            Entry { candidate: Ok(spec), run: Some(run) }
        }
    }
}

/// The driver of an instruction set, of class `exact` or `half`, if this processor can run it.
fn driver(isa: Isa, exact: bool, plan: Plan) -> Option<Box<dyn Run>> {
    match isa {
        Isa::Generic if exact => Some(Box::new(Driver { micro: GenericExact, plan })),
        Isa::Generic => Some(Box::new(Driver { micro: GenericHalf, plan })),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            use crate::micro::x86::{Avx2Exact, Avx2Half};
            let token = crate::isa::Avx2::detect()?;
            Some(match exact {
                true => Box::new(Driver { micro: Avx2Exact(token), plan }),
                false => Box::new(Driver { micro: Avx2Half(token), plan }),
            })
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            use crate::micro::x86::{Avx512Exact, Avx512Half};
            let token = crate::isa::Avx512::detect()?;
            Some(match exact {
                true => Box::new(Driver { micro: Avx512Exact(token), plan }),
                false => Box::new(Driver { micro: Avx512Half(token), plan }),
            })
        }
        #[cfg(not(target_arch = "x86_64"))]
        _ => None,
    }
}

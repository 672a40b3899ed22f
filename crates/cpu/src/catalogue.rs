//! Every kernel of this backend: families × instruction sets × classes.

use std::marker::PhantomData;

use trellect_core::{
    BackendKind, BitTuple, Candidate, Family, KernelId, KernelSpec, LayerShape, NumericClass,
    Rejection, TokenRange, Variant, WhyNot,
};

use crate::driver::{Driver, Plan, Run};
use crate::isa::Isa;
#[cfg(target_arch = "aarch64")]
use crate::micro::aarch64::{NeonExact, NeonI8mmInt8, NeonInteger};
use crate::micro::generic::{GenericExact, GenericInteger, HalfActivations, Int8Activations};
#[cfg(target_arch = "x86_64")]
use crate::micro::x86::{
    AmxInteger, Avx2Exact, Avx2Integer, Avx512Exact, Avx512Integer, BothDigits, HighDigit,
};
use crate::micro::{MR, Micro};

/// Pairs that the workspace of a fast family is made for: enough that a chunk's phases dwarf the
/// joins between them.
const CHUNK_PAIRS: usize = 4096;

const DECODE: Plan =
    Plan { block_rows: 1, chunk_pairs: CHUNK_PAIRS, by_tuple: false, constant_widths: false };
const PREFILL4: Plan = Plan { block_rows: 4, ..DECODE };
const BASE: Plan = Plan { block_rows: 16, chunk_pairs: 64, ..DECODE };
const LARGE_BATCH: Plan = Plan { block_rows: 64, ..DECODE };
const GROUPED: Plan = Plan { by_tuple: true, constant_widths: true, ..PREFILL4 };
const SPECIALISED: Plan = Plan { constant_widths: true, ..DECODE };

/// Longest sum of AMX's digits that cannot overflow, whatever the activations.
const AMX_MOST_K: usize = 1 << 15;

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
    let integer: Vec<_> =
        specialised.chain(plain.map(|(family, plan)| (KernelId::new(family), plan))).collect();
    let exact = fp32_acc.map(|(family, plan)| (KernelId::new(family).with_fp32_acc(true), plan));
    let classes = [
        (NumericClass::Half, integer.clone()),
        (NumericClass::Exact, exact.to_vec()),
        (NumericClass::Int8, integer),
    ];
    let machine = Machine { shape, threads, max_isa };
    classes
        .into_iter()
        .flat_map(|(class, kernels)| kernels.into_iter().map(move |(id, plan)| (class, id, plan)))
        .flat_map(|(class, id, plan)| {
            let isas = Isa::ALL.into_iter().filter(move |&isa| is_written(isa, class, plan));
            isas.map(move |isa| machine.entry(id, plan, isa, class))
        })
        .collect()
}

/// Whether there is such a kernel on any machine. Matrix units are for many rows, and not for class
/// `exact`; AMX, whose operands take longest to decode, for more than the 16 of a block of base.
fn is_written(isa: Isa, class: NumericClass, plan: Plan) -> bool {
    match isa {
        Isa::Amx => class != NumericClass::Exact && plan == LARGE_BATCH,
        Isa::NeonI8mm => class == NumericClass::Int8 && plan.block_rows > MR,
        Isa::Generic | Isa::Neon | Isa::Avx2 | Isa::Avx512 => true,
    }
}

/// What the kernels are listed for.
#[derive(Clone, Copy)]
struct Machine<'a> {
    shape: &'a LayerShape,
    threads: usize,
    max_isa: Isa,
}

impl Machine<'_> {
    fn entry(&self, id: KernelId, plan: Plan, isa: Isa, class: NumericClass) -> Entry {
        let name = match class {
            NumericClass::Int8 => format!("{}_int8", isa.name()),
            NumericClass::Exact | NumericClass::Half => isa.name().into(),
        };
        let variant = Variant::new(BackendKind::Cpu, &name).expect("a short lower-case name");
        let kernel = id.with_variant(variant);
        let longest = self.shape.padded_hidden().max(self.shape.padded_intermediate());
        let run = if isa > self.max_isa {
            Err(WhyNot::Capped)
        } else if isa == Isa::Amx && longest > AMX_MOST_K {
            let why = format!("its sums hold {AMX_MOST_K} products, the layer needs {longest}");
            Err(WhyNot::NotBuilt(why.into()))
        } else {
            driver(isa, class, plan).ok_or(WhyNot::MissingIsa(isa.requirement()))
        };
        match run {
            Err(why) => Entry { candidate: Err(Rejection { kernel, why }), run: None },
            Ok(run) => {
                let spec = KernelSpec {
                    id: kernel,
                    class: run.class(),
                    tokens: if plan.block_rows == 1 { TokenRange::ONE } else { TokenRange::ANY },
                    tile_n: trellect_core::HADAMARD,
                    rows_per_decode: run.plan().block_rows,
                    workspace: run.workspace(self.shape, self.threads),
                    capture_safe: true,
                    deterministic: true,
                };
                Entry { candidate: Ok(spec), run: Some(run) }
            }
        }
    }
}

/// The driver of an instruction set and class, if this processor can run it.
///
/// Class `int8` keeps 14 bits for the activations of down: with 8 bits in all three projections its
/// error would come too close to the limit. On AMX it is down that takes 8 bits, of its weights: with
/// those of gate and up at 8 bits the error of small layers went beyond the limit.
fn driver(isa: Isa, class: NumericClass, plan: Plan) -> Option<Box<dyn Run>> {
    Some(match isa {
        Isa::Generic => {
            let half = GenericInteger::<HalfActivations>(PhantomData);
            match class {
                NumericClass::Exact => run(GenericExact, GenericExact, plan),
                NumericClass::Half => run(half, half, plan),
                NumericClass::Int8 => {
                    run(GenericInteger::<Int8Activations>(PhantomData), half, plan)
                }
            }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            let token = crate::isa::Avx2::detect()?;
            let (exact, half) =
                (Avx2Exact(token), Avx2Integer::<HalfActivations>(token, PhantomData));
            match class {
                NumericClass::Exact => run(exact, exact, plan),
                NumericClass::Half => run(half, half, plan),
                NumericClass::Int8 => {
                    run(Avx2Integer::<Int8Activations>(token, PhantomData), half, plan)
                }
            }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            let token = crate::isa::Avx512::detect()?;
            let (exact, half) =
                (Avx512Exact(token), Avx512Integer::<HalfActivations>(token, PhantomData));
            match class {
                NumericClass::Exact => run(exact, exact, plan),
                NumericClass::Half => run(half, half, plan),
                NumericClass::Int8 => {
                    run(Avx512Integer::<Int8Activations>(token, PhantomData), half, plan)
                }
            }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => {
            let token = crate::isa::Amx::detect()?;
            let half = AmxInteger::<BothDigits>(token, PhantomData);
            match class {
                NumericClass::Exact => return None,
                NumericClass::Half => run(half, half, plan),
                NumericClass::Int8 => run(half, AmxInteger::<HighDigit>(token, PhantomData), plan),
            }
        }
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => {
            let token = crate::isa::Neon::detect()?;
            let (exact, half) =
                (NeonExact(token), NeonInteger::<HalfActivations>(token, PhantomData));
            match class {
                NumericClass::Exact => run(exact, exact, plan),
                NumericClass::Half => run(half, half, plan),
                NumericClass::Int8 => {
                    run(NeonInteger::<Int8Activations>(token, PhantomData), half, plan)
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => {
            let token = crate::isa::NeonI8mm::detect()?;
            let half = NeonInteger::<HalfActivations>(crate::isa::Neon::detect()?, PhantomData);
            run(NeonI8mmInt8(token), half, plan)
        }
        // Another architecture's.
        _ => return None,
    })
}

fn run<M: Micro, D: Micro>(micro: M, down: D, plan: Plan) -> Box<dyn Run> {
    let block_rows = plan.block_rows.min(M::MOST_ROWS).min(D::MOST_ROWS);
    Box::new(Driver { micro, down, plan: Plan { block_rows, ..plan } })
}

//! Every kernel of this backend: plans × classes × tuples.

use std::sync::Arc;

use trellect_core::{
    BackendKind, BitTuple, Candidate, Family, HADAMARD, KernelId, KernelSpec, LayerShape,
    NumericClass, Rejection, TokenRange, Variant, WhyNot,
};

use crate::Arch;
use crate::compile::Request;
use crate::layer::{Widths, distinct};
use crate::plan::{Batch, LargeBatch, Plan, Sizes, SmallBatch, workspace};

/// A kernel and how to make it.
pub(crate) struct Recipe {
    pub(crate) spec: KernelSpec,
    pub(crate) plan: Arc<dyn Plan>,
    pub(crate) sizes: Sizes,
    pub(crate) arch: Arch,
    /// One, or one for every tuple where the plan is by tuple.
    pub(crate) parts: Vec<Part>,
}

/// What a kernel is compiled for.
pub(crate) struct Part {
    pub(crate) request: Request,
    /// Different pairs of width and codebook, the three projections together.
    pub(crate) kinds: u32,
    /// Experts that it computes.
    pub(crate) num_experts: usize,
}

/// Which kernels layers shall have; the others are not compiled.
pub type KernelFilter = dyn Fn(KernelId) -> bool + Send + Sync;

impl Recipe {
    /// What is to be compiled.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &Request> {
        self.parts.iter().map(|part| &part.request)
    }

    /// The kernel's figures, or why a layer does not have it.
    pub(crate) fn candidate(&self, wanted: &KernelFilter) -> Candidate {
        let rejected = |why| Err(Rejection { kernel: self.spec.id, why });
        let not_built = |why: String| rejected(WhyNot::NotBuilt(why.into()));
        if !wanted(self.spec.id) {
            return rejected(WhyNot::NotListed);
        }
        if let Some(why) = self.plan.refuses(self.arch) {
            return not_built(why.into());
        }
        let most = self.plan.max_kinds();
        if let Some(part) = self.parts.iter().find(|part| part.kinds > most) {
            let kinds = part.kinds;
            return not_built(format!(
                "computes at most {most} kinds of linear, the layer has {kinds}"
            ));
        }
        let most = self.plan.max_experts();
        if self.sizes.num_experts > most {
            return not_built(format!("computes at most {most} experts"));
        }
        if self.parts.len() > MAX_PARTS {
            let found = self.parts.len();
            return not_built(format!(
                "launches at most {MAX_PARTS} tuples, the layer has {found}"
            ));
        }
        Ok(self.spec)
    }
}

/// A kernel of every layer, before the layer is known.
struct Offer {
    family: Family,
    /// Whether it also exists for single tuples, with constant widths.
    by_tuple: bool,
    variant: &'static str,
    tokens: TokenRange,
    plan: Arc<dyn Plan>,
}

/// Most tuples that are worth a compilation and two launches each.
const MAX_PARTS: usize = 8;

/// Tokens up to which the kernels without a list of work are worth a name.
const FEW_TOKENS: TokenRange = TokenRange { min: 0, max: Some(32) };

fn offers() -> Vec<Offer> {
    [false, true].into_iter().flat_map(offers_of_class).collect()
}

/// The kernels of class `exact`, or of class `half`. The order is that of one H100.
fn offers_of_class(exact: bool) -> Vec<Offer> {
    let offer = |family, variant, plan| Offer {
        family,
        by_tuple: family == Family::Decode && !exact,
        variant,
        tokens: match family {
            Family::Decode => TokenRange::ONE,
            Family::Prefill4 => FEW_TOKENS,
            Family::Base | Family::LargeBatch | Family::Grouped => TokenRange::ANY,
        },
        plan,
    };
    let small = |family, variant, slice| {
        let one_token = family == Family::Decode;
        let plan: Arc<dyn Plan> = Arc::new(SmallBatch { exact, one_token, slice });
        offer(family, variant, plan)
    };
    let batch = |family, variant, row_tiles, blocks_per_sm, gate_up_slices, down_slices| {
        let plan = Batch {
            exact,
            ordered: variant == "ordered",
            by_tuple: family == Family::Grouped,
            row_tiles,
            blocks_per_sm,
            gate_up_slices,
            down_slices,
        };
        offer(family, variant, Arc::new(plan) as Arc<dyn Plan>)
    };
    let mut offers = vec![
        small(Family::Decode, "k256", 256),
        small(Family::Decode, "k512", 512),
        batch(Family::Prefill4, "s8", 1, 4, 8, 2),
        batch(Family::Prefill4, "s4", 1, 4, 4, 1),
        small(Family::Prefill4, "k512", 512),
        batch(Family::Base, "r8", 1, 3, 2, 1),
        batch(Family::Base, "r16", 2, 3, 2, 1),
        batch(Family::Base, "ordered", 1, 3, 2, 1),
    ];
    if !exact {
        offers.push(batch(Family::Grouped, "r8", 1, 3, 2, 1));
        offers.push(batch(Family::Grouped, "r16", 2, 3, 2, 1));
        let wgmma = |variant, rows, blocks_per_sm| {
            let plan = Arc::new(LargeBatch { rows, blocks_per_sm });
            offer(Family::LargeBatch, variant, plan)
        };
        offers.push(wgmma("wgmma64", 64, 2));
        offers.push(wgmma("wgmma160", 160, 1));
        offers.push(batch(Family::LargeBatch, "r32", 4, 2, 1, 1));
        offers.push(batch(Family::LargeBatch, "r64", 8, 2, 1, 1));
    }
    offers
}

/// All kernels for a layer of `shape` with `tuples` and `codebooks` (a bit mask) among its experts,
/// best first within a family, those for one tuple before the others.
pub(crate) fn recipes(
    shape: &LayerShape,
    tuples: &[BitTuple],
    codebooks: u32,
    arch: Arch,
) -> Vec<Recipe> {
    let distinct = distinct(tuples);
    let of_tuple = |&tuple: &BitTuple| {
        let num_experts = tuples.iter().filter(|&&other| other == tuple).count();
        (Widths::of_tuple(tuple, codebooks), num_experts)
    };
    let all = (Widths::of_tuples(&distinct, codebooks), shape.num_experts);
    let mut recipes = Vec::new();
    for offer in &offers() {
        for tuple in distinct.iter().filter(|_| offer.by_tuple) {
            let widths = Widths::of_tuple(*tuple, codebooks);
            let part = (widths, shape.num_experts);
            recipes.push(recipe(offer, Some(*tuple), &[part], shape, arch));
        }
        let parts = match offer.plan.is_by_tuple() {
            true => distinct.iter().map(of_tuple).collect(),
            false => vec![all],
        };
        recipes.push(recipe(offer, None, &parts, shape, arch));
    }
    recipes
}

fn recipe(
    offer: &Offer,
    tuple: Option<BitTuple>,
    parts: &[(Widths, usize)],
    shape: &LayerShape,
    arch: Arch,
) -> Recipe {
    let sizes = Sizes::of(shape, parts.len());
    let variant = Variant::new(BackendKind::Cuda, offer.variant).expect("a short lower-case name");
    let id = KernelId { tuple, ..KernelId::new(offer.family) };
    let (exact, pass_pairs) = (offer.plan.is_exact(), offer.plan.pass_pairs());
    let spec = KernelSpec {
        id: id.with_fp32_acc(exact).with_variant(variant),
        class: if exact { NumericClass::Exact } else { NumericClass::Half },
        tokens: offer.tokens,
        tile_n: HADAMARD,
        rows_per_decode: offer.plan.rows_per_decode(),
        workspace: workspace(&offer.plan.regions(&sizes), pass_pairs, shape.num_experts),
        capture_safe: true,
        deterministic: offer.plan.is_deterministic(),
    };
    let part = |&(widths, num_experts): &(Widths, usize)| {
        let [gate, up, down] = widths.projections;
        let mut defines = vec![
            ("HIDDEN", sizes.hidden as u32),
            ("INTERMEDIATE", sizes.intermediate as u32),
            ("GATE_WIDTHS", gate),
            ("UP_WIDTHS", up),
            ("DOWN_WIDTHS", down),
            ("CODEBOOKS", widths.codebooks),
            ("EXACT", exact.into()),
        ];
        defines.extend(offer.plan.defines(&sizes));
        let request = Request { unit: offer.plan.unit(), arch, defines };
        Part { request, kinds: widths.kinds(), num_experts }
    };
    let parts = parts.iter().map(part).collect();
    Recipe { spec, plan: Arc::clone(&offer.plan), sizes, arch, parts }
}

/// What a machine that cannot run them says of all kernels for a layer.
pub fn absent_kernels(
    shape: &LayerShape,
    tuples: &[BitTuple],
    why: &crate::NoDevice,
) -> Vec<Candidate> {
    let refused = |recipe: Recipe| {
        Err(Rejection { kernel: recipe.spec.id, why: WhyNot::NoDevice(why.to_string().into()) })
    };
    recipes(shape, tuples, 0, Arch::OLDEST).into_iter().map(refused).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn tuple(text: &str) -> BitTuple {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_unique_and_parse() {
        let shape = LayerShape::new(2048, 1536, 64).unwrap();
        let tuples = [tuple("6,2,3"), tuple("6,3,4"), tuple("6,2,3")];
        let recipes = recipes(&shape, &tuples, 0b100, Arch::HOPPER);
        let names: HashSet<String> = recipes.iter().map(|r| r.spec.id.to_string()).collect();
        assert_eq!(names.len(), recipes.len());
        for (name, recipe) in recipes.iter().map(|r| (r.spec.id.to_string(), r)) {
            assert_eq!(name.parse::<KernelId>().unwrap(), recipe.spec.id);
            assert!(recipe.plan.regions(&recipe.sizes).len() <= crate::plan::MAX_REGIONS);
        }
        assert!(names.contains("moe_trellis_swiglu_decode_6_3_4@cuda.k256"));
    }

    #[test]
    fn a_specialised_kernel_of_a_uniform_layer_is_the_same_machine_code() {
        let shape = LayerShape::new(256, 128, 4).unwrap();
        let recipes = recipes(&shape, &[tuple("2,2,2")], 0b1, Arch::OLDEST);
        let find = |tuple| {
            let wanted =
                |r: &&Recipe| r.spec.id.family == Family::Decode && r.spec.id.tuple == tuple;
            recipes.iter().filter(wanted).find(|r| !r.spec.id.fp32_acc).unwrap()
        };
        let request = |tuple| find(tuple).requests().next().unwrap();
        assert_eq!(request(None), request(Some(tuple("2,2,2"))));
        assert!(request(None).options().contains(&"--define-macro=GATE_WIDTHS=4".into()));
    }

    #[test]
    fn a_grouped_kernel_is_compiled_for_every_tuple_by_itself() {
        let shape = LayerShape::new(256, 128, 4).unwrap();
        let tuples = ["6,2,3", "6,3,4", "6,2,3", "6,2,3"].map(tuple);
        let recipes = recipes(&shape, &tuples, 0b100, Arch::HOPPER);
        let grouped = recipes.iter().find(|r| r.spec.id.family == Family::Grouped).unwrap();
        assert_eq!(grouped.parts.iter().map(|part| part.num_experts).collect::<Vec<_>>(), [3, 1]);
        assert!(grouped.parts.iter().all(|part| part.kinds == 3));
        let macros = ["UP_WIDTHS=4", "UP_WIDTHS=8"].map(|text| format!("--define-macro={text}"));
        for (request, text) in grouped.requests().zip(macros) {
            assert!(request.options().contains(&text));
        }
        let many: Vec<_> = (1..=8).map(|bits| BitTuple::new(bits, 2, 3).unwrap()).collect();
        let nine = [many.as_slice(), &[tuple("1,1,1")]].concat();
        let shape = LayerShape::new(256, 128, 9).unwrap();
        let refusal = |tuples: &[BitTuple]| {
            let recipes = super::recipes(&shape, tuples, 0b100, Arch::HOPPER);
            let grouped = recipes.iter().find(|r| r.spec.id.family == Family::Grouped).unwrap();
            grouped.candidate(&|_| true).err().map(|rejection| rejection.why.to_string())
        };
        assert_eq!(refusal(&many), None);
        let expected = "could not be built: launches at most 8 tuples, the layer has 9";
        assert_eq!(refusal(&nine).as_deref(), Some(expected));
    }

    #[test]
    fn a_layer_of_too_many_experts_has_the_kernels_without_a_list() {
        let shape = LayerShape::new(128, 128, 2000).unwrap();
        let recipes = recipes(&shape, &[tuple("2,2,2")], 1, Arch::HOPPER);
        let (runnable, refused): (Vec<_>, Vec<_>) =
            recipes.iter().map(|recipe| recipe.candidate(&|_| true)).partition(Result::is_ok);
        assert!(!runnable.is_empty());
        let text = refused[0].as_ref().unwrap_err().to_string();
        assert!(text.ends_with("could not be built: computes at most 1024 experts"), "{text}");
    }

    #[test]
    fn other_architectures_lack_what_is_written_for_hopper() {
        let shape = LayerShape::new(256, 128, 4).unwrap();
        let refused = |arch| {
            let recipes = recipes(&shape, &[tuple("2,2,2")], 1, arch);
            let rejections = recipes.iter().filter_map(|recipe| recipe.candidate(&|_| true).err());
            rejections.map(|rejection| rejection.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(refused(Arch::HOPPER), Vec::<String>::new());
        let expected = ["wgmma64", "wgmma160"].map(|variant| {
            let kernel = format!("moe_trellis_swiglu_large_batch@cuda.{variant}");
            format!("{kernel}: could not be built: is written for sm_90a alone")
        });
        assert_eq!(refused(Arch { major: 8, minor: 9 }), expected);
    }

    #[test]
    fn what_is_not_wanted_or_takes_too_long_to_compile_says_so() {
        let shape = LayerShape::new(256, 128, 4).unwrap();
        let tuples = ["1,2,3", "4,5,6", "7,8,1"].map(tuple);
        let recipes = recipes(&shape, &tuples, 0b111, Arch::HOPPER);
        let wanted = |id: KernelId| id.family == Family::LargeBatch;
        let why = |name: &str| {
            let named = |recipe: &&Recipe| recipe.spec.id.to_string().ends_with(name);
            let recipe = recipes.iter().find(named).unwrap();
            recipe.candidate(&wanted).err().map(|rejection| rejection.why.to_string())
        };
        let many = "could not be built: computes at most 8 kinds of linear, the layer has 27";
        assert_eq!(why("@cuda.r64").as_deref(), Some(many));
        assert_eq!(why("@cuda.r32"), None);
        assert_eq!(why("decode@cuda.k256"), Some(WhyNot::NotListed.to_string()));
    }

    #[test]
    fn without_a_device_every_kernel_says_why() {
        let shape = LayerShape::new(256, 128, 4).unwrap();
        let absent = absent_kernels(&shape, &[tuple("6,2,3")], &crate::NoDevice::NoDriver);
        assert!(absent.len() >= 7);
        for candidate in absent {
            let text = candidate.unwrap_err().to_string();
            assert!(text.ends_with("no device: no NVIDIA driver on this machine"), "{text}");
        }
    }
}

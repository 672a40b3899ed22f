//! Every kernel of this backend: plans × classes × tuples.

use std::sync::Arc;

use trellect_core::{
    BackendKind, BitTuple, Candidate, Family, HADAMARD, KernelId, KernelSpec, LayerShape,
    NumericClass, Rejection, TokenRange, Variant, WhyNot,
};

use crate::Arch;
use crate::compile::Request;
use crate::layer::Widths;
use crate::plan::{Batch, LargeBatch, Plan, Sizes, SmallBatch, workspace};

/// A kernel and how to make it.
pub(crate) struct Recipe {
    pub(crate) spec: KernelSpec,
    pub(crate) plan: Arc<dyn Plan>,
    pub(crate) sizes: Sizes,
    pub(crate) request: Request,
    /// Different pairs of width and codebook that it computes, its three projections together.
    pub(crate) kinds: u32,
}

/// Which kernels layers shall have; the others are not compiled.
pub type KernelFilter = dyn Fn(KernelId) -> bool + Send + Sync;

impl Recipe {
    /// The kernel's figures, or why a layer does not have it.
    pub(crate) fn candidate(&self, wanted: &KernelFilter) -> Candidate {
        if !wanted(self.spec.id) {
            return Err(Rejection { kernel: self.spec.id, why: WhyNot::NotListed });
        }
        if let Some(only) = self.plan.only_arch().filter(|&only| only != self.request.arch) {
            let why = WhyNot::NotBuilt(format!("is written for {only} alone").into());
            return Err(Rejection { kernel: self.spec.id, why });
        }
        if self.kinds > self.plan.max_kinds() {
            let most = self.plan.max_kinds();
            let why =
                format!("computes at most {most} kinds of linear, the layer has {}", self.kinds);
            return Err(Rejection { kernel: self.spec.id, why: WhyNot::NotBuilt(why.into()) });
        }
        let most = self.plan.max_experts();
        if self.sizes.num_experts > most {
            let why = WhyNot::NotBuilt(format!("computes at most {most} experts").into());
            return Err(Rejection { kernel: self.spec.id, why });
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
        let ordered = variant == "ordered";
        let plan = Batch { exact, ordered, row_tiles, blocks_per_sm, gate_up_slices, down_slices };
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
    let mut distinct = tuples.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let all = Widths::of_tuples(&distinct, codebooks);
    let mut recipes = Vec::new();
    for offer in &offers() {
        let special = distinct.iter().filter(|_| offer.by_tuple);
        let special = special.map(|&tuple| (Some(tuple), Widths::of_tuple(tuple, codebooks)));
        for (tuple, widths) in special.chain([(None, all)]) {
            recipes.push(recipe(offer, tuple, widths, shape, arch));
        }
    }
    recipes
}

fn recipe(
    offer: &Offer,
    tuple: Option<BitTuple>,
    widths: Widths,
    shape: &LayerShape,
    arch: Arch,
) -> Recipe {
    let sizes = Sizes::of(shape);
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
    let plan = Arc::clone(&offer.plan);
    Recipe { spec, plan, sizes, request, kinds: widths.kinds() }
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
        assert_eq!(find(None).request, find(Some(tuple("2,2,2"))).request);
        assert!(find(None).request.options().contains(&"--define-macro=GATE_WIDTHS=4".into()));
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

//! Every kernel of this machine against the float64 oracle.

use crate::common::{backend, check_all, launch, list_skipped, prepare};
use half::f16;
use trellect_core::{BitTuple, Codebook, Hidden, LayerShape, Routing};
use trellect_exl3::oracle;
use trellect_exl3::synth::{self, OwnedLayer, SynthSpec};
use trellect_testkit::golden;

/// `cfg(slow)` is set where an instruction takes many times its time: in an emulator or under a
/// sanitizer.
const TOKENS: &[usize] =
    if cfg!(slow) { &[0, 1, 2, 3, 4, 5, 17] } else { &[0, 1, 2, 3, 4, 5, 16, 17, 33, 129] };
const MOST_TOKENS: usize = TOKENS[TOKENS.len() - 1];
const TOP_K: usize = 2;

/// How tokens go to four experts.
#[derive(Clone, Copy, Debug)]
enum Spread {
    Random,
    /// Experts 1 and 3 stay empty.
    EmptyExperts,
    /// In both slots.
    OneExpert,
}

impl Spread {
    fn routing(self) -> Routing {
        let weights: Vec<f32> =
            (0..TOP_K * MOST_TOKENS).map(|p| 0.1 + (p % 7) as f32 / 10.0).collect();
        let routing = |ids: &[i32]| Routing::new(4, TOP_K, ids, &weights).expect("valid");
        match self {
            Self::Random => synth::routing(MOST_TOKENS, 4, TOP_K, 11).expect("valid"),
            Self::EmptyExperts => {
                let ids = (0..MOST_TOKENS).flat_map(|t| if t % 3 == 0 { [0, 2] } else { [2, 0] });
                routing(&ids.collect::<Vec<_>>())
            }
            Self::OneExpert => routing(&[3; TOP_K * MOST_TOKENS]),
        }
    }
}

/// One Hadamard block, odd multiples of it, and sizes that need padding.
const CASES: [(usize, usize, Spread); 4] = [
    (128, 128, Spread::Random),
    (640, 128, Spread::Random),
    (128, 256, Spread::EmptyExperts),
    (100, 200, Spread::OneExpert),
];

/// The first `tokens` tokens of a routing.
fn first_tokens(routing: &Routing, tokens: usize) -> Routing {
    let pairs = tokens * routing.top_k();
    let ids: Vec<i32> = routing.topk_ids()[..pairs].iter().map(|&id| id as i32).collect();
    let weights = &routing.topk_weights()[..pairs];
    Routing::new(routing.num_experts(), routing.top_k(), &ids, weights).expect("was valid")
}

fn check_width(bits: u64) {
    let tuple = BitTuple::new(bits, bits, bits).expect("1 to 8");
    for codebook in Codebook::ALL {
        for (hidden_size, intermediate_size, spread) in CASES {
            let shape = LayerShape::new(hidden_size, intermediate_size, 4).expect("positive");
            let spec = SynthSpec {
                bias: bits.is_multiple_of(2),
                ..SynthSpec::uniform(shape, tuple, codebook, bits)
            };
            let owned = OwnedLayer::new(&spec).expect("a small layer fits");
            let layer = prepare(&backend(2), &owned.view());
            let hidden = synth::hidden(MOST_TOKENS, hidden_size, 7);
            let routing = spread.routing();
            let expected = oracle::forward(&owned.view(), Hidden::F16(&hidden), &routing);
            for &tokens in TOKENS {
                let len = tokens * hidden_size;
                let routing = first_tokens(&routing, tokens);
                let case = (hidden_size, intermediate_size, spread, tuple, codebook, tokens);
                let hidden = Hidden::F16(&hidden[..len]);
                let checked = check_all(&layer, hidden, &routing, &expected[..len], &case);
                let fewest = if tokens <= 1 { 9 } else { 6 };
                assert!(checked >= fewest, "only {checked} kernels in {case:?}");
            }
        }
    }
}

macro_rules! widths {
    ($($name:ident: $bits:literal,)*) => {
        $(#[test]
        fn $name() {
            check_width($bits);
        })*
    };
}

widths! {
    width_1: 1,
    width_2: 2,
    width_3: 3,
    width_4: 4,
    width_5: 5,
    width_6: 6,
    width_7: 7,
    width_8: 8,
}

#[test]
fn mixed_tuples_and_codebooks_in_one_call() {
    let shape = LayerShape::new(256, 384, 10).expect("positive");
    let mut spec = SynthSpec::mixed(shape, Codebook::Mul1, 3);
    for (expert, codebook) in spec.codebooks.iter_mut().enumerate() {
        *codebook = Codebook::ALL[expert % 3];
    }
    spec.tuples[4] = BitTuple::new(1, 8, 5).expect("1 to 8");
    let owned = OwnedLayer::new(&spec).expect("a small layer fits");
    let layer = prepare(&backend(2), &owned.view());
    list_skipped(layer.as_ref());
    for (tokens, top_k) in [(1, 1), (1, 10), (9, 4), (40, 3)] {
        let hidden = synth::hidden(tokens, 256, 1);
        let routing = synth::routing(tokens, 10, top_k, 2).expect("valid");
        let hidden = Hidden::F16(&hidden);
        let expected = oracle::forward(&owned.view(), hidden, &routing);
        check_all(&layer, hidden, &routing, &expected, &(tokens, top_k));
    }
}

/// More rows of one expert than any block, and more pairs than any chunk holds.
#[test]
#[cfg_attr(slow, ignore = "chunks are cut alike for every kernel")]
fn calls_larger_than_a_chunk() {
    let shape = LayerShape::new(128, 128, 6).expect("positive");
    let owned = OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mcg, 5)).expect("fits");
    let layer = prepare(&backend(2), &owned.view());
    let tokens = 1500;
    let hidden = synth::hidden(tokens, 128, 1);
    let routing = synth::skewed_routing(tokens, 6, 3, 2).expect("valid");
    assert!(routing.num_pairs() > 4096 && routing.pairs_of(0).len() > 256);
    let hidden = Hidden::F16(&hidden);
    let expected = oracle::forward(&owned.view(), hidden, &routing);
    check_all(&layer, hidden, &routing, &expected, &"large");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let shape = LayerShape::new(256, 256, 8).expect("positive");
    let owned = OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mul1, 9)).expect("fits");
    let one = prepare(&backend(1), &owned.view());
    for threads in [2, 3, 8] {
        let many = prepare(&backend(threads), &owned.view());
        for tokens in [1, 5, 40] {
            let hidden = synth::hidden(tokens, 256, 1);
            let routing = synth::routing(tokens, 8, 4, 2).expect("valid");
            for spec in one.specs().filter(|spec| spec.tokens.contains(tokens)) {
                if spec.id.tuple.is_some() {
                    continue;
                }
                let run = |layer: &std::sync::Arc<dyn trellect_core::PreparedLayer>| {
                    let mut queue = std::sync::Arc::clone(layer).queue();
                    let hidden = Hidden::F16(&hidden);
                    launch(queue.as_mut(), spec, layer.as_ref(), hidden, &routing)
                };
                assert_eq!(run(&one), run(&many), "{} on {threads} threads", spec.id);
            }
        }
    }
}

/// Small enough for an interpreter that checks every memory access; there, one kernel.
#[test]
fn smallest_layer() {
    let (experts, calls, fewest): (usize, &[usize], usize) =
        if cfg!(miri) { (1, &[2], 1) } else { (2, &[1, 6], 6) };
    let shape = LayerShape::new(128, 128, experts).expect("positive");
    let owned = OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mul1, 1)).expect("fits");
    let layer = prepare(&backend(2), &owned.view());
    for &tokens in calls {
        let hidden = synth::hidden(tokens, 128, 1);
        let hidden = Hidden::F16(&hidden);
        let routing = synth::skewed_routing(tokens, experts, 1, 2).expect("valid");
        let expected = oracle::forward(&owned.view(), hidden, &routing);
        assert!(check_all(&layer, hidden, &routing, &expected, &tokens) >= fewest);
    }
}

/// The routed sums of all golden layers, among them one with eight tuples and three codebooks.
#[test]
fn golden_layers() {
    let checkpoint = trellect_exl3::Checkpoint::open(&golden::model_dir()).expect("golden opens");
    let expected = golden::expected();
    for (number, index) in golden::index().layers.iter().enumerate() {
        let moe = checkpoint.layer(number).expect("a golden layer");
        let get = |name: &str| format!("{}.{name}", index.prefix);
        let hidden = expected.f16(&get("x_f16")).data;
        let ids = expected.i32(&get("topk_ids_i32")).data;
        let weights: Vec<f32> =
            expected.f16(&get("topk_weights_f16")).data.iter().map(|w| w.to_f32()).collect();
        let routing = Routing::new(index.num_experts, index.top_k, &ids, &weights).expect("valid");
        let y = expected.f64(&get("y_routed_f64")).data;
        let layer = prepare(&backend(2), moe.view());
        let checked = check_all(&layer, Hidden::F16(&hidden), &routing, &y, &index.prefix);
        assert!(checked >= 6, "{checked} kernels on {}", index.prefix);
        // One token alone reaches the decode kernels.
        let one = first_tokens(&routing, 1);
        let row = &y[..index.hidden_size];
        let hidden = Hidden::F16(&hidden[..index.hidden_size]);
        let checked = check_all(&layer, hidden, &one, row, &index.prefix);
        assert!(checked >= 8, "{checked} kernels on one token of {}", index.prefix);
        if let Some(shared) = moe.shared_expert() {
            let layer = prepare(&backend(2), shared);
            let hidden = expected.f16(&get("x_f16")).data;
            let tokens = hidden.len() / index.hidden_size;
            let routing = Routing::new(1, 1, &vec![0; tokens], &vec![1.0; tokens]).expect("valid");
            let y = expected.f64(&get("y_shared_f64")).data;
            check_all(&layer, Hidden::F16(&hidden), &routing, &y, &"shared expert");
        }
    }
}

#[test]
fn hidden_states_of_every_element_type() {
    let shape = LayerShape::new(128, 256, 4).expect("positive");
    let owned = OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mul1, 1)).expect("fits");
    let layer = prepare(&backend(2), &owned.view());
    let routing = synth::routing(3, 4, 2, 2).expect("valid");
    let f16s = synth::hidden(3, 128, 4);
    let f32s: Vec<f32> = f16s.iter().map(|v| v.to_f32() * 1.000_1).collect();
    let bf16s: Vec<half::bf16> = f32s.iter().map(|&v| half::bf16::from_f32(v)).collect();
    for hidden in [Hidden::F16(&f16s), Hidden::Bf16(&bf16s), Hidden::F32(&f32s)] {
        let expected = oracle::forward(&owned.view(), hidden, &routing);
        check_all(&layer, hidden, &routing, &expected, &"element type");
    }
}

/// A token that is not finite poisons its own output, all of it, and nobody else's.
#[test]
fn infinities_and_nans_stay_in_their_token() {
    let shape = LayerShape::new(128, 128, 4).expect("positive");
    let owned = OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mcg, 1)).expect("fits");
    let layer = prepare(&backend(2), &owned.view());
    let routing = synth::routing(3, 4, 4, 2).expect("valid");
    for bad in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
        let mut hidden = synth::hidden(3, 128, 4);
        hidden[128 + 50] = bad;
        let mut queue = std::sync::Arc::clone(&layer).queue();
        for spec in layer.specs().filter(|spec| spec.tokens.contains(3) && spec.id.tuple.is_none())
        {
            let hidden = Hidden::F16(&hidden);
            let out = launch(queue.as_mut(), spec, layer.as_ref(), hidden, &routing);
            let [a, b, c] = [0, 1, 2].map(|t| &out[128 * t..128 * (t + 1)]);
            assert!(a.iter().chain(c).all(|v| v.is_finite()), "{} {bad}", spec.id);
            assert!(b.iter().all(|v| !v.is_finite()), "{} {bad}", spec.id);
        }
    }
}

/// Hidden states at the ends of float16: subnormal, and the largest finite values.
#[test]
fn tiny_and_huge_activations_keep_their_class() {
    let shape = LayerShape::new(256, 128, 4).expect("positive");
    let owned = OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mul1, 1)).expect("fits");
    let layer = prepare(&backend(2), &owned.view());
    let routing = synth::routing(2, 4, 2, 2).expect("valid");
    for scale in [f16::from_bits(1).to_f32(), 1e-3, 1e5] {
        let largest = f16::MAX.to_f32();
        let scaled = |v: &f16| f16::from_f32((v.to_f32() * scale).clamp(-largest, largest));
        let hidden: Vec<f16> = synth::hidden(2, 256, 4).iter().map(scaled).collect();
        let hidden = Hidden::F16(&hidden);
        let expected = oracle::forward(&owned.view(), hidden, &routing);
        check_all(&layer, hidden, &routing, &expected, &scale);
    }
}

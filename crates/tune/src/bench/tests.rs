use std::num::NonZeroUsize;

use trellect_core::{Backend, Codebook, LayerShape};
use trellect_cpu::{CpuBackend, CpuOptions};
use trellect_exl3::oracle;
use trellect_exl3::synth::{self, OwnedLayer, SynthSpec};

use super::compare::{Verdict, compare};
use super::*;
use trellect_core::Hidden;

const SHAPE: LayerShape = LayerShape { hidden_size: 128, intermediate_size: 128, num_experts: 6 };
const EXPERT_BYTES: u64 = 128 * 128 * 11 / 8;

fn draw(num_tokens: usize, seed: u64) -> Result<Inputs, RoutingError> {
    let hidden = synth::hidden(num_tokens, 128, 0).into();
    Ok(Inputs { hidden, routing: synth::routing(num_tokens, 6, 2, seed)? })
}

/// Two layers of equal tuples, and what the oracle says of the first two tokens on the first.
fn layers() -> (Vec<Arc<dyn PreparedLayer>>, Vec<f64>) {
    let threads = NonZeroUsize::new(1);
    let backend = CpuBackend::new(CpuOptions { threads, ..CpuOptions::from_env().unwrap() });
    let tuple = "6_2_3".parse().unwrap();
    let made = [0, 1].map(|seed| {
        OwnedLayer::new(&SynthSpec::uniform(SHAPE, tuple, Codebook::Mul1, seed)).unwrap()
    });
    let inputs = draw(2, 0).unwrap();
    let expected = oracle::forward(&made[0].view(), Hidden::F16(&inputs.hidden), &inputs.routing);
    let prepare = |layer: &OwnedLayer| backend.prepare(&layer.view(), &mut |_| {}).unwrap();
    (made.iter().map(prepare).collect(), expected)
}

fn plan(kernels: &[KernelSpec], num_tokens: usize) -> CellPlan<'_> {
    CellPlan { num_tokens, kernels, keep: None, drop_above: None, rounds: 5, time: Duration::MAX }
}

#[test]
fn every_legal_kernel_has_its_error_and_a_sample_of_every_round() {
    let (layers, expected) = layers();
    let kernels: Vec<KernelSpec> = layers[0].specs().copied().collect();
    // Eight calls of two experts are a round over both layers' six, and more.
    let mut bench = Bench::new(&layers, &draw, &expected, 2 * 6 * EXPERT_BYTES);
    for num_tokens in [1, 3] {
        let plan = plan(&kernels, num_tokens);
        let legal = bench.legal(&plan).unwrap();
        let CellTimes { kernels, left_out, load, .. } = bench.measure(&plan, &|| false).unwrap();
        assert_eq!((kernels.len(), left_out), (legal.len(), vec![]));
        let rounds = kernels[0].ns.len();
        assert!(rounds >= 5, "{rounds}");
        for KernelTimes { spec, error, ns, dropped } in &kernels {
            assert!(*error > 0.0 && *error < spec.class.max_relative_error(), "{spec:?} {error}");
            assert_eq!((ns.len(), ns.contains(&None), *dropped), (rounds, false, false));
        }
        if num_tokens == 1 {
            assert_eq!(rounds, 6);
            let two_experts = (2 * EXPERT_BYTES) as f64;
            assert_eq!((load.bytes, load.weights), (two_experts, 2.0 * 3.0 * 128.0 * 128.0));
            assert_eq!(load.macs, load.weights);
        }
    }
}

#[test]
fn weights_are_read_again_after_all_others() {
    let (layers, expected) = layers();
    let mut bench = Bench::new(&layers, &draw, &expected, 2 * 6 * EXPERT_BYTES);
    let calls: Vec<LayerCall> =
        [(), ()].into_iter().flat_map(|()| bench.next_calls(1).unwrap()).collect();
    let active = |call: &LayerCall| {
        let experts = call.inputs.routing.active_experts().to_vec();
        (call.layer, experts)
    };
    // Six calls read both layers once, and the next six read them in the same order.
    let (first, second): (Vec<_>, Vec<_>) =
        (calls[..6].iter().map(active).collect(), calls[6..].iter().map(active).collect());
    let all = |calls: &[(usize, Vec<u32>)]| {
        let mut all: Vec<(usize, u32)> = calls
            .iter()
            .flat_map(|(layer, experts)| experts.iter().map(|&expert| (*layer, expert)))
            .collect();
        all.sort_unstable();
        all
    };
    let both: Vec<(usize, u32)> =
        [0, 1].into_iter().flat_map(|layer| (0..6).map(move |expert| (layer, expert))).collect();
    assert_eq!((all(&first), all(&second)), (both.clone(), both));
    assert_eq!(first, second);
}

#[test]
fn warm_launches_are_on_one_call() {
    let (layers, expected) = layers();
    let mut bench = Bench::new(&layers, &draw, &expected, 0);
    let [one, other] = [(), ()].map(|()| bench.next_calls(4).unwrap());
    assert_eq!((one.len(), other.len()), (1, 1));
    assert_eq!(one[0].inputs.routing, other[0].inputs.routing);
}

#[test]
fn slow_kernels_are_dropped_but_for_the_pick_and_never_silently() {
    let (layers, expected) = layers();
    let kernels: Vec<KernelSpec> = layers[0].specs().copied().collect();
    let mut bench = Bench::new(&layers, &draw, &expected, 6 * EXPERT_BYTES);
    let all = bench.legal(&plan(&kernels, 4)).unwrap();
    let keep = all.last().map(|spec| spec.id);
    let plan = CellPlan { keep, drop_above: Some(1.0), ..plan(&kernels, 4) };
    let CellTimes { kernels, left_out, .. } = bench.measure(&plan, &|| false).unwrap();
    assert_eq!(kernels.len() + left_out.len(), all.len());
    let dropped = kernels.iter().filter(|kernel| kernel.dropped);
    assert!(dropped.clone().all(|kernel| kernel.ns.len() == 1));
    assert!(left_out.len() + dropped.count() > 0);
    let kept = kernels.iter().find(|kernel| Some(kernel.spec.id) == keep).unwrap();
    assert!(!kept.dropped && kept.ns.len() >= 5);
}

#[test]
fn time_ends_a_cell_after_the_fewest_rounds() {
    let (layers, expected) = layers();
    let kernels: Vec<KernelSpec> = layers[0].specs().copied().collect();
    let mut bench = Bench::new(&layers, &draw, &expected, 6 * EXPERT_BYTES);
    let plan = CellPlan { rounds: 10_000, time: Duration::ZERO, ..plan(&kernels, 1) };
    let times = bench.measure(&plan, &|| false).unwrap();
    for kernel in &times.kernels {
        let samples = kernel.ns.iter().flatten().count();
        assert!((MIN_ROUNDS..10_000).contains(&samples), "{samples}");
    }
    // Stopped at once: what is there is no cell.
    assert!(bench.measure(&plan, &|| true).unwrap().kernels.is_empty());
}

/// A run with one workload, whose kernels took `times`, in nanoseconds by round.
fn run(times: &[(&str, &[u64])], picked: &str) -> BenchRun {
    let machine = BenchMachine {
        backend: "cpu".into(),
        device: "a processor".into(),
        facts: Vec::new(),
        system: "linux".into(),
        processors: 1,
        caches: Vec::new(),
        memory_bytes: 0,
        available_bytes: 0,
        huge_pages: None,
        ceilings: Vec::new(),
    };
    let method = BenchMethod {
        cold_bytes: 0,
        codebook: "mul1".into(),
        rounds: 1,
        budget_seconds: 1.0,
        drop_above: None,
        policy: "rules".into(),
    };
    let mut run = BenchRun::new(machine, method);
    let spec = |name: &str| KernelSpec {
        id: name.parse().unwrap(),
        class: NumericClass::Half,
        tokens: trellect_core::TokenRange::ANY,
        tile_n: 16,
        rows_per_decode: 1,
        workspace: trellect_core::WorkspaceModel::default(),
        capture_safe: true,
        deterministic: true,
    };
    let kernels = times.iter().map(|(name, ns)| KernelTimes {
        spec: spec(name),
        error: 1e-4,
        ns: ns.iter().copied().map(Some).collect(),
        dropped: false,
    });
    let load = Load { bytes: 2e6, weights: 8e6, macs: 16e6 };
    let times = CellTimes { kernels: kernels.collect(), left_out: Vec::new(), load, rounds: 3 };
    let (shape, bits, threads) = ("128x128x6x2", "6_2_3", Some(1));
    let (backend, numeric) = ("cpu", "half");
    let workload = BenchWorkload { shape, bits, tokens: 1, threads, backend, numeric };
    run.add(&workload, &times, Some(picked), Some(4.0));
    run
}

const BASE: &str = "moe_trellis_swiglu@cpu.avx2";
const DECODE: &str = "moe_trellis_swiglu_decode@cpu.avx2";

#[test]
fn figures_follow_from_the_samples() {
    let ms = [3_000_000, 1_000_000, 2_000_000];
    let cells = run(&[(BASE, &ms), (DECODE, &[4_000_000; 3])], DECODE).cells;
    let cell = &cells[0];
    assert_eq!((cell.median_ms, cell.p10_ms, cell.p90_ms), (2.0, 1.2, 2.8));
    assert_eq!((cell.gb_per_s, cell.share_of_ceiling), (1.0, Some(0.25)));
    assert_eq!((cell.g_weights_per_s, cell.gflop_per_s), (4.0, 16.0));
    assert!(cell.best && !cell.picked && cell.within_limit);
    assert!(cells[1].picked && !cells[1].best);
}

#[test]
fn regret_is_the_picks_time_over_the_best() {
    let fast: Vec<u64> = (0..20).map(|i| 1_000_000 + 1000 * i).collect();
    let slow: Vec<u64> = fast.iter().map(|ns| ns * 3 / 2).collect();
    let run = run(&[(BASE, &slow), (DECODE, &fast)], BASE);
    let picks = regret::picks(&run);
    assert_eq!(picks.len(), 1);
    let pick = &picks[0];
    assert_eq!((pick.picked.as_str(), pick.best.as_str()), (BASE, DECODE));
    assert!((pick.regret - 1.5).abs() < 1e-3, "{pick:?}");
    assert!(pick.low > 1.49 && pick.high < 1.51, "{pick:?}");
    let uniform = &regret::uniform(&run)[0];
    let names: Vec<&str> = uniform.kernels.iter().map(|cost| cost.kernel.as_str()).collect();
    assert_eq!((uniform.workloads, names), (1, vec![DECODE, BASE]));
    assert_eq!((uniform.kernels[0].ratio, uniform.selected), (1.0, Some(pick.regret)));
}

#[test]
fn runs_are_compared_by_cell() {
    let samples = |scale: u64| -> Vec<u64> { (0..20).map(|i| scale * (100 + i % 5)).collect() };
    let old = run(&[(BASE, &samples(10_000)), (DECODE, &samples(5_000))], BASE);
    let new = run(&[(BASE, &samples(12_000)), (DECODE, &samples(5_010))], BASE);
    let found = compare(&old, &new);
    let verdicts: Vec<(&str, Verdict)> =
        found.cells.iter().map(|cell| (cell.kernel.as_str(), cell.verdict)).collect();
    assert_eq!(verdicts, [(BASE, Verdict::Slower), (DECODE, Verdict::NoDifferenceShown)]);
    assert_eq!((found.only_old, found.only_new, found.differences.len()), (0, 0, 0));
    let back = compare(&new, &old);
    assert_eq!(back.cells[0].verdict, Verdict::Faster);
    let few = run(&[(BASE, &[1, 2, 3])], BASE);
    let found = compare(&old, &few);
    assert_eq!(found.cells[0].verdict, Verdict::TooFewSamples);
    assert_eq!((found.only_old, found.only_new), (1, 0));
}

#[test]
fn files_are_read_back_and_others_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.json");
    let made = run(&[(BASE, &[1_000_000, 2_000_000])], BASE);
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        BenchRun::read(&path)
    };
    let text = serde_json::to_string(&made).unwrap();
    assert_eq!(read(&text).unwrap(), made);
    let message = |text: &str| read(text).unwrap_err().to_string();
    assert!(message("[1]").contains("not written by `trellect bench`"));
    assert!(message(&text.replace("\"version\":1", "\"version\":2")).contains("expected 1"));
    let negative = text.replace("\"median_ms\":1.5", "\"median_ms\":-1.5");
    assert!(message(&negative).contains("not positive"), "{}", message(&negative));
    assert!(matches!(read("{"), Err(BenchError::Json { .. })));
    assert!(matches!(
        read("{\"format\":\"trellect-bench\",\"version\":1}"),
        Err(BenchError::Json { .. })
    ));
    assert!(matches!(BenchRun::read(&folder.path().join("none")), Err(BenchError::Io { .. })));
}

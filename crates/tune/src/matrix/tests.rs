use std::ops::ControlFlow;

use trellect_core::Codebook;
use trellect_cpu::{CpuBackend, CpuOptions};
use trellect_exl3::synth::{self, OwnedLayer, SynthSpec};

use super::*;

fn tiny() -> Matrix {
    let mut seen = Vec::new();
    let matrix = tiny_until(|progress| {
        seen.push(progress.done);
        ControlFlow::Continue(())
    });
    assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
    matrix
}

fn tiny_until(mut progress: impl FnMut(Progress) -> ControlFlow<()>) -> Matrix {
    let shape = LayerShape::new(128, 128, 4).unwrap();
    let layer = OwnedLayer::new(&SynthSpec::mixed(shape, Codebook::Mul1, 1)).unwrap();
    let backend = CpuBackend::new(CpuOptions::from_env().unwrap());
    let layers = [trellect_core::Backend::prepare(&backend, &layer.view(), &mut |_| {}).unwrap()];
    let context = |num_tokens| ContextPlan { num_tokens, routing: "uniform".into() };
    let plan = RecordPlan {
        name: "tiny".into(),
        note: String::new(),
        top_k: 2,
        numeric: NumericClass::Half,
        contexts: vec![context(1), context(5)],
        rounds: 3,
        cold_bytes: 1 << 16,
        threads: std::num::NonZeroUsize::MIN,
        skip: &|spec, _| (spec.id.family == trellect_core::Family::Grouped).then(|| "no".into()),
        draw: &|context, tuples, seed| {
            let hidden = synth::hidden(context.num_tokens, 128, seed);
            let routing = synth::routing(context.num_tokens, tuples.len(), 2, seed)?;
            Ok(Inputs { hidden: hidden.into(), routing })
        },
    };
    record(&backend, &layers, &plan, |_, now| progress(now)).unwrap()
}

#[test]
fn a_recording_that_is_ended_keeps_what_was_measured() {
    let matrix = tiny_until(|progress| match progress.done {
        3 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    matrix.validate().unwrap();
    let mut rounds: Vec<usize> = matrix.contexts.iter().map(|it| it.rounds.len()).collect();
    rounds.sort_unstable();
    assert_eq!(rounds, [1, 2]);
    let first_only = tiny_until(|_| ControlFlow::Break(()));
    first_only.validate().unwrap();
    assert_eq!(first_only.contexts.len(), 1);
}

#[test]
fn records_hold_every_sample_once() {
    let matrix = tiny();
    let mut per_cell = 0;
    for context in 0..matrix.contexts.len() {
        for round in 0..3 {
            let records = matrix.records(context, round, "here", 7);
            assert!(records.iter().all(|it| it.statistics.count() == 1 && it.first_unix_s == 7));
            let keys: Vec<u64> = records.iter().map(|record| record.context).collect();
            assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
            per_cell += records.len();
        }
    }
    let samples = matrix.contexts.iter().flat_map(|context| &context.cells);
    let samples = samples.map(|cell| if let Cell::Ns(ns) = cell { ns.len() } else { 0 });
    assert_eq!(per_cell, samples.sum::<usize>());
}

#[test]
fn a_recorded_matrix_reads_back_as_written() {
    let matrix = tiny();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("matrix.json");
    matrix.write(&path).unwrap();
    assert_eq!(Matrix::read(&path).unwrap(), matrix);

    for context in &matrix.contexts {
        for (kernel, cell) in matrix.kernels.iter().zip(&context.cells) {
            let decode = kernel.name.family == trellect_core::Family::Decode;
            match cell {
                Cell::Skipped(why) if kernel.name.to_string().contains("grouped") => {
                    assert_eq!(why, "no");
                }
                Cell::Skipped(why) => assert!(decode, "{}: {why}", kernel.name),
                Cell::Ns(ns) => assert_eq!((ns.len(), ns.contains(&0)), (3, false)),
            }
        }
        let (best, ns) = matrix.best(context).unwrap();
        assert_eq!(context.cells[best].median_ns(), Some(ns));
        for round in &context.rounds {
            assert!(round.ceiling_gib_per_s.is_finite());
            let rows: u32 = matrix.rows_per_tuple(round).iter().map(|(_, rows)| rows).sum();
            assert_eq!(u64::from(rows), matrix.workload(round).num_pairs());
        }
    }
    let base =
        matrix.kernels.iter().position(|kernel| kernel.name.family == trellect_core::Family::Base);
    assert!(matrix.uniform_regret(base.unwrap()).unwrap() >= 0.0);
}

#[test]
fn every_contradiction_is_named() {
    let good = tiny();
    good.validate().unwrap();
    let field = |change: fn(&mut Matrix)| {
        let mut matrix = good.clone();
        change(&mut matrix);
        match matrix.validate().unwrap_err() {
            MatrixError::Field { field, .. } => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(field(|m| m.format = "csv".into()), "format");
    assert_eq!(field(|m| m.version = 2), "version");
    assert_eq!(field(|m| m.shape.hidden_size = 0), "shape");
    assert_eq!(field(|m| m.shape.top_k = 9), "shape.top_k");
    assert_eq!(field(|m| m.layers[0].truncate(1)), "layers[0]: experts");
    assert_eq!(field(|m| m.kernels[1] = m.kernels[0]), "kernels[1].name");
    assert_eq!(field(|m| m.kernels[0].rows_per_decode = 0), "kernels[0].rows_per_decode");
    assert_eq!(field(|m| m.contexts[1].rounds.clear()), "contexts[1]");
    assert_eq!(field(|m| m.contexts[1].rounds[2].layer = 1), "contexts[1].rounds[2].layer");
    assert_eq!(
        field(|m| m.contexts[0].rounds[0].loads[0] += 1),
        "contexts[0].rounds[0].loads: sum"
    );
    assert_eq!(
        field(|m| m.contexts[0].rounds[0].ceiling_gib_per_s = f64::NAN),
        "contexts[0].rounds[0].ceiling_gib_per_s"
    );
    assert_eq!(field(|m| m.contexts[0].cells.truncate(1)), "contexts[0].cells: count");
    let short = |m: &mut Matrix| {
        let cells = &mut m.contexts[1].cells;
        let measured = cells.iter_mut().find(|cell| matches!(cell, Cell::Ns(_)));
        *measured.unwrap() = Cell::Ns(vec![5, 0]);
    };
    assert!(field(short).ends_with("ns: count"));
}

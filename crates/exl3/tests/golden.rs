//! The decoder and the oracle against the golden data of an independent implementation. The
//! golden checkpoint is read here by hand, so that nothing but the two is on trial.

use half::f16;
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use trellect_core::{
    Bits, Codebook, ExpertView, Hidden, LayerView, LinearView, Routing, TILE, VectorView,
};
use trellect_exl3::{codebook, oracle, tile};
use trellect_testkit::golden::{self, LayerIndex};

/// Both sides compute in float64; they differ by the order of their sums alone.
const FLOAT64_ORDER: f64 = 1e-9;
/// The expected values were rounded to float32.
const FLOAT32_ROUNDING: f64 = 6e-8;

fn model() -> Vec<u8> {
    std::fs::read(golden::model_dir().join("model.safetensors")).unwrap()
}

fn linear<'a>(file: &SafeTensors<'a>, name: &str) -> LinearView<'a> {
    let tensor = |part: &str| file.tensor(&format!("{name}.{part}"));
    let codebook = match (tensor("mcg").is_ok(), tensor("mul1").is_ok()) {
        (true, false) => Codebook::Mcg,
        (false, true) => Codebook::Mul1,
        _ => Codebook::ThreeInst,
    };
    let trellis = tensor("trellis").unwrap();
    let [tile_rows, tile_columns, words] = *trellis.shape() else { panic!("{name}: rank") };
    LinearView::new(
        trellis.data(),
        Bits::new(words as u64 / 16).unwrap(),
        codebook,
        TILE * tile_rows,
        TILE * tile_columns,
        VectorView::F16(tensor("suh").unwrap().data()),
        VectorView::F16(tensor("svh").unwrap().data()),
        None,
    )
    .unwrap()
}

fn expert<'a>(file: &SafeTensors<'a>, layer: &LayerIndex, name: &str) -> ExpertView<'a> {
    let linear = |projection: &str| linear(file, &format!("{}.{name}.{projection}", layer.prefix));
    let names = &layer.proj_names;
    ExpertView { gate: linear(&names.gate), up: linear(&names.up), down: linear(&names.down) }
}

fn layer_view<'a>(file: &SafeTensors<'a>, layer: &LayerIndex) -> LayerView<'a> {
    let experts = (0..layer.num_experts).map(|id| expert(file, layer, &format!("experts.{id}")));
    LayerView::new(experts.collect(), None, None).unwrap()
}

fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut found.iter().zip(expected).map(|(f, e)| f - e));
    let error = error / norm(&mut expected.iter().copied());
    assert!(error <= tolerance, "{what}: relative error {error:e}, expected {tolerance:e}");
}

#[test]
fn every_codebook_value_is_bit_exact() {
    let expected = golden::expected().f16("codebook.table_f16").data;
    for (codebook, expected) in Codebook::ALL.into_iter().zip(expected.chunks_exact(65536)) {
        for (state, expected) in (0..=u16::MAX).zip(expected) {
            let found = codebook::decode(codebook, state);
            assert_eq!(found.to_bits(), expected.to_bits(), "{codebook}, state {state}");
        }
    }
}

#[test]
fn weights_stand_where_the_stream_order_says() {
    let rows = golden::expected().i32("tile.row_of_t_i32").data;
    let columns = golden::expected().i32("tile.col_of_t_i32").data;
    for (position, expected) in rows.into_iter().zip(columns).enumerate() {
        let (row, column) = tile::row_col(position);
        assert_eq!((row as i32, column as i32), expected, "position {position}");
    }
}

#[test]
fn tiles_of_every_width_unpack_decode_and_pack() {
    for bits in Bits::ALL {
        let expected = golden::expected();
        let packed = expected.i16(&format!("tile.K{bits}.packed_i16")).data;
        let packed: Vec<u8> = packed.into_iter().flat_map(i16::to_le_bytes).collect();
        let states = tile::states(&packed, bits);
        let expected_states = expected.i32(&format!("tile.K{bits}.states_i32")).data;
        assert_eq!(states.map(i32::from).as_slice(), expected_states, "{bits} bits");
        assert_eq!(tile::pack(&states, bits), packed, "{bits} bits");

        let decoded = expected.f16(&format!("tile.K{bits}.decoded_f16"));
        assert_eq!(decoded.shape, [3, TILE, TILE]);
        for (codebook, decoded) in Codebook::ALL.into_iter().zip(decoded.data.chunks_exact(256)) {
            for (position, &state) in states.iter().enumerate() {
                let (row, column) = tile::row_col(position);
                let found = codebook::decode(codebook, state);
                let expected = decoded[TILE * row + column];
                assert_eq!(found.to_bits(), expected.to_bits(), "{bits} bits, {codebook}");
            }
        }
    }
}

#[test]
fn every_linear_decodes_to_the_recorded_digest() {
    let model = model();
    let file = SafeTensors::deserialize(&model).unwrap();
    let linears = golden::index().linears;
    assert_eq!(linears.len(), 87);
    for (name, expected) in linears {
        let view = linear(&file, &name);
        assert_eq!(u64::from(view.bits().get()), expected.bits, "{name}");
        assert_eq!(view.codebook().name(), expected.codebook, "{name}");
        assert_eq!([view.in_features(), view.out_features()], expected.shape, "{name}");
        let mut digest = Sha256::new();
        oracle::decode_weights(&view).iter().for_each(|w| digest.update(w.to_le_bytes()));
        let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, expected.sha256, "{name}");
    }
}

#[test]
fn dumped_weights_equal_before_and_after_the_transforms() {
    let model = model();
    let file = SafeTensors::deserialize(&model).unwrap();
    let expected = golden::expected();
    let names: Vec<String> = expected
        .names()
        .into_iter()
        .filter_map(|name| Some(name.strip_suffix(".w_full_f32")?.to_owned()))
        .collect();
    assert_eq!(names.len(), 5);
    for name in names {
        let view = linear(&file, &name);
        let bits = |weights: Vec<f16>| weights.into_iter().map(f16::to_bits).collect::<Vec<_>>();
        let decoded = expected.f16(&format!("{name}.w_hat_f16")).data;
        assert_eq!(bits(oracle::decode_weights(&view)), bits(decoded), "{name}");

        let mut identity = vec![0.0; view.in_features() * view.in_features()];
        identity.iter_mut().step_by(view.in_features() + 1).for_each(|value| *value = 1.0);
        let full = expected.f32(&format!("{name}.w_full_f32")).data;
        let full: Vec<f64> = full.into_iter().map(f64::from).collect();
        assert_close(&name, &oracle::linear(&identity, &view), &full, FLOAT32_ROUNDING);
    }
}

#[test]
fn the_oracle_reproduces_every_layer() {
    let model = model();
    let file = SafeTensors::deserialize(&model).unwrap();
    for layer in golden::index().layers {
        let prefix = &layer.prefix;
        let f64s = |name: &str| golden::expected().f64(&format!("{prefix}.{name}_f64")).data;
        let f16s = |name: &str| golden::expected().f16(&format!("{prefix}.{name}_f16")).data;
        let view = layer_view(&file, &layer);
        for (expert, expected) in view.experts().iter().zip(&layer.bits_gate_up_down) {
            let bits = expert.tuple().widths().map(|bits| u64::from(bits.get()));
            assert_eq!(bits, *expected, "{prefix}");
        }
        let x = f16s("x");
        let ids = golden::expected().i32(&format!("{prefix}.topk_ids_i32")).data;
        let weights: Vec<f32> = f16s("topk_weights").into_iter().map(f16::to_f32).collect();
        let routing = Routing::new(layer.num_experts, layer.top_k, &ids, &weights).unwrap();
        let y = oracle::forward(&view, Hidden::F16(&x), &routing);
        assert_close(prefix, &y, &f64s("y_routed"), FLOAT64_ORDER);

        let token: Vec<f64> = x[..layer.hidden_size].iter().copied().map(f16::to_f64).collect();
        let (intermediate, hidden) = (layer.intermediate_size, layer.hidden_size);
        for (slot, &id) in ids[..layer.top_k].iter().enumerate() {
            let trace = oracle::expert(&token, &view.experts()[id as usize], view.shape());
            for (name, found, width) in [
                ("gate_out", trace.gate, intermediate),
                ("up_out", trace.up, intermediate),
                ("act", trace.act, intermediate),
                ("down_out", trace.down, hidden),
            ] {
                let expected = f64s(&format!("token0.{name}"));
                let expected = &expected[slot * width..][..width];
                assert_close(&format!("{prefix} {name}"), &found, expected, FLOAT64_ORDER);
            }
        }

        if layer.shared_expert_bits.is_some() {
            let x: Vec<f64> = x.iter().copied().map(f16::to_f64).collect();
            let shared = expert(&file, &layer, "shared_experts");
            let y_shared = oracle::expert(&x, &shared, view.shape()).down;
            assert_close("shared", &y_shared, &f64s("y_shared"), FLOAT64_ORDER);
            let total: Vec<f64> = y.iter().zip(y_shared).map(|(y, shared)| y + shared).collect();
            assert_close("total", &total, &f64s("y_total"), FLOAT64_ORDER);
        }
    }
}

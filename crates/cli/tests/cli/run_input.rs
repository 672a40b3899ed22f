//! `run --input`: the golden batch, and batches that are wrong.

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;
use trellect_testkit::golden::{expected, model_dir};
use trellect_testkit::relative_error;

use crate::{Outcome, arg, trellect};

const PREFIX: &str = "model.layers.2.mlp";
const HIDDEN: usize = 256;

/// A tensor to be written.
#[derive(Clone)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    fn f16(shape: &[usize], values: &[f16]) -> Self {
        Self::new(Dtype::F16, shape, values.iter().flat_map(|value| value.to_le_bytes()))
    }

    fn f32(shape: &[usize], values: &[f32]) -> Self {
        Self::new(Dtype::F32, shape, values.iter().flat_map(|value| value.to_le_bytes()))
    }

    fn i32(shape: &[usize], values: &[i32]) -> Self {
        Self::new(Dtype::I32, shape, values.iter().flat_map(|value| value.to_le_bytes()))
    }

    fn i64(shape: &[usize], values: &[i64]) -> Self {
        Self::new(Dtype::I64, shape, values.iter().flat_map(|value| value.to_le_bytes()))
    }

    fn new(dtype: Dtype, shape: &[usize], bytes: impl Iterator<Item = u8>) -> Self {
        Self { dtype, shape: shape.into(), bytes: bytes.collect() }
    }
}

/// A batch for the golden layer 2.
#[derive(Clone)]
struct Input {
    x: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
}

impl Input {
    fn golden() -> Self {
        let x = expected().f16(&format!("{PREFIX}.x_f16"));
        let ids = expected().i32(&format!("{PREFIX}.topk_ids_i32"));
        let weights = expected().f16(&format!("{PREFIX}.topk_weights_f16"));
        Self {
            x: Tensor::f16(&x.shape, &x.data),
            topk_ids: Tensor::i32(&ids.shape, &ids.data),
            topk_weights: Tensor::f16(&weights.shape, &weights.data),
        }
    }

    /// One token with the given routing.
    fn one_token(ids: &[i32], weights: &[f32]) -> Self {
        let top_k = ids.len();
        let x: Vec<f32> = (0..HIDDEN).map(|i| (i % 13) as f32 - 6.0).collect();
        Self {
            x: Tensor::f32(&[1, HIDDEN], &x),
            topk_ids: Tensor::i32(&[1, top_k], ids),
            topk_weights: Tensor::f32(&[1, top_k], weights),
        }
    }

    fn write(&self, path: &Path) {
        let view = |tensor: &Tensor| {
            let bytes: &'static [u8] = tensor.bytes.clone().leak();
            TensorView::new(tensor.dtype, tensor.shape.clone(), bytes).unwrap()
        };
        let tensors = [
            ("x", view(&self.x)),
            ("topk_ids", view(&self.topk_ids)),
            ("topk_weights", view(&self.topk_weights)),
        ];
        fs::write(path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    }
}

/// A place for an input and an output file.
struct Files {
    _directory: TempDir,
    input: PathBuf,
    output: PathBuf,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (input, output) = (directory.path().join("in"), directory.path().join("out"));
        Self { _directory: directory, input, output }
    }

    /// Runs what is in the input file on the golden layer 2.
    fn run(&self, flags: &[&str]) -> Outcome {
        let model = model_dir();
        let fixed = ["run", "--model", arg(&model), "--layer", "2", "--repeat", "1"];
        let files = ["--input", arg(&self.input), "--output", arg(&self.output)];
        trellect(fixed.into_iter().chain(files).chain(flags.iter().copied()))
    }

    fn y(&self) -> (Vec<usize>, Vec<f32>) {
        let bytes = fs::read(&self.output).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.names(), ["y"]);
        let y = file.tensor("y").unwrap();
        assert_eq!(y.dtype(), Dtype::F32);
        let values = y.data().as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes);
        (y.shape().to_vec(), values.collect())
    }
}

/// Runs a batch and gives its result.
fn compute(input: &Input, flags: &[&str]) -> (Vec<usize>, Vec<f32>) {
    let files = Files::new();
    input.write(&files.input);
    let outcome = files.run(flags);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    files.y()
}

#[test]
fn the_golden_output_is_reproduced() {
    let golden = expected().f64(&format!("{PREFIX}.y_routed_f64"));
    for (flags, limit) in [
        (vec!["--numeric", "half"], 2e-3),
        (vec!["--numeric", "exact"], 1e-5),
        (vec!["--kernel", "moe_trellis_swiglu"], 2e-3),
        (vec!["--kernel", "moe_trellis_swiglu_grouped@cpu.generic", "--threads", "1"], 2e-3),
        (vec!["--kernel", "moe_trellis_swiglu_prefill4_fp32acc@cpu.generic"], 1e-5),
    ] {
        let (shape, y) = compute(&Input::golden(), &flags);
        assert_eq!(shape, golden.shape);
        let error = relative_error(&y, &golden.data);
        assert!(error <= limit, "{flags:?}: {error}");
    }
}

#[test]
fn the_report_says_that_the_batch_was_given() {
    let files = Files::new();
    Input::golden().write(&files.input);
    let report = files.run(&["--json"]).json();
    assert_eq!((&report["routing"], &report["rows"][0]["tokens"]), (&"input".into(), &7.into()));
    assert_eq!(report["rows"].as_array().unwrap().len(), 1);
}

#[test]
fn wide_ids_and_other_float_types_are_read() {
    let (_, narrow) = compute(&Input::golden(), &[]);
    let mut input = Input::golden();
    let ids = expected().i32(&format!("{PREFIX}.topk_ids_i32"));
    let wide: Vec<i64> = ids.data.iter().map(|id| i64::from(*id)).collect();
    input.topk_ids = Tensor::i64(&ids.shape, &wide);
    let x = expected().f16(&format!("{PREFIX}.x_f16"));
    let x32: Vec<f32> = x.data.iter().map(|value| value.to_f32()).collect();
    input.x = Tensor::f32(&x.shape, &x32);
    assert_eq!(compute(&input, &[]).1, narrow);
}

#[test]
fn no_token_gives_an_empty_result() {
    let input = Input {
        x: Tensor::f16(&[0, HIDDEN], &[]),
        topk_ids: Tensor::i32(&[0, 4], &[]),
        topk_weights: Tensor::f16(&[0, 4], &[]),
    };
    assert_eq!(compute(&input, &[]), (vec![0, HIDDEN], Vec::new()));
}

#[test]
fn an_expert_named_twice_counts_as_the_sum() {
    let (_, twice) = compute(&Input::one_token(&[3, 3], &[0.25, 0.5]), &["--numeric", "exact"]);
    let (_, once) = compute(&Input::one_token(&[3], &[0.75]), &["--numeric", "exact"]);
    let once: Vec<f64> = once.into_iter().map(f64::from).collect();
    assert!(relative_error(&twice, &once) <= 1e-5);
}

#[test]
fn wrong_batches_are_refused() {
    let golden = Input::golden();
    let with = |change: &dyn Fn(&mut Input)| {
        let mut input = golden.clone();
        change(&mut input);
        input
    };
    let ids_of = |id| Tensor::i32(&[7, 4], &[id; 28]);
    let cases: [(Input, &str); 15] = [
        (with(&|i| i.x = Tensor::i32(&[7, HIDDEN], &[1; 7 * HIDDEN])), "`x` is of type I32"),
        (with(&|i| i.x = Tensor::f32(&[HIDDEN], &[1.0; HIDDEN])), "`x` has shape [256]"),
        (with(&|i| i.x = Tensor::f32(&[7, 2], &[1.0; 14])), "hidden size 256"),
        (with(&|i| i.x = Tensor::f32(&[1, HIDDEN], &[1.0; HIDDEN])), "7 rows"),
        (with(&|i| i.topk_ids = Tensor::f32(&[7, 4], &[1.0; 28])), "`topk_ids` is of type F32"),
        (with(&|i| i.topk_ids = Tensor::i32(&[28], &[1; 28])), "`topk_ids` has shape [28]"),
        (with(&|i| i.topk_ids = ids_of(8)), "token 0, slot 0: expert 8 does not exist"),
        (with(&|i| i.topk_ids = ids_of(-1)), "expert -1 does not exist"),
        (with(&|i| i.topk_ids = Tensor::i64(&[7, 4], &[1 << 40; 28])), "expert 1099511627776"),
        (with(&|i| i.topk_weights = ids_of(1)), "`topk_weights` is of type I32"),
        (with(&|i| i.topk_weights = Tensor::f32(&[7, 3], &[0.5; 21])), "expected [7, 4]"),
        (with(&|i| i.topk_weights = Tensor::f32(&[7, 4], &[f32::NAN; 28])), "weight is NaN"),
        (with(&|i| i.topk_weights = Tensor::f32(&[1, 7, 4], &[0.5; 28])), "has shape [1, 7, 4]"),
        (Input::one_token(&[1; 9], &[0.1; 9]), "top_k is 9: expected 1 to the layer's 8 experts"),
        (Input::one_token(&[], &[]), "top_k is 0"),
    ];
    for (input, message) in cases {
        let files = Files::new();
        input.write(&files.input);
        files.run(&[]).fails(1, message);
        assert!(!files.output.exists(), "{message}");
    }
}

#[test]
fn wrong_files_are_refused() {
    let files = Files::new();
    files.run(&[]).fails(1, "reading ");
    fs::write(&files.input, b"not a tensor file").unwrap();
    files.run(&[]).fails(1, "not a valid safetensors file");
    let tensor = TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
    fs::write(&files.input, safetensors::serialize([("z", tensor)], None).unwrap()).unwrap();
    files.run(&[]).fails(1, "no tensor `x`; the file has: z");
    Input::golden().write(&files.input);
    files.run(&["--tokens", "1"]).fails(2, "cannot be used with");
}

#[test]
fn an_output_that_cannot_be_written_is_a_failure() {
    let mut files = Files::new();
    Input::golden().write(&files.input);
    files.output = files.output.join("missing").join("y");
    files.run(&[]).fails(1, "writing ");
}

#[test]
fn infinite_activations_stay_with_their_token() {
    let mut input = Input::golden();
    let mut x = expected().f16(&format!("{PREFIX}.x_f16"));
    x.data[0] = f16::INFINITY;
    input.x = Tensor::f16(&x.shape, &x.data);
    let (_, y) = compute(&input, &[]);
    assert!(y[..HIDDEN].iter().all(|value| !value.is_finite()));
    assert!(y[HIDDEN..].iter().all(|value| value.is_finite()));
}

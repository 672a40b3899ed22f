//! `trellect inspect`: what a checkpoint holds.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use serde::Serialize;
use trellect::core::LayerView;
use trellect::exl3::{Checkpoint, LayerInfo, ModelConfig, MoeLayer, RouterConfig, Scoring};

use crate::table::{self, Column};
use crate::{facts, output};

const EXAMPLES: &str = "\
Every layer is validated; when one is invalid the others are shown and the exit code is 1.

Examples:
  trellect inspect tiny-model
  trellect inspect tiny-model/model.safetensors --json";

/// The flags of `inspect`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InspectArgs {
    /// A checkpoint: a directory or a .safetensors file.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What a checkpoint holds.
#[derive(Debug, Serialize)]
struct CheckpointReport {
    path: String,
    model_type: Option<String>,
    /// What the checkpoint states as its average width.
    stated_bits: Option<f64>,
    layers: Vec<LayerReport>,
}

/// One MoE layer: what it holds, or why it is invalid.
#[derive(Debug, Serialize)]
struct LayerReport {
    number: usize,
    prefix: String,
    experts: usize,
    #[serde(flatten)]
    contents: Option<Contents>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Contents {
    hidden_size: usize,
    intermediate_size: usize,
    /// Experts per bit tuple.
    tuples: BTreeMap<String, usize>,
    /// Linears per codebook.
    codebooks: BTreeMap<&'static str, usize>,
    trellis_bytes: u64,
    bits_per_weight: f64,
    shared_expert: Option<SharedExpert>,
    router: Option<Router>,
}

#[derive(Debug, Serialize)]
struct SharedExpert {
    intermediate_size: usize,
    tuple: String,
    trellis_bytes: u64,
}

#[derive(Debug, Default, Serialize)]
struct Router {
    /// `softmax`, `sigmoid`, or `unknown` where `config.json` does not tell.
    kind: &'static str,
    correction_bias: bool,
    top_k: Option<usize>,
    renormalize: Option<bool>,
    scaling_factor: Option<f64>,
    groups: Option<usize>,
    topk_group: Option<usize>,
    error: Option<String>,
}

/// Prints what the checkpoint holds.
///
/// # Errors
/// When it cannot be opened, or a layer is invalid.
pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&args.path)?;
    let report = CheckpointReport {
        path: args.path.display().to_string(),
        model_type: checkpoint.config().model_type.clone(),
        stated_bits: checkpoint.quantization().and_then(|quantization| quantization.bits),
        layers: checkpoint
            .layers()
            .iter()
            .map(|info| LayerReport::new(&checkpoint, info))
            .collect(),
    };
    match args.json {
        true => output::print_json(&report)?,
        false => output::print(&report.to_string())?,
    }
    ensure!(!report.layers.is_empty(), "{}: no layer has EXL3 experts", report.path);
    let invalid: Vec<_> = report
        .layers
        .iter()
        .filter(|layer| layer.error.is_some())
        .map(|l| l.number.to_string())
        .collect();
    ensure!(invalid.is_empty(), "{}: invalid layers: {}", report.path, invalid.join(", "));
    Ok(())
}

impl LayerReport {
    fn new(checkpoint: &Checkpoint, info: &LayerInfo) -> Self {
        let (contents, error) = match checkpoint.layer(info.number()) {
            Ok(layer) => (Some(Contents::new(&layer, checkpoint.config())), None),
            Err(error) => (None, Some(output::describe(&error.into()))),
        };
        Self {
            number: info.number(),
            prefix: info.prefix().into(),
            experts: info.num_experts(),
            contents,
            error,
        }
    }
}

impl Contents {
    fn new(layer: &MoeLayer<'_>, config: &ModelConfig) -> Self {
        let view = layer.view();
        Self {
            hidden_size: view.shape().hidden_size,
            intermediate_size: view.shape().intermediate_size,
            tuples: facts::tuples(view),
            codebooks: facts::codebooks(view),
            trellis_bytes: view.trellis_bytes(),
            bits_per_weight: facts::bits_per_weight(view),
            shared_expert: layer.shared_expert().map(SharedExpert::new),
            router: layer.router().map(|r| Router::new(config, r.correction_bias().is_some())),
        }
    }
}

impl SharedExpert {
    fn new(view: &LayerView<'_>) -> Self {
        Self {
            intermediate_size: view.shape().intermediate_size,
            tuple: view.experts()[0].tuple().to_string(),
            trellis_bytes: view.trellis_bytes(),
        }
    }
}

impl Router {
    fn new(config: &ModelConfig, correction_bias: bool) -> Self {
        match RouterConfig::from_model(config, correction_bias) {
            Ok(rule) => Self {
                kind: match rule.scoring {
                    Scoring::Softmax => "softmax",
                    Scoring::Sigmoid => "sigmoid",
                },
                correction_bias,
                top_k: Some(rule.top_k),
                renormalize: Some(rule.renormalize),
                scaling_factor: Some(rule.scaling_factor),
                groups: rule.groups.map(|limit| limit.num_groups),
                topk_group: rule.groups.map(|limit| limit.topk_group),
                error: None,
            },
            Err(error) => {
                let error = Some(error.to_string());
                Self { kind: "unknown", correction_bias, error, ..Self::default() }
            }
        }
    }

    fn describe(&self) -> String {
        let mut text = self.kind.to_owned();
        if let Some(top_k) = self.top_k {
            text += &format!(" top-{top_k}");
        }
        if self.correction_bias {
            text += " + bias";
        }
        text
    }
}

impl fmt::Display for CheckpointReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model_type = self.model_type.as_deref().unwrap_or("unknown model");
        let layers = table::plural(self.layers.len(), "MoE layer");
        write!(f, "{}: {model_type}, {layers}", self.path)?;
        if let Some(bits) = self.stated_bits {
            write!(f, ", {bits:.2} bits stated")?;
        }
        writeln!(f, "\n")?;
        let columns = [
            Column::Right("layer"),
            Column::Left("prefix"),
            Column::Right("experts"),
            Column::Left("hidden x inter"),
            Column::Left("tuples"),
            Column::Left("codebooks"),
            Column::Right("bytes"),
            Column::Right("bpw"),
            Column::Left("shared"),
            Column::Left("router"),
        ];
        let valid = self.layers.iter().filter_map(|l| Some((l, l.contents.as_ref()?)));
        let cells = valid.map(|(layer, contents)| {
            vec![
                layer.number.to_string(),
                layer.prefix.clone(),
                layer.experts.to_string(),
                format!("{} x {}", contents.hidden_size, contents.intermediate_size),
                facts::describe_tuples(&contents.tuples),
                contents.codebooks.keys().copied().collect::<Vec<_>>().join(" "),
                table::bytes(contents.trellis_bytes),
                format!("{:.2}", contents.bits_per_weight),
                table::optional(contents.shared_expert.as_ref(), |shared| shared.tuple.clone()),
                table::optional(contents.router.as_ref(), Router::describe),
            ]
        });
        f.write_str(&table::render(&columns, cells.collect()))?;
        for layer in &self.layers {
            if let Some(error) = &layer.error {
                writeln!(f, "  layer {} is invalid: {error}", layer.number)?;
            }
        }
        let routers =
            self.layers.iter().filter_map(|layer| layer.contents.as_ref()?.router.as_ref());
        let mut errors: Vec<_> = routers.filter_map(|router| router.error.as_ref()).collect();
        errors.dedup();
        for error in errors {
            writeln!(f, "  the routers' rule is unknown: {error}")?;
        }
        Ok(())
    }
}

//! Where the layer comes from: a checkpoint of the user's, or a synthetic one in a temporary
//! directory.

use anyhow::Context;
use tempfile::TempDir;
use trellect::exl3::{Checkpoint, MoeLayer};

use super::RunArgs;
use crate::synthetic::Synthetic;

/// An open checkpoint and the layer to run.
pub(super) struct Source {
    checkpoint: Checkpoint,
    number: usize,
    /// What to call it.
    pub(super) name: String,
    /// Experts per token, where the source tells.
    pub(super) top_k: Option<usize>,
    /// Whether the layer was made for this run.
    pub(super) is_synthetic: bool,
    /// Holds the files of a synthetic checkpoint until the end.
    _directory: Option<TempDir>,
}

impl Source {
    /// Opens `--model`, or writes a synthetic checkpoint and opens that.
    pub(super) fn open(args: &RunArgs) -> anyhow::Result<Self> {
        let Some(path) = &args.model else { return Self::synthetic(args) };
        let checkpoint = Checkpoint::open(path)?;
        let first = checkpoint.layers().first().map(|layer| layer.number());
        let number = args.layer.or(first);
        let number =
            number.with_context(|| format!("{}: no layer has EXL3 experts", path.display()))?;
        let top_k = checkpoint.config().num_experts_per_tok;
        let name = path.display().to_string();
        Ok(Self { checkpoint, number, name, top_k, is_synthetic: false, _directory: None })
    }

    fn synthetic(args: &RunArgs) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("trellect-")
            .tempdir()
            .context("making a temporary directory")?;
        let synthetic = Synthetic { layer: &args.synth, layers: 1, router: false, seed: args.seed };
        synthetic.write(directory.path()).context("writing the synthetic checkpoint")?;
        let checkpoint = Checkpoint::open(directory.path())?;
        Ok(Self {
            checkpoint,
            number: 0,
            name: format!("synthetic {} {}", args.synth.shape.name, args.synth.bits),
            top_k: Some(args.synth.shape.top_k),
            is_synthetic: true,
            _directory: keep(directory),
        })
    }

    /// The checkpoint.
    pub(super) const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Checks and lends the layer.
    pub(super) fn layer(&self) -> anyhow::Result<MoeLayer<'_>> {
        Ok(self.checkpoint.layer(self.number)?)
    }
}

/// Mapped files stay readable without a name: removing it now leaves nothing behind however this
/// process ends.
#[cfg(unix)]
fn keep(directory: TempDir) -> Option<TempDir> {
    drop(directory);
    None
}

#[cfg(not(unix))]
fn keep(directory: TempDir) -> Option<TempDir> {
    Some(directory)
}

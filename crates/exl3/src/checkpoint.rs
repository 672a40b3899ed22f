//! Opening checkpoints and lending their MoE layers.
//!
//! [`files`] finds the files, [`shard`] maps one and reads its header, [`discover`] finds layers by
//! the names of their tensors, [`layer`] checks one layer and makes its views. Nothing is decoded
//! here.

mod config;
mod discover;
mod files;
mod layer;
mod shard;

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fmt;
use std::path::{Path, PathBuf};

pub use config::{ModelConfig, QuantizationConfig};
pub use discover::{ExpertNaming, LayerInfo};
pub use layer::MoeLayer;

use crate::LoadError;
use files::Files;
use shard::{Entry, Shard};

pub(crate) const MODEL_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
pub(crate) const CONFIG_FILE: &str = "config.json";
pub(crate) const QUANTIZATION_FILE: &str = "quantization_config.json";

/// An EXL3 checkpoint: its files mapped into memory, and an index of their tensors.
///
/// Opening reads the headers and the JSON files, nothing else; a layer's scales are read when it is
/// asked for, its trellis tensors not before a backend does.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use trellect_exl3::Checkpoint;
///
/// let checkpoint = Checkpoint::open("GLM-4.7-Flash-exl3".as_ref())?;
/// for info in checkpoint.layers() {
///     let layer = checkpoint.layer(info.number())?;
///     println!("{}: {:?}", layer.prefix(), layer.view().shape());
/// }
/// # Ok(())
/// # }
/// ```
pub struct Checkpoint {
    path: PathBuf,
    shards: Vec<Shard>,
    tensors: HashMap<String, Entry>,
    config: ModelConfig,
    quantization: Option<QuantizationConfig>,
    layers: Vec<LayerInfo>,
}

impl Checkpoint {
    /// Opens a directory or a single `.safetensors` file.
    ///
    /// In a directory the shards that `model.safetensors.index.json` names are taken, else
    /// `model.safetensors`, else the only other `.safetensors` file. `config.json` and
    /// `quantization_config.json` are looked for beside the tensors and may be absent.
    ///
    /// The files stay mapped: they must not be changed or cut while the checkpoint lives. Another
    /// process that does so changes the weights that are read, or ends this one with a bus error.
    ///
    /// # Errors
    /// [`LoadError`] when a file cannot be read or its header or JSON is invalid. Layers are
    /// checked by [`layer`](Self::layer).
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let files = Files::find(path)?;
        let shards = files.shards.iter().map(|(shard, _)| Shard::open(shard));
        let shards = shards.collect::<Result<Vec<_>, _>>()?;
        let tensors = index(&shards)?;
        for (number, (path, promised)) in files.shards.iter().enumerate() {
            let absent = |tensor: &&String| tensors.get(*tensor).map(|e| e.shard) != Some(number);
            if let Some(tensor) = promised.iter().find(absent) {
                let (path, tensor) = (path.clone(), tensor.as_str().into());
                return Err(LoadError::NotInShard { path, tensor });
            }
        }
        let json = |name, parse: &dyn Fn(&[u8]) -> Result<_, serde_json::Error>| {
            let path = files.directory.join(name);
            let bytes = files::read_json_bytes(&path)?;
            let parsed = bytes.map(|bytes| parse(&bytes)).transpose();
            parsed.map_err(|source| LoadError::Json { path, source })
        };
        let (config, nested) = json(CONFIG_FILE, &config::parse)?.unwrap_or_default();
        let own = |bytes: &[u8]| Ok((ModelConfig::default(), serde_json::from_slice(bytes)?));
        let quantization = json(QUANTIZATION_FILE, &own)?.and_then(|(_, own)| own).or(nested);
        Ok(Self::new(path, shards, tensors, config, quantization))
    }

    /// Opens a checkpoint that is in memory: the bytes of one `.safetensors` file and, where there
    /// is one, the text of its `config.json`. Errors call the file `model.safetensors`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(model: Vec<u8>, config: Option<&str>) -> Result<Self, LoadError> {
        let shards = vec![Shard::from_bytes(Path::new(MODEL_FILE), model)?];
        let tensors = index(&shards)?;
        let parsed = config.map(|text| config::parse(text.as_bytes())).transpose();
        let (config, quantization) = parsed
            .map_err(|source| LoadError::Json { path: CONFIG_FILE.into(), source })?
            .unwrap_or_default();
        Ok(Self::new(Path::new(MODEL_FILE), shards, tensors, config, quantization))
    }

    fn new(
        path: &Path,
        shards: Vec<Shard>,
        tensors: HashMap<String, Entry>,
        config: ModelConfig,
        quantization: Option<QuantizationConfig>,
    ) -> Self {
        let layers = discover::layers(tensors.keys().map(String::as_str));
        Self { path: path.into(), shards, tensors, config, quantization, layers }
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.json`; every field is `None` where there is no such file.
    pub const fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// `quantization_config.json`, else `quantization_config` of `config.json`.
    pub const fn quantization(&self) -> Option<&QuantizationConfig> {
        self.quantization.as_ref()
    }

    /// The layers that have EXL3 experts, ascending by number; found by the names of their tensors
    /// and not validated.
    pub fn layers(&self) -> &[LayerInfo] {
        &self.layers
    }

    /// Checks layer `number` and lends it. Reads its scales, biases and router, about 0.02 bits a
    /// weight.
    ///
    /// The logical sizes are those of `config.json` where they pad to the tensors' sizes; else the
    /// router's width is the hidden size if that pads to it; else the padded sizes are the logical
    /// ones.
    ///
    /// # Errors
    /// [`LoadError`]: no such layer (names those that exist), a missing expert or tensor, a wrong
    /// type, shape or width, two codebooks, values that are not finite, experts that disagree.
    pub fn layer(&self, number: usize) -> Result<MoeLayer<'_>, LoadError> {
        let first = self.layers.partition_point(|layer| layer.number() < number);
        match &self.layers[first..] {
            [a, b, ..] if a.number() == number && b.number() == number => {
                let (first, second) = (a.prefix().into(), b.prefix().into());
                Err(LoadError::AmbiguousLayer { number, first, second })
            }
            [info, ..] if info.number() == number => MoeLayer::new(self, info),
            _ => {
                let mut existing: Vec<usize> = self.layers.iter().map(LayerInfo::number).collect();
                existing.dedup();
                Err(LoadError::UnknownLayer { path: self.path.clone(), number, existing })
            }
        }
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("path", &self.path)
            .field("tensors", &self.tensors.len())
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}

fn index(shards: &[Shard]) -> Result<HashMap<String, Entry>, LoadError> {
    let mut tensors = HashMap::new();
    for (number, shard) in shards.iter().enumerate() {
        for (name, entry) in shard.entries(number)? {
            match tensors.entry(name) {
                Slot::Vacant(slot) => {
                    slot.insert(entry);
                }
                Slot::Occupied(slot) => {
                    let earlier: &Entry = slot.get();
                    return Err(LoadError::DuplicateTensor {
                        tensor: slot.key().as_str().into(),
                        first: shards[earlier.shard].path().into(),
                        second: shard.path().into(),
                    });
                }
            }
        }
    }
    Ok(tensors)
}

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::LoadError;

/// Longest JSON file that is read; the largest real ones are tens of megabytes.
const MAX_JSON_BYTES: u64 = 256 << 20;

/// The files of a checkpoint.
pub(super) struct Files {
    /// Where `config.json` would lie.
    pub(super) directory: PathBuf,
    /// The files of tensors, each with the tensors that an index promises.
    pub(super) shards: Vec<(PathBuf, Vec<String>)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Files {
    pub(super) fn find(path: &Path) -> Result<Self, LoadError> {
        let io = |source| LoadError::Io { path: path.into(), source };
        if !fs::metadata(path).map_err(io)?.is_dir() {
            let directory = path.parent().unwrap_or(Path::new("")).to_path_buf();
            return Ok(Self { directory, shards: vec![(path.into(), Vec::new())] });
        }
        let index = path.join(super::INDEX_FILE);
        let shards = match read_json_bytes(&index)? {
            Some(json) => sharded(path, &index, &json)?,
            None => vec![(single(path)?, Vec::new())],
        };
        Ok(Self { directory: path.into(), shards })
    }
}

/// The bytes of a JSON file; `None` where there is no such file.
pub(super) fn read_json_bytes(path: &Path) -> Result<Option<Vec<u8>>, LoadError> {
    let io = |source| LoadError::Io { path: path.into(), source };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    if !metadata.is_file() {
        return Err(LoadError::NotAFile { path: path.into() });
    }
    if metadata.len() > MAX_JSON_BYTES {
        let found = metadata.len();
        return Err(LoadError::JsonLength { path: path.into(), found, max: MAX_JSON_BYTES });
    }
    fs::read(path).map(Some).map_err(io)
}

fn sharded(
    directory: &Path,
    index: &Path,
    json: &[u8],
) -> Result<Vec<(PathBuf, Vec<String>)>, LoadError> {
    let Index { weight_map } = serde_json::from_slice(json)
        .map_err(|source| LoadError::Json { path: index.into(), source })?;
    let mut shards = BTreeMap::<String, Vec<String>>::new();
    for (tensor, shard) in weight_map {
        shards.entry(shard).or_default().push(tensor);
    }
    let place = |(shard, tensors): (String, Vec<String>)| {
        if !is_plain_file_name(&shard) {
            return Err(LoadError::ShardName { path: index.into(), shard: shard.into() });
        }
        let path = directory.join(&shard);
        match path.try_exists() {
            Ok(true) => Ok((path, tensors)),
            Ok(false) => Err(LoadError::MissingShard { path: index.into(), shard: shard.into() }),
            Err(source) => Err(LoadError::Io { path, source }),
        }
    };
    shards.into_iter().map(place).collect()
}

fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let plain = matches!(components.next(), Some(Component::Normal(first)) if first == name);
    plain && components.next().is_none() && !name.contains(['/', '\\', ':', '\0'])
}

fn single(directory: &Path) -> Result<PathBuf, LoadError> {
    let io = |source| LoadError::Io { path: directory.into(), source };
    let usual = directory.join(super::MODEL_FILE);
    if usual.try_exists().map_err(io)? {
        return Ok(usual);
    }
    let mut found = Vec::new();
    for file in fs::read_dir(directory).map_err(io)? {
        let path = file.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            found.push(path);
        }
    }
    match (found.pop(), found.len()) {
        (None, _) => Err(LoadError::NoModel { path: directory.into() }),
        (Some(only), 0) => Ok(only),
        (Some(_), others) => Err(LoadError::NoIndex { path: directory.into(), found: others + 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_stay_in_the_directory() {
        assert!(is_plain_file_name("model-00001-of-00002.safetensors"));
        for name in
            ["", ".", "..", "/etc/passwd", "../m", "a/b", "a/", "a\\b", "C:m", "a\0b", "./m"]
        {
            assert!(!is_plain_file_name(name), "{name:?}");
        }
    }
}

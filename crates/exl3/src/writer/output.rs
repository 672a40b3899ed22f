use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use safetensors::SafeTensorError;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::Value;

use super::tensors::TensorToWrite;
use crate::WriteError;

/// Files under temporary names, which [`finish`](Self::finish) renames; dropped before that, it
/// removes them.
pub(super) struct Output<'a> {
    dir: &'a Path,
    suffix: String,
    pending: Vec<(PathBuf, PathBuf)>,
}

impl<'a> Output<'a> {
    pub(super) fn new(dir: &'a Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let suffix = format!(".{}-{number}.tmp", std::process::id());
        Self { dir, suffix, pending: Vec::new() }
    }

    pub(super) fn tensors(
        &mut self,
        name: &str,
        tensors: &[TensorToWrite<'_>],
    ) -> Result<(), WriteError> {
        let path = self.add(name);
        // Wide elements first, so that every tensor is aligned to its own.
        let mut ordered: Vec<_> = tensors.iter().collect();
        ordered.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
        let header = match header(&ordered) {
            Ok(header) => header,
            Err(source) => return Err(WriteError::Tensors { path, source }),
        };
        let write = || {
            let mut file = BufWriter::new(File::create(&path)?);
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            ordered.iter().try_for_each(|tensor| file.write_all(tensor.bytes()))?;
            file.flush()
        };
        write().map_err(|source| WriteError::Io { path: path.clone(), source })
    }

    pub(super) fn json(&mut self, name: &str, value: &Value) -> Result<(), WriteError> {
        let path = self.add(name);
        let write = || {
            let mut file = BufWriter::new(File::create(&path)?);
            serde_json::to_writer_pretty(&mut file, value)?;
            file.flush()
        };
        write().map_err(|source| WriteError::Io { path: path.clone(), source })
    }

    /// Puts all files in place and removes `stale`, which would be read instead of them.
    pub(super) fn finish(mut self, stale: &str) -> Result<(), WriteError> {
        self.pending.reverse();
        while let Some((temporary, path)) = self.pending.pop() {
            if let Err(source) = fs::rename(&temporary, &path) {
                self.pending.push((temporary, path.clone()));
                return Err(WriteError::Io { path, source });
            }
        }
        let stale = self.dir.join(stale);
        match fs::remove_file(&stale) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(WriteError::Io { path: stale, source })
            }
            _ => Ok(()),
        }
    }

    fn add(&mut self, name: &str) -> PathBuf {
        let temporary = self.dir.join(format!(".{name}{}", self.suffix));
        self.pending.push((temporary.clone(), self.dir.join(name)));
        temporary
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        for (temporary, _) in &self.pending {
            // Nothing better can be done in a drop, and the error that led here is reported.
            drop(fs::remove_file(temporary));
        }
    }
}

/// The header of a file that holds `tensors` one after the other.
fn header(tensors: &[&TensorToWrite<'_>]) -> Result<Vec<u8>, SafeTensorError> {
    let mut start = 0;
    let info = |tensor: &&TensorToWrite<'_>| {
        let data_offsets = (start, start + tensor.bytes().len());
        start = data_offsets.1;
        let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
        (tensor.name.clone(), TensorInfo { dtype, shape, data_offsets })
    };
    let metadata = Metadata::new(None, tensors.iter().map(info).collect())?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    match header.len() > MAX_HEADER_BYTES {
        true => Err(SafeTensorError::HeaderTooLarge),
        false => Ok(header),
    }
}

/// Longest header that readers of the format accept.
const MAX_HEADER_BYTES: usize = 100_000_000;

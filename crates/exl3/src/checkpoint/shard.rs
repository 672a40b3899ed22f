use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorInfo};

use crate::LoadError;

/// One file of tensors.
pub(super) struct Shard {
    path: PathBuf,
    bytes: Bytes,
}

enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

/// Where a tensor lies and what it is, as its file's header says.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) shard: usize,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    start: usize,
    end: usize,
}

impl Shard {
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        let io = |source| LoadError::Io { path: path.into(), source };
        // Asked before opening: to open a pipe would wait for its writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(LoadError::NotAFile { path: path.into() });
        }
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(LoadError::EmptyFile { path: path.into() });
        }
        let bytes = Bytes::Mapped(map(&file).map_err(io)?);
        Ok(Self { path: path.into(), bytes })
    }

    pub(super) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, LoadError> {
        if bytes.is_empty() {
            return Err(LoadError::EmptyFile { path: path.into() });
        }
        Ok(Self { path: path.into(), bytes: Bytes::Owned(bytes) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn data(&self, entry: &Entry) -> &[u8] {
        &self.all()[entry.start..entry.end]
    }

    /// Names and places of all tensors; reads the header only.
    pub(super) fn entries(&self, shard: usize) -> Result<Vec<(String, Entry)>, LoadError> {
        let (header, metadata) =
            SafeTensors::read_metadata(self.all()).map_err(|error| self.explain(error))?;
        let data_start = LENGTH_BYTES + header;
        let entry = |info: &TensorInfo| Entry {
            shard,
            dtype: info.dtype,
            shape: info.shape.clone(),
            start: data_start + info.data_offsets.0,
            end: data_start + info.data_offsets.1,
        };
        Ok(metadata.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect())
    }

    /// Lets the system take back the memory of the pages that hold a tensor.
    pub(super) fn release(&self, entry: &Entry) {
        if let Bytes::Mapped(map) = &self.bytes {
            release(map, entry.start, entry.end - entry.start);
        }
    }

    fn all(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// Finds the facts behind an error that names none.
    fn explain(&self, error: SafeTensorError) -> LoadError {
        let path = || self.path.clone();
        let bytes = self.all();
        let stated = bytes.first_chunk::<LENGTH_BYTES>().map_or(0, |len| u64::from_le_bytes(*len));
        match error {
            SafeTensorError::HeaderTooSmall
            | SafeTensorError::HeaderTooLarge
            | SafeTensorError::InvalidHeaderLength => LoadError::HeaderLength {
                path: path(),
                header_bytes: stated,
                file_bytes: bytes.len() as u64,
            },
            source => {
                let header = usize::try_from(stated).unwrap_or(usize::MAX);
                let found = bytes[LENGTH_BYTES.min(bytes.len())..]
                    .split_at_checked(header)
                    .and_then(|(header, data)| self.misplaced(header, data.len()));
                found.unwrap_or_else(|| LoadError::Header { path: path(), source })
            }
        }
    }

    /// The first tensor, in the order of the offsets, that does not lie where it should.
    fn misplaced(&self, header: &[u8], len: usize) -> Option<LoadError> {
        let path = || self.path.clone();
        let mut fields: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(header).ok()?;
        fields.remove("__metadata__");
        let mut tensors = Vec::with_capacity(fields.len());
        for (name, value) in fields {
            tensors.push((name, serde_json::from_value::<TensorInfo>(value).ok()?));
        }
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        let mut expected_start = 0;
        for (name, info) in tensors {
            let (start, end) = info.data_offsets;
            let tensor = name.into_boxed_str();
            let elements = info.shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n));
            let Some(bits) = elements.and_then(|all| all.checked_mul(info.dtype.bitsize())) else {
                return Some(LoadError::ShapeOverflow { path: path(), tensor, shape: info.shape });
            };
            if start != expected_start || end < start {
                let expected = expected_start;
                return Some(LoadError::TensorOffsets {
                    path: path(),
                    tensor,
                    start,
                    end,
                    expected,
                });
            }
            let (found, expected) = (end - start, bits.div_ceil(8));
            if found != expected {
                return Some(LoadError::TensorLength { path: path(), tensor, found, expected });
            }
            if end > len {
                return Some(LoadError::OutOfFile { path: path(), tensor, start, end, len });
            }
            expected_start = end;
        }
        let end = expected_start;
        (end < len).then(|| LoadError::TrailingBytes { path: path(), end, len })
    }
}

/// Bytes of the number that a file starts with: the length of its header.
const LENGTH_BYTES: usize = 8;

fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is only read, and `Checkpoint::open` tells its callers that the file must not
    // be changed while the checkpoint lives.
    unsafe { Mmap::map(file) }
}

#[cfg(unix)]
fn release(map: &Mmap, start: usize, len: usize) {
    // SAFETY: the map is shared and read-only (`map` above), so a page given back is read from the
    // file again at its next use, with the same contents.
    let advice =
        unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
    // Advice only: where the system refuses, memory stays in use and nothing else changes.
    drop(advice);
}

#[cfg(not(unix))]
fn release(_map: &Mmap, _start: usize, _len: usize) {}

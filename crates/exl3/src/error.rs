use std::fmt;
use std::path::PathBuf;

use safetensors::SafeTensorError;
use trellect_core::{LayerError, LinearError};

/// A checkpoint, or a layer of it, that cannot be used. Names the file and the tensor at fault, what
/// was found there and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something that is neither a regular file nor a directory.
    #[error("{}: expected a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A directory without tensors.
    #[error("{}: holds no .safetensors file", path.display())]
    NoModel {
        /// The directory.
        path: PathBuf,
    },
    /// Several files of tensors and nothing that says how they belong together.
    #[error(
        "{}: {found} .safetensors files, but neither model.safetensors nor \
         model.safetensors.index.json", path.display()
    )]
    NoIndex {
        /// The directory.
        path: PathBuf,
        /// Number of `.safetensors` files.
        found: usize,
    },
    /// A file of zero bytes.
    #[error("{}: the file is empty", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// A header that the file cannot hold, or that is longer than any real one.
    #[error(
        "{}: the header claims {header_bytes} bytes of a file of {file_bytes} \
         (8 more are its length; 100000000 is the most accepted)", path.display()
    )]
    HeaderLength {
        /// The file.
        path: PathBuf,
        /// Length that the file states; 0 where not even that fits.
        header_bytes: u64,
        /// Length of the file.
        file_bytes: u64,
    },
    /// A header that is not the JSON of the safetensors format.
    #[error("{}: not a safetensors header: {source}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SafeTensorError,
    },
    /// JSON that does not parse, or has a field of the wrong type.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column where known.
        source: serde_json::Error,
    },
    /// A JSON file longer than any real one.
    #[error("{}: {found} bytes of JSON, expected at most {max}", path.display())]
    JsonLength {
        /// The file.
        path: PathBuf,
        /// Length of the file.
        found: u64,
        /// The most accepted.
        max: u64,
    },
    /// A shape whose number of elements or bytes overflows.
    #[error("{}: the size of `{tensor}` {shape:?} overflows", path.display())]
    ShapeOverflow {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: Box<str>,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor whose offsets span another number of bytes than its type and shape need.
    #[error("{}: `{tensor}` spans {found} bytes, its type and shape need {expected}", path.display())]
    TensorLength {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: Box<str>,
        /// Bytes between its offsets.
        found: usize,
        /// Bytes that it needs.
        expected: usize,
    },
    /// A tensor that overlaps its predecessor, leaves a gap after it, or ends before it starts.
    #[error(
        "{}: `{tensor}` wants bytes {start}..{end} of the data, expected it to start at {expected}",
        path.display()
    )]
    TensorOffsets {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: Box<str>,
        /// Where it starts.
        start: usize,
        /// Where it ends.
        end: usize,
        /// Where the tensor before it ends.
        expected: usize,
    },
    /// A tensor that ends after the file: the file was cut off.
    #[error("{}: `{tensor}` wants bytes {start}..{end} of the data, the file has {len}", path.display())]
    OutOfFile {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: Box<str>,
        /// Where it starts.
        start: usize,
        /// Where it ends.
        end: usize,
        /// Bytes of data in the file.
        len: usize,
    },
    /// Bytes after the last tensor.
    #[error("{}: the tensors end at byte {end} of the data, the file has {len}", path.display())]
    TrailingBytes {
        /// The file.
        path: PathBuf,
        /// Where the last tensor ends.
        end: usize,
        /// Bytes of data in the file.
        len: usize,
    },
    /// A shard's name that is not a plain file name.
    #[error("{}: shard `{shard}` is not a plain file name", path.display())]
    ShardName {
        /// The index file.
        path: PathBuf,
        /// The name found.
        shard: Box<str>,
    },
    /// A shard that the index names and the directory lacks.
    #[error("{}: shard `{shard}` does not exist", path.display())]
    MissingShard {
        /// The index file.
        path: PathBuf,
        /// The shard.
        shard: Box<str>,
    },
    /// A tensor that is not in the shard that the index names for it.
    #[error("{}: has no `{tensor}`, although the index says so", path.display())]
    NotInShard {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: Box<str>,
    },
    /// A tensor that two shards hold.
    #[error("`{tensor}` is in {} and in {}", first.display(), second.display())]
    DuplicateTensor {
        /// The tensor.
        tensor: Box<str>,
        /// One shard.
        first: PathBuf,
        /// The other shard.
        second: PathBuf,
    },
    /// A layer number without EXL3 experts.
    #[error("{}: layer {number} has no EXL3 experts; layers with them: {}", path.display(), Ranges(existing))]
    UnknownLayer {
        /// The checkpoint.
        path: PathBuf,
        /// The number asked for.
        number: usize,
        /// The numbers that exist, ascending.
        existing: Vec<usize>,
    },
    /// A layer number that two prefixes share.
    #[error("layer {number} is both `{first}` and `{second}`")]
    AmbiguousLayer {
        /// The number.
        number: usize,
        /// One prefix.
        first: Box<str>,
        /// Another prefix.
        second: Box<str>,
    },
    /// A gap among a layer's experts, or fewer experts than the router chooses from.
    #[error("`{prefix}.experts.{missing}` is missing: {expected} experts were expected")]
    MissingExpert {
        /// The layer's prefix.
        prefix: Box<str>,
        /// The first expert that is missing.
        missing: usize,
        /// One more than the highest expert named.
        expected: usize,
    },
    /// A tensor without which a linear is not complete.
    #[error("{}: `{tensor}` is missing", path.display())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: Box<str>,
    },
    /// A linear with the markers of two codebooks.
    #[error("`{linear}` has both codebook markers, `mcg` and `mul1`: expected one at most")]
    BothCodebooks {
        /// The linear.
        linear: Box<str>,
    },
    /// A tensor of a retired version of the format.
    #[error("`{tensor}` belongs to a retired version of EXL3: quantise the model again")]
    LegacyScale {
        /// The tensor.
        tensor: Box<str>,
    },
    /// A tensor of the wrong element type.
    #[error("{}: `{tensor}` is of type {found}, expected {expected}", path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: Box<str>,
        /// Its type, as safetensors spells it.
        found: Box<str>,
        /// The types accepted.
        expected: &'static str,
    },
    /// A tensor of the wrong rank or with a wrong dimension.
    #[error("{}: `{tensor}` has shape {found:?}, expected {expected}", path.display())]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: Box<str>,
        /// Its shape.
        found: Vec<usize>,
        /// The shape expected, as text.
        expected: Box<str>,
    },
    /// A trellis whose last dimension is not 16 times a width of 1 to 8.
    #[error(
        "{}: `{tensor}` has {found} words a tile, expected 16 times a bit width of 1 to 8",
        path.display()
    )]
    Width {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: Box<str>,
        /// Its last dimension.
        found: usize,
    },
    /// A scale, bias or router value that is NaN or infinite.
    #[error("{}: `{tensor}`[{index}] is {found}, expected a finite number", path.display())]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: Box<str>,
        /// The element, counted row-major.
        index: usize,
        /// Its value.
        found: f32,
    },
    /// Tensors that do not make a linear.
    #[error("`{linear}`: {source}")]
    Linear {
        /// The linear.
        linear: Box<str>,
        /// What does not fit.
        source: LinearError,
    },
    /// Experts that do not make a layer.
    #[error("`{prefix}`: {source}")]
    Layer {
        /// The layer's prefix, or its shared expert's.
        prefix: Box<str>,
        /// What does not fit.
        source: LayerError,
    },
}

/// A checkpoint that could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The tensors could not be written as a safetensors file.
    #[error("{}: {source}", path.display())]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: SafeTensorError,
    },
    /// The same layer number twice.
    #[error("layer {number} is given twice")]
    DuplicateLayer {
        /// The number.
        number: usize,
    },
    /// Parts of one layer that do not fit together, or that would read back differently.
    #[error("layer {number}: {part} is {found}, expected {expected}")]
    Inconsistent {
        /// The layer.
        number: usize,
        /// Which size of which part.
        part: &'static str,
        /// The size given.
        found: usize,
        /// What the rest of the layer, or the configuration, asks for.
        expected: usize,
    },
    /// A vector in an encoding that the format has no tensor for.
    #[error("`{tensor}` is given as {found}: expected {expected}")]
    Encoding {
        /// The tensor.
        tensor: Box<str>,
        /// The encoding given.
        found: &'static str,
        /// The encodings that the format has.
        expected: &'static str,
    },
}

/// Prints ascending numbers as `0-3, 7`.
struct Ranges<'a>(&'a [usize]);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let runs = self.0.chunk_by(|a, b| a.checked_add(1) == Some(*b));
        for (index, run) in runs.enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            match run {
                [first, .., last] => write!(f, "{separator}{first}-{last}")?,
                [only] => write!(f, "{separator}{only}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_layers_are_short() {
        for (numbers, text) in [
            (&[][..], "none"),
            (&[5], "5"),
            (&[0, 1, 2, 3], "0-3"),
            (&[0, 2, 3, 9, usize::MAX], "0, 2-3, 9, 18446744073709551615"),
        ] {
            assert_eq!(Ranges(numbers).to_string(), text);
        }
    }
}

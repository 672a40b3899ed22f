//! JSON Lines as files of ours have them: bounded lines, and faults that name what is wrong.

use std::io::{self, BufRead};

/// Longest line that is read: a context with a load for every one of some ten thousand experts.
pub(crate) const MAX_LINE: usize = 1 << 20;

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineFault {
    /// Not JSON, or fields that are missing, unknown or of the wrong type.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A value that cannot be.
    #[error("{field}: found {found}, expected {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// The value found.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A line that no export writes.
    #[error("the line is longer than {limit} bytes")]
    TooLong {
        /// The longest that is read.
        limit: usize,
    },
}

/// Reads a line without its end and tells its length, of which no more than [`MAX_LINE`] is kept;
/// `None` at the end.
pub(crate) fn read_line(from: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<usize>> {
    line.clear();
    let mut length = 0;
    loop {
        let buffer = from.fill_buf()?;
        if buffer.is_empty() {
            return Ok((length > 0).then_some(length));
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        line.extend_from_slice(&part[..part.len().min(MAX_LINE - line.len())]);
        length += part.len();
        let used = part.len() + usize::from(end.is_some());
        from.consume(used);
        if end.is_some() {
            return Ok(Some(length));
        }
    }
}

pub(crate) fn check(
    field: &'static str,
    found: impl ToString,
    expected: &'static str,
    holds: bool,
) -> Result<(), LineFault> {
    match holds {
        true => Ok(()),
        false => Err(LineFault::Field { field, found: found.to_string(), expected }),
    }
}

/// Reads a context's key.
pub(crate) fn key(context: &str) -> Result<u64, LineFault> {
    let is_key = is_hexadecimal(context, 16);
    check("context", context, "16 hexadecimal digits", is_key)?;
    Ok(u64::from_str_radix(context, 16).expect("16 hexadecimal digits"))
}

/// A context's key, or another 64 bits, as 16 hexadecimal digits.
pub(crate) fn hex(context: u64) -> String {
    format!("{context:016x}")
}

/// Whether `id` has so many digits and nothing else.
pub(crate) fn is_hexadecimal(id: &str, digits: usize) -> bool {
    id.len() == digits && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

//! What Python raises for our errors.

use std::error::Error;
use std::io;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

/// An error of ours as Python's exception, with the same message.
///
/// Where a file or device caused it: `OSError`, or the kind of it that the cause names, as in
/// `FileNotFoundError`. Else `ValueError`: what was asked for cannot be.
pub(crate) fn raised(error: &(dyn Error + 'static)) -> PyErr {
    match io_cause(error) {
        Some(cause) => match cause.raw_os_error() {
            // Of two arguments Python makes the kind of OSError that the number means.
            Some(number) => PyOSError::new_err((number, error.to_string())),
            None => io::Error::new(cause.kind(), error.to_string()).into(),
        },
        None => PyValueError::new_err(error.to_string()),
    }
}

fn io_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    match error.downcast_ref() {
        Some(cause) => Some(cause),
        None => io_cause(error.source()?),
    }
}

/// Panics: for the test of what becomes of that.
#[pyfunction]
#[pyo3(name = "_panic")]
pub(crate) fn panic(message: &str) {
    panic!("{message}");
}

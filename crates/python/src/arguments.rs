//! Arguments: what Python passes, as what we take. Every refusal names the argument, what was found
//! and what was expected: `TypeError` for another type, `ValueError` for another value.

use std::borrow::Cow;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyList, PyString, PyTuple};
use smallvec::SmallVec;
use trellect::core::{BitTuple, Bits, KernelId};

/// Widths of the active experts; few calls have more.
pub(crate) type ActiveBits = SmallVec<[Bits; 32]>;
/// Names of kernels; there are hardly more.
pub(crate) type Kernels = SmallVec<[KernelId; 16]>;

/// Longest text of a value in a message.
const MAX_FOUND: usize = 80;

/// A number of things of which there is at least one.
pub(crate) fn count(argument: &str, found: &Bound<'_, PyAny>) -> PyResult<usize> {
    const EXPECTED: &str = "an int, 1 or more";
    match usize::try_from(integer(argument, found, EXPECTED)?) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(wrong_value(argument, found, EXPECTED)),
    }
}

/// A seed of random numbers.
pub(crate) fn seed(found: &Bound<'_, PyAny>) -> PyResult<u64> {
    const EXPECTED: &str = "an int from 0 to 2**64 - 1, or None";
    match index(found) {
        Some(int) => int.extract().map_err(|_| wrong_value("seed", found, EXPECTED)),
        None => Err(wrong_type("seed", found, EXPECTED)),
    }
}

/// Any number; whether it is in range is for its user to say.
pub(crate) fn number(argument: &str, found: &Bound<'_, PyAny>) -> PyResult<f64> {
    let refused = || wrong_type(argument, found, "a number");
    match found.is_instance_of::<PyBool>() || found.is_instance_of::<PyString>() {
        true => Err(refused()),
        false => found.extract().map_err(|_| refused()),
    }
}

/// A share, 0 to 1.
pub(crate) fn share(argument: &str, found: &Bound<'_, PyAny>) -> PyResult<f64> {
    let share = number(argument, found)?;
    match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false => Err(wrong_value(argument, found, "a finite number from 0 to 1")),
    }
}

/// The widths of an iterable or array of ints.
pub(crate) fn active_bits(found: &Bound<'_, PyAny>) -> PyResult<ActiveBits> {
    const ARGUMENT: &str = "active_expert_bits";
    let item_width = |(index, item): (usize, Bound<'_, PyAny>)| match quick_width(&item) {
        Some(bits) => Ok(bits),
        None => width(&format!("{ARGUMENT}[{index}]"), &item),
    };
    if let Ok(list) = found.cast_exact::<PyList>() {
        return list.iter().enumerate().map(item_width).collect();
    }
    if let Ok(tuple) = found.cast_exact::<PyTuple>() {
        return tuple.iter().enumerate().map(item_width).collect();
    }
    let refused = || wrong_type(ARGUMENT, found, "an iterable of ints or an array of them");
    if found.is_instance_of::<PyString>() {
        return Err(refused());
    }
    // Arrays and tensors give their items one by one as objects of their own, slowly.
    let items = match found.hasattr("tolist")? {
        true => found.call_method0("tolist")?,
        false => found.clone(),
    };
    let items = items.try_iter().map_err(|_| refused())?;
    items.enumerate().map(|(index, item)| item_width((index, item?))).collect()
}

/// A width of 1 to 8 bits.
pub(crate) fn width(argument: &str, found: &Bound<'_, PyAny>) -> PyResult<Bits> {
    const EXPECTED: &str = "a width, an int from 1 to 8";
    let found_width = u64::try_from(integer(argument, found, EXPECTED)?).ok();
    let bits = found_width.and_then(|width| Bits::new(width).ok());
    bits.ok_or_else(|| wrong_value(argument, found, EXPECTED))
}

/// A width in an int; nothing for what else may hold one.
fn quick_width(found: &Bound<'_, PyAny>) -> Option<Bits> {
    Bits::new(found.cast_exact::<PyInt>().ok()?.extract().ok()?).ok()
}

/// The widths of gate, up and down: all or none.
pub(crate) fn tuple(found: [Option<&Bound<'_, PyAny>>; 3]) -> PyResult<Option<BitTuple>> {
    const ARGUMENTS: [&str; 3] = ["gate_bits", "up_bits", "down_bits"];
    match found {
        [None, None, None] => Ok(None),
        [Some(gate), Some(up), Some(down)] => Ok(Some(BitTuple {
            gate: width(ARGUMENTS[0], gate)?,
            up: width(ARGUMENTS[1], up)?,
            down: width(ARGUMENTS[2], down)?,
        })),
        _ => {
            let absent = ARGUMENTS.into_iter().zip(found).filter(|(_, found)| found.is_none());
            let absent: Vec<&str> = absent.map(|(argument, _)| argument).collect();
            Err(PyValueError::new_err(format!(
                "{} is None: expected gate_bits, up_bits and down_bits, or none of them",
                absent.join(" and ")
            )))
        }
    }
}

/// The plain names of an iterable of kernel names.
pub(crate) fn kernels(found: &Bound<'_, PyAny>) -> PyResult<Kernels> {
    const ARGUMENT: &str = "available_kernels";
    const EXPECTED: &str = "an iterable of kernel names, or None";
    if found.is_instance_of::<PyString>() {
        return Err(wrong_type(ARGUMENT, found, EXPECTED));
    }
    let names = found.try_iter().map_err(|_| wrong_type(ARGUMENT, found, EXPECTED))?;
    let kernels: Kernels = names.map(|name| kernel(ARGUMENT, &name?)).collect::<PyResult<_>>()?;
    match kernels.is_empty() {
        true => Err(wrong_value(ARGUMENT, found, "at least one kernel name, or None")),
        false => Ok(kernels),
    }
}

/// The plain name of a kernel: this API chooses among names, not among a name's implementations.
pub(crate) fn kernel(argument: &str, found: &Bound<'_, PyAny>) -> PyResult<KernelId> {
    let name =
        found.cast::<PyString>().map_err(|_| wrong_type(argument, found, "a kernel's name"))?;
    match name.to_cow()?.parse::<KernelId>() {
        Ok(kernel) => Ok(kernel.plain()),
        Err(error) => Err(PyValueError::new_err(format!("{argument}: {error}"))),
    }
}

/// A bool, numpy's too.
pub(crate) fn flag(argument: &str, found: &Bound<'_, PyAny>) -> PyResult<bool> {
    found.extract().map_err(|_| wrong_type(argument, found, "a bool"))
}

/// A text.
pub(crate) fn text<'a>(argument: &str, found: &'a Bound<'_, PyAny>) -> PyResult<Cow<'a, str>> {
    let text = found.cast::<PyString>();
    text.map_err(|_| wrong_type(argument, found, "a str"))?.to_cow()
}

/// One of a few words.
pub(crate) fn word(argument: &str, found: &Bound<'_, PyAny>, words: &[&str]) -> PyResult<()> {
    match words.contains(&text(argument, found)?.as_ref()) {
        true => Ok(()),
        false => Err(wrong_value(argument, found, &words.join(" or "))),
    }
}

/// An integer of any integer type.
pub(crate) fn integer(argument: &str, found: &Bound<'_, PyAny>, expected: &str) -> PyResult<i64> {
    match index(found) {
        // No argument of ours goes beyond an i64.
        Some(int) => int.extract().map_err(|_| wrong_value(argument, found, expected)),
        None => Err(wrong_type(argument, found, expected)),
    }
}

/// What `operator.index` makes of an object. A bool is no integer here: who passes one has mistaken
/// a mask for numbers.
pub(crate) fn index<'py>(found: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    match found.is_exact_instance_of::<PyInt>() {
        true => Some(found.clone()),
        false if found.is_instance_of::<PyBool>() => None,
        false => found.call_method0("__index__").ok(),
    }
}

pub(crate) fn wrong_type(argument: &str, found: &Bound<'_, PyAny>, expected: &str) -> PyErr {
    let kind = found.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
    let found = shown(found);
    PyTypeError::new_err(format!("{argument} is {found}, of type {kind}: expected {expected}"))
}

pub(crate) fn wrong_value(argument: &str, found: &Bound<'_, PyAny>, expected: &str) -> PyErr {
    PyValueError::new_err(format!("{argument} is {}: expected {expected}", shown(found)))
}

fn shown(found: &Bound<'_, PyAny>) -> String {
    let text = found.repr().map_or_else(|_| "?".into(), |text| text.to_string());
    match text.char_indices().nth(MAX_FOUND) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

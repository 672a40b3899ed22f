//! torch and numpy, as far as their tensors are concerned. Neither is ever imported from here.

use dlpark::python::consumer::exchange::ExchangeApi;
use dlpark::python::{ImportedDlpack, from_dlpack};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};

/// What is needed of torch, once somebody has imported it.
pub(crate) struct Torch {
    tensor: Py<PyType>,
    empty_like: Py<PyAny>,
    contiguous_format: Py<PyAny>,
    is_grad_enabled: Py<PyAny>,
}

/// What is needed of numpy, once somebody has imported it.
pub(crate) struct Numpy {
    array: Py<PyType>,
    empty_like: Py<PyAny>,
    copy: Py<PyAny>,
    /// The keywords that ask for tensors that tell whether they are read-only.
    version: Py<PyDict>,
}

static TORCH: PyOnceLock<Torch> = PyOnceLock::new();
static NUMPY: PyOnceLock<Numpy> = PyOnceLock::new();

/// The library that a tensor is of.
#[derive(Clone, Copy)]
pub(crate) enum Library {
    Torch(&'static Torch),
    Numpy(&'static Numpy),
}

/// A module, if it has been imported.
fn imported<'py>(py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
    modules.cast::<PyDict>()?.get_item(name)
}

fn torch(py: Python<'_>) -> PyResult<Option<&'static Torch>> {
    if let Some(torch) = TORCH.get(py) {
        return Ok(Some(torch));
    }
    let Some(module) = imported(py, "torch")? else { return Ok(None) };
    let found = TORCH.get_or_try_init(py, || {
        Ok::<_, PyErr>(Torch {
            tensor: module.getattr("Tensor")?.cast_into::<PyType>()?.unbind(),
            empty_like: module.getattr("empty_like")?.unbind(),
            contiguous_format: module.getattr("contiguous_format")?.unbind(),
            is_grad_enabled: module.getattr("is_grad_enabled")?.unbind(),
        })
    });
    // Another thread may be in the middle of importing it.
    Ok(found.ok())
}

fn numpy(py: Python<'_>) -> PyResult<Option<&'static Numpy>> {
    if let Some(numpy) = NUMPY.get(py) {
        return Ok(Some(numpy));
    }
    let Some(module) = imported(py, "numpy")? else { return Ok(None) };
    let found = NUMPY.get_or_try_init(py, || {
        let version = PyDict::new(py);
        version.set_item("max_version", (1, 0))?;
        Ok::<_, PyErr>(Numpy {
            array: module.getattr("ndarray")?.cast_into::<PyType>()?.unbind(),
            empty_like: module.getattr("empty_like")?.unbind(),
            copy: module.getattr("copy")?.unbind(),
            version: version.unbind(),
        })
    });
    Ok(found.ok())
}

impl Library {
    /// The library that has made `object`, if it is a tensor.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let py = object.py();
        let (torch, numpy) = (torch(py)?, numpy(py)?);
        let own = object.get_type();
        // To ask whether something is of a subclass takes longer than all else here.
        for is_of in [
            |own: &Bound<'_, PyType>, class: &Bound<'_, PyType>| Ok(own.is(class)),
            |own: &Bound<'_, PyType>, class: &Bound<'_, PyType>| own.is_subclass(class),
        ] {
            if let Some(torch) = torch
                && is_of(&own, torch.tensor.bind(py))?
            {
                return Ok(Some(Self::Torch(torch)));
            }
            if let Some(numpy) = numpy
                && is_of(&own, numpy.array.bind(py))?
            {
                return Ok(Some(Self::Numpy(numpy)));
            }
        }
        Ok(None)
    }

    /// Borrows a tensor without any synchronisation, by the fastest way that its library has. Where
    /// that is torch's, tells the stream that torch works on.
    pub(crate) fn lend(self, object: &Bound<'_, PyAny>) -> PyResult<(ImportedDlpack, Option<u64>)> {
        let py = object.py();
        let borrowed = object.as_borrowed();
        match self {
            Self::Torch(_) => {
                let Some(api) = ExchangeApi::from_object(borrowed)? else {
                    return Ok((from_dlpack(borrowed, None, None)?, None));
                };
                let (tensor, stream) = api.import_managed_no_sync(borrowed)?.into_parts();
                Ok((ImportedDlpack::Versioned(tensor), Some(stream as u64)))
            }
            Self::Numpy(numpy) => {
                let version = numpy.version.bind(py);
                match object.call_method(intern!(py, "__dlpack__"), (), Some(version)) {
                    Ok(capsule) => Ok((from_dlpack(capsule.as_borrowed(), None, None)?, None)),
                    // Before 2.1 numpy takes no version.
                    Err(error) if error.is_instance_of::<PyTypeError>(py) => {
                        Ok((from_dlpack(borrowed, None, None)?, None))
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// A row-major copy.
    pub(crate) fn copy<'py>(self, object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = object.py();
        match self {
            Self::Torch(torch) => {
                let keywords = PyDict::new(py);
                keywords.set_item("memory_format", &torch.contiguous_format)?;
                object.call_method("clone", (), Some(&keywords))
            }
            Self::Numpy(numpy) => numpy.copy.bind(py).call1((object, "C")),
        }
    }

    /// New memory of the same shape, type and device.
    pub(crate) fn empty_like<'py>(self, object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let empty_like = match self {
            Self::Torch(torch) => &torch.empty_like,
            Self::Numpy(numpy) => &numpy.empty_like,
        };
        empty_like.bind(object.py()).call1((object,))
    }

    /// Refuses a tensor whose gradient somebody would wait for.
    pub(crate) fn refuse_gradient(self, name: &str, tensor: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, Self::Torch(torch)) = (tensor.py(), self) else { return Ok(()) };
        if tensor.getattr(intern!(py, "requires_grad"))?.is_truthy()?
            && torch.is_grad_enabled.bind(py).call0()?.is_truthy()?
        {
            let message = format!(
                "{name} requires a gradient, and a layer has no backward pass: expected \
                 {name}.detach(), or a call under torch.no_grad()"
            );
            return Err(PyValueError::new_err(message));
        }
        Ok(())
    }
}

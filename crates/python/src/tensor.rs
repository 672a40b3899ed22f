//! Tensors of torch and numpy, read and written where they lie (DLPack).

use dlpark::ffi::{DLDataType, DLDataTypeCode, DLDevice, DLDeviceType};
use dlpark::python::ImportedDlpack;
use dlpark::{DlpackElement, DlpackFlags, TensorMut, TensorRef};
use half::{bf16, f16};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use trellect::core::Hidden;
use trellect::cuda::Element;

use crate::library::Library;

/// A tensor argument: row-major memory, held until this is dropped.
pub(crate) struct Argument<'py> {
    name: &'static str,
    library: Library,
    object: Bound<'py, PyAny>,
    tensor: ImportedDlpack,
    /// The stream of the tensor's device that its library works on now, where that tells.
    stream: Option<u64>,
}

impl<'py> Argument<'py> {
    /// Borrows a tensor that is to be read; where its memory is not row-major, a copy of it.
    pub(crate) fn to_read(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let argument = Self::import(name, object)?;
        if argument.is_compact()? {
            return Ok(argument);
        }
        Self::import(name, &argument.library.copy(object)?)
    }

    /// Borrows a tensor that is to be written.
    pub(crate) fn to_write(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let argument = Self::import(name, object)?;
        if argument.tensor.flags().contains(DlpackFlags::READ_ONLY) {
            let message = format!("{name} is read-only: expected memory that may be written");
            return Err(PyValueError::new_err(message));
        }
        if !argument.is_compact()? {
            let message = format!("{name} is not contiguous: expected row-major memory");
            return Err(PyValueError::new_err(message));
        }
        Ok(argument)
    }

    fn import(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let Some(library) = Library::of(object)? else {
            let found = object.get_type().fully_qualified_name()?;
            let message = format!("{name} is a {found}: expected a torch.Tensor or numpy.ndarray");
            return Err(PyTypeError::new_err(message));
        };
        library.refuse_gradient(name, object)?;
        Self::lent(name, library, object.clone())
    }

    fn lent(name: &'static str, library: Library, object: Bound<'py, PyAny>) -> PyResult<Self> {
        let (tensor, stream) = library.lend(&object).map_err(|error| {
            let message = error.value(object.py()).to_string();
            // torch appends the stack of its own functions.
            let why = message.lines().next().unwrap_or_default();
            PyTypeError::new_err(format!("{name} cannot be read: {why}"))
        })?;
        Ok(Self { name, library, object, tensor, stream })
    }

    fn view(&self) -> PyResult<TensorRef<'_>> {
        self.tensor.validate().map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &dlpark::tensor::Error) -> PyErr {
        PyValueError::new_err(format!("{}: {error}", self.name))
    }

    fn is_compact(&self) -> PyResult<bool> {
        self.view()?.is_compact().map_err(|error| self.refused(&error))
    }

    /// The type of the elements.
    pub(crate) fn dtype(&self) -> PyResult<DLDataType> {
        Ok(self.view()?.dtype())
    }

    /// The device that the memory is on.
    pub(crate) fn device(&self) -> PyResult<DLDevice> {
        Ok(self.view()?.device())
    }

    /// Refuses memory that is not the host's.
    pub(crate) fn expect_host(&self) -> PyResult<()> {
        match self.device()? {
            device if device.device_type == DLDeviceType::CPU => Ok(()),
            device => Err(self.wrong_device(device, "cpu, where the layer is")),
        }
    }

    /// Refuses memory that is not of GPU `ordinal`.
    pub(crate) fn expect_cuda(&self, ordinal: usize) -> PyResult<()> {
        match self.device()? {
            DLDevice { device_type, device_id }
                if device_type == DLDeviceType::CUDA && device_id as usize == ordinal =>
            {
                Ok(())
            }
            device => {
                Err(self.wrong_device(device, &format!("cuda:{ordinal}, where the layer is")))
            }
        }
    }

    /// The stream that its library works on now.
    pub(crate) fn stream(&self) -> PyResult<u64> {
        self.stream.ok_or_else(|| {
            let message =
                "this torch does not tell its current stream by DLPack: expected 2.10 or newer";
            PyRuntimeError::new_err(message)
        })
    }

    /// The tensor that the memory is of.
    pub(crate) fn object(&self) -> &Bound<'py, PyAny> {
        &self.object
    }

    fn wrong_device(&self, found: DLDevice, expected: &str) -> PyErr {
        let kind = match found.device_type {
            DLDeviceType::CPU => "cpu".into(),
            DLDeviceType::CUDA => format!("cuda:{}", found.device_id),
            other => format!("{other:?}:{}", found.device_id),
        };
        PyValueError::new_err(format!("{} is on {kind}: expected {expected}", self.name))
    }

    /// The two dimensions of a matrix; `expected` describes them.
    pub(crate) fn matrix(&self, expected: impl Fn() -> String) -> PyResult<[usize; 2]> {
        match self.view()?.shape() {
            // A validated shape is not negative.
            &[rows, columns] => Ok([rows as usize, columns as usize]),
            shape => Err(self.wrong_shape(shape, &expected())),
        }
    }

    /// Refuses every shape but `[rows, columns]`; `expected` describes it.
    pub(crate) fn expect_matrix(
        &self,
        shape: [usize; 2],
        expected: impl Fn() -> String,
    ) -> PyResult<()> {
        match self.matrix(&expected)? == shape {
            true => Ok(()),
            false => Err(self.wrong_shape(self.view()?.shape(), &expected())),
        }
    }

    fn wrong_shape(&self, found: &[i64], expected: &str) -> PyErr {
        PyValueError::new_err(format!("{} has the shape {found:?}: expected {expected}", self.name))
    }

    pub(crate) fn wrong_dtype(&self, found: DLDataType, expected: &str) -> PyErr {
        let found = dtype_name(found);
        PyTypeError::new_err(format!("{} is {found}: expected {expected}", self.name))
    }

    /// The elements, where they are of type `T` and on the host.
    fn slice<T: DlpackElement>(&self) -> PyResult<&[T]> {
        let view = self.view()?;
        // SAFETY: whoever exports a tensor promises memory of its shape that stays until the tensor
        // is returned, which dropping `self` does. As for every library that computes on tensors, it
        // is the program's part not to write one in another thread during the call.
        unsafe { view.cpu_slice::<T>() }.map_err(|error| self.refused(&error))
    }

    /// The elements, where they are floats.
    pub(crate) fn floats(&self) -> PyResult<Hidden<'_>> {
        match self.element()? {
            Element::F32 => Ok(Hidden::F32(self.slice()?)),
            Element::F16 => Ok(Hidden::F16(self.slice()?)),
            Element::Bf16 => Ok(Hidden::Bf16(self.slice()?)),
        }
    }

    /// The type of floats, wherever they are.
    pub(crate) fn element(&self) -> PyResult<Element> {
        match self.dtype()? {
            dtype if dtype.is::<f32>() => Ok(Element::F32),
            dtype if dtype.is::<f16>() => Ok(Element::F16),
            dtype if dtype.is::<bf16>() => Ok(Element::Bf16),
            dtype => Err(self.wrong_dtype(dtype, "float16, bfloat16 or float32")),
        }
    }

    /// Whole numbers of 32 or 64 bits.
    pub(crate) fn integers(&self) -> PyResult<Integers<'_>> {
        self.expect_integers()?;
        match self.dtype()?.is::<i32>() {
            true => Ok(Integers::I32(self.slice()?)),
            false => Ok(Integers::I64(self.slice()?)),
        }
    }

    /// Refuses elements that are no whole numbers of 32 or 64 bits.
    pub(crate) fn expect_integers(&self) -> PyResult<()> {
        match self.dtype()? {
            dtype if dtype.is::<i32>() || dtype.is::<i64>() => Ok(()),
            dtype => Err(self.wrong_dtype(dtype, "int32 or int64")),
        }
    }

    /// The memory, to be overwritten.
    pub(crate) fn view_mut(&mut self) -> PyResult<TensorMut<'_>> {
        let name = self.name;
        let view = match &mut self.tensor {
            ImportedDlpack::Legacy(tensor) => tensor.validate_mut(),
            ImportedDlpack::Versioned(tensor) => tensor.validate_mut(),
        };
        view.map_err(|error| PyValueError::new_err(format!("{name}: {error}")))
    }

    /// Refuses floats of another type than those of `like`.
    pub(crate) fn expect_type_of(&self, like: &Self) -> PyResult<()> {
        let (found, expected) = (self.dtype()?, like.dtype()?);
        match found.matches(expected) {
            true => Ok(()),
            false => {
                let expected = format!("{}, as {} is", dtype_name(expected), like.name);
                Err(self.wrong_dtype(found, &expected))
            }
        }
    }

    /// The address of the first element.
    pub(crate) fn address(&self) -> PyResult<u64> {
        let view = self.view()?;
        Ok((view.data_ptr() as u64).wrapping_add(view.byte_offset()))
    }

    /// Refuses memory that has a byte in common with that of `other`.
    pub(crate) fn expect_apart(&self, other: &Self) -> PyResult<()> {
        let range = |argument: &Self| {
            let start = argument.address()?;
            Ok::<_, PyErr>(start..start.wrapping_add(argument.view()?.num_bytes() as u64))
        };
        let (own, theirs) = (range(self)?, range(other)?);
        match own.start < theirs.end && theirs.start < own.end {
            true => Err(PyValueError::new_err(format!(
                "{} shares memory with {}: expected memory of its own",
                self.name, other.name
            ))),
            false => Ok(()),
        }
    }

    /// New memory of the same library, shape, type and device, as the argument `name`.
    pub(crate) fn empty_like(&self, name: &'static str) -> PyResult<Self> {
        Self::lent(name, self.library, self.library.empty_like(&self.object)?)
    }
}

/// Whole numbers of a tensor.
#[derive(Clone, Copy)]
pub(crate) enum Integers<'a> {
    I32(&'a [i32]),
    I64(&'a [i64]),
}

/// Floats of a tensor, to be overwritten.
pub(crate) enum FloatsMut<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
    Bf16(&'a mut [bf16]),
}

impl<'a> FloatsMut<'a> {
    /// The elements of a tensor that has the type of `like` and no memory in common with what is
    /// read.
    pub(crate) fn new(view: &'a mut TensorMut<'_>, like: Hidden<'_>) -> PyResult<Self> {
        match like {
            Hidden::F32(_) => Ok(Self::F32(slice_mut(view)?)),
            Hidden::F16(_) => Ok(Self::F16(slice_mut(view)?)),
            Hidden::Bf16(_) => Ok(Self::Bf16(slice_mut(view)?)),
        }
    }
}

fn slice_mut<'a, T: DlpackElement>(view: &'a mut TensorMut<'_>) -> PyResult<&'a mut [T]> {
    // SAFETY: as in `Argument::slice`; nothing else that this call reads lies there, since
    // `Argument::overlaps` was asked, or the memory is new.
    let slice = unsafe { view.cpu_slice_mut::<T>() };
    slice.map_err(|error| PyValueError::new_err(format!("out: {error}")))
}

fn dtype_name(dtype: DLDataType) -> String {
    let DLDataType { code, bits, lanes } = dtype;
    let kind = match code {
        DLDataTypeCode::INT => "int",
        DLDataTypeCode::UINT => "uint",
        DLDataTypeCode::FLOAT => "float",
        DLDataTypeCode::BFLOAT => "bfloat",
        DLDataTypeCode::COMPLEX => "complex",
        DLDataTypeCode::BOOL => return "bool".into(),
        _ => return format!("of another type ({dtype:?})"),
    };
    match lanes {
        1 => format!("{kind}{bits}"),
        _ => format!("{kind}{bits}x{lanes}"),
    }
}

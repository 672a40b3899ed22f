//! CUDA C++ to machine code, at run time, by NVRTC.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;

use cudarc::nvrtc::sys;
use cudarc::nvrtc::sys::{nvrtcProgram, nvrtcResult};

use crate::Arch;
use crate::source::{HEADERS, Unit};

/// What all kernels are compiled with.
const OPTIONS: [&str; 3] =
    ["--std=c++20", "--device-as-default-execution-space", "--ptxas-options=-v"];

/// One compilation: a source file, what it is compiled for and its macros.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    pub(crate) unit: &'static Unit,
    pub(crate) arch: Arch,
    pub(crate) defines: Vec<(&'static str, u32)>,
}

impl Request {
    /// The compiler's options, in a fixed order.
    pub(crate) fn options(&self) -> Vec<String> {
        let fixed = OPTIONS.iter().map(|option| (*option).to_string());
        let defines =
            self.defines.iter().map(|(name, value)| format!("--define-macro={name}={value}"));
        fixed.chain([format!("--gpu-architecture={}", self.arch)]).chain(defines).collect()
    }
}

/// Machine code, and what the compiler said.
pub(crate) struct Compiled {
    pub(crate) cubin: Vec<u8>,
    pub(crate) log: String,
}

/// A kernel that NVRTC refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compiling {unit} for {arch} ({options}): {message}\n{log}")]
pub(crate) struct CompileError {
    unit: &'static str,
    arch: Arch,
    options: String,
    message: String,
    log: String,
}

/// Whether NVRTC's library can be loaded: asked first, since every other call panics without it.
pub(crate) fn compiler_is_present() -> bool {
    // SAFETY: loading NVRTC runs its initialisers, which expect nothing of the process.
    unsafe { sys::is_culib_present() }
}

/// The compiler's version, as in `13.0`; part of what cached machine code depends on.
pub(crate) fn compiler_version() -> String {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both pointers are to locals of the type that NVRTC writes.
    let result = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    match result {
        nvrtcResult::NVRTC_SUCCESS => format!("{major}.{minor}"),
        _ => "unknown".into(),
    }
}

/// Compiles; takes 0.1 to some seconds.
pub(crate) fn compile(request: &Request) -> Result<Compiled, CompileError> {
    let options = request.options();
    let failed = |message: String, log: String| CompileError {
        unit: request.unit.name,
        arch: request.arch,
        options: options.join(" "),
        message,
        log,
    };
    let refused = |result: nvrtcResult| failed(format!("{result:?}"), String::new());
    let program = Program::new(request.unit).map_err(refused)?;
    let outcome = program.compile(&options);
    let log = program.log().unwrap_or_else(|result| format!("no log: {result:?}"));
    if let Err(result) = outcome {
        return Err(failed(format!("{result:?}"), log));
    }
    Ok(Compiled { cubin: program.cubin().map_err(refused)?, log })
}

/// A program within NVRTC.
struct Program {
    handle: nvrtcProgram,
}

impl Program {
    fn new(unit: &Unit) -> Result<Self, nvrtcResult> {
        let c_string = |text: &str| CString::new(text).expect("sources have no zero byte");
        let (source, name) = (c_string(unit.source), c_string(unit.name));
        let headers: Vec<_> = HEADERS.iter().map(|header| c_string(header.source)).collect();
        let names: Vec<_> = HEADERS.iter().map(|header| c_string(header.name)).collect();
        let headers: Vec<*const c_char> = headers.iter().map(|text| text.as_ptr()).collect();
        let names: Vec<*const c_char> = names.iter().map(|text| text.as_ptr()).collect();
        let mut handle: nvrtcProgram = ptr::null_mut();
        // SAFETY: the strings and the two lists of equal length live until the call ends, and NVRTC
        // copies them.
        let result = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut handle,
                source.as_ptr(),
                name.as_ptr(),
                HEADERS.len() as c_int,
                headers.as_ptr(),
                names.as_ptr(),
            )
        };
        check(result).map(|()| Self { handle })
    }

    fn compile(&self, options: &[String]) -> Result<(), nvrtcResult> {
        let options: Vec<CString> =
            options.iter().map(|o| CString::new(o.as_str()).expect("no zero byte")).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the program is alive, and so are the options until the call ends.
        let result = unsafe {
            sys::nvrtcCompileProgram(self.handle, pointers.len() as c_int, pointers.as_ptr())
        };
        check(result)
    }

    fn log(&self) -> Result<String, nvrtcResult> {
        let mut size = 0;
        // SAFETY: the program is alive and the pointer is to a local of the type that is written.
        check(unsafe { sys::nvrtcGetProgramLogSize(self.handle, &raw mut size) })?;
        let mut log = vec![0u8; size.max(1)];
        // SAFETY: the buffer has the size that NVRTC asked for.
        check(unsafe { sys::nvrtcGetProgramLog(self.handle, log.as_mut_ptr().cast()) })?;
        let log = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy);
        Ok(log.unwrap_or_default().into_owned())
    }

    fn cubin(&self) -> Result<Vec<u8>, nvrtcResult> {
        let mut size = 0;
        // SAFETY: the program is alive and the pointer is to a local of the type that is written.
        check(unsafe { sys::nvrtcGetCUBINSize(self.handle, &raw mut size) })?;
        let mut cubin = vec![0u8; size];
        // SAFETY: the buffer has the size that NVRTC asked for.
        check(unsafe { sys::nvrtcGetCUBIN(self.handle, cubin.as_mut_ptr().cast()) })?;
        Ok(cubin)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program is alive, and nobody has its handle from here on.
        unsafe { sys::nvrtcDestroyProgram(&raw mut self.handle) };
    }
}

fn check(result: nvrtcResult) -> Result<(), nvrtcResult> {
    match result {
        nvrtcResult::NVRTC_SUCCESS => Ok(()),
        error => Err(error),
    }
}

//! The matrix unit's registers and instructions, which stable Rust has no intrinsics for: one
//! instruction of inline assembly behind each function.

use std::arch::asm;
use std::marker::PhantomData;

use crate::isa::Amx;

/// Bytes of a line of a tile register.
pub(super) const LINE: usize = 64;
/// Lines of a tile register.
pub(super) const LINES: usize = 16;
/// Bytes of a tile register.
pub(super) const REGISTER_BYTES: usize = LINES * LINE;
/// Registers of sums, the first ones.
pub(super) const SUMS: usize = 6;
/// The register of activations and that of weights.
pub(super) const ACTIVATIONS: usize = SUMS;
pub(super) const WEIGHTS: usize = SUMS + 1;

/// The registers of this thread, configured: sums and activations have a line per token, weights
/// all lines. Released when dropped.
pub(super) struct Tiles {
    tokens: usize,
    /// The registers belong to this thread.
    thread: PhantomData<*const ()>,
}

/// Runs `$body` with `$constant` naming the number of a register of sums.
macro_rules! with_register {
    ($sum:expr, $constant:ident => $body:block) => {
        with_register!(@ $sum, $constant, $body, 0 1 2 3 4 5)
    };
    (@ $sum:expr, $constant:ident, $body:block, $($number:literal)*) => {
        match $sum {
            $($number => {
                const $constant: usize = $number;
                $body
            })*
            other => unreachable!("sum {other} of {SUMS}"),
        }
    };
}

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_line: u8,
    reserved: [u8; 14],
    bytes_per_line: [u16; 16],
    lines: [u8; 16],
}

impl Tiles {
    /// The registers for 1 to [`LINES`] tokens, with sums of zero.
    pub(super) fn new(_: Amx, tokens: usize) -> Self {
        assert!((1..=LINES).contains(&tokens), "a token is a line of a register");
        let tiles = Self { tokens, thread: PhantomData };
        let mut configuration = Configuration {
            palette: 1,
            start_line: 0,
            reserved: [0; 14],
            bytes_per_line: [0; 16],
            lines: [0; 16],
        };
        for register in 0..=WEIGHTS {
            configuration.bytes_per_line[register] = LINE as u16;
            configuration.lines[register] = tiles.lines(register) as u8;
        }
        // SAFETY: `Amx` is the proof of the feature and of the system's permission; the
        // configuration is a valid one of palette 1. It zeroes every register.
        unsafe {
            asm!("ldtilecfg [{0}]", in(reg) &raw const configuration, options(nostack, readonly));
        }
        tiles
    }

    fn lines(&self, register: usize) -> usize {
        if register == WEIGHTS { LINES } else { self.tokens }
    }

    /// Register `R` ← a line from every `stride` bytes of `bytes`.
    #[inline(always)]
    pub(super) fn load<const R: usize>(&mut self, bytes: &[i8], stride: usize) {
        assert!(fits(bytes.len(), self.lines(R), stride), "every line within the bytes");
        // SAFETY: reads lines of `bytes` only, as asserted, into a configured register.
        unsafe {
            asm!(
                "tileloadd tmm{0}, [{1} + {2}*1]",
                const R, in(reg) bytes.as_ptr(), in(reg) stride,
                options(nostack, readonly)
            );
        }
    }

    /// Lines that follow one another ← sum `sum`.
    pub(super) fn store(&self, sum: usize, lines: &mut [i32; REGISTER_BYTES / 4]) {
        with_register!(sum, SUM => {
            // SAFETY: writes at most a register's bytes, from a configured one.
            unsafe {
                asm!(
                    "tilestored [{1} + {2}*1], tmm{0}",
                    const SUM, in(reg) lines.as_mut_ptr(), in(reg) LINE,
                    options(nostack)
                );
            }
        });
    }

    /// Sum `sum` += activations · weights: four neighbouring signed bytes of a line of the former
    /// meet four unsigned ones of a lane of the latter.
    #[inline(always)]
    pub(super) fn multiply(&mut self, sum: usize) {
        with_register!(sum, SUM => {
            // SAFETY: the registers are configured with shapes that fit one another.
            unsafe {
                asm!(
                    "tdpbsud tmm{0}, tmm{1}, tmm{2}",
                    const SUM, const ACTIVATIONS, const WEIGHTS, options(nostack, nomem)
                );
            }
        });
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the feature is there: `new` needed its token.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

fn fits(bytes: usize, lines: usize, stride: usize) -> bool {
    (lines - 1).checked_mul(stride).and_then(|last| last.checked_add(LINE)) <= Some(bytes)
}

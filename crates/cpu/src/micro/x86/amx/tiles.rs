//! The matrix unit's registers and instructions, which stable Rust has no intrinsics for: one
//! instruction of inline assembly behind each function.

use std::arch::asm;
use std::marker::PhantomData;

use crate::isa::Amx;

/// Bytes of a line of a tile register.
pub(super) const LINE: usize = 64;
/// Lines of a tile register.
pub(super) const LINES: usize = 16;
/// Tile registers: sums `..SUMS`, then activations, then weights.
pub(super) const SUMS: usize = 3;
pub(super) const ACTIVATIONS: usize = SUMS;
pub(super) const WEIGHTS: usize = ACTIVATIONS + 2;

/// The registers of this thread, configured: sums and activations have a line per token, weights
/// all lines. Released when dropped.
pub(super) struct Tiles {
    tokens: usize,
    /// The registers belong to this thread.
    thread: PhantomData<*const ()>,
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
    /// The registers for 1 to [`LINES`] tokens.
    pub(super) fn new(_: Amx, tokens: usize) -> Self {
        let mut tiles = Self { tokens: 0, thread: PhantomData };
        tiles.configure(tokens);
        tiles
    }

    /// Makes ready for another number of tokens; whatever the registers hold is lost where it
    /// differs from the last.
    pub(super) fn configure(&mut self, tokens: usize) {
        assert!((1..=LINES).contains(&tokens), "a token is a line of a register");
        if tokens == self.tokens {
            return;
        }
        self.tokens = tokens;
        let mut configuration = Configuration {
            palette: 1,
            start_line: 0,
            reserved: [0; 14],
            bytes_per_line: [0; 16],
            lines: [0; 16],
        };
        for register in 0..WEIGHTS + 2 {
            configuration.bytes_per_line[register] = LINE as u16;
            configuration.lines[register] = self.lines(register) as u8;
        }
        // SAFETY: `new` took the proof of the feature and of the system's permission; the
        // configuration is a valid one of palette 1.
        unsafe {
            asm!("ldtilecfg [{0}]", in(reg) &raw const configuration, options(nostack, readonly));
        }
    }

    fn lines(&self, register: usize) -> usize {
        if register < WEIGHTS { self.tokens } else { LINES }
    }

    /// Register `R` ← zero.
    pub(super) fn zero<const R: usize>(&mut self) {
        // SAFETY: the registers are configured and only this value's owner uses them.
        unsafe { asm!("tilezero tmm{0}", const R, options(nostack, nomem)) }
    }

    /// Register `R` ← a line from every `stride` bytes of `bytes`.
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

    /// Register `R` ← lines that follow one another.
    pub(super) fn load_sums<const R: usize>(&mut self, sums: &[i32]) {
        assert!(fits(size_of_val(sums), self.lines(R), LINE), "every line within the sums");
        // SAFETY: reads lines of `sums` only, as asserted, into a configured register.
        unsafe {
            asm!(
                "tileloadd tmm{0}, [{1} + {2}*1]",
                const R, in(reg) sums.as_ptr(), in(reg) LINE,
                options(nostack, readonly)
            );
        }
    }

    /// Lines that follow one another ← register `R`.
    pub(super) fn store_sums<const R: usize>(&self, sums: &mut [i32]) {
        assert!(fits(size_of_val(sums), self.lines(R), LINE), "every line within the sums");
        // SAFETY: writes lines of `sums` only, as asserted, from a configured register.
        unsafe {
            asm!(
                "tilestored [{1} + {2}*1], tmm{0}",
                const R, in(reg) sums.as_mut_ptr(), in(reg) LINE,
                options(nostack)
            );
        }
    }

    /// Register `S` += register `A` · register `B`, both of signed bytes: four neighbouring bytes of
    /// a line of `A` meet those of a lane of `B`.
    pub(super) fn multiply_signed<const S: usize, const A: usize, const B: usize>(&mut self) {
        // SAFETY: the registers are configured with shapes that fit one another.
        unsafe {
            asm!("tdpbssd tmm{0}, tmm{1}, tmm{2}", const S, const A, const B, options(nostack, nomem));
        }
    }

    /// The same, the bytes of `B` unsigned.
    pub(super) fn multiply_unsigned<const S: usize, const A: usize, const B: usize>(&mut self) {
        // SAFETY: as in `multiply_signed`.
        unsafe {
            asm!("tdpbsud tmm{0}, tmm{1}, tmm{2}", const S, const A, const B, options(nostack, nomem));
        }
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

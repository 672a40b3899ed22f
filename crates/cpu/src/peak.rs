//! What the arithmetic units deliver in a bare loop over registers: the ceiling of a kernel that does
//! not wait for memory.

use std::time::Instant;

use crate::CpuBackend;
use crate::isa::Isa;

/// Operations per second of all threads of a backend together; a multiply-add is two.
///
/// `None` where the backend has no such instruction. AMX, which has a peak of its own, is not
/// measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Peak {
    /// float32 multiply-add, in 10⁹ operations.
    pub fp32_fma_gflop_per_s: Option<f64>,
    /// 8-bit dot products accumulated in 32 bits, in 10⁹ operations.
    pub int8_dot_gop_per_s: Option<f64>,
}

/// Chains of dependent instructions: more than any processor's latency times units.
pub(crate) const CHAINS: usize = 16;
/// Instructions of a chain, some hundred microseconds' worth.
pub(crate) const STEPS: usize = 1 << 16;
/// Measurements, of which the best counts: a peak is what can be reached.
const REPEATS: usize = 10;

impl CpuBackend {
    /// Measures the peak of vector instructions on the strongest instruction set that this backend
    /// may use. Blocks its threads for some ten milliseconds.
    pub fn measure_peak(&self) -> Peak {
        #[cfg(target_arch = "x86_64")]
        {
            use crate::isa::{Avx2, Avx512};
            use crate::micro::x86::peak::{dot_512, fma_256, fma_512};
            let allowed = |isa: Isa| isa <= self.max_isa();
            if let Some(isa) = Avx512::detect().filter(|_| allowed(Isa::Avx512)) {
                return Peak {
                    fp32_fma_gflop_per_s: Some(self.operations_per_ns(16, &|| fma_512(isa))),
                    int8_dot_gop_per_s: Some(self.operations_per_ns(64, &|| dot_512(isa))),
                };
            }
            if let Some(isa) = Avx2::detect().filter(|_| allowed(Isa::Avx2)) {
                let fma = self.operations_per_ns(8, &|| fma_256(isa));
                return Peak { fp32_fma_gflop_per_s: Some(fma), int8_dot_gop_per_s: None };
            }
        }
        Peak::default()
    }

    /// Runs a loop of [`CHAINS`] times [`STEPS`] instructions, each with `lanes` multiply-adds, on
    /// all threads at once.
    fn operations_per_ns(&self, lanes: usize, run: &(dyn Fn() + Sync)) -> f64 {
        let operations = 2 * lanes * CHAINS * STEPS * self.threads();
        let measure = |_| {
            let start = Instant::now();
            self.team().for_each(self.threads(), |_, _| run());
            operations as f64 / start.elapsed().as_nanos().max(1) as f64
        };
        (0..REPEATS).map(measure).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::CpuOptions;

    #[test]
    fn vectors_reach_more_than_a_scalar_unit_could() {
        for max_isa in Isa::ALL {
            let options = CpuOptions { threads: NonZeroUsize::new(1), max_isa };
            let Peak { fp32_fma_gflop_per_s: fma, int8_dot_gop_per_s: dot } =
                CpuBackend::new(options).measure_peak();
            assert_eq!(fma.is_some(), max_isa >= Isa::Avx2 && Isa::Avx2.is_detected());
            assert_eq!(dot.is_some(), max_isa >= Isa::Avx512 && Isa::Avx512.is_detected());
            // A thousand at 64 lanes, two units and 8 GHz.
            assert!(fma.is_none_or(|peak| (0.1..1e3).contains(&peak)), "{fma:?}");
            assert!(dot.is_none_or(|peak| (0.4..4e3).contains(&peak)), "{dot:?}");
        }
    }
}

//! What the arithmetic units deliver in a bare loop over registers: the ceiling of a kernel that no
//! longer waits for memory.

use std::hint::black_box;
use std::time::Instant;

use crate::CpuBackend;
use crate::isa::Isa;

/// Operations per second of all threads of a backend together, multiplications and additions counted
/// apart. `None` where the backend's instruction sets have no such instruction that is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Peak {
    /// float32 multiply-add, in 10⁹ operations.
    pub fp32_fma_gflop_per_s: Option<f64>,
    /// int8 dot products accumulated in int32, in 10⁹ operations.
    pub int8_dot_gop_per_s: Option<f64>,
}

/// Chains of dependent instructions: more than latency times units of any processor known.
const CHAINS: usize = 16;
/// Instructions of a chain in a measurement, a millisecond's worth or so.
const STEPS: usize = 1 << 18;
/// Measurements, of which the best counts: the peak is what can be reached.
const REPEATS: usize = 5;

impl CpuBackend {
    /// Measures the peak on the strongest instruction set that the backend may use. Blocks for
    /// some ten milliseconds.
    pub fn measure_peak(&self) -> Peak {
        let may = |isa: Isa| isa <= self.max_isa() && isa.is_detected();
        let rate = |bare: &Loop| self.operations_per_ns(bare);
        #[cfg(target_arch = "x86_64")]
        {
            use x86::{fma_256, fma_512, dot_512};
            if may(Isa::Avx512)
                && let Some(isa) = crate::isa::Avx512::detect()
            {
                return Peak {
                    fp32_fma_gflop_per_s: Some(rate(&Loop { lanes: 16, run: &|| fma_512(isa) })),
                    int8_dot_gop_per_s: Some(rate(&Loop { lanes: 64, run: &|| dot_512(isa) })),
                };
            }
            if may(Isa::Avx2)
                && let Some(isa) = crate::isa::Avx2::detect()
            {
                let fma = rate(&Loop { lanes: 8, run: &|| fma_256(isa) });
                return Peak { fp32_fma_gflop_per_s: Some(fma), int8_dot_gop_per_s: None };
            }
        }
        let _ = (may, rate);
        Peak::default()
    }

    /// Runs a loop on all threads at once.
    fn operations_per_ns(&self, bare: &Loop<'_>) -> f64 {
        let operations = 2 * bare.lanes * CHAINS * STEPS * self.threads();
        let measure = |_| {
            let start = Instant::now();
            self.team().for_each(self.threads(), |_, _| (bare.run)());
            operations as f64 / start.elapsed().as_nanos().max(1) as f64
        };
        (0..REPEATS).map(measure).fold(0.0, f64::max)
    }
}

/// [`CHAINS`] chains of [`STEPS`] instructions, each with `lanes` multiply-adds.
struct Loop<'a> {
    lanes: usize,
    run: &'a (dyn Fn() + Sync),
}

//! What is typical of a kernel, going by its name: where nothing was measured, and what few launches
//! are pulled towards. Once a launch has been seen, only the ratios between kernels matter.

use trellect_core::{BackendKind, Family, KernelId};
use trellect_select::adaptive::CostCoefficients;

/// What is typical of `kernel`.
///
/// Of the CPU's from the fastest samples of the recording `glm-4.7-flash-mixed` of
/// `bench-record/cpu-2core-xeon`. Of the GPU's by least squares of the relative errors over all cells of
/// `bench-record/h100/table*.json`, which leave 3 to 11 % (root mean square).
pub fn default_cost(kernel: KernelId) -> CostCoefficients {
    let name = kernel.variant.as_ref().map_or("", |variant| variant.name());
    match kernel.backend() {
        Some(BackendKind::Cuda | BackendKind::Wgpu) => on_gpu(kernel.family, name),
        Some(BackendKind::Cpu) | None => on_cpu(name),
    }
}

fn on_cpu(variant: &str) -> CostCoefficients {
    let (ns_per_decoded_weight, ns_per_mac) = match variant {
        "generic" => (2.0, 0.9),
        "avx2" => (0.13, 0.062),
        _ => (0.07, 0.027),
    };
    CostCoefficients { launch_ns: 2e4, ns_per_decoded_weight, ns_per_mac, ns_per_pair: 200.0 }
}

fn on_gpu(family: Family, variant: &str) -> CostCoefficients {
    let [launch_us, ps_per_decoded_weight, fs_per_mac, ns_per_pair] = match (family, variant) {
        (Family::Decode, "k256") => [3.5, 0.43, 0.0, 0.0],
        (Family::Decode, _) => [7.1, 0.267, 0.0, 1460.0],
        (Family::Prefill4, "k512") => [12.3, 0.281, 63.5, 44.0],
        (Family::Prefill4, "s4") => [19.8, 0.269, 0.0, 0.0],
        (Family::Prefill4, _) => [16.3, 0.28, 0.0, 0.0],
        (Family::Base, "r16") => [22.2, 0.282, 2.87, 2.3],
        (Family::Base, _) => [21.6, 0.265, 0.0, 0.0],
        (Family::Grouped, "r16") => [23.8, 0.288, 2.85, 3.2],
        (Family::Grouped, _) => [23.4, 0.268, 0.0, 0.0],
        (Family::LargeBatch, "wgmma64") => [16.7, 0.42, 0.54, 10.2],
        (Family::LargeBatch, "wgmma160") => [3.5, 0.761, 0.34, 15.1],
        (Family::LargeBatch, "r64") => [23.3, 0.532, 6.9, 17.0],
        (Family::LargeBatch, _) => [10.0, 0.308, 7.1, 20.0],
    };
    CostCoefficients {
        launch_ns: launch_us * 1e3,
        ns_per_decoded_weight: ps_per_decoded_weight * 1e-3,
        ns_per_mac: fs_per_mac * 1e-6,
        ns_per_pair,
    }
}

#[cfg(test)]
mod tests {
    use trellect_core::LayerShape;

    use super::*;
    use crate::calibrate::predict_ns;
    use crate::work::Workload;

    fn microseconds(kernel: &str, rows_per_decode: usize, loads: Vec<u32>) -> f64 {
        let work = Workload::new(&LayerShape::new(2048, 1536, 64).unwrap(), loads);
        predict_ns(&default_cost(kernel.parse().unwrap()), &work, rows_per_decode) / 1e3
    }

    #[test]
    fn the_gpus_kernels_rank_as_in_the_recorded_table() {
        let base8 = |loads| microseconds("moe_trellis_swiglu@cuda.r8", 8, loads);
        let base16 = |loads| microseconds("moe_trellis_swiglu@cuda.r16", 16, loads);
        let large = |loads| microseconds("moe_trellis_swiglu_large_batch@cuda.wgmma64", 64, loads);
        let huge = |loads| microseconds("moe_trellis_swiglu_large_batch@cuda.wgmma160", 160, loads);
        let every = |rows| vec![rows; 64];
        // 64, 128 and 512 tokens of four experts each, then 2048.
        assert!(base8(every(4)) < base16(every(4)) && base8(every(4)) < large(every(4)));
        assert!(base16(every(10)) < base8(every(10)) && base16(every(10)) < large(every(10)));
        assert!(large(every(32)) < base16(every(32)) && large(every(32)) < huge(every(32)));
        assert!(huge(every(128)) < large(every(128)));
    }

    #[test]
    fn an_implementation_of_no_table_costs_what_its_family_does() {
        for kernel in ["moe_trellis_swiglu@cuda.new", "moe_trellis_swiglu_decode@wgpu.f16"] {
            let cost = default_cost(kernel.parse().unwrap());
            assert!(cost.is_valid() && cost.launch_ns > 0.0 && cost.ns_per_decoded_weight > 0.0);
        }
    }
}

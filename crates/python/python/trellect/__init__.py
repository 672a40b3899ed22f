"""Mixture-of-experts layers of EXL3 models, each call on the fastest kernel that is legal for it.

`get_mixed_kernel` chooses a kernel by its name and `record_kernel_latency` tells what it took; both
use one selector that the process shares. A `MixedKernelSelector` is one of your own.
"""

from trellect._trellect import (
    Checkpoint,
    LayerInfo,
    MixedKernelSelector,
    MoeLayer,
    Report,
    __version__,
    analyze_expert_activation_pattern,
    estimate_gpu_memory_pressure,
    get_available_kernels,
    get_expert_bits,
    get_mixed_kernel,
    get_statistics,
    record_kernel_latency,
    reset_history,
    set_exploration_rate,
)
from trellect.dispatch import MixedBpwMoEDispatcher, MixedBpwMoEDispatcherExample

__all__ = [
    "Checkpoint",
    "LayerInfo",
    "MixedBpwMoEDispatcher",
    "MixedBpwMoEDispatcherExample",
    "MixedKernelSelector",
    "MoeLayer",
    "Report",
    "__version__",
    "analyze_expert_activation_pattern",
    "estimate_gpu_memory_pressure",
    "get_available_kernels",
    "get_expert_bits",
    "get_mixed_kernel",
    "get_statistics",
    "record_kernel_latency",
    "reset_history",
    "set_exploration_rate",
]

"""Mixture-of-experts layers of EXL3 models, each call on the fastest kernel that is legal for it."""

from trellect._trellect import (
    Checkpoint,
    LayerInfo,
    MoeLayer,
    Report,
    __version__,
    get_available_kernels,
)
from trellect.dispatch import MixedBpwMoEDispatcher, MixedBpwMoEDispatcherExample

__all__ = [
    "Checkpoint",
    "LayerInfo",
    "MixedBpwMoEDispatcher",
    "MixedBpwMoEDispatcherExample",
    "MoeLayer",
    "Report",
    "__version__",
    "get_available_kernels",
]

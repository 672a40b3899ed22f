"""Synthetic EXL3 checkpoints and decoded weights: what tests and examples run on without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trellect._trellect import Checkpoint, write_synthetic

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

__all__ = ["DenseExpert", "dense_expert", "write_synthetic"]


class DenseExpert(NamedTuple):
    """One expert's weights as float32, each `[out_features, in_features]`, as `torch.nn.Linear` has them."""

    gate: NDArray[numpy.float32]
    up: NDArray[numpy.float32]
    down: NDArray[numpy.float32]


def dense_expert(checkpoint: Checkpoint, layer: int, expert: int) -> DenseExpert:
    """Decodes an expert by the format's definition, in float64, and rounds it to float32.

    Exact and slow: for comparing results, not for computing them. Biases are no part of it.
    """
    import numpy

    info = checkpoint.layer_info(layer)
    wide, deep = info.hidden_size, info.intermediate_size
    gate, up, down = (
        numpy.frombuffer(weights, numpy.float32)
        for weights in checkpoint._decode_expert(layer, expert)
    )
    return DenseExpert(gate.reshape(deep, wide), up.reshape(deep, wide), down.reshape(wide, deep))

"""Layers as PyTorch modules, which torch.compile and torch.export take as one opaque operation each."""

from __future__ import annotations

import itertools
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from trellect._trellect import MoeLayer

__all__ = ["Experts"]

# The operation's arguments are tensors and numbers, so a layer goes by a number.
_layers: WeakValueDictionary[int, MoeLayer] = WeakValueDictionary()
_numbers = itertools.count()


class Experts(torch.nn.Module):
    """The routed experts of a layer: `experts(hidden, topk_ids, topk_weights)`.

    Holds no parameters, so nothing here follows `model.to(...)`, and has no backward pass: under
    `torch.no_grad()` it costs what `MoeLayer.forward` does, and a `backward()` through it is an error.
    """

    def __init__(self, layer: MoeLayer) -> None:
        super().__init__()
        self.layer = layer
        self.number = next(_numbers)
        _layers[self.number] = layer

    def forward(self, hidden: Tensor, topk_ids: Tensor, topk_weights: Tensor) -> Tensor:
        """The routed sum of every token.

        Args:
            hidden: `[num_tokens, hidden_size]`, float16, bfloat16 or float32.
            topk_ids: the experts of every token, `[num_tokens, top_k]`, int32 or int64.
            topk_weights: their weights, `[num_tokens, top_k]`, floats.

        Returns:
            `[num_tokens, hidden_size]`, of the type of `hidden`.
        """
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return torch.ops.trellect.moe_forward(hidden, topk_ids, topk_weights, self.number)
        return self.layer.forward(hidden, topk_ids, topk_weights)

    def extra_repr(self) -> str:
        return repr(self.layer)


@torch.library.custom_op("trellect::moe_forward", mutates_args=())
def _moe_forward(hidden: Tensor, topk_ids: Tensor, topk_weights: Tensor, layer: int) -> Tensor:
    found = _layers.get(layer)
    if found is None:
        raise RuntimeError(f"layer {layer} of this program's graph is gone: keep its module alive")
    return found.forward(hidden.detach(), topk_ids, topk_weights.detach())


@_moe_forward.register_fake
def _(hidden: Tensor, topk_ids: Tensor, topk_weights: Tensor, layer: int) -> Tensor:
    return hidden.new_empty(hidden.shape)

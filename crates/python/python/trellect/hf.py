"""Hugging Face transformers (5): models whose routed experts are layers of an EXL3 checkpoint."""

from __future__ import annotations

import os
import re
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.integrations import moe

from trellect._trellect import Checkpoint
from trellect.nn import Experts

__all__ = ["load_exl3_experts", "register"]

NAME = "trellect"
"""The name of the experts implementation."""

_LAYER_NUMBER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def register() -> None:
    """Registers the experts implementation `trellect`; `load_exl3_experts` does so by itself."""
    moe.ALL_EXPERTS_FUNCTIONS.register(NAME, _experts_forward)


def load_exl3_experts(
    model: PreTrainedModel,
    path: str | os.PathLike[str],
    *,
    device: str | None = None,
    numeric: str = "half",
) -> None:
    """Replaces the routed experts of `model` by the layers of the EXL3 checkpoint at `path`.

    Every layer of the model that has experts gets the layer of the same number, and loses its dense
    weights before that one is prepared, so that memory never holds both. Routers, shared experts and
    everything else stay as they are. Layers beyond the model's last, as for multi-token prediction,
    are left out.

    Qwen3-MoE, GLM-4-MoE, GLM-4.7-Flash, DeepSeek-V3 and Mixtral are tested; any model whose experts
    follow transformers' experts interface, with SiLU gates and without biases, is taken.

    Args:
        model: the model, with weights or with its experts on the device `meta`.
        path: a checkpoint's directory, or its only `.safetensors` file.
        device: where the layers shall be, `cpu` or `cuda:N`; where the experts are unless stated.
        numeric: what their kernels must keep to: `exact`, `half` or `int8`.

    Raises:
        ValueError: the model and the checkpoint do not fit together; the model is then unchanged.
    """
    checkpoint = Checkpoint(path)
    modules = _experts_of(model)
    _check(model, modules, checkpoint)
    register()
    for number, module in modules.items():
        place = device or _device_of(module, model)
        for name in [name for name, _ in module.named_parameters(recurse=False)]:
            delattr(module, name)
        module.exl3 = Experts(checkpoint.layer(number, device=place, numeric=numeric))
    model.set_experts_implementation(NAME)


def _experts_forward(
    self: torch.nn.Module,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    experts = getattr(self, "exl3", None)
    if experts is None:
        raise ValueError(
            f"{type(self).__name__} has no EXL3 experts: "
            "call trellect.hf.load_exl3_experts(model, path) first"
        )
    output: torch.Tensor = experts(hidden_states, top_k_index, top_k_weights)
    return output


def _experts_of(model: PreTrainedModel) -> dict[int, Any]:
    """The modules that hold routed experts, by layer."""
    found: dict[int, Any] = {}
    for name, module in model.named_modules():
        # What transformers' decorator for experts gives to a module.
        if not hasattr(module, "_apply_gate") or not hasattr(module, "has_gate"):
            continue
        number = _LAYER_NUMBER.search(name)
        if number is None or int(number[1]) in found:
            raise ValueError(f"{name}: expected one module of experts in each of the model's layers")
        found[int(number[1])] = module
    if not found:
        raise ValueError(f"{type(model).__name__} has no routed experts that can be replaced")
    return found


def _check(model: PreTrainedModel, modules: dict[int, Any], checkpoint: Checkpoint) -> None:
    """Whether every layer of experts fits its module."""
    path, stored = checkpoint.path, set(checkpoint.moe_layers())
    missing = sorted(modules.keys() - stored)
    if missing:
        raise ValueError(f"{path}: layers {missing} of the model have experts, and none here")
    layers = model.config.get_text_config().num_hidden_layers
    surplus = sorted(number for number in stored - modules.keys() if number < layers)
    if surplus:
        raise ValueError(f"{path}: layers {surplus} have experts here, and none in the model")
    for number, module in modules.items():
        where = f"layer {number}, {type(module).__name__}"
        if hasattr(module, "exl3"):
            raise ValueError(f"{where}: its experts have been replaced already")
        _check_arithmetic(where, module)
        info = checkpoint.layer_info(number)
        for name, expected, found in [
            ("experts", module.num_experts, info.num_experts),
            ("hidden_size", module.hidden_dim, info.hidden_size),
            ("intermediate_size", module.intermediate_dim, info.intermediate_size),
        ]:
            if found != expected:
                raise ValueError(f"{path}: {where}: found {name} {found}, expected {expected}")


def _check_arithmetic(where: str, module: Any) -> None:
    """Whether the experts compute `(silu(x·gate) * (x·up))·down`."""
    # Earlier releases of transformers 5 know no norm after the experts.
    has_norm = getattr(module, "has_post_expert_norm", False)
    has_extras = module.has_bias or has_norm or not module.has_gate
    if has_extras or type(module)._apply_gate is not moe._default_apply_gate:
        raise ValueError(f"{where}: expected gated experts without biases, norms or limits")
    probe = torch.linspace(-4.0, 4.0, 17)
    if not torch.allclose(module.act_fn(probe), torch.nn.functional.silu(probe)):
        raise ValueError(f"{where}: its activation is {module.act_fn}, expected SiLU")


def _device_of(module: torch.nn.Module, model: PreTrainedModel) -> str:
    """Where a module's weights are, or the model's where it has none yet."""
    own = next(module.parameters(), None)
    place = model.device if own is None or own.device.type == "meta" else own.device
    return str(place)

"""A layer's calls by the rules, with the metadata of every choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from trellect._trellect import MoeLayer

__all__ = ["MixedBpwMoEDispatcher", "MixedBpwMoEDispatcherExample"]

Tensor = TypeVar("Tensor")


class MixedBpwMoEDispatcher:
    """Runs the calls of a layer, each on the kernel that the rules and its own timings choose.

    Args:
        lib: the prepared layer; it is shared, and its own way of choosing is left alone.
        expert_bit_metadata: what the widths of the experts are thought to be, as for
            `get_expert_bits`; compared with the layer's.
        use_fp32_acc: whether only kernels that accumulate in float32 throughout may serve.
        enable_ab_testing: whether other kernels than the rules' are tried now and then.
        exploration_rate: the probability of that in a call.

    Raises:
        ValueError: the metadata is not the layer's, or the rate is not in 0 to 1.
    """

    def __init__(
        self,
        lib: MoeLayer,
        expert_bit_metadata: Mapping[int, Any] | None = None,
        use_fp32_acc: bool = False,
        enable_ab_testing: bool = True,
        exploration_rate: float = 0.05,
    ) -> None:
        if not isinstance(lib, MoeLayer):
            raise TypeError(f"lib is a {type(lib).__name__}: expected a MoeLayer")
        _check_widths(lib, expert_bit_metadata or {})
        # Checked also where it plays no part.
        rules = lib.by_rules(use_fp32_acc=use_fp32_acc, exploration_rate=exploration_rate)
        self.layer = rules if enable_ab_testing else lib.by_rules(use_fp32_acc=use_fp32_acc)

    def dispatch(
        self, activations: Tensor, expert_ids: Any, expert_probs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Computes the routed sum of every token, and tells how.

        Args:
            activations: `[num_tokens, hidden_size]`.
            expert_ids: `[num_tokens, top_k]`.
            expert_probs: `[num_tokens, top_k]`.

        Returns:
            The output, like `activations`, and `kernel_name`, `latency_ms`, `batch_size`,
            `active_bits`, `memory_pressure`, `pattern_metrics` and `selection_metadata`.
        """
        output, report = self.layer.run(activations, expert_ids, expert_probs)
        return output, {
            "kernel_name": report.kernel_name,
            "latency_ms": report.latency_ms,
            "batch_size": report.num_tokens,
            "active_bits": report.active_bits,
            "memory_pressure": report.memory_pressure,
            "pattern_metrics": report.pattern_metrics,
            "selection_metadata": report.selection_metadata,
        }


def _check_widths(layer: MoeLayer, metadata: Mapping[int, Any]) -> None:
    widths = layer.bit_tuples
    for expert, found in metadata.items():
        if expert not in range(len(widths)):
            last = len(widths) - 1
            raise ValueError(f"expert_bit_metadata[{expert}]: expected experts 0 to {last}")
        if tuple(found) != widths[expert]:
            raise ValueError(
                f"expert_bit_metadata[{expert}] is {found}: expected {widths[expert]}, the layer's"
            )


MixedBpwMoEDispatcherExample = MixedBpwMoEDispatcher

"""The compiled part of `trellect`; import that."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, SupportsFloat, SupportsIndex, TypeVar, final

__all__ = [
    "Checkpoint",
    "LayerInfo",
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
    "write_synthetic",
]

__version__: str

class _Array(Protocol):
    """A numpy array, a torch tensor, or whatever else turns itself into lists."""

    def tolist(self) -> Any: ...

class _Layer(Protocol):
    """A prepared layer, which knows its kernels."""

    def kernels(self) -> Iterable[str]: ...

@final
class MixedKernelSelector:
    """Chooses kernels by rules and by what it was told of their latencies.

    Kernels are chosen by their plain names: `moe_trellis_swiglu_decode@cpu.avx512` counts as
    `moe_trellis_swiglu_decode` wherever a name is given. Any number of threads may use one selector.
    """

    def __new__(
        cls,
        history_len: SupportsIndex = 100,
        exploration_rate: SupportsFloat = 0.05,
        seed: SupportsIndex | None = None,
        memory_pressure_threshold: SupportsFloat = 0.9,
        policy: str = "rules",
    ) -> MixedKernelSelector:
        """A selector with a history of its own.

        `history_len` latencies are kept per kernel and bucket. With the probability `exploration_rate`
        another legal kernel is tried. Equal seeds and calls give equal choices; without a seed each
        selector has one of its own. Above `memory_pressure_threshold` the base kernel serves.
        `policy` is `"rules"`: other policies decide for a layer, not for a name.
        """

    def select_kernel(
        self,
        batch_size: SupportsIndex,
        active_expert_bits: Iterable[SupportsIndex] | _Array,
        gpu_memory_pressure: SupportsFloat = 0.0,
        gate_bits: SupportsIndex | None = None,
        up_bits: SupportsIndex | None = None,
        down_bits: SupportsIndex | None = None,
        use_fp32_acc: bool = False,
        available_kernels: Iterable[str] | None = None,
        expert_activation_pattern: Mapping[str, Any] | None = None,
        benchmark_kernel: Callable[[str], SupportsFloat] | None = None,
    ) -> tuple[str, dict[str, Any]]:
        """Chooses the kernel of a call; its name and the metadata of the choice.

        As `get_mixed_kernel`, and: an `expert_activation_pattern` whose `top_expert_share` is 0.85 or
        more takes the standard kernel for the batch. With `benchmark_kernel`, which runs the kernel
        of a name and returns its milliseconds, exploring is a paired test of two kernels: each is run
        several times in a random order, and the faster serves. What it raises is raised.
        """

    def record_timing(
        self,
        kernel_name: str,
        batch_size: SupportsIndex,
        latency_ms: SupportsFloat,
        selected_by: str | None = None,
    ) -> None:
        """Notes that a kernel took `latency_ms` for a call of `batch_size` tokens.

        `selected_by`, such as the `reason` of the selection, is counted in the statistics.
        """

    def record_kernel_latency(
        self,
        kernel_name: str,
        batch_size: SupportsIndex,
        latency_ms: SupportsFloat,
        selected_by: str | None = None,
    ) -> None:
        """The same as `record_timing`."""

    def get_statistics(self) -> dict[str, Any]:
        """What has been selected and recorded so far, as a plain dict that can be pickled."""

    def reset_history(self) -> None:
        """Forgets what has been selected and recorded; the configuration stays."""

    def set_exploration_rate(self, rate: SupportsFloat) -> None:
        """Sets the probability of trying another legal kernel."""

    def explain(
        self,
        batch_size: SupportsIndex,
        active_expert_bits: Iterable[SupportsIndex] | _Array,
        gpu_memory_pressure: SupportsFloat = 0.0,
        gate_bits: SupportsIndex | None = None,
        up_bits: SupportsIndex | None = None,
        down_bits: SupportsIndex | None = None,
        use_fp32_acc: bool = False,
        available_kernels: Iterable[str] | None = None,
        expert_activation_pattern: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What would become of every kernel where nothing is explored; counts as no selection.

        The metadata of that decision, and: `considered`, a dict per kernel with its verdict and what
        the history says of it; `exploration_rate`, the probability that another one is tried; `text`,
        all of it for people to read.
        """

    @property
    def history_len(self) -> int: ...
    @property
    def exploration_rate(self) -> float: ...
    @property
    def memory_pressure_threshold(self) -> float: ...
    @property
    def policy(self) -> str: ...
    @property
    def seed(self) -> int:
        """The seed in use, with which a run can be repeated."""

def get_mixed_kernel(
    batch_size: SupportsIndex,
    active_expert_bits: Iterable[SupportsIndex] | _Array,
    gpu_memory_pressure: SupportsFloat = 0.0,
    gate_bits: SupportsIndex | None = None,
    up_bits: SupportsIndex | None = None,
    down_bits: SupportsIndex | None = None,
    use_fp32_acc: bool = False,
    available_kernels: Iterable[str] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Chooses the kernel of a call; its name and the metadata of the choice.

    `batch_size` is the number of tokens. `active_expert_bits` are widths of the active experts, which
    tell the reported family; there may be none. `gpu_memory_pressure` is the used share of the
    memory, 0 to 1. `gate_bits`, `up_bits` and `down_bits`, all or none, are the widths that every
    active expert has: only with them a kernel for one tuple may serve. `available_kernels` are the
    only ones that may; None: all.

    The metadata has `kernel_name`, `reason`, `tile_n`, `bucket`, `heuristic_family`,
    `baseline_kernel`, `explored`, `fallback_from`, `message`, `numeric` and `numeric_downgrade`.

    ValueError or TypeError names the argument, what was found and what was expected; ValueError also
    where none of the available kernels can compute the call.
    """

def record_kernel_latency(
    kernel_name: str,
    batch_size: SupportsIndex,
    latency_ms: SupportsFloat,
    selected_by: str | None = None,
) -> None:
    """`MixedKernelSelector.record_timing` of the selector that the process shares."""

def get_statistics() -> dict[str, Any]:
    """`MixedKernelSelector.get_statistics` of the selector that the process shares."""

def reset_history() -> None:
    """`MixedKernelSelector.reset_history` of the selector that the process shares."""

def set_exploration_rate(rate: SupportsFloat) -> None:
    """`MixedKernelSelector.set_exploration_rate` of the selector that the process shares."""

def get_available_kernels(lib: _Layer | None = None) -> set[str]:
    """The names that a selection may return, or those of a prepared layer's kernels."""

def get_expert_bits(
    expert_ids: Iterable[Any] | _Array,
    expert_bit_metadata: Mapping[int, Sequence[int]],
) -> list[int]:
    """The width of every active expert's up projection, by ascending expert.

    `expert_bit_metadata` has the widths of gate, up and down of each expert.
    """

def analyze_expert_activation_pattern(
    expert_ids: Iterable[Any] | _Array, num_experts: SupportsIndex
) -> dict[str, Any]:
    """How a call's tokens spread over the experts; all 0 where there are none.

    `num_activated_experts`, their share of all as `activation_rate` and `expert_utilization`;
    `tokens_per_expert_avg`, over the active ones, and `max_tokens_per_expert`; the busiest expert's
    `top_expert_share` of the work; `entropy_bits` of its distribution.
    """

def estimate_gpu_memory_pressure(device: Any = None) -> float:
    """The used share of a device's memory, 0 to 1, whoever uses it.

    `device` is `"cpu"`, `"cuda"`, `"cuda:N"` or a torch device; for the processor the limit of the
    control group counts. None: the first NVIDIA GPU, else the processor.
    """

_Tensor = TypeVar("_Tensor")

@final
class Checkpoint:
    """An EXL3 checkpoint, its files mapped into memory.

    The files must not be changed or cut while the checkpoint is in use.
    """

    def __new__(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Opens a directory or a single `.safetensors` file; reads nothing but headers and JSON.

        OSError where a file cannot be read, ValueError where it is no checkpoint.
        """

    @property
    def path(self) -> Path: ...
    def moe_layers(self) -> list[int]:
        """The numbers of the layers that have EXL3 experts, ascending."""

    def layer_info(self, number: int) -> LayerInfo:
        """Checks a layer and tells what it is; reads its scales, and no trellis."""

    def layer(self, number: int, *, device: str = "cpu", numeric: str = "half") -> MoeLayer:
        """Prepares a layer for a device, `"cpu"` or `"cuda:N"`.

        `numeric` is the class of the kernels that may serve: `"exact"` (relative error up to 1e-5),
        `"half"` (2e-3) or `"int8"` (1.5e-2). The pages of the files are given back expert by expert,
        so that the layer is not in memory twice. The first layer of a process calibrates the device,
        which takes 200 ms. MemoryError where it does not fit.
        """

    def _decode_expert(self, number: int, expert: int) -> list[bytes]: ...

@final
class LayerInfo:
    """What a checkpoint says of a layer."""

    @property
    def number(self) -> int: ...
    @property
    def prefix(self) -> str:
        """What the names of its tensors start with, such as `model.layers.3.mlp`."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_experts(self) -> int: ...
    @property
    def bit_tuples(self) -> list[tuple[int, int, int]]:
        """The widths of gate, up and down of every expert."""

    @property
    def trellis_bytes(self) -> int:
        """Bytes of the packed weights."""

@final
class MoeLayer:
    """A layer that is prepared for a device. Any number of threads may use it, one at a time runs."""

    def forward(
        self,
        hidden: _Tensor,
        topk_ids: Any,
        topk_weights: Any,
        kernel: str | None = None,
        out: _Tensor | None = None,
    ) -> _Tensor:
        """The routed sum of every token, `[num_tokens, hidden_size]`, as `hidden` is in library,
        device and type.

        `hidden` is `[num_tokens, hidden_size]` of float16, bfloat16 (torch) or float32; `topk_ids`
        `[num_tokens, top_k]` of int32 or int64; `topk_weights` as many floats. torch tensors and numpy
        arrays are read where they are, by DLPack; one that is not row-major is copied once. With
        `out`, contiguous memory of its own, the result is written there, and `out` is returned. The
        interpreter's lock is released meanwhile.

        Each call takes the fastest kernel that is legal for it; `kernel` names another. ValueError or
        TypeError names the argument, what was found and what was expected.

        On a GPU the work is put into torch's current stream, and the call returns at once; ids that do
        not exist are taken as the nearest that does, since to check them is to wait for the GPU.
        """

    def run(
        self,
        hidden: _Tensor,
        topk_ids: Any,
        topk_weights: Any,
        kernel: str | None = None,
        out: _Tensor | None = None,
    ) -> tuple[_Tensor, Report]:
        """As `forward`, and the report of this call."""

    def by_rules(
        self,
        *,
        use_fp32_acc: bool = False,
        exploration_rate: float = 0.0,
        seed: int | None = None,
    ) -> MoeLayer:
        """A layer with the same weights that chooses by the rules and its own timings alone, as a
        `MixedKernelSelector` does."""

    def kernels(self) -> list[str]:
        """The names of the kernels that this machine has for it."""

    def _time_rust(
        self, hidden: Any, topk_ids: Any, topk_weights: Any, calls: int
    ) -> list[int]: ...

    @property
    def last_report(self) -> Report | None:
        """What the last call of `forward` did, whichever thread's it was."""

    @property
    def number(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_experts(self) -> int: ...
    @property
    def bit_tuples(self) -> list[tuple[int, int, int]]:
        """The widths of gate, up and down of every expert."""

    @property
    def prepared_bytes(self) -> int:
        """Bytes of the weights and scales on the device."""

    @property
    def device(self) -> str: ...
    @property
    def numeric(self) -> str: ...

@final
class Report:
    """What a call did, and why."""

    @property
    def kernel_name(self) -> str | None:
        """The kernel that computed the result; None where there was no token."""

    @property
    def reason(self) -> str:
        """Why this kernel: by the rules, such as `heuristic`, or by what was learned, such as
        `incumbent`; `requested` where the caller named it."""

    @property
    def latency_ms(self) -> float | None:
        """Device time; None where the device has not told yet."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def active_bits(self) -> list[int]:
        """The distinct widths of the active experts, ascending; none on a GPU."""

    @property
    def active_bytes(self) -> int:
        """Bytes of the active experts' packed weights; 0 on a GPU."""

    @property
    def memory_pressure(self) -> float:
        """The used share of the device's memory, 0 to 1."""

    @property
    def fallback(self) -> str | None:
        """The kernel that was chosen and failed, and how, where the base kernel served in its place."""

    @property
    def pattern_metrics(self) -> dict[str, Any]:
        """How the tokens spread over the experts, as `analyze_expert_activation_pattern` tells; all 0
        on a GPU."""

    @property
    def selection_metadata(self) -> dict[str, Any]:
        """The kernel and the reason, and where the rules decided, what they went by."""

def write_synthetic(
    path: str | os.PathLike[str],
    *,
    hidden_size: int,
    intermediate_size: int,
    num_experts: int,
    layers: Sequence[int] = [0],
    bits: str | tuple[int, int, int] | Sequence[tuple[int, int, int]] = "mixed",
    naming: str = "projections",
    seed: int = 0,
) -> None:
    """Writes a checkpoint of random layers, without routers, to the directory `path`.

    `layers` are their numbers. `bits` are the widths of gate, up and down of all experts, or of each,
    or `"mixed"`: 80 % (6, 2, 3), 15 % (6, 3, 4), 5 % (6, 2, 4). `naming` is `"projections"`, as in
    Qwen, GLM and DeepSeek, or `"mixtral"`. Equal seeds make equal checkpoints.
    """

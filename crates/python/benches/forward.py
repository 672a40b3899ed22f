"""What calling a layer from Python costs, beside the same call from Rust.

    python crates/python/benches/forward.py

Calls from Python and from Rust alternate, on the same layer and tensors, which lie in the cache; the
call from Rust is grouping the routing and `Dispatcher::forward_into` on memory that is there. A line has
the medians of both, in microseconds, and the median of what Python adds with its 10th and 90th
percentile over rounds of many calls.
"""

import platform
import statistics
import tempfile
import time

import numpy
from selection import processor

import trellect
from trellect import synth

try:
    import torch
except ImportError:
    torch = None

ROUNDS, WARM_UP = 200, 400
#: Hidden and intermediate size, experts, experts a token; and what to measure: tokens, and calls a round.
SHAPES = {
    "small": ((128, 128, 8, 2), [(1, 100), (8, 20)]),
    "glm-4.7-flash": ((2048, 1536, 64, 4), [(1, 2)]),
}


def measure(name: str, layer: trellect.MoeLayer, arguments: tuple, calls: int) -> None:
    def python() -> float:
        begin = time.perf_counter_ns()
        for _ in range(calls):
            layer.forward(*arguments)
        return (time.perf_counter_ns() - begin) / calls / 1e3

    def rust() -> float:
        return statistics.fmean(layer._time_rust(*arguments, calls)) / 1e3

    # What the layer learns meanwhile is none of the difference.
    layer._time_rust(*arguments, WARM_UP)
    layer.forward(*arguments)
    pairs = [(python(), rust()) if number % 2 else (rust(), python())[::-1] for number in range(ROUNDS)]
    added = [python - rust for python, rust in pairs]
    deciles = statistics.quantiles(added, n=10)
    ours, theirs = (statistics.median(times) for times in zip(*pairs))
    print(
        f"{name:34} {ours:9.2f} {theirs:9.2f} {statistics.median(added):8.2f}   "
        f"{deciles[0]:.2f} to {deciles[-1]:.2f}"
    )


def main() -> None:
    print(f"trellect {trellect.__version__}, Python {platform.python_version()}, {processor()}")
    print(f"{'':34} {'Python':>9} {'Rust':>9} {'added':>8}")
    for shape, (sizes, batches) in SHAPES.items():
        hidden, intermediate, experts, top_k = sizes
        with tempfile.TemporaryDirectory() as path:
            synth.write_synthetic(
                path, hidden_size=hidden, intermediate_size=intermediate, num_experts=experts
            )
            layer = trellect.Checkpoint(path).layer(0).by_rules()
        rng = numpy.random.default_rng(0)
        for num_tokens, calls in batches:
            states = rng.standard_normal((num_tokens, hidden)).astype(numpy.float32)
            ids = rng.integers(0, experts, (num_tokens, top_k))
            weights = rng.random((num_tokens, top_k), dtype=numpy.float32)
            where = f"{shape}, {num_tokens} tokens"
            measure(f"{where}, numpy float32", layer, (states, ids, weights), calls)
            if torch is None:
                print("torch is not installed: its tensors were NOT measured")
                continue
            tensors = [torch.from_numpy(array) for array in (states, ids, weights)]
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                kind = str(dtype).replace("torch.", "torch ")
                measure(f"{where}, {kind}", layer, (tensors[0].to(dtype), *tensors[1:]), calls)


if __name__ == "__main__":
    main()

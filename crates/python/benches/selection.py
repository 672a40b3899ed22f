"""What choosing a kernel costs from Python, with 1000 tracked keys; and what importing costs.

    python crates/python/benches/selection.py

Each line is the median of many rounds with its 10th and 90th percentile; a round is many calls in a
row, timed together and less what the empty loop takes.
"""

import os
import platform
import statistics
import subprocess
import sys
import time
import timeit

import numpy

import trellect

CALLS, ROUNDS, IMPORTS = 5_000, 100, 30
KEYS = 1000
#: A batch size in every bucket.
BUCKETS = (1, 8, 20, 64)
BASE = "moe_trellis_swiglu"


def track() -> None:
    """Fills the history: the kernels that may be chosen, then others up to the number of keys."""
    others = [f"{BASE}_grouped_{g}_{u}_{d}" for g in range(1, 9) for u in range(1, 9) for d in range(1, 9)]
    names = [*sorted(trellect.get_available_kernels()), *others][: KEYS // len(BUCKETS)]
    for sample in range(20):
        for place, name in enumerate(names):
            for batch_size in BUCKETS:
                latency_ms = 1.0 + 0.01 * place + 0.001 * (sample % 7)
                trellect.record_kernel_latency(name, batch_size, latency_ms)
    tracked = sum(len(buckets) for buckets in trellect.get_statistics()["kernels"].values())
    assert tracked == KEYS, tracked


def measure(call: str, names: dict[str, object]) -> None:
    """Times a call and prints nanoseconds."""
    code = call.partition(", nothing")[0]
    timed, empty = timeit.Timer(code, globals=names), timeit.Timer("pass")
    rounds = [1e9 * (timed.timeit(CALLS) - empty.timeit(CALLS)) / CALLS for _ in range(ROUNDS)]
    report(call, rounds, "ns")


def measure_import() -> None:
    """Times fresh interpreters with and without the import, in turns."""

    def start(code: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return 1e3 * (time.perf_counter() - begin)

    differences = [start("import trellect") - start("pass") for _ in range(IMPORTS)]
    report("import trellect", differences, "ms")


def report(name: str, values: list[float], unit: str) -> None:
    deciles = statistics.quantiles(values, n=10)
    print(f"{name[:70]:70} {statistics.median(values):8.1f} {unit}   {deciles[0]:.1f}-{deciles[-1]:.1f}")


def processor() -> str:
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    print(f"trellect {trellect.__version__}, Python {platform.python_version()}, {processor()}")
    names: dict[str, object] = {
        "select": trellect.get_mixed_kernel,
        "record": trellect.record_kernel_latency,
        "bits": [2, 3, 4, 2],
        "many": [2, 3, 4, 6] * 16,
        "array": numpy.array([2, 3, 4, 6] * 16),
        "listed": {BASE, *(f"{BASE}_{it}" for it in ("decode", "prefill4", "large_batch", "grouped"))},
        "name": f"{BASE}_prefill4",
    }
    measure("select(8, bits), nothing tracked", names)
    track()
    for call in (
        "select(1, bits)",
        "select(8, bits)",
        "select(8, bits, 0.5)",
        "select(1, bits, 0.5, 6, 2, 3)",
        "select(batch_size=1, active_expert_bits=bits, gpu_memory_pressure=0.5, gate_bits=6, "
        "up_bits=2, down_bits=3)",
        "select(64, many)",
        "select(64, array)",
        "select(8, bits, available_kernels=listed)",
        "record(name, 8, 1.5)",
        "record(name, 8, 1.5); select(8, bits)",
    ):
        measure(call, names)
    measure_import()


if __name__ == "__main__":
    main()

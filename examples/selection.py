"""Lets the selector choose among kernels of your own, and tells it what they took.

    python examples/selection.py

The two kernels here are stand-ins that numpy computes: the same product, four tokens at a time or all
at once. The rules take the first for a batch of 16; the timings show that the second is faster.
"""

import time

import numpy

import trellect

TOKENS, HIDDEN = 16, 512
WEIGHTS = numpy.random.default_rng(1).standard_normal((HIDDEN, HIDDEN), dtype=numpy.float32)


def four_at_a_time(hidden):
    return numpy.concatenate([hidden[first : first + 4] @ WEIGHTS for first in range(0, len(hidden), 4)])


def all_at_once(hidden):
    return hidden @ WEIGHTS


KERNELS = {
    "moe_trellis_swiglu_prefill4": four_at_a_time,
    "moe_trellis_swiglu": all_at_once,
}


def main():
    selector = trellect.MixedKernelSelector(exploration_rate=0.2, seed=1)
    hidden = numpy.ones((TOKENS, HIDDEN), dtype=numpy.float32)
    for _ in range(200):
        name, why = selector.select_kernel(TOKENS, [4], available_kernels=KERNELS)
        start = time.perf_counter()
        KERNELS[name](hidden)
        latency_ms = 1e3 * (time.perf_counter() - start)
        selector.record_timing(name, TOKENS, latency_ms, selected_by=why["reason"])

    statistics = selector.get_statistics()
    for reason, count in statistics["selections_by_reason"].items():
        if count:
            print(f"{count:4} selections for {reason}")
    for name, buckets in statistics["kernels"].items():
        print(f"{buckets['prefill4']['p50_ms']:.3f} ms at the median: {name}")
    print(selector.explain(TOKENS, [4], available_kernels=KERNELS)["text"])


if __name__ == "__main__":
    main()

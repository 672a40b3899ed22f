"""Choosing kernels by rules: which one, why, and what is said of it."""

import collections
import itertools

import numpy
import pytest

import trellect
from trellect import MixedKernelSelector

BASE = "moe_trellis_swiglu"
DECODE = f"{BASE}_decode"
PREFILL4 = f"{BASE}_prefill4"
LARGE_BATCH = f"{BASE}_large_batch"
GROUPED = f"{BASE}_grouped"

METADATA = [
    "kernel_name",
    "reason",
    "tile_n",
    "bucket",
    "heuristic_family",
    "baseline_kernel",
    "explored",
    "fallback_from",
    "message",
    "numeric",
    "numeric_downgrade",
]


@pytest.fixture
def selector():
    """A selector that never explores."""
    return MixedKernelSelector(exploration_rate=0)


@pytest.mark.parametrize(
    ("batch_size", "kernel", "bucket", "exact_kernel"),
    [
        (1, DECODE, "decode", f"{DECODE}_fp32acc"),
        (2, PREFILL4, "prefill4", f"{PREFILL4}_fp32acc"),
        (16, PREFILL4, "prefill4", f"{PREFILL4}_fp32acc"),
        (17, BASE, "base", f"{BASE}_fp32acc"),
        (32, BASE, "base", f"{BASE}_fp32acc"),
        (33, LARGE_BATCH, "large_batch", f"{BASE}_fp32acc"),
        (100_000, LARGE_BATCH, "large_batch", f"{BASE}_fp32acc"),
    ],
)
def test_the_table_goes_by_tokens(selector, batch_size, kernel, bucket, exact_kernel):
    name, metadata = selector.select_kernel(batch_size, [4, 4])
    assert name == kernel
    assert list(metadata) == METADATA
    assert metadata == {
        "kernel_name": kernel,
        "reason": "heuristic",
        "tile_n": 128 if kernel == LARGE_BATCH else 64,
        "bucket": bucket,
        "heuristic_family": "standard",
        "baseline_kernel": kernel,
        "explored": False,
        "fallback_from": None,
        "message": None,
        "numeric": "half",
        "numeric_downgrade": False,
    }
    name, metadata = selector.select_kernel(batch_size, [4, 4], use_fp32_acc=True)
    assert (name, metadata["numeric"]) == (exact_kernel, "exact")
    assert not metadata["numeric_downgrade"]


@pytest.mark.parametrize("widths", [(6, 2, 3), (6, 3, 4), (6, 2, 4)])
def test_one_tuple_has_a_decode_kernel_of_its_own(selector, widths):
    gate, up, down = widths
    special = f"{DECODE}_{gate}_{up}_{down}"
    assert selector.select_kernel(1, [up], 0.0, gate, up, down)[0] == special
    assert selector.select_kernel(2, [up], 0.0, gate, up, down)[0] == PREFILL4
    exact = selector.select_kernel(1, [up], 0.0, gate, up, down, use_fp32_acc=True)
    assert exact[0] == f"{DECODE}_fp32acc"


@pytest.mark.parametrize("widths", [(6, 2, 2), (4, 4, 4), (3, 2, 6)])
def test_other_tuples_have_none(selector, widths):
    gate, up, down = widths
    assert selector.select_kernel(1, [up], 0.0, gate, up, down)[0] == DECODE


@pytest.mark.parametrize(
    ("bits", "family"),
    [
        ([], "standard"),
        ([4], "standard"),
        ([2, 2, 3], "fast_2bit"),
        ([2, 3], "mixed_bpw"),
        ([2, 2, 3, 3], "mixed_bpw"),
        ([2, 2], "fast_2bit"),
        (range(1, 9), "mixed_bpw"),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_widths_tell_the_family_and_decide_nothing(selector, bits, family, batch_size):
    name, metadata = selector.select_kernel(batch_size, bits)
    assert metadata["heuristic_family"] == family
    assert name == selector.select_kernel(batch_size, [])[0]


@pytest.mark.parametrize(
    "bits",
    [
        [2, 2, 3],
        (2, 2, 3),
        iter([2, 2, 3]),
        (width for width in [2, 2, 3]),
        collections.deque([2, 2, 3]),
        {2: "keys", 3: "count"},
        numpy.array([2, 2, 3]),
        numpy.array([2, 2, 3], dtype=numpy.uint8),
        list(numpy.array([2, 2, 3], dtype=numpy.int16)),
        b"\2\2\3",
    ],
    ids=lambda bits: type(bits).__name__,
)
def test_widths_may_be_any_ints(selector, bits):
    _, metadata = selector.select_kernel(4, bits)
    expected = "mixed_bpw" if isinstance(bits, dict) else "fast_2bit"
    assert metadata["heuristic_family"] == expected


def test_widths_may_be_a_tensor(selector):
    torch = pytest.importorskip("torch")
    for dtype in (torch.uint8, torch.int32, torch.int64):
        _, metadata = selector.select_kernel(torch.tensor(4), torch.tensor([2, 2, 3], dtype=dtype))
        assert (metadata["bucket"], metadata["heuristic_family"]) == ("prefill4", "fast_2bit")


def test_pressure_strictly_above_the_threshold_takes_the_base_kernel():
    selector = MixedKernelSelector(exploration_rate=1.0)
    for pressure, batch_size, exact in [(0.91, 1, False), (1, 64, False), (0.95, 4, True)]:
        name, metadata = selector.select_kernel(batch_size, [2], pressure, use_fp32_acc=exact)
        assert name == (f"{BASE}_fp32acc" if exact else BASE)
        assert (metadata["reason"], metadata["explored"]) == ("memory_pressure", False)
    assert selector.select_kernel(1, [2], 0.9)[1]["reason"] == "exploration"
    low = MixedKernelSelector(exploration_rate=0, memory_pressure_threshold=0.5)
    assert low.memory_pressure_threshold == 0.5
    assert low.select_kernel(1, [2], 0.5)[1]["reason"] == "heuristic"
    assert low.select_kernel(1, [2], numpy.float32(0.6))[1]["reason"] == "memory_pressure"


def test_exploration_tries_every_legal_alternative_and_no_other():
    selector = MixedKernelSelector(exploration_rate=1, seed=1)
    seen = collections.Counter()
    for _ in range(400):
        name, metadata = selector.select_kernel(64, [4])
        assert (metadata["reason"], metadata["explored"]) == ("exploration", True)
        assert metadata["baseline_kernel"] == LARGE_BATCH
        seen[name] += 1
    # Neither the table's choice nor a kernel for one token.
    assert set(seen) == {BASE, PREFILL4, GROUPED}
    assert min(seen.values()) > 80
    only = selector.select_kernel(64, [4], available_kernels=[LARGE_BATCH])
    assert only[1]["reason"] == "heuristic"


def test_the_exploration_rate_is_a_probability(selector):
    selector.set_exploration_rate(0.25)
    assert selector.exploration_rate == 0.25
    explored = sum(selector.select_kernel(8, [4])[1]["explored"] for _ in range(4000))
    # Five standard deviations.
    assert abs(explored - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5
    selector.set_exploration_rate(0)
    assert not any(selector.select_kernel(8, [4])[1]["explored"] for _ in range(100))


def test_a_seed_repeats_a_run():
    def run(seed):
        selector = MixedKernelSelector(exploration_rate=0.5, seed=seed)
        return selector.seed, [selector.select_kernel(8, [4])[0] for _ in range(50)]

    assert run(7) == run(7) == run(numpy.int64(7))
    assert run(7) != run(8)
    assert run(2**64 - 1)[0] == 2**64 - 1
    drawn, names = run(None)
    assert run(drawn) == (drawn, names)
    assert MixedKernelSelector().seed != MixedKernelSelector().seed


def test_a_significantly_faster_kernel_serves(selector):
    for _ in range(5):
        selector.record_timing(PREFILL4, 8, 2.0)
        selector.record_timing(BASE, 8, 1.0)
    name, metadata = selector.select_kernel(8, [4])
    assert (name, metadata["reason"]) == (BASE, "feedback_optimization")
    assert metadata["baseline_kernel"] == PREFILL4
    # Its bucket alone has learned that, and a selection may not leave what is available.
    assert selector.select_kernel(33, [4])[0] == LARGE_BATCH
    assert selector.select_kernel(8, [4], available_kernels=[PREFILL4])[0] == PREFILL4


@pytest.mark.parametrize("samples", [1, 4])
def test_few_samples_prove_nothing(selector, samples):
    for _ in range(samples):
        selector.record_timing(PREFILL4, 8, 2.0)
        selector.record_timing(BASE, 8, 0.001)
    assert selector.select_kernel(8, [4])[0] == PREFILL4


def test_noise_proves_nothing(selector):
    for slow, fast in zip(itertools.cycle([1.0, 3.0]), [0.5, 2.9, 1.2, 2.7, 1.6, 2.4]):
        selector.record_timing(PREFILL4, 8, slow)
        selector.record_timing(BASE, 8, fast)
    assert selector.select_kernel(8, [4])[0] == PREFILL4


def test_an_implementation_counts_as_its_plain_name(selector):
    for _ in range(5):
        selector.record_timing(f"{PREFILL4}@cpu.avx512", 8, 2.0)
        selector.record_timing(f"{BASE}@cpu.avx512", 8, 1.0)
    assert selector.select_kernel(8, [4], available_kernels=[f"{BASE}@cuda.sm90", PREFILL4])[0] == BASE


@pytest.mark.parametrize(
    ("batch_size", "available", "kernel"),
    [
        (8, {BASE, LARGE_BATCH}, BASE),
        (8, [LARGE_BATCH, GROUPED], LARGE_BATCH),
        (1, (PREFILL4,), PREFILL4),
        (64, [DECODE, BASE], BASE),
        (64, [DECODE, PREFILL4], PREFILL4),
        (1, [f"{DECODE}_6_2_3", BASE], BASE),
    ],
)
def test_availability(selector, batch_size, available, kernel):
    wanted = selector.select_kernel(batch_size, [4])[0]
    name, metadata = selector.select_kernel(batch_size, [4], available_kernels=available)
    assert name == kernel
    assert metadata["reason"].startswith("fallback_availability")
    assert metadata["fallback_from"] == wanted
    assert metadata["message"] == f"Selected kernel {wanted} not available, using {name} instead"


def test_a_plain_kernel_for_an_exact_call_is_said(selector):
    listed = [BASE, PREFILL4]
    name, metadata = selector.select_kernel(8, [4], use_fp32_acc=True, available_kernels=listed)
    assert name == PREFILL4
    assert (metadata["numeric"], metadata["numeric_downgrade"]) == ("half", True)
    listed.append(f"{BASE}_fp32acc")
    name, metadata = selector.select_kernel(8, [4], use_fp32_acc=True, available_kernels=listed)
    assert (name, metadata["numeric_downgrade"]) == (f"{BASE}_fp32acc", False)


def test_nothing_legal_is_an_error_that_names_every_kernel(selector):
    with pytest.raises(ValueError, match="64 tokens, computes 0 to 1") as error:
        selector.select_kernel(64, [4], available_kernels=[DECODE])
    assert LARGE_BATCH in str(error.value)
    assert selector.get_statistics()["total_selections"] == 0


@pytest.mark.parametrize(("share", "skewed"), [(0.85, True), (1, True), (0.84, False)])
def test_a_skewed_pattern_takes_the_standard_kernel(selector, share, skewed):
    pattern = {"top_expert_share": share}
    name, metadata = selector.select_kernel(
        1, [2], 0.0, 6, 2, 3, expert_activation_pattern=pattern
    )
    expected = (DECODE, "activation_pattern_skewed")
    assert ((name, metadata["reason"]) == expected) == skewed


def test_an_analysed_pattern_can_be_handed_on(selector):
    pattern = trellect.analyze_expert_activation_pattern([[3, 3]] * 8, 64)
    _, metadata = selector.select_kernel(8, [2], expert_activation_pattern=pattern)
    assert metadata["reason"] == "activation_pattern_skewed"


def test_the_metadata_are_the_callers_own(selector):
    _, first = selector.select_kernel(8, [4])
    assert type(first) is dict
    first.clear()
    _, second = selector.select_kernel(8, [4])
    assert list(second) == METADATA


def test_a_paired_test_serves_the_winner():
    times = {BASE: 1.0, PREFILL4: 4.0, LARGE_BATCH: 2.0, GROUPED: 3.0}
    runs = []

    def benchmark(name):
        runs.append(name)
        return times[name]

    selector = MixedKernelSelector(exploration_rate=1, seed=3)
    name, metadata = selector.select_kernel(8, [4], benchmark_kernel=benchmark)
    challenger = next(name for name in runs if name != PREFILL4)
    assert collections.Counter(runs) == {PREFILL4: len(runs) // 2, challenger: len(runs) // 2}
    assert (name, metadata["reason"]) == (challenger, "exploration")
    statistics = selector.get_statistics()
    assert (statistics["ab_tests_run"], statistics["correct_selections"]) == (1, 0)
    assert statistics["kernels"][challenger]["prefill4"]["mean_ms"] == times[challenger]

    selector.set_exploration_rate(0)
    runs.clear()
    selector.select_kernel(8, [4], benchmark_kernel=benchmark)
    assert runs == []


def test_a_benchmark_may_raise_or_use_the_selector():
    selector = MixedKernelSelector(exploration_rate=1, seed=3)

    def failing(name):
        raise ZeroDivisionError(name)

    with pytest.raises(ZeroDivisionError, match=BASE):
        selector.select_kernel(8, [4], benchmark_kernel=failing)
    with pytest.raises(TypeError, match="benchmark_kernel's result is None, of type NoneType"):
        selector.select_kernel(8, [4], benchmark_kernel=lambda name: None)
    with pytest.raises(ValueError, match="returned NaN ms: expected a finite number"):
        selector.select_kernel(8, [4], benchmark_kernel=lambda name: float("nan"))
    with pytest.raises(TypeError, match="not callable"):
        selector.select_kernel(8, [4], benchmark_kernel=3)
    assert selector.get_statistics()["total_selections"] == 0

    def reentrant(name):
        selector.get_statistics()
        selector.record_timing(name, 8, 1.0)
        return 1.0

    selector.select_kernel(8, [4], benchmark_kernel=reentrant)
    assert selector.get_statistics()["ab_tests_run"] == 1


def test_the_arguments_may_be_named_or_not(selector):
    positional = selector.select_kernel(1, [2], 0.1, 6, 2, 3, False, None)
    named = selector.select_kernel(
        available_kernels=None,
        use_fp32_acc=False,
        down_bits=3,
        up_bits=2,
        gate_bits=6,
        gpu_memory_pressure=0.1,
        active_expert_bits=[2],
        batch_size=1,
    )
    assert positional == named
    assert MixedKernelSelector(50, 0.1, 3, 0.8, "rules").history_len == 50


def test_attributes_are_there_to_read():
    selector = MixedKernelSelector()
    attributes = ("history_len", "exploration_rate", "memory_pressure_threshold", "policy")
    values = [getattr(selector, name) for name in attributes]
    assert values == [100, 0.05, 0.9, "rules"]
    for name in attributes:
        with pytest.raises(AttributeError):
            setattr(selector, name, 1)
    expected = f"MixedKernelSelector(history_len=100, exploration_rate=0.05, seed={selector.seed}, "
    assert repr(selector).startswith(expected)


def test_an_explanation_tells_of_every_kernel_and_counts_as_nothing(selector):
    for _ in range(5):
        selector.record_timing(PREFILL4, 8, 2.0)
        selector.record_timing(BASE, 8, 1.0)
    explanation = selector.explain(8, [2, 3], 0.0, 6, 2, 3)
    assert [key for key in explanation if key in METADATA] == METADATA
    assert (explanation["kernel_name"], explanation["reason"]) == (BASE, "feedback_optimization")
    considered = {kernel["kernel_name"]: kernel for kernel in explanation["considered"]}
    assert set(considered) == trellect.get_available_kernels()
    assert considered[BASE]["verdict"] == "chosen: feedback_optimization"
    assert considered[BASE]["evidence"]["n"] == 5
    assert considered[BASE]["evidence"]["t"] < 0 and considered[BASE]["evidence"]["p_value"] < 0.05
    assert considered[GROUPED] == {
        "kernel_name": GROUPED,
        "legal": True,
        "verdict": "legal, not the rules' choice",
        "evidence": None,
    }
    assert considered[DECODE]["verdict"] == "8 tokens, computes 0 to 1"
    assert not considered[DECODE]["legal"]
    assert BASE in explanation["text"] and "p = " in explanation["text"]
    assert explanation["exploration_rate"] == 0
    assert selector.get_statistics()["total_selections"] == 0


def test_the_functions_share_one_selector():
    trellect.reset_history()
    trellect.set_exploration_rate(0)
    name, metadata = trellect.get_mixed_kernel(8, [4, 2], gpu_memory_pressure=0.2)
    assert (name, metadata["heuristic_family"]) == (PREFILL4, "mixed_bpw")
    for _ in range(5):
        trellect.record_kernel_latency(PREFILL4, 8, 2.0, selected_by=metadata["reason"])
        trellect.record_kernel_latency(BASE, batch_size=8, latency_ms=1)
    assert trellect.get_mixed_kernel(8, [4])[0] == BASE
    statistics = trellect.get_statistics()
    assert statistics["total_selections"] == 2
    assert statistics["records_by_selector"] == {"heuristic": 5, "unknown": 5}
    trellect.reset_history()
    assert trellect.get_mixed_kernel(8, [4])[0] == PREFILL4
    trellect.set_exploration_rate(1)
    assert trellect.get_mixed_kernel(8, [4])[1]["explored"]
    trellect.set_exploration_rate(0.05)

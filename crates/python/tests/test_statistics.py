"""What a selector tells of its past."""

import json
import math
import pickle

import numpy
import pytest

from trellect import MixedKernelSelector

BASE = "moe_trellis_swiglu"
PREFILL4 = f"{BASE}_prefill4"


def test_a_new_selector_has_seen_nothing():
    statistics = MixedKernelSelector().get_statistics()
    assert statistics == {
        "total_selections": 0,
        "selections_by_reason": dict.fromkeys(statistics["selections_by_reason"], 0),
        "selection_accuracy": 0.0,
        "ab_tests_run": 0,
        "correct_selections": 0,
        "tracked_kernels": 0,
        "total_records": 0,
        "records_by_selector": {},
        "kernels": {},
    }
    assert list(statistics["selections_by_reason"]) == [
        "memory_pressure",
        "exploration",
        "feedback_optimization",
        "activation_pattern_skewed",
        "heuristic",
        "fallback_availability",
        "fallback_workspace",
        "fallback_legality",
    ]


def test_selections_and_records_count_apart():
    selector = MixedKernelSelector(exploration_rate=0)
    for pressure in (0.0, 0.5, 0.95):
        selector.select_kernel(8, [4], pressure)
    selector.record_timing(PREFILL4, 8, 1.0, "heuristic")
    selector.record_timing(PREFILL4, 16, 3.0, selected_by="heuristic")
    selector.record_timing(PREFILL4, 17, 5.0)
    selector.record_kernel_latency(BASE, 1, 0.0, None)
    statistics = selector.get_statistics()
    assert statistics["total_selections"] == 3
    assert statistics["selections_by_reason"]["heuristic"] == 2
    assert statistics["selections_by_reason"]["memory_pressure"] == 1
    assert statistics["total_records"] == 4
    assert statistics["records_by_selector"] == {"heuristic": 2, "unknown": 2}
    assert statistics["tracked_kernels"] == 2
    kernels = statistics["kernels"]
    assert set(kernels) == {BASE, PREFILL4}
    assert set(kernels[PREFILL4]) == {"prefill4", "base"}
    figures = kernels[PREFILL4]["prefill4"]
    assert figures == {"n": 2, "mean_ms": 2.0, "ema_ms": 1.2, "p50_ms": 2.0, "p95_ms": 2.9}
    assert kernels[BASE]["decode"]["mean_ms"] == 0


@pytest.mark.parametrize("history_len", [1, 3, 100])
def test_the_latest_latencies_count(history_len):
    selector = MixedKernelSelector(history_len=history_len)
    latencies = [float(latency) for latency in range(1, 8)]
    for latency in latencies:
        selector.record_timing(BASE, 20, latency)
    kept = latencies[-history_len:]
    figures = selector.get_statistics()["kernels"][BASE]["base"]
    assert figures["n"] == len(kept)
    assert figures["mean_ms"] == pytest.approx(sum(kept) / len(kept))
    assert figures["p50_ms"] == pytest.approx(numpy.quantile(kept, 0.5))
    assert figures["p95_ms"] == pytest.approx(numpy.quantile(kept, 0.95))
    ema = latencies[0]
    for latency in latencies[1:]:
        ema += 0.1 * (latency - ema)
    assert figures["ema_ms"] == pytest.approx(ema)


def test_accuracy_is_the_share_of_tests_that_the_rules_choice_stood():
    selector = MixedKernelSelector(exploration_rate=1, seed=1)
    times = {PREFILL4: 1.0}
    selector.select_kernel(8, [4], benchmark_kernel=lambda name: times.get(name, 2.0))
    assert selector.get_statistics()["selection_accuracy"] == 1.0
    times[PREFILL4] = 3.0
    for _ in range(3):
        selector.select_kernel(8, [4], benchmark_kernel=lambda name: times.get(name, 2.0))
    statistics = selector.get_statistics()
    assert statistics["ab_tests_run"] == 4
    assert statistics["selection_accuracy"] == statistics["correct_selections"] / 4


def test_reset_forgets_the_past_and_keeps_the_configuration():
    selector = MixedKernelSelector(7, 0.0, 1, 0.5)
    selector.set_exploration_rate(0.125)
    selector.select_kernel(8, [4])
    selector.record_timing(BASE, 8, 1.0, "me")
    selector.reset_history()
    assert selector.get_statistics() == MixedKernelSelector().get_statistics()
    configuration = (selector.history_len, selector.exploration_rate, selector.seed)
    assert configuration == (7, 0.125, 1)
    assert selector.memory_pressure_threshold == 0.5


def test_statistics_are_plain_data():
    selector = MixedKernelSelector(seed=1)
    for latency in (0.0, 1e-300, 1e300, 2, numpy.float32(0.5)):
        selector.select_kernel(8, [4])
        selector.record_timing(BASE, 8, latency)
    statistics = selector.get_statistics()
    assert pickle.loads(pickle.dumps(statistics)) == statistics
    assert json.loads(json.dumps(statistics, allow_nan=False)) == statistics
    statistics["kernels"].clear()
    figures = selector.get_statistics()["kernels"][BASE]["prefill4"]
    assert all(math.isfinite(figure) for figure in figures.values())


def test_a_selector_itself_is_no_data():
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(MixedKernelSelector())

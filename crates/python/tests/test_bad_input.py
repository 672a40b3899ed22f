"""Bad input: the argument, what was found and what was expected; and nothing counted."""

import re

import numpy
import pytest

import trellect
from trellect import MixedKernelSelector

BASE = "moe_trellis_swiglu"
NAN, INFINITY = float("nan"), float("inf")
ONE_OR_MORE = "expected an int, 1 or more"
SHARE = "expected a finite number from 0 to 1"
LATENCY = "expected a finite number, 0 or more"
WIDTH = "expected a width, an int from 1 to 8"

SELECT = {"batch_size": 8, "active_expert_bits": [4]}
RECORD = {"kernel_name": BASE, "batch_size": 8, "latency_ms": 1.0}


class Liar:
    """Says that it is an int, a number and a text, and is none of them."""

    def __index__(self):
        raise RuntimeError("no int")

    def __float__(self):
        raise RuntimeError("no number")

    def __repr__(self):
        raise RuntimeError("no text")


SELECTIONS = [
    ({"batch_size": 0}, ValueError, f"batch_size is 0: {ONE_OR_MORE}"),
    ({"batch_size": -3}, ValueError, f"batch_size is -3: {ONE_OR_MORE}"),
    ({"batch_size": 10**30}, ValueError, f"batch_size is {10**30}: {ONE_OR_MORE}"),
    ({"batch_size": 1.0}, TypeError, f"batch_size is 1.0, of type float: {ONE_OR_MORE}"),
    ({"batch_size": "8"}, TypeError, f"batch_size is '8', of type str: {ONE_OR_MORE}"),
    ({"batch_size": True}, TypeError, f"batch_size is True, of type bool: {ONE_OR_MORE}"),
    ({"batch_size": None}, TypeError, f"batch_size is None, of type NoneType: {ONE_OR_MORE}"),
    ({"batch_size": Liar()}, TypeError, f"batch_size is ?, of type Liar: {ONE_OR_MORE}"),
    ({"batch_size": "x" * 99}, TypeError, f"batch_size is '{'x' * 79}..., of type str"),
    ({"active_expert_bits": [4, 9]}, ValueError, f"active_expert_bits[1] is 9: {WIDTH}"),
    ({"active_expert_bits": [0]}, ValueError, f"active_expert_bits[0] is 0: {WIDTH}"),
    ({"active_expert_bits": (4, -2)}, ValueError, f"active_expert_bits[1] is -2: {WIDTH}"),
    ({"active_expert_bits": [2**70]}, ValueError, f"active_expert_bits[0] is {2**70}: {WIDTH}"),
    ({"active_expert_bits": [4, 2.5]}, TypeError, "active_expert_bits[1] is 2.5, of type float"),
    ({"active_expert_bits": {True}}, TypeError, "active_expert_bits[0] is True, of type bool"),
    ({"active_expert_bits": [[4]]}, TypeError, "active_expert_bits[0] is [4], of type list"),
    ({"active_expert_bits": "44"}, TypeError, "active_expert_bits is '44', of type str: expected an"),
    ({"active_expert_bits": 4}, TypeError, "active_expert_bits is 4, of type int: expected an iter"),
    ({"active_expert_bits": None}, TypeError, "active_expert_bits is None, of type NoneType"),
    ({"active_expert_bits": numpy.array(4)}, TypeError, "active_expert_bits is array(4), of type"),
    ({"active_expert_bits": numpy.array([[4]])}, TypeError, "active_expert_bits[0] is [4], of type"),
    ({"active_expert_bits": numpy.array([4.0])}, TypeError, "active_expert_bits[0] is 4.0, of type"),
    ({"gpu_memory_pressure": NAN}, ValueError, f"gpu_memory_pressure is nan: {SHARE}"),
    ({"gpu_memory_pressure": INFINITY}, ValueError, f"gpu_memory_pressure is inf: {SHARE}"),
    ({"gpu_memory_pressure": 1.01}, ValueError, f"gpu_memory_pressure is 1.01: {SHARE}"),
    ({"gpu_memory_pressure": -0.1}, ValueError, f"gpu_memory_pressure is -0.1: {SHARE}"),
    ({"gpu_memory_pressure": "0.5"}, TypeError, "gpu_memory_pressure is '0.5', of type str: expe"),
    ({"gpu_memory_pressure": Liar()}, TypeError, "gpu_memory_pressure is ?, of type Liar: expected"),
    ({"gate_bits": 6}, ValueError, "up_bits and down_bits is None: expected gate_bits, up_bits and"),
    ({"gate_bits": 6, "up_bits": 2}, ValueError, "down_bits is None: expected gate_bits, up_bits"),
    ({"gate_bits": 6, "up_bits": 2, "down_bits": 9}, ValueError, f"down_bits is 9: {WIDTH}"),
    ({"gate_bits": 6, "up_bits": "2", "down_bits": 3}, TypeError, "up_bits is '2', of type str"),
    ({"use_fp32_acc": "yes"}, TypeError, "use_fp32_acc is 'yes', of type str: expected a bool"),
    ({"use_fp32_acc": 1}, TypeError, "use_fp32_acc is 1, of type int: expected a bool"),
    ({"available_kernels": []}, ValueError, "available_kernels is []: expected at least one kernel"),
    ({"available_kernels": BASE}, TypeError, f"available_kernels is '{BASE}', of type str: expected"),
    ({"available_kernels": 3}, TypeError, "available_kernels is 3, of type int: expected an iterable"),
    ({"available_kernels": [3]}, TypeError, "available_kernels is 3, of type int: expected a kernel's"),
    ({"available_kernels": ["base"]}, ValueError, "available_kernels: `base` is no kernel name: expe"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), SELECTIONS)
def test_selecting(wrong, error, message):
    selector = MixedKernelSelector()
    with pytest.raises(error, match=re.escape(message)):
        selector.select_kernel(**(SELECT | wrong))
    with pytest.raises(error, match=re.escape(message)):
        trellect.get_mixed_kernel(**(SELECT | wrong))
    with pytest.raises(error, match=re.escape(message)):
        selector.explain(**(SELECT | wrong))
    assert selector.get_statistics()["total_selections"] == 0


PATTERNS = [
    (3, TypeError, "expert_activation_pattern is 3, of type int: expected a mapping with the key"),
    ({}, ValueError, "expert_activation_pattern is {}: expected a mapping with the key"),
    ({"top_expert_share": 2}, ValueError, f"top_expert_share is 2: {SHARE}"),
    ({"top_expert_share": NAN}, ValueError, f"top_expert_share is nan: {SHARE}"),
    ({"top_expert_share": "1"}, TypeError, "top_expert_share is '1', of type str: expected a number"),
]


@pytest.mark.parametrize(("pattern", "error", "message"), PATTERNS)
def test_patterns(pattern, error, message):
    with pytest.raises(error, match=re.escape(message)):
        MixedKernelSelector().select_kernel(**SELECT, expert_activation_pattern=pattern)


RECORDS = [
    ({"kernel_name": "fast"}, ValueError, "kernel_name: `fast` is no kernel name: expected moe_"),
    ({"kernel_name": f"{BASE}_decode_6_2_9"}, ValueError, "is no kernel name: expected moe_trellis"),
    ({"kernel_name": 3}, TypeError, "kernel_name is 3, of type int: expected a kernel's name"),
    ({"kernel_name": "\ud800"}, ValueError, "surrogates not allowed"),
    ({"batch_size": 0}, ValueError, f"batch_size is 0: {ONE_OR_MORE}"),
    ({"batch_size": -1}, ValueError, f"batch_size is -1: {ONE_OR_MORE}"),
    ({"batch_size": 2.0}, TypeError, f"batch_size is 2.0, of type float: {ONE_OR_MORE}"),
    ({"latency_ms": NAN}, ValueError, f"latency_ms is NaN: {LATENCY}"),
    ({"latency_ms": -1}, ValueError, f"latency_ms is -1: {LATENCY}"),
    ({"latency_ms": -INFINITY}, ValueError, f"latency_ms is -inf: {LATENCY}"),
    ({"latency_ms": INFINITY}, ValueError, f"latency_ms is inf: {LATENCY}"),
    ({"latency_ms": None}, TypeError, "latency_ms is None, of type NoneType: expected a number"),
    ({"latency_ms": True}, TypeError, "latency_ms is True, of type bool: expected a number"),
    ({"selected_by": 3}, TypeError, "selected_by is 3, of type int: expected a str"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), RECORDS)
def test_recording(wrong, error, message):
    selector = MixedKernelSelector()
    for record in (selector.record_timing, selector.record_kernel_latency, trellect.record_kernel_latency):
        with pytest.raises(error, match=re.escape(message)):
            record(**(RECORD | wrong))
    assert selector.get_statistics()["total_records"] == 0


CONFIGURATIONS = [
    ({"history_len": 0}, ValueError, f"history_len is 0: {ONE_OR_MORE}"),
    ({"history_len": -1}, ValueError, f"history_len is -1: {ONE_OR_MORE}"),
    ({"history_len": 1.5}, TypeError, f"history_len is 1.5, of type float: {ONE_OR_MORE}"),
    ({"exploration_rate": NAN}, ValueError, f"exploration_rate is nan: {SHARE}"),
    ({"exploration_rate": 1.5}, ValueError, f"exploration_rate is 1.5: {SHARE}"),
    ({"exploration_rate": -0.1}, ValueError, f"exploration_rate is -0.1: {SHARE}"),
    ({"exploration_rate": "5 %"}, TypeError, "exploration_rate is '5 %', of type str: expected a n"),
    ({"seed": -1}, ValueError, "seed is -1: expected an int from 0 to 2**64 - 1, or None"),
    ({"seed": 2**64}, ValueError, f"seed is {2**64}: expected an int from 0 to 2**64 - 1, or None"),
    ({"seed": 0.5}, TypeError, "seed is 0.5, of type float: expected an int from 0"),
    ({"memory_pressure_threshold": 2}, ValueError, f"memory_pressure_threshold is 2: {SHARE}"),
    ({"memory_pressure_threshold": NAN}, ValueError, f"memory_pressure_threshold is nan: {SHARE}"),
    ({"policy": "best"}, ValueError, "policy is 'best': expected rules"),
    ({"policy": 1}, TypeError, "policy is 1, of type int: expected a str"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), CONFIGURATIONS)
def test_configuring(wrong, error, message):
    with pytest.raises(error, match=re.escape(message)):
        MixedKernelSelector(**wrong)


@pytest.mark.parametrize(("rate", "error"), [(NAN, ValueError), (2, ValueError), ("0", TypeError), (None, TypeError)])
def test_a_bad_rate_leaves_the_old_one(rate, error):
    selector = MixedKernelSelector(exploration_rate=0.25)
    with pytest.raises(error, match="rate is "):
        selector.set_exploration_rate(rate)
    assert selector.exploration_rate == 0.25


def test_missing_and_unknown_arguments():
    selector = MixedKernelSelector()
    for call in (
        lambda: selector.select_kernel(8),
        lambda: selector.select_kernel(8, [4], batch=3),
        lambda: selector.record_timing(BASE, 8),
        lambda: trellect.get_mixed_kernel(8, [4], 0.0, 6, 2, 3, False, None, None),
        lambda: MixedKernelSelector(window=3),
    ):
        with pytest.raises(TypeError):
            call()

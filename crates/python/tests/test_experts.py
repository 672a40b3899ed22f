"""What is said of a call from its expert ids."""

import re

import numpy
import pytest

from trellect import analyze_expert_activation_pattern, get_expert_bits

WIDTHS = {0: (6, 2, 3), 1: (6, 3, 4), 5: [8, 4, 4], 7: numpy.array([1, 1, 2])}


@pytest.mark.parametrize(
    "ids",
    [
        [[5, 0], [0, 5]],
        [5, 0, 0],
        ((5,), (0,)),
        numpy.array([[5, 0], [0, 5]]),
        numpy.array([5, 0], dtype=numpy.uint8),
        [numpy.array([5]), numpy.int64(0), numpy.array(0)],
        iter([5, 0]),
    ],
    ids=lambda ids: type(ids).__name__,
)
def test_every_active_expert_counts_once_in_order(ids):
    assert get_expert_bits(ids, WIDTHS) == [2, 4]


def test_tensors():
    torch = pytest.importorskip("torch")
    ids = torch.tensor([[5, 0], [7, 0]])
    assert get_expert_bits(ids, WIDTHS) == [2, 4, 1]
    assert get_expert_bits([torch.tensor(5), torch.tensor([0, 7])], WIDTHS) == [2, 4, 1]
    assert analyze_expert_activation_pattern(ids, 8)["num_activated_experts"] == 3


def test_no_experts():
    assert get_expert_bits([], WIDTHS) == []
    pattern = analyze_expert_activation_pattern(numpy.zeros((0, 4), dtype=int), 8)
    assert set(pattern.values()) == {0}


def test_a_pattern():
    assert analyze_expert_activation_pattern([[0, 1], [0, 2], [0, 3]], 8) == {
        "num_activated_experts": 4,
        "activation_rate": 0.5,
        "expert_utilization": 0.5,
        "tokens_per_expert_avg": 1.5,
        "max_tokens_per_expert": 3,
        "top_expert_share": 0.5,
        "entropy_bits": pytest.approx(0.5 * 1 + 3 / 6 * numpy.log2(6)),
    }


NESTED = [3]
NESTED[0] = NESTED

BAD_IDS = [
    ([-1], ValueError, "an item of expert_ids is -1: expected expert ids, ints from 0 on"),
    ([2**31], ValueError, f"an item of expert_ids is {2**31}: expected expert ids"),
    ([[0], [0.0]], TypeError, "an item of expert_ids is 0.0, of type float: expected"),
    ([True], TypeError, "an item of expert_ids is True, of type bool: expected"),
    (["0"], TypeError, "expert_ids is '0', of type str: expected"),
    (3, TypeError, "expert_ids is 3, of type int: expected"),
    (None, TypeError, "expert_ids is None, of type NoneType: expected"),
    (numpy.array(3), TypeError, "expert_ids is 3, of type int: expected"),
    (NESTED, TypeError, "expert_ids is [[...]], of type list: expected"),
]


@pytest.mark.parametrize(("ids", "error", "message"), BAD_IDS)
def test_bad_ids(ids, error, message):
    with pytest.raises(error, match=re.escape(message)):
        get_expert_bits(ids, WIDTHS)
    with pytest.raises(error, match=re.escape(message)):
        analyze_expert_activation_pattern(ids, 64)


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({1: (6, 2, 3)}, ValueError, "expert_ids has 0: expected experts that expert_bit_metadata has"),
        ([], ValueError, "expert_ids has 0: expected experts that expert_bit_metadata has"),
        ({0: (6, 2)}, TypeError, "expert_bit_metadata[0] is (6, 2), of type tuple: expected the widths"),
        ({0: 4}, TypeError, "expert_bit_metadata[0] is 4, of type int: expected the widths of gate"),
        ({0: (6, 9, 3)}, ValueError, "expert_bit_metadata[0] is 9: expected a width, an int from 1 to"),
        ({0: (0, 2, 3)}, ValueError, "expert_bit_metadata[0] is 0: expected a width, an int from 1 to"),
        ({0: (6, 2, "3")}, TypeError, "expert_bit_metadata[0] is '3', of type str: expected a width"),
    ],
)
def test_bad_metadata(metadata, error, message):
    with pytest.raises(error, match=re.escape(message)):
        get_expert_bits([0], metadata)


@pytest.mark.parametrize(
    ("num_experts", "error", "message"),
    [
        (0, ValueError, "num_experts is 0: expected an int, 1 or more"),
        (4, ValueError, "expert_ids has 5: expected 0 to 3, as num_experts says"),
        (10**12, ValueError, f"num_experts is {10**12}: expected at most 1048576"),
        (8.0, TypeError, "num_experts is 8.0, of type float: expected an int, 1 or more"),
    ],
)
def test_bad_numbers_of_experts(num_experts, error, message):
    with pytest.raises(error, match=re.escape(message)):
        analyze_expert_activation_pattern([5], num_experts)

"""What holds of every selection, whatever is asked for."""

import re

from hypothesis import given
from hypothesis import strategies as st

from trellect import MixedKernelSelector, get_available_kernels

NAMES = sorted(get_available_kernels())
WIDTHS = st.integers(1, 8)


def can_compute(name, batch_size, tuple_):
    """Legality as the kernel's name tells it."""
    only = re.search(r"_(\d)_(\d)_(\d)$", name)
    if only and tuple(map(int, only.groups())) != tuple_:
        return False
    return batch_size == 1 or "_decode" not in name


@given(
    batch_size=st.one_of(st.integers(1, 40), st.integers(1, 2**40)),
    bits=st.lists(WIDTHS, max_size=9),
    pressure=st.floats(0, 1),
    tuple_=st.one_of(
        st.none(), st.tuples(WIDTHS, WIDTHS, WIDTHS), st.sampled_from([(6, 2, 3), (6, 3, 4), (6, 2, 4)])
    ),
    use_fp32_acc=st.booleans(),
    available=st.one_of(st.none(), st.sets(st.sampled_from(NAMES), min_size=1)),
    rate=st.sampled_from([0, 0.5, 1]),
    records=st.lists(
        st.tuples(st.sampled_from(NAMES), st.integers(1, 40), st.floats(0, 10)), max_size=40
    ),
    seed=st.integers(0, 2**64 - 1),
)
def test_only_legal_and_listed_kernels_are_chosen(
    batch_size, bits, pressure, tuple_, use_fp32_acc, available, rate, records, seed
):
    selector = MixedKernelSelector(exploration_rate=rate, seed=seed)
    for record in records:
        selector.record_timing(*record)
    call = (batch_size, bits, pressure, *(tuple_ or (None,) * 3), use_fp32_acc, available)
    listed = set(NAMES) if available is None else available
    legal = {name for name in listed if can_compute(name, batch_size, tuple_)}
    if not legal:
        try:
            selector.select_kernel(*call)
        except ValueError as error:
            assert str(error).startswith("no kernel can serve this call: ")
            assert selector.get_statistics()["total_selections"] == 0
            return
        raise AssertionError("an illegal kernel was chosen")

    name, metadata = selector.select_kernel(*call)
    assert name == metadata["kernel_name"]
    assert name in legal and metadata["baseline_kernel"] in legal
    exact = name.endswith("_fp32acc")
    assert metadata["numeric"] == ("exact" if exact else "half")
    assert metadata["numeric_downgrade"] == (use_fp32_acc and not exact)
    if metadata["numeric_downgrade"]:
        assert not any(other.endswith("_fp32acc") for other in legal)
    assert metadata["explored"] == (metadata["reason"] == "exploration")
    assert not metadata["explored"] or (rate > 0 and pressure <= 0.9)
    assert (metadata["message"] is None) == (metadata["fallback_from"] is None)
    assert (metadata["reason"] == "memory_pressure") <= (pressure > 0.9)
    if pressure > 0.9 and {"moe_trellis_swiglu", "moe_trellis_swiglu_fp32acc"} <= listed:
        assert name == ("moe_trellis_swiglu_fp32acc" if use_fp32_acc else "moe_trellis_swiglu")

    # An explanation is the same decision where nothing is explored.
    selector.set_exploration_rate(0)
    name, metadata = selector.select_kernel(*call)
    explanation = selector.explain(*call)
    assert {key: explanation[key] for key in metadata} == metadata
    legal_there = {kernel["kernel_name"] for kernel in explanation["considered"] if kernel["legal"]}
    assert name in legal_there | {name} and legal_there <= legal

"""Dispatching by the rules, with metadata."""

import pytest
from dense import call, relative_error

import trellect
from trellect import MixedBpwMoEDispatcher

KEYS = {
    "kernel_name",
    "latency_ms",
    "batch_size",
    "active_bits",
    "memory_pressure",
    "pattern_metrics",
    "selection_metadata",
}


def dispatch(dispatcher, num_tokens):
    hidden, ids, weights = call(num_tokens)
    output, metadata = dispatcher.dispatch(activations=hidden, expert_ids=ids, expert_probs=weights)
    return output, metadata, (hidden, ids, weights)


def test_the_example_is_the_dispatcher():
    assert trellect.MixedBpwMoEDispatcherExample is MixedBpwMoEDispatcher


@pytest.mark.parametrize("use_fp32_acc", [False, True])
@pytest.mark.parametrize(
    ("num_tokens", "family"),
    [(1, "decode"), (4, "prefill4"), (20, "swiglu"), (40, "large_batch")],
)
def test_a_call_and_its_metadata(layer, dense, num_tokens, family, use_fp32_acc):
    metadata = dict(enumerate(layer.bit_tuples))
    dispatcher = MixedBpwMoEDispatcher(
        lib=layer,
        expert_bit_metadata=metadata,
        use_fp32_acc=use_fp32_acc,
        enable_ab_testing=False,
    )
    output, metadata, arguments = dispatch(dispatcher, num_tokens)
    bound = 1e-5 if use_fp32_acc else 2e-3
    assert relative_error(output, dense.forward(*arguments)) <= bound
    assert set(metadata) == KEYS
    assert metadata["batch_size"] == num_tokens and metadata["latency_ms"] > 0
    assert set(metadata["active_bits"]) <= {2, 3, 4, 6}
    assert 0 <= metadata["memory_pressure"] <= 1
    assert metadata["pattern_metrics"]["num_activated_experts"] >= 1
    if use_fp32_acc:
        assert "_fp32acc" in metadata["kernel_name"]
    else:
        assert family in metadata["kernel_name"]
    selection = metadata["selection_metadata"]
    assert selection["kernel_name"] == metadata["kernel_name"]
    assert selection["reason"] in ("heuristic", "fallback_legality", "memory_pressure")


def test_ab_testing_tries_other_kernels(layer):
    def kernels(**options):
        dispatcher = MixedBpwMoEDispatcher(lib=layer, **options)
        return {dispatch(dispatcher, 4)[1]["selection_metadata"]["reason"] for _ in range(5)}

    assert kernels(exploration_rate=1.0) == {"exploration"}
    assert "exploration" not in kernels(exploration_rate=1.0, enable_ab_testing=False)
    assert "exploration" not in kernels(exploration_rate=0.0)


def test_the_layers_own_way_of_choosing_is_left_alone(layer):
    hidden, ids, weights = call(4)
    layer.forward(hidden, ids, weights)
    before = layer.last_report
    dispatch(MixedBpwMoEDispatcher(lib=layer), 2)
    assert str(layer.last_report) == str(before)


def test_what_does_not_fit_is_named(layer, checkpoint):
    with pytest.raises(TypeError, match="lib is a Checkpoint: expected a MoeLayer"):
        MixedBpwMoEDispatcher(lib=checkpoint)
    wrong = dict(enumerate(layer.bit_tuples)) | {3: (1, 1, 1)}
    with pytest.raises(ValueError, match=r"expert_bit_metadata\[3\] is \(1, 1, 1\): expected \(6, "):
        MixedBpwMoEDispatcher(lib=layer, expert_bit_metadata=wrong)
    with pytest.raises(ValueError, match=r"expert_bit_metadata\[8\]: expected experts 0 to 7"):
        MixedBpwMoEDispatcher(lib=layer, expert_bit_metadata={8: (1, 1, 1)})
    for rate in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="exploration_rate"):
            MixedBpwMoEDispatcher(lib=layer, exploration_rate=rate)

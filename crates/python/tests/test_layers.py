"""Layers on numpy arrays: results, memory, threads and processes."""

import gc
import os
import sys
import threading
import time
import warnings

import numpy
import pytest
from dense import EXPERTS, HIDDEN, INTERMEDIATE, call, relative_error

import trellect
from trellect import Checkpoint, synth

# What a result may be off: its class's bound, and half a unit in the last place of its type.
BOUND = {"half": 2e-3, "exact": 1e-5, "int8": 1.5e-2}
ROUNDING = {numpy.float32: 0.0, numpy.float16: 2.0**-11}


def test_a_checkpoint_tells_what_it_holds(path, checkpoint):
    assert checkpoint.path == path
    assert checkpoint.moe_layers() == [0, 3]
    info = checkpoint.layer_info(3)
    assert (info.number, info.prefix) == (3, "model.layers.3.mlp")
    assert (info.hidden_size, info.intermediate_size, info.num_experts) == (
        HIDDEN,
        INTERMEDIATE,
        EXPERTS,
    )
    assert sorted(set(info.bit_tuples)) == [(6, 2, 3), (6, 2, 4), (6, 3, 4)]
    bits = sum(sum(widths) for widths in info.bit_tuples)
    assert info.trellis_bytes == HIDDEN * INTERMEDIATE * bits // 8


def test_a_layer_tells_what_it_is(layer, checkpoint):
    assert (layer.number, layer.device, layer.numeric) == (0, "cpu", "half")
    assert (layer.hidden_size, layer.intermediate_size, layer.num_experts) == (
        HIDDEN,
        INTERMEDIATE,
        EXPERTS,
    )
    assert layer.bit_tuples == checkpoint.layer_info(0).bit_tuples
    assert layer.prepared_bytes >= checkpoint.layer_info(0).trellis_bytes
    assert trellect.get_available_kernels(layer) == set(layer.kernels())
    assert repr(layer) == "<MoeLayer 0: hidden 256, intermediate 128, 8 experts, on cpu>"


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("num_tokens", [1, 2, 5, 33])
def test_the_result_is_the_dense_layers(layer, dense, num_tokens, dtype):
    arguments = call(num_tokens, dtype=dtype, top_k=3)
    output = layer.forward(*arguments)
    assert type(output) is numpy.ndarray and output.dtype == dtype
    assert relative_error(output, dense.forward(*arguments)) <= BOUND["half"] + ROUNDING[dtype]
    report = layer.last_report
    assert report.num_tokens == num_tokens and report.kernel_name in layer.kernels()
    assert report.latency_ms > 0 and 0 <= report.memory_pressure <= 1
    assert report.active_bits == sorted({*report.active_bits} & {2, 3, 4, 6})
    assert report.active_bytes > 0
    assert report.pattern_metrics["tokens_per_expert_avg"] > 0
    assert report.reason in str(report) and report.kernel_name in str(report)


@pytest.mark.parametrize("numeric", BOUND)
def test_a_layer_keeps_to_its_numeric_class(checkpoint, dense, numeric):
    layer = checkpoint.layer(0, numeric=numeric)
    assert layer.numeric == numeric
    arguments = call(17)
    error = relative_error(layer.forward(*arguments), dense.forward(*arguments))
    assert error <= BOUND[numeric]


def test_a_named_kernel_serves_and_no_other(layer, dense):
    arguments, served = call(1), 0
    for name in layer.kernels():
        try:
            output = layer.forward(*arguments, kernel=name)
        except ValueError as error:
            # A kernel for one tuple, or for more tokens.
            assert name in str(error) and "computes" in str(error)
            continue
        served += 1
        assert (layer.last_report.kernel_name, layer.last_report.reason) == (name, "requested")
        assert relative_error(output, dense.forward(*arguments)) <= BOUND["int8"]
    assert served >= 4


def test_no_token_has_no_result_and_needs_no_kernel(layer):
    output = layer.forward(*call(0))
    assert output.shape == (0, HIDDEN)
    report = layer.last_report
    assert (report.kernel_name, report.reason, report.latency_ms) == (None, "no_tokens", None)


def test_other_types_of_ids_and_weights(layer):
    hidden, ids, weights = call(4)
    expected = layer.forward(hidden, ids, weights, kernel="moe_trellis_swiglu")
    same = layer.forward(hidden, ids.astype(numpy.int32), weights, kernel="moe_trellis_swiglu")
    assert numpy.array_equal(same, expected)
    narrow = layer.forward(hidden, ids, weights.astype(numpy.float16), kernel="moe_trellis_swiglu")
    assert relative_error(narrow, expected) < 1e-3


def test_memory_that_is_not_row_major_is_copied(layer):
    hidden, ids, weights = call(6)
    base = "moe_trellis_swiglu"
    expected = layer.forward(hidden, ids, weights, kernel=base)
    wide = numpy.repeat(hidden, 2, axis=1)
    columns = numpy.asfortranarray
    output = layer.forward(wide[:, ::2], columns(ids), columns(weights), kernel=base)
    assert output.flags["C_CONTIGUOUS"] and numpy.array_equal(output, expected)
    assert numpy.array_equal(
        layer.forward(hidden[::-1], ids[::-1], weights[::-1], kernel=base), expected[::-1]
    )


def test_arguments_may_be_read_only(layer):
    arguments = call(2)
    expected = layer.forward(*arguments, kernel="moe_trellis_swiglu")
    for argument in arguments:
        argument.flags.writeable = False
    assert numpy.array_equal(layer.forward(*arguments, kernel="moe_trellis_swiglu"), expected)


@pytest.mark.parametrize("dtype", ROUNDING)
def test_out_is_filled_in_place(layer, dtype):
    arguments = call(3, dtype=dtype)
    expected = layer.forward(*arguments, kernel="moe_trellis_swiglu")
    out = numpy.full((5, HIDDEN), 7, dtype)
    assert layer.forward(*arguments, kernel="moe_trellis_swiglu", out=out[1:4]).base is out
    assert numpy.array_equal(out[1:4], expected)
    assert (out[[0, 4]] == 7).all()


def test_nan_reaches_its_token_only(layer):
    hidden, ids, weights = call(3)
    hidden[1, 5] = numpy.nan
    output = layer.forward(hidden, ids, weights)
    assert numpy.isfinite(output).all(axis=1).tolist() == [True, False, True]


def read_only(array):
    array.flags.writeable = False
    return array


HIDDEN_STATES, IDS, WEIGHTS = call(4)
REFUSED = {
    "a list": (dict(hidden=[[1.0]]), TypeError, "hidden is a list: expected a torch.Tensor or"),
    "float64": (
        dict(hidden=HIDDEN_STATES.astype(numpy.float64)),
        TypeError,
        "hidden is float64: expected float16, bfloat16 or float32",
    ),
    "no float": (dict(hidden=IDS), TypeError, "hidden is int64: expected float16"),
    "rank": (
        dict(hidden=HIDDEN_STATES[0]),
        ValueError,
        r"hidden has the shape \[256\]: expected \[num_tokens, 256\]",
    ),
    "width": (dict(hidden=HIDDEN_STATES[:, 1:]), ValueError, r"\[4, 255\]: expected \[num_tok"),
    "other byte order": (dict(hidden=HIDDEN_STATES.astype(">f4")), TypeError, "hidden cannot be"),
    "ids of floats": (dict(topk_ids=WEIGHTS), TypeError, "topk_ids is float32: expected int32 or"),
    "ids of another batch": (
        dict(topk_ids=IDS[:3]),
        ValueError,
        r"topk_ids has the shape \[3, 2\]: expected \[4, top_k\]",
    ),
    "flat ids": (dict(topk_ids=IDS.ravel()), ValueError, r"topk_ids has the shape \[8\]"),
    "an id too high": (
        dict(topk_ids=numpy.where(IDS == IDS[2, 1], 8, IDS)),
        ValueError,
        "topk_ids: token . slot .: expert 8 does not exist, expected 0 to 7".replace(". slot", "., slot"),
    ),
    "a negative id": (dict(topk_ids=-1 - IDS), ValueError, "topk_ids: token 0, slot 0: expert -"),
    "an id beyond 32 bits": (dict(topk_ids=IDS + 2**32), ValueError, "topk_ids: .*expert 42949"),
    "too many experts": (
        dict(topk_ids=numpy.repeat(IDS, 5, 1), topk_weights=numpy.repeat(WEIGHTS, 5, 1)),
        ValueError,
        "topk_ids: top_k is 10: expected 1 to the layer's 8",
    ),
    "no expert": (dict(topk_ids=IDS[:, :0], topk_weights=WEIGHTS[:, :0]), ValueError, "top_k is 0"),
    "weights of another shape": (
        dict(topk_weights=WEIGHTS[:, :1]),
        ValueError,
        r"topk_weights has the shape \[4, 1\]: expected \[4, 2\]",
    ),
    "weights of ints": (dict(topk_weights=IDS), TypeError, "topk_weights is int64: expected float"),
    "a weight that is not finite": (
        dict(topk_weights=WEIGHTS * numpy.float32("nan")),
        ValueError,
        "topk_weights: token 0, slot 0: weight is NaN",
    ),
    "no kernel name": (dict(kernel="fastest"), ValueError, "fastest is no kernel name|`fastest`"),
    "an unknown kernel": (
        dict(kernel="moe_trellis_swiglu_decode_1_1_1"),
        ValueError,
        "this layer has no such kernel",
    ),
    "a kernel for one token": (
        dict(kernel="moe_trellis_swiglu_decode"),
        ValueError,
        "4 tokens, computes 0 to 1",
    ),
    "out of another type": (
        dict(out=numpy.empty((4, HIDDEN), numpy.float16)),
        TypeError,
        "out is float16: expected float32, as hidden is",
    ),
    "out of another shape": (
        dict(out=numpy.empty((3, HIDDEN), numpy.float32)),
        ValueError,
        r"out has the shape \[3, 256\]: expected \[4, 256\]",
    ),
    "a read-only out": (
        dict(out=read_only(numpy.empty((4, HIDDEN), numpy.float32))),
        ValueError,
        "out is read-only",
    ),
    "an out with gaps": (
        dict(out=numpy.empty((4, 2 * HIDDEN), numpy.float32)[:, ::2]),
        ValueError,
        "out is not contiguous",
    ),
    "out in place": (dict(out=HIDDEN_STATES), ValueError, "out shares memory with hidden"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_named(layer, case):
    changed, kind, message = REFUSED[case]
    arguments = dict(hidden=HIDDEN_STATES, topk_ids=IDS, topk_weights=WEIGHTS) | changed
    with pytest.raises(kind, match=message):
        layer.forward(**arguments)


def test_what_cannot_be_opened_is_named(tmp_path, checkpoint):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Checkpoint(tmp_path / "nowhere")
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}nonsense")
    with pytest.raises(ValueError, match="model.safetensors"):
        Checkpoint(tmp_path)
    with pytest.raises(ValueError, match="layer 1 has no EXL3 experts; layers with them: 0, 3"):
        checkpoint.layer(1)
    with pytest.raises(ValueError, match="device is \"tpu\": expected cpu, cuda or cuda:N"):
        checkpoint.layer(0, device="tpu")
    with pytest.raises(ValueError, match="numeric: .*`float8`.* expected exact, half or int8"):
        checkpoint.layer(0, numeric="float8")
    with pytest.raises(ValueError, match="expert is 8: expected 0 to 7"):
        synth.dense_expert(checkpoint, 0, 8)


SIZES = dict(hidden_size=128, intermediate_size=128, num_experts=2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(hidden_size=0), "hidden_size is 0"),
        (dict(bits=(2, 9, 2)), "bits: a bit width of 9"),
        (dict(bits=[(2, 2, 2)]), "`tuples` has 1 entries"),
        (dict(bits="all"), "bits is \"all\""),
        (dict(naming="gpt"), "naming is \"gpt\": expected projections or mixtral"),
        (dict(layers=[1, 1]), "layer 1"),
    ],
)
def test_impossible_synthetic_layers_are_refused(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        synth.write_synthetic(tmp_path, **(SIZES | changed))


@pytest.mark.parametrize("bits", ["mixed", (4, 4, 4), [(1, 8, 5), (3, 2, 7)]])
def test_synthetic_widths(tmp_path, bits):
    synth.write_synthetic(tmp_path, **SIZES, bits=bits)
    found = Checkpoint(tmp_path).layer_info(0).bit_tuples
    assert {"mixed": True}.get(str(bits)) or found == (bits if isinstance(bits, list) else [bits] * 2)


def test_a_layer_serves_many_threads(layer, dense):
    arguments = [call(1 + n % 5, seed=n) for n in range(8)]
    expected = [dense.forward(*each) for each in arguments]
    errors = [[] for _ in arguments]

    def work(n):
        for _ in range(20):
            errors[n].append(relative_error(layer.forward(*arguments[n]), expected[n]))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(arguments))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(each) for each in errors] == [20] * 8
    assert max(map(max, errors)) <= BOUND["half"]


def test_other_threads_run_during_a_call(layer):
    arguments, progress = call(2048), []

    def work():
        progress.append("started")
        layer.forward(*arguments)
        progress.append("done")

    interval = sys.getswitchinterval()
    # A thread that keeps the interpreter's lock keeps it for good.
    sys.setswitchinterval(1000)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        seen = set()
        while thread.is_alive():
            seen.add(len(progress))
            time.sleep(0)
        assert 1 in seen
    finally:
        sys.setswitchinterval(interval)
        thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_of_fork_computes(layer, checkpoint, dense):
    arguments = call(3)
    expected = dense.forward(*arguments)
    layer.forward(*arguments)
    with warnings.catch_warnings():
        # The worker threads are not in the child; nothing of it waits for them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        good = False
        try:
            for each in (layer, checkpoint.layer(0)):
                good = relative_error(each.forward(*arguments), expected) <= BOUND["half"]
        finally:
            os._exit(0 if good else 1)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.01)
    assert ended[1] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_prepared_layer_is_in_memory_once(tmp_path):
    synth.write_synthetic(tmp_path, hidden_size=1024, intermediate_size=1024, num_experts=16)

    def mapped():
        with open("/proc/self/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        return int(fields["RssFile"].split()[0]) * 1024

    checkpoint = Checkpoint(tmp_path)
    before = mapped()
    layer = checkpoint.layer(0)
    assert layer.prepared_bytes > 20e6
    assert mapped() - before < layer.prepared_bytes / 10


def test_a_layer_outlives_its_checkpoint(path, dense):
    layer = Checkpoint(path).layer(0)
    gc.collect()
    arguments = call(1)
    assert relative_error(layer.forward(*arguments), dense.forward(*arguments)) <= BOUND["half"]

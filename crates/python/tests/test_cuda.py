"""Layers and models on an NVIDIA GPU. Without one nothing here runs, and the summary says so.

`python crates/python/tests/test_cuda.py` runs this file alone.
"""

import copy
import sys

import pytest
from dense import EXPERTS, HIDDEN, call, relative_error

torch = pytest.importorskip("torch", reason="torch is not installed")

from trellect import MixedBpwMoEDispatcher  # noqa: E402  (after the check above)
from trellect.nn import Experts  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")

ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
HALF, EXACT = 2e-3, 1e-5


def tensors(num_tokens, dtype=torch.float32, **options):
    hidden, ids, weights = (torch.from_numpy(array).cuda() for array in call(num_tokens, **options))
    return hidden.to(dtype), ids, weights


def expected(dense, arguments):
    hidden, ids, weights = (tensor.cpu() for tensor in arguments)
    return dense.forward(hidden.double().numpy(), ids.numpy(), weights.numpy())


@pytest.fixture(scope="module")
def gpu_layer(checkpoint):
    return checkpoint.layer(0, device="cuda")


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("num_tokens", [1, 5, 33, 200])
def test_the_result_is_the_dense_layers(gpu_layer, dense, num_tokens, dtype):
    arguments = tensors(num_tokens, dtype)
    output = gpu_layer.forward(*arguments)
    assert (output.dtype, output.device, output.shape) == (dtype, arguments[0].device, (num_tokens, HIDDEN))
    error = relative_error(output.double().cpu(), expected(dense, arguments))
    assert error <= HALF + ROUNDING[dtype]
    assert gpu_layer.last_report.kernel_name in gpu_layer.kernels()
    assert gpu_layer.device == "cuda:0" and gpu_layer.last_report.num_tokens == num_tokens


def test_the_exact_class(checkpoint, dense):
    arguments = tensors(17)
    layer = checkpoint.layer(0, device="cuda:0", numeric="exact")
    assert relative_error(layer.forward(*arguments).cpu(), expected(dense, arguments)) <= EXACT


@pytest.mark.parametrize("number", [0, 1], ids=["the default stream", "another stream"])
def test_the_work_is_in_order_with_torchs_stream(gpu_layer, dense, number):
    arguments = tensors(64)
    right = expected(dense, arguments)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream() if number else torch.cuda.default_stream()
    with torch.cuda.stream(stream):
        for _ in range(20):
            hidden = torch.full_like(arguments[0], torch.nan)
            # Long enough that a launch which did not wait would read NaN.
            torch.cuda._sleep(1_000_000)
            hidden.copy_(arguments[0])
            output = gpu_layer.forward(hidden, *arguments[1:])
            doubled = output + output
            del hidden, output
    stream.synchronize()
    assert relative_error(doubled.cpu(), 2 * right) <= HALF


def test_out_is_filled_in_place(gpu_layer, dense):
    arguments = tensors(3, torch.float16)
    out = torch.empty_like(arguments[0])
    assert gpu_layer.forward(*arguments, out=out) is out
    assert relative_error(out.double().cpu(), expected(dense, arguments)) <= HALF + 2.0**-11


def test_tensors_elsewhere_are_named(gpu_layer, layer):
    on_gpu, on_host = tensors(2), [tensor.cpu() for tensor in tensors(2)]
    with pytest.raises(ValueError, match="hidden is on cpu: expected cuda:0, where the layer is"):
        gpu_layer.forward(*on_host)
    with pytest.raises(ValueError, match="topk_ids is on cpu: expected cuda:0"):
        gpu_layer.forward(on_gpu[0], on_host[1], on_gpu[2])
    with pytest.raises(ValueError, match="hidden is on cuda:0: expected cpu, where the layer is"):
        layer.forward(*on_gpu)


def test_ids_that_do_not_exist_stay_within_memory(gpu_layer):
    hidden, ids, weights = tensors(4)
    same = [gpu_layer.forward(hidden, far, weights) for far in (ids * 0 + 10**6, ids * 0 + EXPERTS - 1)]
    torch.cuda.synchronize()
    assert torch.equal(*same)


def test_a_graph_is_captured_and_replayed(gpu_layer, dense):
    arguments = tensors(5)
    gpu_layer.forward(*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = gpu_layer.forward(*arguments)
    other = tensors(5, seed=7)
    arguments[0].copy_(other[0])
    graph.replay()
    torch.cuda.synchronize()
    assert relative_error(output.cpu(), expected(dense, arguments)) <= HALF


def test_compiled_it_is_one_node(gpu_layer, dense):
    compiled = torch.compile(Experts(gpu_layer), fullgraph=True, backend="aot_eager")
    arguments = tensors(6)
    with torch.no_grad():
        output = compiled(*arguments)
    assert relative_error(output.cpu(), expected(dense, arguments)) <= HALF


def test_dispatching_by_the_rules(gpu_layer, dense):
    arguments = tensors(8)
    dispatcher = MixedBpwMoEDispatcher(lib=gpu_layer, enable_ab_testing=False)
    output, metadata = dispatcher.dispatch(*arguments)
    assert relative_error(output.cpu(), expected(dense, arguments)) <= HALF
    assert "prefill4" in metadata["kernel_name"] and metadata["batch_size"] == 8


def test_a_model_generates(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    from test_hf import decode_into, make, tokens, write

    from trellect import hf

    write("Qwen3Moe", tmp_path)
    twin, layers = make("Qwen3Moe")
    model = copy.deepcopy(twin).cuda()
    decode_into(twin, layers, tmp_path)
    hf.load_exl3_experts(model, tmp_path)
    assert model.model.layers[0].mlp.experts.exl3.layer.device == "cuda:0"
    ids = tokens(2, 6)
    with torch.no_grad():
        assert relative_error(model(ids.cuda()).logits.cpu(), twin(ids).logits) <= 10 * HALF
    grown = model.generate(ids.cuda(), max_new_tokens=8, do_sample=False)
    assert grown.shape == (2, 14)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-v"]))

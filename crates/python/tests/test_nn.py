"""Layers on torch tensors, and as modules for torch.compile and torch.export."""

import copy
import gc

import numpy
import pytest
from dense import HIDDEN, call, relative_error

torch = pytest.importorskip("torch", reason="torch is not installed")

from trellect.nn import Experts  # noqa: E402  (after the check above)

ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
HALF = 2e-3
BASE = "moe_trellis_swiglu"


def tensors(num_tokens, dtype=torch.float32, **options):
    hidden, ids, weights = (torch.from_numpy(array) for array in call(num_tokens, **options))
    return hidden.to(dtype), ids, weights


def expected(dense, arguments):
    hidden, ids, weights = arguments
    return dense.forward(hidden.detach().double().numpy(), ids.numpy(), weights.detach().numpy())


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("num_tokens", [1, 5, 33])
def test_the_result_is_of_the_callers_type(layer, dense, num_tokens, dtype):
    arguments = tensors(num_tokens, dtype)
    output = layer.forward(*arguments)
    assert (output.dtype, output.device, output.shape) == (dtype, torch.device("cpu"), (num_tokens, HIDDEN))
    error = relative_error(output.double(), expected(dense, arguments))
    assert error <= HALF + ROUNDING[dtype]


def test_torch_and_numpy_get_the_same_bits(layer):
    arguments = call(4)
    from_torch = layer.forward(*tensors(4), kernel=BASE)
    assert numpy.array_equal(from_torch.numpy(), layer.forward(*arguments, kernel=BASE))


def test_tensors_are_read_and_written_where_they_are(layer):
    hidden, ids, weights = tensors(3)
    out = torch.empty_like(hidden)
    first = layer.forward(hidden, ids, weights, kernel=BASE, out=out)
    assert first is out
    # A view into the middle of a larger one, with an offset.
    large = torch.zeros(9, HIDDEN)
    large[4:7] = hidden
    assert torch.equal(layer.forward(large[4:7], ids, weights, kernel=BASE), out)


def test_memory_that_is_not_row_major_is_copied(layer):
    hidden, ids, weights = tensors(6)
    plain = layer.forward(hidden, ids, weights, kernel=BASE)
    columns = hidden.T.contiguous().T
    assert not columns.is_contiguous()
    output = layer.forward(columns, ids.T.contiguous().T, weights, kernel=BASE)
    assert output.is_contiguous() and torch.equal(output, plain)
    one = hidden[:1].T.contiguous().T
    assert torch.equal(layer.forward(one, ids[:1], weights[:1], kernel=BASE), plain[:1])


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda x: x.double(), TypeError, "hidden is float64"),
        (lambda x: x.to("meta"), TypeError, "hidden cannot be read: Cannot pack tensors on meta$"),
        (lambda x: x.to_sparse(), TypeError, "hidden cannot be read"),
        (lambda x: x.requires_grad_(), ValueError, "hidden requires a gradient.*no_grad"),
        (lambda x: x[0], ValueError, r"hidden has the shape \[256\]"),
    ],
)
def test_bad_tensors_are_named(layer, change, kind, message):
    hidden, ids, weights = tensors(2)
    with pytest.raises(kind, match=message):
        layer.forward(change(hidden), ids, weights)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_parameters_are_read_like_any_tensor(layer, dense, mode):
    arguments = tensors(2)
    hidden = torch.nn.Parameter(arguments[0])
    with mode():
        output = Experts(layer)(hidden + 0, *arguments[1:])
        assert torch.equal(
            layer.forward(hidden, *arguments[1:], kernel=BASE),
            layer.forward(*arguments, kernel=BASE),
        )
    assert relative_error(output, expected(dense, arguments)) <= HALF


def test_a_backward_pass_through_a_layer_is_an_error(layer):
    hidden, ids, weights = tensors(2)
    output = Experts(layer)(hidden.requires_grad_(), ids, weights)
    assert output.requires_grad
    with pytest.raises(RuntimeError, match="backward through trellect.moe_forward"):
        output.sum().backward()


def test_the_operation_keeps_the_rules_of_torch(layer):
    experts = Experts(layer)
    for num_tokens in (1, 3):
        arguments = (*tensors(num_tokens, torch.bfloat16), experts.number)
        torch.library.opcheck(torch.ops.trellect.moe_forward.default, arguments)


def test_compiled_it_is_one_opaque_node(layer, dense):
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = Experts(layer)

        def forward(self, hidden, ids, weights):
            return hidden + self.experts(2 * hidden, ids, weights)

    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(Block(), fullgraph=True, dynamic=True, backend=backend)
    with torch.no_grad():
        for num_tokens in (5, 7, 33):
            hidden, ids, weights = tensors(num_tokens)
            output = compiled(hidden, ids, weights)
            right = hidden.numpy() + expected(dense, (2 * hidden, ids, weights))
            assert relative_error(output, right) <= HALF
    assert len(graphs) == 1
    calls = [str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert sum("trellect.moe_forward" in call for call in calls) == 1 and len(calls) == 3


def test_exported_it_is_one_opaque_node(layer, dense):
    tokens = torch.export.Dim("tokens", min=2, max=1024)
    exported = torch.export.export(
        Experts(layer), tensors(4), dynamic_shapes=({0: tokens}, {0: tokens}, {0: tokens})
    )
    targets = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.trellect.moe_forward.default) == 1
    arguments = tensors(9)
    with torch.no_grad():
        output = exported.module()(*arguments)
    assert relative_error(output, expected(dense, arguments)) <= HALF


def test_a_graph_of_a_layer_that_is_gone_says_so(checkpoint):
    number = Experts(checkpoint.layer(0)).number
    gc.collect()
    with pytest.raises(RuntimeError, match=f"layer {number} of this program's graph is gone"):
        torch.ops.trellect.moe_forward(*tensors(1), number)


def test_a_module_cannot_be_copied_by_accident(layer):
    with pytest.raises(TypeError, match="MoeLayer"):
        copy.deepcopy(Experts(layer))

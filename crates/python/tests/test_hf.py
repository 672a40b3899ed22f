"""Models of transformers with EXL3 experts, compared with twins that hold the decoded weights.

The models are small, random and made here; nothing is downloaded.
"""

import contextlib
import copy

import numpy
import pytest
from dense import relative_error

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from trellect import Checkpoint, hf, synth  # noqa: E402  (after the checks above)

HIDDEN, EXPERTS, VOCABULARY = 128, 8, 256
# Of the logits of two layers; each layer's own output may be off by as much.
HALF, EXACT = 2e-3, 1e-5

COMMON = dict(
    hidden_size=HIDDEN,
    num_hidden_layers=3,
    num_attention_heads=4,
    vocab_size=VOCABULARY,
    max_position_embeddings=256,
    num_experts_per_tok=2,
    pad_token_id=0,
    eos_token_id=None,
    bos_token_id=None,
)
GROUPED = dict(num_key_value_heads=2, head_dim=32)
LATENT = dict(
    num_key_value_heads=4,
    q_lora_rank=64,
    kv_lora_rank=32,
    qk_rope_head_dim=16,
    qk_nope_head_dim=16,
    v_head_dim=32,
)
SHARED = dict(
    intermediate_size=256,
    moe_intermediate_size=128,
    n_routed_experts=EXPERTS,
    n_shared_experts=1,
    topk_group=1,
)

# The configuration, the layers with experts, and the experts' intermediate size.
MODELS = {
    "Qwen3Moe": (
        COMMON
        | GROUPED
        | dict(intermediate_size=256, moe_intermediate_size=128, num_experts=EXPERTS),
        [0, 1, 2],
        128,
    ),
    "Glm4Moe": (COMMON | GROUPED | SHARED | dict(n_group=1, first_k_dense_replace=1), [1, 2], 128),
    "Glm4MoeLite": (COMMON | LATENT | SHARED | dict(n_group=1), [1, 2], 128),
    "DeepseekV3": (COMMON | LATENT | SHARED | dict(n_group=2, first_k_dense_replace=1), [1, 2], 128),
    "Mixtral": (COMMON | GROUPED | dict(intermediate_size=256, num_local_experts=EXPERTS), [0, 1, 2], 256),
}


def make(name, **changes):
    """A model of random weights, and the numbers of its layers that have experts."""
    options, layers, _ = MODELS[name]
    config = getattr(transformers, f"{name}Config")(**(options | changes))
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    return model.requires_grad_(False), layers


def write(name, path):
    """Writes a checkpoint for a model."""
    _, layers, inner = MODELS[name]
    naming = "mixtral" if name == "Mixtral" else "projections"
    sizes = dict(hidden_size=HIDDEN, intermediate_size=inner, num_experts=EXPERTS)
    synth.write_synthetic(path, **sizes, layers=layers, naming=naming)


@pytest.fixture(scope="module")
def exl3_path(tmp_path_factory):
    """Where the checkpoint for a model is; made once."""
    made = {}

    def path(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            write(name, made[name])
        return made[name]

    return path


def experts_of(model, layer):
    return model.model.layers[layer].mlp.experts


def decode_into(model, layers, path):
    """Gives a model's dense experts the weights of a checkpoint."""
    checkpoint = Checkpoint(path)
    for layer in layers:
        experts = experts_of(model, layer)
        for expert in range(EXPERTS):
            gate, up, down = synth.dense_expert(checkpoint, layer, expert)
            experts.gate_up_proj[expert] = torch.from_numpy(numpy.concatenate([gate, up]))
            experts.down_proj[expert] = torch.from_numpy(down.copy())


@pytest.fixture(scope="module", params=MODELS)
def pair(request, exl3_path):
    """A model with EXL3 experts, and its dense twin."""
    twin, layers = make(request.param)
    model = copy.deepcopy(twin)
    decode_into(twin, layers, exl3_path(request.param))
    hf.load_exl3_experts(model, exl3_path(request.param))
    return model, twin


def tokens(*shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, VOCABULARY, shape, generator=generator)


def left_padded(lengths):
    """Sequences of different lengths, and which of their tokens are no padding."""
    longest = max(lengths)
    mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths])
    return tokens(len(lengths), longest) * mask, mask


@contextlib.contextmanager
def recorded(model, batch):
    """Records what `model` routes where: by layer, ids and weights of `[batch, tokens, top_k]`."""
    routing, hooks = {}, []

    def record(layer):
        def hook(_module, arguments):
            _, *routed = arguments
            routed = [each.reshape(batch, -1, each.shape[-1]) for each in routed]
            before = routing.get(layer, [each[:, :0] for each in routed])
            routing[layer] = [torch.cat(pair, dim=1) for pair in zip(before, routed)]

        return hook

    for layer, experts in hf._experts_of(model).items():
        hooks.append(experts.register_forward_pre_hook(record(layer)))
    yield routing
    for hook in hooks:
        hook.remove()


@contextlib.contextmanager
def routed(twin, routing):
    """Makes `twin` route like another model, since two nearly equal experts may change places."""
    hooks, agreed = [], []

    def route(layer):
        def hook(_module, arguments):
            hidden, own, _ = arguments
            ids, weights = (each.flatten(0, 1) for each in routing[layer])
            agreed.append((own.sort().values == ids.sort().values).float().mean())
            return hidden, ids, weights

        return hook

    for layer, experts in hf._experts_of(twin).items():
        hooks.append(experts.register_forward_pre_hook(route(layer)))
    yield
    for hook in hooks:
        hook.remove()
    assert min(agreed) > 0.9


@pytest.mark.parametrize("shape", [(1, 1), (33, 1), (1, 33)], ids=str)
def test_the_logits_are_the_twins(pair, shape):
    model, twin = pair
    ids = tokens(*shape)
    with torch.no_grad():
        with recorded(model, shape[0]) as routing:
            found = model(ids).logits
        with routed(twin, routing):
            expected = twin(ids).logits
    assert relative_error(found, expected) <= HALF


def test_the_logits_of_a_left_padded_batch(pair):
    model, twin = pair
    ids, mask = left_padded([7, 3, 1])
    with torch.no_grad():
        with recorded(model, 3) as routing:
            found = model(ids, attention_mask=mask).logits
        with routed(twin, routing):
            expected = twin(ids, attention_mask=mask).logits
    assert relative_error(found[mask.bool()], expected[mask.bool()]) <= HALF


def test_generate_goes_the_twins_way(pair):
    model, twin = pair
    ids, mask = left_padded([6, 4])
    options = dict(attention_mask=mask, do_sample=False, output_logits=True)
    options |= dict(return_dict_in_generate=True, max_new_tokens=12)
    with recorded(model, 2) as routing:
        found = model.generate(ids, **options)
    # The twin, without a cache, is told the tokens, too. The last has not been through the model.
    sequence = found.sequences[:, :-1]
    grown = torch.cat([mask, torch.ones(2, 11, dtype=mask.dtype)], dim=1)
    positions = (grown.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad(), routed(twin, routing):
        expected = twin(sequence, attention_mask=grown, position_ids=positions).logits
    steps = torch.stack(found.logits, dim=1)
    assert steps.shape == (2, 12, VOCABULARY)
    assert relative_error(steps, expected[:, ids.shape[1] - 1 :]) <= HALF


@pytest.mark.parametrize("name", ["Qwen3Moe", "Glm4Moe"])
def test_compiled_models(exl3_path, name):
    model, _ = make(name)
    hf.load_exl3_experts(model, exl3_path(name))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for shape in [(1, 5), (3, 9)]:
            ids = tokens(*shape)
            assert relative_error(compiled(ids).logits, model(ids).logits) <= HALF


def test_the_exact_class(exl3_path):
    twin, layers = make("Qwen3Moe")
    model = copy.deepcopy(twin)
    decode_into(twin, layers, exl3_path("Qwen3Moe"))
    hf.load_exl3_experts(model, exl3_path("Qwen3Moe"), numeric="exact")
    ids = tokens(3, 5)
    with torch.no_grad():
        assert relative_error(model(ids).logits, twin(ids).logits) <= EXACT


def test_half_precision_models(exl3_path):
    twin, layers = make("Qwen3Moe")
    decode_into(twin, layers, exl3_path("Qwen3Moe"))
    model, _ = make("Qwen3Moe", dtype="bfloat16")
    model = model.to(torch.bfloat16)
    hf.load_exl3_experts(model, exl3_path("Qwen3Moe"))
    ids = tokens(2, 5)
    with torch.no_grad():
        found = model(ids).logits
        assert found.dtype == torch.bfloat16
        assert relative_error(found.float(), twin(ids).logits) <= 0.05


def test_the_dense_experts_are_freed(exl3_path):
    model, layers = make("Glm4Moe")
    before = sum(parameter.nbytes for parameter in model.parameters())
    dense = sum(p.nbytes for layer in layers for p in experts_of(model, layer).parameters())
    hf.load_exl3_experts(model, exl3_path("Glm4Moe"))
    assert sum(parameter.nbytes for parameter in model.parameters()) == before - dense
    assert [*experts_of(model, 1).parameters()] == []
    assert experts_of(model, 1).exl3.layer.number == 1
    assert "exl3" in repr(model) and "MoeLayer 1: hidden 128" in repr(model)


def test_experts_need_no_weights_before(exl3_path):
    """A model whose experts are on the device meta never has dense ones."""
    reference, layers = make("Glm4Moe")
    model = copy.deepcopy(reference)
    for layer in layers:
        experts_of(model, layer).to("meta")
    hf.load_exl3_experts(model, exl3_path("Glm4Moe"))
    hf.load_exl3_experts(reference, exl3_path("Glm4Moe"))
    ids = tokens(1, 4)
    with torch.no_grad():
        assert relative_error(model(ids).logits, reference(ids).logits) <= HALF


def refuse(model, path, message):
    with pytest.raises(ValueError, match=message):
        hf.load_exl3_experts(model, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_hidden_layers=4), r"layers \[3\] of the model have experts, and none here"),
        (dict(mlp_only_layers=[1]), r"layers \[1\] have experts here, and none in the model"),
        (dict(num_experts=4), "layer 0, Qwen3MoeExperts: found experts 8, expected 4"),
        (dict(hidden_size=256), "found hidden_size 128, expected 256"),
        (dict(moe_intermediate_size=64), "found intermediate_size 128, expected 64"),
        (dict(hidden_act="gelu"), "its activation is .*, expected SiLU"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(exl3_path, changes, message):
    model, _ = make("Qwen3Moe", **changes)
    names = [name for name, _ in model.named_parameters()]
    refuse(model, exl3_path("Qwen3Moe"), message)
    assert [name for name, _ in model.named_parameters()] == names
    with torch.no_grad():
        model(tokens(1, 2))


def test_layers_beyond_the_models_last_are_left_out(exl3_path):
    """As a checkpoint's layer for multi-token prediction."""
    model, _ = make("Qwen3Moe", num_hidden_layers=2)
    hf.load_exl3_experts(model, exl3_path("Qwen3Moe"))
    with torch.no_grad():
        model(tokens(1, 2))


def test_what_has_no_experts_to_replace_is_named(exl3_path, tmp_path):
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=8
    )
    llama = transformers.LlamaForCausalLM(config)
    refuse(llama, exl3_path("Qwen3Moe"), "LlamaForCausalLM has no routed experts that can be")
    model, _ = make("Qwen3Moe")
    with pytest.raises(FileNotFoundError):
        hf.load_exl3_experts(model, tmp_path / "nowhere")
    hf.load_exl3_experts(model, exl3_path("Qwen3Moe"))
    refuse(model, exl3_path("Qwen3Moe"), "layer 0, Qwen3MoeExperts: .* replaced already")
    hf.register()
    dense, _ = make("Qwen3Moe")
    dense.set_experts_implementation(hf.NAME)
    with pytest.raises(ValueError, match="Qwen3MoeExperts has no EXL3 experts: call .*load_exl3"):
        dense(tokens(1, 1))

"""Lets a Qwen3-MoE model generate with experts of an EXL3 checkpoint.

    python examples/transformers_model.py

The model is small and random and its checkpoint synthetic, so that nothing is downloaded; with a real
one, `model` comes from `from_pretrained` and the path is that of the checkpoint.
"""

import tempfile

import torch
import transformers

from trellect import hf, synth

CONFIG = transformers.Qwen3MoeConfig(
    hidden_size=256,
    intermediate_size=512,
    moe_intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_experts=16,
    num_experts_per_tok=4,
    vocab_size=512,
)


def megabytes(model):
    return sum(parameter.nbytes for parameter in model.parameters()) / 1e6


def main():
    torch.manual_seed(0)
    model = transformers.Qwen3MoeForCausalLM(CONFIG).eval()
    print(f"{megabytes(model):.1f} MB of dense weights")
    with tempfile.TemporaryDirectory() as path:
        synth.write_synthetic(
            path, hidden_size=256, intermediate_size=128, num_experts=16, layers=range(4)
        )
        hf.load_exl3_experts(model, path)
    layers = [layer.mlp.experts.exl3.layer for layer in model.model.layers]
    experts = sum(layer.prepared_bytes for layer in layers) / 1e6
    print(f"{megabytes(model):.1f} MB of dense weights and {experts:.1f} MB of experts")

    prompt = torch.randint(0, CONFIG.vocab_size, (2, 8))
    tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16)
    print(f"generated {tokens.shape[1] - prompt.shape[1]} tokens for each of {len(prompt)} prompts")
    print(f"the last layer's last call: {layers[-1].last_report}")


if __name__ == "__main__":
    main()

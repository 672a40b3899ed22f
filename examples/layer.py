"""Prepares one layer of an EXL3 checkpoint and runs a few calls on it.

    python examples/layer.py [CHECKPOINT [LAYER]]

Without arguments a small synthetic checkpoint is written to a temporary directory first.
"""

import sys
import tempfile

import numpy

import trellect
from trellect import synth


def run(path, number=None):
    checkpoint = trellect.Checkpoint(path)
    layer = checkpoint.layer(checkpoint.moe_layers()[0] if number is None else int(number))
    print(layer)
    rng = numpy.random.default_rng(1)
    for num_tokens in (1, 8, 64):
        hidden = rng.standard_normal((num_tokens, layer.hidden_size)).astype(numpy.float16)
        topk_ids = rng.integers(0, layer.num_experts, (num_tokens, 2))
        topk_weights = rng.random((num_tokens, 2), dtype=numpy.float32)
        output = layer.forward(hidden, topk_ids, topk_weights)
        print(f"{output.shape} {output.dtype}: {layer.last_report}")


def main():
    if len(sys.argv) > 1:
        return run(*sys.argv[1:3])
    with tempfile.TemporaryDirectory() as path:
        synth.write_synthetic(path, hidden_size=512, intermediate_size=256, num_experts=8)
        run(path)


if __name__ == "__main__":
    main()

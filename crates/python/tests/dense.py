"""A synthetic layer as dense weights, and random calls of it."""

import numpy

from trellect import Checkpoint, synth

HIDDEN, INTERMEDIATE, EXPERTS = 256, 128, 8


class Dense:
    """A layer's experts as dense weights, and what they compute in float64."""

    def __init__(self, checkpoint: Checkpoint, number: int) -> None:
        info = checkpoint.layer_info(number)
        experts = [synth.dense_expert(checkpoint, number, e) for e in range(info.num_experts)]
        self.gate, self.up, self.down = (
            numpy.stack(weights).astype(numpy.float64) for weights in zip(*experts)
        )

    def forward(self, hidden, topk_ids, topk_weights):
        """The routed sum of every token."""
        hidden, topk_ids, topk_weights = map(numpy.asarray, (hidden, topk_ids, topk_weights))
        output = numpy.zeros(hidden.shape)
        for token, slot in numpy.ndindex(topk_ids.shape):
            x, expert = hidden[token].astype(numpy.float64), topk_ids[token, slot]
            gate = self.gate[expert] @ x
            inner = gate / (1 + numpy.exp(-gate)) * (self.up[expert] @ x)
            output[token] += float(topk_weights[token, slot]) * (self.down[expert] @ inner)
        return output


def relative_error(found, expected) -> float:
    found, expected = (numpy.asarray(values, dtype=numpy.float64) for values in (found, expected))
    return float(numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected))


def call(num_tokens, *, top_k=2, dtype=numpy.float32, seed=0):
    """Random hidden states and a random routing."""
    rng = numpy.random.default_rng(seed)
    return (
        rng.standard_normal((num_tokens, HIDDEN)).astype(dtype),
        rng.integers(0, EXPERTS, (num_tokens, top_k)),
        rng.random((num_tokens, top_k), dtype=numpy.float32),
    )

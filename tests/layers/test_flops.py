"""The formula of the arithmetic against the anchor in its docstring and against XLA's count."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from oracle import token_loss
from small_training import Small

from genrec_jax.models.contract import abstract_model, merge
from genrec_jax.models.genrec.family import bart_flops
from genrec_jax.models.genrec.inputs import DecoderInput, EncoderInput
from genrec_jax.models.genrec.model import GenRecShape
from genrec_jax.training.flops import PEAKS, device_peak


def test_bart_base_at_64_and_8_tokens() -> None:
    assert bart_flops(GenRecShape(), 64, 8) == pytest.approx(23.5e9, rel=0.005)


@pytest.mark.parametrize(("t", "s"), [(64, 8), pytest.param(128, 6, marks=pytest.mark.slow)])
def test_xla_counts_the_same(t: int, s: int) -> None:
    """Within 3 %: XLA counts norms, softmax and GELU too, and skips no product.

    Depths and widths differ, so that no term of the formula stands in for another. The gradient
    alone is counted, without AdamW and dropout, and nothing is computed.
    """
    shape = GenRecShape(
        vocab_size=5000,
        d_model=512,
        encoder_layers=2,
        decoder_layers=3,
        encoder_heads=8,
        decoder_heads=8,
        encoder_ffn_dim=1024,
        decoder_ffn_dim=1536,
        max_positions=128,
    )
    b = 4
    graph, like = abstract_model(shape, 10, 10)
    ints = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.int32)  # noqa: E731
    bools = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.bool_)  # noqa: E731
    sentence = EncoderInput(ints(b, t), ints(b, t), ints(b), ints(b, 9), bools(b, t))
    answer = DecoderInput(ints(b, s), ints(b, s), bools(b, s))

    def loss(params: dict, sentence: EncoderInput, answer: DecoderInput) -> jax.Array:
        logits = merge(graph, params)(sentence, answer.tokens)
        return token_loss(logits, answer.labels, answer.weights)

    cost = jax.jit(jax.grad(loss)).lower(like, sentence, answer).compile().cost_analysis()
    assert cost["flops"] / b == pytest.approx(bart_flops(shape, t, s), rel=0.03)


def test_deeper_and_longer_is_more(small: Small) -> None:
    less = bart_flops(small.shape, 32, 5)
    assert bart_flops(small.shape, 40, 5) > less
    assert bart_flops(small.shape, 32, 6) > less
    deeper = dataclasses.replace(small.shape, encoder_layers=2)
    assert bart_flops(deeper, 32, 5) > less


def test_a_device_that_nobody_told_us_of_has_no_peak() -> None:
    assert device_peak("bfloat16") is None  # of a processor
    assert device_peak("float32") is None
    assert PEAKS["NVIDIA H100 80GB HBM3"] == 989e12

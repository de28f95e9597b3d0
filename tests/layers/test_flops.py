"""The formulas for operations, compared with known values and with XLA's count."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from oracle import token_loss
from small_training import Small

from genrec_jax.data.batches import Batch
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.models import FAMILIES
from genrec_jax.models.contract import InputKeys, abstract_model, merge
from genrec_jax.models.genrec.family import bart_flops
from genrec_jax.models.genrec.inputs import DecoderInput, EncoderInput
from genrec_jax.models.genrec.model import GenRecShape
from genrec_jax.runs.config import config_from_dict, default_config
from genrec_jax.runs.dataset import load_sequences
from genrec_jax.runs.identifiers import build_catalogue
from genrec_jax.runs.model import ModelSetup
from genrec_jax.training.flops import PEAKS, device_peak
from genrec_jax.training.phase import last_objective


def test_bart_base_at_64_and_8_tokens() -> None:
    assert bart_flops(GenRecShape(), 64, 8) == pytest.approx(23.5e9, rel=0.005)


@pytest.mark.parametrize(("t", "s"), [(64, 8), pytest.param(128, 6, marks=pytest.mark.slow)])
def test_xla_counts_the_same(t: int, s: int) -> None:
    """The counts agree within 3 %: XLA also counts norms, softmax and GELU.

    Depths and widths differ, so that no term of the formula can replace another. Only the gradient
    is counted, without AdamW and dropout. It is compiled and not run.
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
    encoder_input = EncoderInput(ints(b, t), ints(b, t), ints(b), ints(b, 9), bools(b, t))
    answer = DecoderInput(ints(b, s), ints(b, s), bools(b, s))

    def loss(params: dict, encoder_input: EncoderInput, answer: DecoderInput) -> jax.Array:
        logits = merge(graph, params)(encoder_input, answer.tokens)
        return token_loss(logits, answer.labels, answer.weights)

    cost = jax.jit(jax.grad(loss)).lower(like, encoder_input, answer).compile().cost_analysis()
    assert cost["flops"] / b == pytest.approx(bart_flops(shape, t, s), rel=0.03)


def test_deeper_and_longer_takes_more_operations(small: Small) -> None:
    less = bart_flops(small.shape, 32, 5)
    assert bart_flops(small.shape, 40, 5) > less
    assert bart_flops(small.shape, 32, 6) > less
    deeper = dataclasses.replace(small.shape, encoder_layers=2)
    assert bart_flops(deeper, 32, 5) > less


def test_an_unknown_device_has_no_peak() -> None:
    assert device_peak("bfloat16") is None  # a CPU
    assert device_peak("float32") is None
    assert PEAKS["NVIDIA H100 80GB HBM3"] == 989e12


WIDE = {"d_model": 256, "ffn_dim": 640, "attention_heads": 4, "low_pass": 0.0}
WIDE |= {"encoder_layers": 2, "decoder_layers": 1, "vocab_size": 512, "max_tokens": 64}
CAUSAL = {"reversed_positions": False, "encoder_prior": "state", "temperature": 0.0}


@pytest.mark.parametrize(
    ("family", "changes", "targets"),
    [
        *((family, {}, None) for family in FAMILIES),
        ("code_genrec", CAUSAL, "all_positions"),
    ],
)
def test_xla_counts_the_same_for_every_family(
    family: str, changes: dict, targets: str | None
) -> None:
    """The counts agree within 8 %: norms and softmax are a larger share of small models."""
    values = default_config(family).to_dict()
    values["data"] |= {"synthetic_users": 200, "synthetic_items": 600}
    values["model"] |= {k: v for k, v in (WIDE | changes).items() if k in values["model"]}
    if targets is not None:
        values["finetune"]["targets"] = targets
    config = config_from_dict(values)
    sequences = load_sequences(config.data)
    setup = ModelSetup.new(config, build_catalogue(config, sequences, None), sequences, None)
    graph, like = setup.graph_and_like
    objective, b, length = last_objective(config), 4, 40
    tables = Ranker(setup, config.evaluate, 1, objective).tables
    row = jnp.zeros(b, jnp.int32)
    batch = Batch(row, jnp.zeros((b, length - 2), jnp.int32), row)

    def loss(params: dict) -> jax.Array:
        model = merge(graph, params)
        keys = InputKeys(jax.random.key(0), jax.random.key(1))
        inputs = model.make_inputs(tables, batch, objective, length, keys)
        return model.loss(tables, inputs, None, False).loss.sum()

    cost = jax.jit(jax.grad(loss)).lower(like).compile().cost_analysis()
    expected = setup.family.sequence_flops(setup.shape, setup.catalogue, length, objective)
    assert cost["flops"] / b == pytest.approx(expected, rel=0.08)

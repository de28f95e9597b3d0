"""What every family promises: the parameters it uses and no others, scores free of padding.

A new family is tested here as soon as `models.FAMILIES` lists it.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.data.batches import Batch
from genrec_jax.decoding.ranker import SCORES, Ranker
from genrec_jax.models import FAMILIES
from genrec_jax.models.contract import RANKED_AS, InputKeys, init_params, merge
from genrec_jax.runs.config import Config
from genrec_jax.runs.dataset import load_sequences
from genrec_jax.runs.identifiers import build_catalogue
from genrec_jax.runs.model import ModelSetup
from genrec_jax.training.phase import last_objective, make_phases

TINY: dict[str, Any] = {
    "d_model": 16,
    "attention_heads": 2,
    "ffn_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "layers": 1,
    "vocab_size": 64,
    "init_std": 0.3,
}
NOT_TRAINED = {"final_logits_bias"}  # a constant of BART's checkpoints


@cache
def small(family: str) -> tuple[Config, ModelSetup, Any]:
    values = Config.of_family(family).to_dict()
    values["data"] |= {"synthetic_users": 60, "synthetic_items": 40, "buckets": 1}
    values["model"] |= {key: value for key, value in TINY.items() if key in values["model"]}
    values["indexing"] = "random"
    values["finetune"]["batch_size"] = 16
    if family == "sasrec":
        values["finetune"]["targets"] = "prefixes"
        values["pretrain"]["epochs"] = 0
        values["evaluate"]["search"] = "exhaustive"
    config = Config.from_dict(values)
    sequences = load_sequences(config.data)
    setup = ModelSetup.new(config, build_catalogue(config, sequences, None), sequences, None)
    return config, setup, sequences


def batch_of(config: Config, setup: ModelSetup, sequences: Any) -> tuple[Batch, int]:
    phase = list(make_phases(config, sequences, setup.lengths))[-1]
    bucket, batch = next(iter(phase.plan.training_batches(0, 0, 1)))
    return Batch(*map(jnp.asarray, batch)), bucket.n_tokens


def params_of(setup: ModelSetup) -> Any:
    return init_params(setup.shape, setup.catalogue.n_users, setup.catalogue.n_items, seed=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_has_exactly_the_parameters_that_it_uses(family: str) -> None:
    """Every parameter has a gradient that is not zero throughout."""
    config, setup, sequences = small(family)
    graph, _ = setup.graph_and_like
    batch, length = batch_of(config, setup, sequences)
    tables = Ranker(setup, config.evaluate, 1, last_objective(config)).tables
    keys = InputKeys(jax.random.key(0), jax.random.key(1))

    @jax.jit
    def gradient(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            model = merge(graph, params)
            inputs = model.make_inputs(tables, batch, last_objective(config), length, keys)
            terms = model.loss(tables, inputs, None, False)
            assert terms.loss.shape == terms.correct.shape == inputs.weights.shape
            return jnp.sum(terms.loss)

        return jax.grad(loss)(params)

    params = params_of(setup)
    found = jax.tree_util.tree_leaves_with_path(gradient(params))
    unused = {jax.tree_util.keystr(path, simple=True) for path, leaf in found if not leaf.any()}
    assert unused == NOT_TRAINED & params.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_that_do_not_count_have_no_loss(family: str) -> None:
    """Rows that only fill a batch add nothing to the sums of a step."""
    config, setup, sequences = small(family)
    graph, _ = setup.graph_and_like
    batch, length = batch_of(config, setup, sequences)
    empty = Batch(*(jnp.full_like(array, -1) for array in batch))
    tables = Ranker(setup, config.evaluate, 1, last_objective(config)).tables
    model = merge(graph, params_of(setup))
    keys = InputKeys(jax.random.key(0), jax.random.key(1))
    inputs = model.make_inputs(tables, empty, last_objective(config), length, keys)
    terms = model.loss(tables, inputs, None, False)
    assert not inputs.weights.any()
    assert not terms.loss.any()
    assert terms.correct.all()


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_do_not_depend_on_padding_or_on_the_batch(family: str) -> None:
    config, setup, _ = small(family)
    ranker = Ranker(setup, config.evaluate, 1, last_objective(config), params_of(setup))
    rank = ranker._ranker(SCORES)
    history = np.array([[3, 9, 21, 0]], np.int32)
    pad = np.full((1, 4), -1, np.int32)
    short, long = history, np.concatenate([history, pad], axis=1)
    assert ranker.params is not None
    found = []
    for histories, length in ((short, 40), (long, 48)):
        rows = np.repeat(histories, 32, axis=0)
        batch = Batch(np.full(32, 5, np.int32), rows, np.full(32, -1, np.int32))
        _, scores = rank(ranker.params, batch, None, length)
        np.testing.assert_allclose(scores[0], scores[-1], atol=1e-5)
        found.append(np.asarray(scores[0]))
    np.testing.assert_allclose(found[0], found[1], atol=2e-5)
    assert found[0].shape == (40,)
    assert RANKED_AS[last_objective(config)] in ("next_item", "following_item")

"""The requirements that every model family meets.

A new family is tested here as soon as `models.FAMILIES` lists it.
"""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.data.batches import Batch
from genrec_jax.data.sequences import next_item_examples
from genrec_jax.decoding.ranker import SCORES, Ranker
from genrec_jax.models import FAMILIES, config_class, load_family
from genrec_jax.models.contract import RANKING_OBJECTIVE, InputKeys, init_params, merge
from genrec_jax.models.run_config import RunConfig, WithIdentifiers
from genrec_jax.runs.config import config_from_dict, default_config
from genrec_jax.runs.dataset import load_sequences
from genrec_jax.runs.identifiers import build_catalogue
from genrec_jax.runs.model import ModelSetup
from genrec_jax.training.phase import last_objective, make_phases

# Sizes, where `config.model` has the key.
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
# Keys of `config.model` with which `targets=all_positions` is allowed.
CAUSAL = {
    "reversed_positions": False,
    "low_pass": 0.0,
    "encoder_prior": "state",
    "temperature": 0.0,
}
NOT_TRAINED = {"final_logits_bias"}  # a constant of BART's checkpoints


def targets_of(family: str) -> tuple[str | None, ...]:
    """Return the allowed values of `finetune.targets`, or None if there is no such key."""
    fields = {one.name: one for one in dataclasses.fields(default_config(family).finetune)}
    return fields["targets"].metadata["allowed"] if "targets" in fields else (None,)


CASES = [(family, targets) for family in FAMILIES for targets in targets_of(family)]
ALL_POSITIONS = [case for case in CASES if case[1] == "all_positions"]


@cache
def small(
    family: str, targets: str | None, dtype: str = "float32"
) -> tuple[RunConfig, ModelSetup, Any]:
    defaults = default_config(family)
    values = defaults.to_dict()
    values["data"] |= {"synthetic_users": 60, "synthetic_items": 40, "buckets": 1}
    changes = TINY | {"dtype": dtype} | (CAUSAL if targets == "all_positions" else {})
    values["model"] |= {key: value for key, value in changes.items() if key in values["model"]}
    if isinstance(defaults, WithIdentifiers):
        values["indexing"] = "random"
    values["finetune"]["batch_size"] = values["evaluate"]["batch_size"] = 16
    if targets is not None:
        values["finetune"]["targets"] = targets
    config = config_from_dict(values)
    sequences = load_sequences(config.data)
    setup = ModelSetup.new(config, build_catalogue(config, sequences, None), sequences, None)
    return config, setup, sequences


def batch_of(config: RunConfig, setup: ModelSetup, sequences: Any) -> tuple[Batch, int]:
    phase = list(make_phases(config, sequences, setup.lengths))[-1]
    bucket, batch = next(iter(phase.plan.training_batches(0, 0, 1)))
    return Batch(*map(jnp.asarray, batch)), bucket.n_tokens


def params_of(setup: ModelSetup) -> Any:
    return init_params(setup.shape, setup.catalogue.n_users, setup.catalogue.n_items, seed=0)


@pytest.mark.parametrize(("family", "targets"), CASES)
def test_a_model_has_exactly_the_parameters_that_it_uses(family: str, targets: str | None) -> None:
    """Every parameter has a gradient that is not all zeros."""
    config, setup, sequences = small(family, targets)
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


@pytest.mark.parametrize(("family", "targets"), CASES)
def test_predictions_that_do_not_count_have_no_loss(family: str, targets: str | None) -> None:
    """Padding rows of a batch add nothing to the sums of a step."""
    config, setup, sequences = small(family, targets)
    graph, _ = setup.graph_and_like
    batch, length = batch_of(config, setup, sequences)
    empty = Batch(*(jnp.full_like(array, -1) for array in batch))
    tables = Ranker(setup, config.evaluate, 1, last_objective(config)).tables
    keys = InputKeys(jax.random.key(0), jax.random.key(1))

    @jax.jit
    def losses(params: Any) -> Any:
        model = merge(graph, params)
        inputs = model.make_inputs(tables, empty, last_objective(config), length, keys)
        return inputs.weights, model.loss(tables, inputs, None, False)

    weights, terms = losses(params_of(setup))
    assert not weights.any()
    assert not terms.loss.any()
    assert terms.correct.all()


class Scorer:
    """Score all items after histories with a model of random parameters."""

    def __init__(self, config: RunConfig, setup: ModelSetup):
        self.params = params_of(setup)
        self.ranker = Ranker(setup, config.evaluate, 1, last_objective(config), self.params)
        self.rank = self.ranker._ranker(SCORES)

    def __call__(self, histories: np.ndarray, length: int, users: np.ndarray) -> np.ndarray:
        """Return the scores, [B, N], for histories [B, H] and `length` encoder positions."""
        no_targets = np.full(len(users), -1, np.int32)
        batch = Batch(users.astype(np.int32), histories.astype(np.int32), no_targets)
        assert self.ranker.params is not None
        return np.asarray(self.rank(self.ranker.params, batch, None, length)[1])


def padded(history: list[int], width: int) -> np.ndarray:
    return np.array(history + [-1] * (width - len(history)), np.int32)


@pytest.mark.parametrize(("family", "targets"), CASES)
def test_scores_depend_on_the_history_only(family: str, targets: str | None) -> None:
    """They depend on every item of the history, and not on padding or other rows of the batch."""
    config, setup, _ = small(family, targets)
    score = Scorer(config, setup)
    lengths = setup.lengths
    history = [3, 9, 21]
    # The shortest length for the history, and longer ones: a wrong query position would show.
    needed = lengths.frame + int(lengths.users[5]) + int(lengths.items[history].sum())
    shortest = -(-needed // 8) * 8
    users = np.full(16, 5)
    rows = [history, [3, 9, 22], [4, 9, 21], [3, 9]]
    found = {}
    for length, width in ((shortest, 4), (shortest + 8, 4), (shortest + 24, 6)):
        histories = np.stack([padded(row, width) for row in rows] + [padded([7], width)] * 12)
        scores = score(histories, length, users)
        assert (
            np.logaddexp.reduce(scores[0]) < 1e-4
        )  # some probability may go to sequences that are no item
        alone = np.stack([padded(history, width)] * 16)
        np.testing.assert_allclose(score(alone, length, users)[3], scores[0], atol=1e-5)
        found[length] = scores
    first, *others = found.values()
    for scores in others:
        np.testing.assert_allclose(scores, first, atol=3e-5)
    for changed in first[1:4]:
        assert np.abs(changed - first[0]).max() > 1e-2
    assert first.shape == (16, 40)
    assert RANKING_OBJECTIVE[last_objective(config)] in ("next_item", "following_item")


def losses_of(setup: ModelSetup, score: Scorer, objective: str, batch: Batch, length: int) -> Any:
    """Return the loss of each target, [B, G], without dropout, and which targets count."""

    @jax.jit
    def losses(params: Any) -> Any:
        model = merge(setup.graph_and_like[0], params)
        inputs = model.make_inputs(score.ranker.tables, batch, objective, length, None)
        terms = model.loss(score.ranker.tables, inputs, None, False)
        terms.check(inputs)
        return jnp.where(inputs.weights, terms.loss, 0.0).sum(axis=2), inputs.weights.any(axis=2)

    return map(np.asarray, losses(score.params))


@pytest.mark.parametrize(("family", "targets"), CASES)
def test_ranking_scores_an_item_by_its_loss_in_training(family: str, targets: str | None) -> None:
    """The log-probability of a target in ranking is its negative loss in training."""
    config, setup, sequences = small(family, targets)
    objective = RANKING_OBJECTIVE[last_objective(config)]
    examples = next_item_examples(sequences, n_excluded=2).take(np.arange(16))
    score = Scorer(config, setup)
    bucket, rows = score.ranker.plan(examples, "test").in_order()[0]
    batch, length = score.ranker.plan(examples, "test").pad(bucket, rows), bucket.n_tokens
    targets_of_rows = examples.targets[rows]
    scores = score(batch.histories, length, batch.users)
    found = scores[np.arange(len(rows)), targets_of_rows]
    with_targets = Batch(*map(jnp.asarray, batch))
    with_targets = with_targets._replace(targets=jnp.asarray(targets_of_rows, jnp.int32))
    losses, counted = losses_of(setup, score, objective, with_targets, length)
    assert counted.sum(axis=1).tolist() == [1] * len(rows)
    np.testing.assert_allclose(losses.sum(axis=1), -found, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("family", "targets"), ALL_POSITIONS)
def test_every_position_predicts_the_item_after_it(family: str, targets: str) -> None:
    """One pass over a sequence has the losses of ranking after each of its prefixes."""
    config, setup, _ = small(family, targets)
    score = Scorer(config, setup)
    sequence = [3, 9, 21, 0, 17]
    length = 16
    users = np.full(4, 5)
    whole = Batch(
        jnp.asarray(users, jnp.int32),
        jnp.asarray(np.stack([padded(sequence[:-1], 6)] * 4)),
        jnp.full(4, sequence[-1], jnp.int32),
    )
    losses, counted = losses_of(setup, score, "every_item", whole, length)
    prefixes = np.stack([padded(sequence[:stop], 6) for stop in range(1, 5)])
    scores = score(prefixes, length, users)
    expected = [-scores[row, sequence[row + 1]] for row in range(4)]
    found = losses[0][counted[0]]  # a model with users also predicts the first item
    assert len(found) in (4, 5)
    np.testing.assert_allclose(found[-4:], expected, rtol=2e-5, atol=3e-5)


@pytest.mark.parametrize(("family", "targets"), CASES)
def test_ranking_in_bfloat16_casts_each_parameter_once(family: str, targets: str | None) -> None:
    """`cast_names` lists all parameters that the model casts, so no batch casts one again."""
    config, setup, _ = small(family, targets, "bfloat16")
    score = Scorer(config, setup)
    history = np.stack([padded([3, 9, 21], 4)] * 16)
    batch = Batch(np.full(16, 5, np.int32), history, np.full(16, -1, np.int32))
    tables, objective = score.ranker.tables, last_objective(config)

    def encode(params: Any) -> Any:
        model = merge(setup.graph_and_like[0], params)
        read = model.make_inputs(
            tables, Batch(*map(jnp.asarray, batch)), objective, 24
        ).encoder_input
        memory = model.encode(tables, read)
        return (
            memory
            if setup.family.search_trie(setup.catalogue)
            else (model.item_scores(tables, memory))
        )

    assert converted(encode, score.params)
    assert not converted(encode, score.ranker.params)


def converted(function: Any, params: Any) -> list[int]:
    """Return the numbers of the matrices that a program converts from float32 to bfloat16."""
    jaxpr = jax.make_jaxpr(function)(params).jaxpr
    numbers = {id(var): n for n, var in enumerate(jaxpr.invars) if len(var.aval.shape) == 2}
    return [
        numbers[id(eqn.invars[0])]
        for eqn in jaxpr.eqns
        if eqn.primitive.name == "convert_element_type"
        and eqn.params["new_dtype"] == jnp.bfloat16
        and id(eqn.invars[0]) in numbers
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_named_as_its_folder_and_its_config(family: str) -> None:
    assert load_family(family).name == family
    assert config_class(family)().model.family == family

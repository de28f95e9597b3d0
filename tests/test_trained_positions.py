"""No position that ranking reads is one that training never trained."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_coded_run import SMALL, command
from test_main import CONFIG

from genrec_jax.data.sequences import UserSequences, from_lists, next_item_examples
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.sentences import plan_batches
from genrec_jax.identifiers.trie import decided
from genrec_jax.models.bart import POSITION_OFFSET
from genrec_jax.models.device_trie import put_on_device as put_trie
from genrec_jax.models.genrec import GenRecShape, abstract_model, init_params, merge
from genrec_jax.models.inputs import append_mask, encoder_input, put_on_device
from genrec_jax.runs.config import Config
from genrec_jax.runs.identifiers import build_catalogue
from genrec_jax.runs.model import longest_trained, model_shape
from genrec_jax.serving.recommender import Recommender
from genrec_jax.training.optimizer import OptimizerSpec, make_optimizer
from genrec_jax.training.phase import make_phases
from genrec_jax.training.step import make_train_step, start_state

MODELS = [
    ("token", "vocabulary", "start", "last"),
    ("token", "vocabulary", "end", "last"),
    ("item", "trie", "start", "every"),
    ("item", "trie", "end", "prefixes"),
    ("id", "item", "start", "every"),
    ("id", "item", "end", "prefixes"),
]


def equal_lengths(length: int) -> UserSequences:
    """40 users with `length` items each, of 30."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 31, length).tolist() for _ in range(40)]
    return from_lists("equal", range(1, 41), rows)


def config_of(unit: str, head: str, count_from: str, targets: str, **evaluate: object) -> Config:
    values = Config().to_dict()
    values["model"] |= {
        "encoder_unit": unit,
        "head": head,
        "count_from": count_from,
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "attention_heads": 2,
        "ffn_dim": 32,
        "vocab_size": 64,
        "max_tokens": 96,
        "init_std": 0.3,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
    }
    pretrains = (unit, count_from) == ("token", "end")
    values["pretrain"] |= {"epochs": int(pretrains), "batch_size": 8}
    values["finetune"] |= {"targets": targets, "epochs": 1, "batch_size": 8}
    search = "exhaustive" if head == "item" else "constrained"
    values["evaluate"] |= {"search": search, "batch_size": 8, **evaluate}
    values["data"]["buckets"] = 1  # one shape to compile
    return Config.from_dict(values)


def build(config: Config, sequences: UserSequences) -> tuple[Catalogue, GenRecShape]:
    catalogue = build_catalogue(config, sequences, None)
    longest = longest_trained(config, sequences, catalogue.table)
    return catalogue, model_shape(config.model, catalogue, None, longest)


def encoder_positions(params: dict) -> np.ndarray:
    return np.asarray(params["encoder"]["embedding"]["positions"])[POSITION_OFFSET:]


def trained_rows(
    config: Config, sequences: UserSequences, catalogue: Catalogue, shape: GenRecShape
) -> np.ndarray:
    """Which rows of the encoder's position table an epoch of every phase changes."""
    graph, _ = abstract_model(shape, catalogue.table.n_users, catalogue.table.n_items)
    sizes = catalogue.table.n_users, catalogue.table.n_items
    start = init_params(shape, *sizes, seed=0)
    moved = np.zeros(shape.max_positions, bool)
    spec = OptimizerSpec(steps=50, learning_rate=1e-2, weight_decay=0.0, warmup=0.0, clip_norm=9.0)
    trie = put_trie(decided(catalogue.trie)) if shape.head == "trie" else None
    table = put_on_device(catalogue.table, trie)
    for phase in make_phases(config, sequences, catalogue):
        optimizer = make_optimizer(spec)
        step = make_train_step(graph, table, optimizer, phase.objective, 0.0, 0)
        state = start_state(jax.tree.map(jnp.copy, start), optimizer)
        for bucket, batch in phase.plan.training_batches(0, 0, phase.plan.steps_per_epoch):
            state, _ = step(state, batch, bucket.n_tokens)
        moved |= (encoder_positions(state.params) != encoder_positions(start)).any(axis=1)
    return moved


@pytest.mark.parametrize(("unit", "head", "count_from", "targets"), MODELS)
def test_ranking_reads_no_position_that_training_left_as_it_was(
    unit: str, head: str, count_from: str, targets: str
) -> None:
    """Lists do not change with the vectors of untrained positions, however long the history is."""
    config, sequences = config_of(unit, head, count_from, targets), equal_lengths(12)
    catalogue, shape = build(config, sequences)
    trained = trained_rows(config, sequences, catalogue, shape)
    assert 9 <= trained.sum() < shape.max_positions
    params = init_params(shape, catalogue.table.n_users, catalogue.table.n_items, seed=1)
    other = jax.tree.map(jnp.copy, params)
    rows = POSITION_OFFSET + np.flatnonzero(~trained)
    table = other["encoder"]["embedding"]["positions"]
    other["encoder"]["embedding"]["positions"] = table.at[rows].add(7.0)
    ranker = Ranker(
        catalogue,
        shape,
        config.evaluate,
        config.model.max_tokens,
        buckets=1,
        causal=config.reads_causally,
    )
    asked = [(user, sequences.item_ids[sequences.of(user - 1)].tolist()) for user in range(1, 6)]
    asked += [(1, [*range(1, 20)]), (None, [*range(1, 30)])]
    found = []
    for one in (params, other):
        ranker.params = one
        found.append(Recommender(ranker).recommend(asked))
    assert found[0] == found[1]


def test_histories_are_cut_to_the_longest_that_training_read() -> None:
    """Nine items of twelve: the last two are held out, and the third last is the target."""
    config, sequences = config_of("token", "vocabulary", "end", "last"), equal_lengths(12)
    catalogue, shape = build(config, sequences)
    ranker = Ranker(catalogue, shape, config.evaluate, 96, 1)
    plan = ranker.plan(next_item_examples(sequences, holdout=0), "test")
    longest = plan_batches(
        next_item_examples(sequences, holdout=2), catalogue.table, 96, 8, 1, "finetune"
    )
    assert shape.longest_input == longest.n_tokens.max()
    assert plan.n_tokens.max() == shape.longest_input
    lengths = plan.examples.stops - plan.examples.starts
    assert 9 <= lengths.min() < 11  # 11 items are known; those with short names still fit


@pytest.mark.parametrize("length", [3, 4])
def test_a_log_whose_training_part_is_nearly_empty_still_reads_one_item(length: int) -> None:
    config, sequences = config_of("token", "vocabulary", "end", "last"), equal_lengths(length)
    catalogue, shape = build(config, sequences)
    ranker = Ranker(catalogue, shape, config.evaluate, 96, 1)
    plan = ranker.plan(next_item_examples(sequences, holdout=0), "test")
    assert (plan.examples.stops - plan.examples.starts).min() >= 1


def encoded(shape: GenRecShape, sizes: tuple[int, int], params: dict, sentence) -> jax.Array:
    graph, _ = abstract_model(shape, *sizes)
    return jax.jit(lambda params, sentence: merge(graph, params).encode(sentence))(params, sentence)


def test_reversed_positions_are_those_of_bart_read_backwards() -> None:
    """For one length the table read from the end is the table turned round, read from the start."""
    config, sequences = config_of("token", "vocabulary", "end", "last"), equal_lengths(12)
    catalogue, reversed_ = build(config, sequences)
    forward = GenRecShape(**{**vars(reversed_), "count_from": "start"})
    params = init_params(reversed_, catalogue.table.n_users, catalogue.table.n_items, seed=0)
    table = put_on_device(catalogue.table)
    for user, n_tokens in ((0, 48), (7, 64)):  # padding changes nothing
        history = jnp.asarray(sequences.of(user)[None, :9])
        sentence = encoder_input(
            table, jnp.array([user]), append_mask(history, table.mask_row), n_tokens
        )
        length = int(sentence.mask.sum())
        turned = np.array(params["encoder"]["embedding"]["positions"])
        stop = POSITION_OFFSET + length
        turned[POSITION_OFFSET:stop] = turned[POSITION_OFFSET:stop][::-1]
        as_bart = jax.tree.map(lambda x: x, params)
        as_bart["encoder"]["embedding"]["positions"] = jnp.asarray(turned)
        sizes = catalogue.table.n_users, catalogue.table.n_items
        ours = encoded(reversed_, sizes, params, sentence)
        theirs = encoded(forward, sizes, as_bart, sentence)
        np.testing.assert_allclose(ours[0, :length], theirs[0, :length], atol=1e-5)


def test_a_run_remembers_the_longest_input(tmp_path: Path) -> None:
    """Loaded from its folder, a recommender reads a long history as its most recent part."""
    run = tmp_path / "run"
    assert command(CONFIG, *SMALL, f"--workdir={run}") == 0
    recommender = Recommender.load(run)
    history = [*range(1, 31)]
    whole, recent = recommender.recommend([(None, history), (None, history[-8:])])
    longest = recommender.ranker.plan(recommender.examples([(None, history)]), "test").examples
    kept = int(longest.stops[0] - longest.starts[0])
    assert 8 <= kept < 20
    same = recommender.recommend([(None, history[-kept:])])[0]
    assert [one.item for one in whole] == [one.item for one in same]
    assert len(recent) == len(whole)

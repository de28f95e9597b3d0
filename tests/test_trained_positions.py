"""No position that ranking reads is one that training never trained."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_coded_run import SMALL, command
from test_main import CONFIG

from genrec_jax.data.sequences import UserSequences, from_sequences, next_item_examples
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.identifiers.input_lengths import plan_batches
from genrec_jax.models.contract import init_params, merge
from genrec_jax.models.genrec.inputs import EncoderInput, encoder_input
from genrec_jax.models.genrec.model import POSITION_OFFSET
from genrec_jax.models.masking import append_mask
from genrec_jax.models.run_config import RunConfig
from genrec_jax.models.tables import put_on_device
from genrec_jax.runs.config import config_from_dict, default_config
from genrec_jax.runs.identifiers import build_catalogue
from genrec_jax.runs.model import ModelSetup
from genrec_jax.serving.recommender import Recommender
from genrec_jax.training.optimizer import OptimizerSpec, make_optimizer
from genrec_jax.training.phase import last_objective, make_phases
from genrec_jax.training.step import make_train_step, start_state

MODELS = [
    ("genrec", False, None),
    ("genrec", True, None),
    ("code_genrec", False, "all_positions"),
    ("code_genrec", True, "prefix_augmentation"),
    ("sasrec", False, "all_positions"),
    ("sasrec", True, "prefix_augmentation"),
]
SIZES = {
    "d_model": 16,
    "attention_heads": 2,
    "ffn_dim": 32,
    "init_std": 0.3,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}
STACKS = {"encoder_layers": 1, "decoder_layers": 1, "vocab_size": 64, "max_tokens": 96}
PLAIN = {"encoder_prior": "none", "temperature": 0.0, "low_pass": 0.0, "user_dropout": 0.0}
OF_FAMILY = {
    "genrec": STACKS,
    "code_genrec": STACKS | PLAIN | {"item_init": "random"},
    "sasrec": {"layers": 1, "max_items": 96},
}


def equal_lengths(length: int) -> UserSequences:
    """40 users with `length` items each, of 30."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 31, length).tolist() for _ in range(40)]
    return from_sequences("equal", range(1, 41), rows)


def config_of(family: str, reversed_positions: bool, targets: str | None = None) -> RunConfig:
    values = default_config(family).to_dict()
    if "indexing" in values:
        values["indexing"] = "random"
    values["model"] |= SIZES | OF_FAMILY[family] | {"reversed_positions": reversed_positions}
    if "pretrain" in values:
        pretrains = family == "genrec" and reversed_positions
        values["pretrain"] |= {"epochs": int(pretrains), "batch_size": 8}
    values["finetune"] |= {"epochs": 1, "batch_size": 8}
    if targets is not None:
        values["finetune"]["targets"] = targets
    values["evaluate"]["batch_size"] = 8
    values["data"]["buckets"] = 1  # one shape to compile
    return config_from_dict(values)


def build(config: RunConfig, sequences: UserSequences) -> ModelSetup:
    return ModelSetup.new(config, build_catalogue(config, sequences, None), sequences, None)


def ranker_of(config: RunConfig, setup: ModelSetup) -> Ranker:
    return Ranker(setup, config.evaluate, 1, last_objective(config))


def position_table(params: dict) -> np.ndarray:
    """The encoder's, with the rows before position 0 that only BART has."""
    return np.asarray(params["encoder"]["embedding"]["positions"])


def trained_rows(config: RunConfig, sequences: UserSequences, setup: ModelSetup) -> np.ndarray:
    """Which rows of the encoder's position table an epoch of every phase changes."""
    graph, _ = setup.graph_and_like
    start = init_params(setup.shape, setup.catalogue.n_users, setup.catalogue.n_items, seed=0)
    moved = np.zeros(len(position_table(start)), bool)
    spec = OptimizerSpec(steps=50, learning_rate=1e-2, weight_decay=0.0, warmup=0.0, clip_norm=9.0)
    tables = ranker_of(config, setup).tables
    for phase in make_phases(config, sequences, setup.lengths):
        optimizer = make_optimizer(spec)
        step = make_train_step(graph, tables, optimizer, phase.objective, 0)
        state = start_state(jax.tree.map(jnp.copy, start), optimizer)
        for bucket, batch in phase.plan.training_batches(0, 0, phase.plan.steps_per_epoch):
            state, _ = step(state, batch, bucket.n_tokens)
        moved |= (position_table(state.params) != position_table(start)).any(axis=1)
    return moved


@pytest.mark.parametrize(("family", "reversed_positions", "targets"), MODELS)
def test_ranking_reads_no_position_that_training_left_as_it_was(
    family: str, reversed_positions: bool, targets: str | None
) -> None:
    """Lists do not change with the vectors of untrained positions, however long the history is."""
    config, sequences = config_of(family, reversed_positions, targets), equal_lengths(12)
    setup = build(config, sequences)
    trained = trained_rows(config, sequences, setup)
    assert 9 <= trained.sum() < len(trained)
    params = init_params(setup.shape, setup.catalogue.n_users, setup.catalogue.n_items, seed=1)
    other = jax.tree.map(jnp.copy, params)
    table = other["encoder"]["embedding"]["positions"]
    other["encoder"]["embedding"]["positions"] = table.at[np.flatnonzero(~trained)].add(7.0)
    ranker = ranker_of(config, setup)
    asked = [(user, sequences.item_ids[sequences.of(user - 1)].tolist()) for user in range(1, 6)]
    asked += [(1, [*range(1, 20)]), (None, [*range(1, 30)])]
    found = []
    for one in (params, other):
        ranker.params = one
        found.append(Recommender(ranker).recommend(asked))
    assert found[0] == found[1]


def test_histories_are_cut_to_the_longest_that_training_read() -> None:
    """Nine items of twelve: the last two are held out, and the third last is the target."""
    config, sequences = config_of("genrec", True), equal_lengths(12)
    setup = build(config, sequences)
    ranker = ranker_of(config, setup)
    plan = ranker.plan(next_item_examples(sequences, n_excluded=0), "test")
    examples = next_item_examples(sequences, n_excluded=2)
    longest = plan_batches(examples, setup.lengths, 8, 1, "finetune")
    assert setup.shape.longest_input == longest.n_tokens.max()
    assert plan.n_tokens.max() == setup.shape.longest_input
    lengths = plan.examples.stops - plan.examples.starts
    assert 9 <= lengths.min() < 11  # 11 items are known; those with short names still fit


@pytest.mark.parametrize("length", [3, 4])
def test_a_log_whose_training_part_is_nearly_empty_still_reads_one_item(length: int) -> None:
    config, sequences = config_of("genrec", True), equal_lengths(length)
    setup = build(config, sequences)
    ranker = ranker_of(config, setup)
    plan = ranker.plan(next_item_examples(sequences, n_excluded=0), "test")
    assert (plan.examples.stops - plan.examples.starts).min() >= 1


def encoded(setup: ModelSetup, params: dict, sentence: EncoderInput) -> jax.Array:
    graph, _ = setup.graph_and_like

    @jax.jit
    def encode(params: dict, sentence: EncoderInput) -> jax.Array:
        model, positions = merge(graph, params), None
        if model.shape.reversed_positions:
            positions = model.reversed_positions(sentence)
        return model.encoder(
            model.vectors(sentence), sentence.attention_mask, None, positions=positions
        )

    return encode(params, sentence)


def test_reversed_positions_are_those_of_bart_read_backwards() -> None:
    """For one length the table read from the end is the table turned round, read from the start."""
    config, sequences = config_of("genrec", True), equal_lengths(12)
    reversed_ = build(config, sequences)
    catalogue = reversed_.catalogue
    shape = dataclasses.replace(reversed_.shape, reversed_positions=False)
    forward = dataclasses.replace(reversed_, shape=shape)
    params = init_params(reversed_.shape, catalogue.n_users, catalogue.n_items, seed=0)
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
        ours = encoded(reversed_, params, sentence)
        theirs = encoded(forward, as_bart, sentence)
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

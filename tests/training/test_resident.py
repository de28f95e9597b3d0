"""The jitted call on a dataset on the device: what it computes, and what it never does."""

import re

import jax
import numpy as np
import pytest
from small_training import SPEC, Small

from genrec_jax.models.contract import abstract_model
from genrec_jax.runs.train_state import TrainState
from genrec_jax.training.optimizer import make_optimizer
from genrec_jax.training.resident import ResidentTrainer, gather_batch, put_examples
from genrec_jax.training.step import make_train_step

STEPS = 50


def assert_same(one: TrainState, other: TrainState) -> None:
    """Bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_batches_are_those_that_the_host_makes(small: Small) -> None:
    examples = put_examples(small.plan.examples)
    gather = jax.jit(gather_batch, static_argnums=2)
    seen_short = False
    for call in small.calls(small.plan.steps_per_epoch):
        rows = call.rows[0]
        seen_short |= bool((rows < 0).any())
        expected = small.plan.pad(call.bucket, rows[rows >= 0])
        for found, array in zip(gather(examples, rows, call.bucket.n_items), expected, strict=True):
            assert np.asarray(found).dtype == array.dtype
            np.testing.assert_array_equal(found, array)
    assert seen_short


def test_fifty_steps_are_the_same_again_and_in_eights(
    small: Small, trainer: ResidentTrainer, of_eights: ResidentTrainer
) -> None:
    """Parameters and optimizer bit for bit; so is training that stopped and resumed."""
    single, losses = small.train(trainer, STEPS)
    again, same_losses = small.train(trainer, STEPS)
    assert losses == same_losses
    assert_same(again, single)

    assert max(len(call.rows) for call in small.calls(STEPS, 8)) == 8
    in_eights, their_losses = small.train(of_eights, STEPS)
    assert their_losses == losses
    assert_same(in_eights, single)

    halfway, _ = small.train(of_eights, 21)
    resumed, _ = small.train(of_eights, STEPS, state=halfway)
    assert_same(resumed, single)


def test_one_program_a_bucket(small: Small, caplog: pytest.LogCaptureFixture) -> None:
    """Compiled when it first comes, logged with its seconds, and never again."""
    trainer = small.trainer(2)
    with caplog.at_level("INFO", logger="genrec_jax.training.resident"):
        small.train(trainer, 2 * small.plan.steps_per_epoch)
    assert set(trainer.programs) == set(small.plan.buckets)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(small.plan.buckets)
    for line in lines:
        assert re.fullmatch(
            r"training: compiled the step for 4 sequences of \d+ tokens in \d+\.\d s", line
        )


def test_the_compiled_text_moves_nothing_between_host_and_device(
    small: Small, of_eights: ResidentTrainer
) -> None:
    state = small.start()
    text = of_eights.program(state, small.calls(1)[0]).as_text()
    for word in ("infeed", "outfeed", " send(", " recv(", "callback", "S(5)"):
        assert word not in text
    # The token table and the dataset are arguments: no constant has a hundred numbers.
    for dimensions in re.findall(r"\[([\d,]+)\]\S* constant\(", text):
        assert np.prod([int(n) for n in dimensions.split(",")]) < 100
    # Every array of the state is written where it was read.
    assert text.splitlines()[0].count("alias)") >= len(jax.tree.leaves(state))


def test_the_guard_is_on_and_the_state_is_given_up(small: Small, trainer: ResidentTrainer) -> None:
    state = small.start()
    call = small.calls(1)[0]
    on_the_host = jax.device_get(trainer.put(call))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        trainer.run(state, call, on_the_host)
    after, _ = trainer.run(state, call, trainer.put(call))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert int(after.step) == 1


def test_the_step_for_batches_from_the_host_is_the_same(
    small: Small, trainer: ResidentTrainer
) -> None:
    call = small.calls(1)[0]
    batch = small.plan.pad(call.bucket, call.rows[0])
    sizes = (small.catalogue.table.n_users, small.catalogue.table.n_items)
    graph, _ = abstract_model(small.shape, *sizes)
    step = make_train_step(graph, small.tables, make_optimizer(SPEC), "random_item", seed=0)
    state, metrics = step(small.start(), batch, call.bucket.n_tokens)
    _, losses = small.train(trainer, 1)
    np.testing.assert_allclose(metrics.loss_sum / metrics.tokens, losses[0], rtol=1e-6)
    assert int(state.step) == 1
    assert metrics.loss_sum.shape == ()

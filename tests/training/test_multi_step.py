"""Multi-step dispatches on an on-device dataset: results, compilation and data transfers."""

import re

import jax
import numpy as np
import pytest
from small_training import SPEC, Small

from genrec_jax.models.contract import abstract_model
from genrec_jax.runs.train_state import TrainState
from genrec_jax.training.multi_step import MultiStepTrainer, gather_batch, put_examples
from genrec_jax.training.optimizer import make_optimizer
from genrec_jax.training.step import make_train_step

STEPS = 50


def assert_same(one: TrainState, other: TrainState) -> None:
    """Check that two states are equal bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_gathered_batches_equal_the_hosts(small: Small) -> None:
    examples = put_examples(small.plan.examples)
    gather = jax.jit(gather_batch, static_argnums=2)
    has_partial_batch = False
    for dispatch in small.dispatches(small.plan.steps_per_epoch):
        rows = dispatch.rows[0]
        has_partial_batch |= bool((rows < 0).any())
        expected = small.plan.pad(dispatch.bucket, rows[rows >= 0])
        for found, array in zip(
            gather(examples, rows, dispatch.bucket.n_items), expected, strict=True
        ):
            assert np.asarray(found).dtype == array.dtype
            np.testing.assert_array_equal(found, array)
    assert has_partial_batch


def test_fifty_steps_are_reproducible_one_or_eight_per_dispatch(
    small: Small, trainer: MultiStepTrainer, of_eights: MultiStepTrainer
) -> None:
    """Parameters and optimizer state agree bit for bit, also after a stop and a resume."""
    single, losses = small.train(trainer, STEPS)
    repeated, repeated_losses = small.train(trainer, STEPS)
    assert losses == repeated_losses
    assert_same(repeated, single)

    assert max(len(dispatch.rows) for dispatch in small.dispatches(STEPS, 8)) == 8
    in_eights, losses_in_eights = small.train(of_eights, STEPS)
    assert losses_in_eights == losses
    assert_same(in_eights, single)

    halfway, _ = small.train(of_eights, 21)
    resumed, _ = small.train(of_eights, STEPS, state=halfway)
    assert_same(resumed, single)


def test_one_program_per_bucket(small: Small, caplog: pytest.LogCaptureFixture) -> None:
    """A bucket is compiled at its first dispatch only, and the log reports the seconds."""
    trainer = small.trainer(2)
    with caplog.at_level("INFO", logger="genrec_jax.training.multi_step"):
        small.train(trainer, 2 * small.plan.steps_per_epoch)
    assert set(trainer.programs) == set(small.plan.buckets)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(small.plan.buckets)
    for line in lines:
        assert re.fullmatch(
            r"training: compiled the step for 4 sequences of \d+ tokens in \d+\.\d s", line
        )


def test_the_program_moves_nothing_between_host_and_device(
    small: Small, of_eights: MultiStepTrainer
) -> None:
    state = small.start()
    text = of_eights.program(state, small.dispatches(1)[0]).as_text()
    for word in ("infeed", "outfeed", " send(", " recv(", "callback", "S(5)"):
        assert word not in text
    # The token table and the dataset are arguments, so no constant has 100 numbers.
    for dimensions in re.findall(r"\[([\d,]+)\]\S* constant\(", text):
        assert np.prod([int(n) for n in dimensions.split(",")]) < 100
    # Every array of the state is updated in place.
    assert text.splitlines()[0].count("alias)") >= len(jax.tree.leaves(state))


def test_the_transfer_guard_is_on_and_the_state_is_donated(
    small: Small, trainer: MultiStepTrainer
) -> None:
    state = small.start()
    dispatch = small.dispatches(1)[0]
    on_the_host = jax.device_get(trainer.put(dispatch))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        trainer.run(state, dispatch, on_the_host)
    after, _ = trainer.run(state, dispatch, trainer.put(dispatch))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert int(after.step) == 1


def test_the_step_for_batches_from_the_host_is_the_same(
    small: Small, trainer: MultiStepTrainer
) -> None:
    dispatch = small.dispatches(1)[0]
    batch = small.plan.pad(dispatch.bucket, dispatch.rows[0])
    sizes = (small.catalogue.table.n_users, small.catalogue.table.n_items)
    graph, _ = abstract_model(small.shape, *sizes)
    step = make_train_step(graph, small.tables, make_optimizer(SPEC), "random_item", seed=0)
    state, metrics = step(small.start(), batch, dispatch.bucket.n_tokens)
    _, losses = small.train(trainer, 1)
    np.testing.assert_allclose(metrics.loss_sum / metrics.tokens, losses[0], rtol=1e-6)
    assert int(state.step) == 1
    assert metrics.loss_sum.shape == ()

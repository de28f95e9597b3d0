"""Rows that only fill a batch: no NaN in logits, loss and gradients, and no trace of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from oracle import Case, leaves, relative_distances, small_case, zero_by_mathematics

from genrec_jax.models.contract import Params

FILL = 5  # the row of the case that only fills its batch


class Computed(NamedTuple):
    logits: np.ndarray
    loss: float
    gradients: Params


Compute = Callable[[Case], Computed]


@pytest.fixture(scope="module")
def case() -> Case:
    """Six rows, the last of which only fills the batch."""
    case = small_case()
    assert np.flatnonzero(~case.real_rows).tolist() == [FILL]
    assert not case.answer.weights[FILL].any()
    return case


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def compute(case: Case, dtype: str) -> Compute:
    """Logits, loss and gradients of any six rows; compiled once."""

    @jax.jit
    def compiled(params: Params, sentence: Any, answer: Any) -> Any:
        def loss_of(params: Params) -> Any:
            batch = case._replace(sentence=sentence, answer=answer)
            logits, loss = batch.logits_and_loss(params, dtype)
            return loss, logits

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    def compute(batch: Case) -> Computed:
        (loss, logits), gradients = compiled(batch.params, batch.sentence, batch.answer)
        return Computed(np.asarray(logits), float(loss), gradients)

    return compute


def of_rows(case: Case, rows: list[int]) -> Case:
    index = np.array(rows)
    sentence, answer = jax.tree.map(lambda leaf: leaf[index], (case.sentence, case.answer))
    return case._replace(sentence=sentence, answer=answer)


def looking_nowhere(case: Case, rows: list[int]) -> Case:
    """Not even at `<s>` and `</s>`, which every sentence has."""
    mask = case.sentence.mask.at[np.array(rows)].set(False)
    return case._replace(sentence=case.sentence._replace(mask=mask))


def assert_finite(found: Computed) -> None:
    assert np.isfinite(found.logits).all()
    assert np.isfinite(found.loss)
    for path, leaf in leaves(found.gradients):
        assert np.isfinite(np.asarray(leaf)).all(), path


def test_rows_that_fill_the_batch_leave_no_trace(case: Case, compute: Compute, dtype: str) -> None:
    """Three rows and three that fill are as those three rows twice: the mean is the same.

    Gradients are sums over other numbers of rows. In bfloat16, of 8 bits, they differ by up to
    1.2e-2, relative in norm; in float32 by 1.3e-7.
    """
    filled = compute(of_rows(case, [0, 1, 2, FILL, FILL, FILL]))
    twice = compute(of_rows(case, [0, 1, 2, 0, 1, 2]))
    assert_finite(filled)
    np.testing.assert_array_equal(filled.logits[:3], twice.logits[:3])
    np.testing.assert_allclose(filled.loss, twice.loss, rtol=1e-6)
    distances = relative_distances(filled.gradients, twice.gradients)
    known = distances.keys() - zero_by_mathematics(filled.gradients)
    bound = {"float32": 1e-6, "bfloat16": 3e-2}[dtype]
    assert max(distances[path] for path in known) < bound


def test_a_batch_of_nothing_but_padding(case: Case, compute: Compute) -> None:
    """Every row fills the batch, with the sentence `<s> <mask> </s>` or nothing to look at."""
    framed = of_rows(case, [FILL] * 6)
    for batch in (framed, looking_nowhere(framed, [0, 1, 2, 3, 4, 5])):
        found = compute(batch)
        assert_finite(found)
        assert found.loss == 0.0
        for path, leaf in leaves(found.gradients):
            assert not np.any(leaf), path


def test_a_row_that_may_look_nowhere_is_finite(case: Case, compute: Compute) -> None:
    """Though it has a target, so that gradients flow through its even attention."""
    assert case.answer.weights[0].any()
    assert_finite(compute(looking_nowhere(case, [0])))

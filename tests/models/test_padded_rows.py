"""Padding rows of a batch cause no NaN and do not change logits, loss or gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from oracle import Case, leaves, relative_distances, small_case, zero_by_mathematics

from genrec_jax.models.contract import Params

FILL = 5  # the padding row of the case


class Computed(NamedTuple):
    logits: np.ndarray
    loss: float
    gradients: Params


Compute = Callable[[Case], Computed]


@pytest.fixture(scope="module")
def case() -> Case:
    """Six rows, the last of which is padding."""
    case = small_case()
    assert np.flatnonzero(~case.real_rows).tolist() == [FILL]
    assert not case.answer.weights[FILL].any()
    return case


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def compute(case: Case, dtype: str) -> Compute:
    """Compute logits, loss and gradients of any six rows; compiled once."""

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


def fully_masked(case: Case, rows: list[int]) -> Case:
    """Mask all positions of some rows, even `<s>` and `</s>`, which every input has."""
    mask = case.sentence.mask.at[np.array(rows)].set(False)
    return case._replace(sentence=case.sentence._replace(mask=mask))


def assert_finite(found: Computed) -> None:
    assert np.isfinite(found.logits).all()
    assert np.isfinite(found.loss)
    for path, leaf in leaves(found.gradients):
        assert np.isfinite(np.asarray(leaf)).all(), path


def test_padding_rows_change_nothing(case: Case, compute: Compute, dtype: str) -> None:
    """Three rows with three padding rows have the mean of the same three rows twice.

    Gradients are sums over different numbers of rows. The relative difference in norm is up to
    1.2e-2 in bfloat16, with 8 bits, and 1.3e-7 in float32.
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


def test_a_batch_of_padding_rows(case: Case, compute: Compute) -> None:
    """All rows are padding, with the input `<s> <mask> </s>` or fully masked."""
    framed = of_rows(case, [FILL] * 6)
    for batch in (framed, fully_masked(framed, [0, 1, 2, 3, 4, 5])):
        found = compute(batch)
        assert_finite(found)
        assert found.loss == 0.0
        for path, leaf in leaves(found.gradients):
            assert not np.any(leaf), path


def test_a_fully_masked_row_is_finite(case: Case, compute: Compute) -> None:
    """It has a target, so gradients flow through its uniform attention weights."""
    assert case.answer.weights[0].any()
    assert_finite(compute(fully_masked(case, [0])))

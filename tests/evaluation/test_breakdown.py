"""Groups that make up the whole, and how wide lists are spread."""

import numpy as np
import pytest

from genrec_jax.data.sequences import UserSequences, from_sequences, next_item_examples
from genrec_jax.evaluation.breakdown import breakdown, is_repeat, spread, without_history
from genrec_jax.evaluation.metrics import metrics, ranks_of_targets
from genrec_jax.evaluation.summary import evaluation_summary
from genrec_jax.models.heuristics.baselines import popularity_rankings
from genrec_jax.models.heuristics.rankings import training_counts


def test_the_groups_make_up_the_whole(sequences: UserSequences) -> None:
    examples = next_item_examples(sequences, n_excluded=0)
    lists = popularity_rankings(sequences, examples, 20)
    ranks = ranks_of_targets(lists, examples.targets)
    whole = metrics(lists, examples.targets)
    found = breakdown(examples, ranks, training_counts(sequences), 20)
    assert len(found) == 3
    for groups in found.values():
        assert sum(group["users"] for group in groups) == len(examples)
        for metric in ("HR@10", "NDCG@10"):
            total = sum(group["users"] * group[metric] for group in groups)
            assert total / len(examples) == pytest.approx(whole[metric])
            for group in groups:
                low, high = group["intervals"][metric]
                assert low <= group[metric] <= high


def test_repeats_and_lists_without_the_history() -> None:
    sequences = from_sequences("own", [1, 2], [[5, 6, 7, 5], [5, 6, 7]])  # rows 0, 1, 2
    examples = next_item_examples(sequences, n_excluded=0)
    assert is_repeat(examples).tolist() == [True, False]
    lists = np.array([[2, 0, 1, -1], [1, 2, -1, 0]], dtype=np.int32)
    assert without_history(lists, examples).tolist() == [[-1] * 4, [2, -1, -1, -1]]


def test_spread() -> None:
    counts = np.array([9, 1, 1, 1] + [0] * 96)
    lists = np.array([[0, 1, 2, -1], [0, 3, -1, -1]], dtype=np.int32)
    assert spread(lists, counts) == {"coverage": 0.04, "top_share": 0.4}


def test_findings_hold_together(sequences: UserSequences) -> None:
    examples = next_item_examples(sequences, n_excluded=0)
    lists = popularity_rankings(sequences, examples, 20)
    shifted = np.roll(lists, 1, axis=1)
    found = evaluation_summary(sequences, examples, lists, {"itself": lists, "shifted": shifted})
    assert set(found["differences"]["itself"]["HR@10"]) == {0.0}
    for metric, (difference, low, high) in found["differences"]["shifted"].items():
        ours, theirs = found["metrics"][metric], found["references"]["shifted"][metric]
        assert difference == pytest.approx(ours - theirs)
        assert low <= difference <= high
    assert found["without_history"]["HR@10"] <= found["metrics"]["HR@10"]
    assert set(found["spread"]) == {"model", "itself", "shifted"}

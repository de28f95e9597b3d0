"""Metrics by groups of users, coverage of the catalogue, and the evaluation summary."""

import numpy as np
import pytest

from genrec_jax.data.sequences import UserSequences, from_sequences, next_item_examples
from genrec_jax.evaluation.breakdown import breakdown, is_repeat, spread, without_history
from genrec_jax.evaluation.metrics import metrics, ranks_of_targets
from genrec_jax.evaluation.summary import evaluation_summary
from genrec_jax.models.heuristics.baselines import popularity_rankings
from genrec_jax.models.heuristics.rankings import training_counts


def test_the_groups_partition_the_users(sequences: UserSequences) -> None:
    examples = next_item_examples(sequences, n_excluded=0)
    rankings = popularity_rankings(sequences, examples, 20)
    ranks = ranks_of_targets(rankings, examples.targets)
    of_all_users = metrics(rankings, examples.targets)
    result = breakdown(examples, ranks, training_counts(sequences), 20)
    assert len(result) == 3
    for groups in result.values():
        assert sum(group["users"] for group in groups) == len(examples)
        for metric in ("HR@10", "NDCG@10"):
            total = sum(group["users"] * group[metric] for group in groups)
            assert total / len(examples) == pytest.approx(of_all_users[metric])
            for group in groups:
                low, high = group["intervals"][metric]
                assert low <= group[metric] <= high


def test_repeats_and_rankings_without_the_history() -> None:
    sequences = from_sequences("repeats", [1, 2], [[5, 6, 7, 5], [5, 6, 7]])  # item rows 0, 1, 2
    examples = next_item_examples(sequences, n_excluded=0)
    assert is_repeat(examples).tolist() == [True, False]
    rankings = np.array([[2, 0, 1, -1], [1, 2, -1, 0]], dtype=np.int32)
    assert without_history(rankings, examples).tolist() == [[-1] * 4, [2, -1, -1, -1]]


def test_spread() -> None:
    counts = np.array([9, 1, 1, 1] + [0] * 96)
    rankings = np.array([[0, 1, 2, -1], [0, 3, -1, -1]], dtype=np.int32)
    assert spread(rankings, counts) == {"coverage": 0.04, "top_share": 0.4}


def test_the_evaluation_summary_is_consistent(sequences: UserSequences) -> None:
    examples = next_item_examples(sequences, n_excluded=0)
    rankings = popularity_rankings(sequences, examples, 20)
    baselines = {"itself": rankings, "shifted": np.roll(rankings, 1, axis=1)}
    summary = evaluation_summary(sequences, examples, rankings, baselines)
    assert set(summary["differences"]["itself"]["HR@10"]) == {0.0}
    for metric, (difference, low, high) in summary["differences"]["shifted"].items():
        of_model, of_baseline = summary["metrics"][metric], summary["references"]["shifted"][metric]
        assert difference == pytest.approx(of_model - of_baseline)
        assert low <= difference <= high
    assert summary["without_history"]["HR@10"] <= summary["metrics"]["HR@10"]
    assert set(summary["spread"]) == {"model", "itself", "shifted"}

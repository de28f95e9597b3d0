"""The lines to beat on the real files; the README quotes these figures."""

from pathlib import Path

import numpy as np
import pytest

from genrec_jax.data.datasets import load_named
from genrec_jax.data.sequences import next_item_examples
from genrec_jax.identifiers.indexing import make_indexing
from genrec_jax.measures.metrics import metrics
from genrec_jax.measures.references import next_number_lists, popularity_lists

NAMES = ("HR@5", "NDCG@5", "HR@10", "NDCG@10")
LARGEST_NUMBER_PLUS_ONE = {
    "beauty": (0.0453, 0.0447, 0.0463, 0.0450),
    "sports": (0.0428, 0.0421, 0.0433, 0.0423),
    "yelp": (0.0329, 0.0324, 0.0333, 0.0326),
}
POPULARITY = {
    "beauty": (0.0072, 0.0040, 0.0114, 0.0053),
    "sports": (0.0055, 0.0040, 0.0090, 0.0051),
    "yelp": (0.0058, 0.0038, 0.0100, 0.0051),
}


@pytest.mark.parametrize("name", POPULARITY)
def test_published_numbers_leak_and_random_ones_do_not(name: str, data_dir: Path) -> None:
    sequences = load_named(name, str(data_dir))
    examples = next_item_examples(sequences, holdout=0)

    def reached(lists: np.ndarray) -> tuple[float, ...]:
        found = metrics(lists, examples.targets)
        return tuple(found[metric] for metric in NAMES)

    published = make_indexing("published", sequences, seed=0).item_numbers
    shuffled = make_indexing("random", sequences, seed=0).item_numbers
    leak = reached(next_number_lists(published, examples, 20))
    np.testing.assert_allclose(leak, LARGEST_NUMBER_PLUS_ONE[name], atol=6e-5)
    # By chance ten numbers hold the target for 10 / N of the users.
    by_chance = 10 / sequences.n_items
    bound = by_chance + 5 * np.sqrt(by_chance / len(examples))
    assert reached(next_number_lists(shuffled, examples, 20))[2] < bound
    popular = reached(popularity_lists(sequences, examples, 20))
    np.testing.assert_allclose(popular, POPULARITY[name], atol=6e-5)


def test_numbers_past_the_last_are_no_items(sequences) -> None:
    examples = next_item_examples(sequences, holdout=0)
    numbers = make_indexing("random", sequences, seed=0).item_numbers
    lists = next_number_lists(numbers, examples, 20)
    for row in range(len(examples)):
        largest = max(numbers[item] for item in examples.history(row))
        expected = [largest + i for i in range(1, 21)]
        found = [numbers[item] if item >= 0 else None for item in lists[row]]
        assert found == [n if n <= numbers.max() else None for n in expected]

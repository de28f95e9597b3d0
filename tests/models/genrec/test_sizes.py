"""The number of parameters, by part, of the models for the paper's three datasets."""

from pathlib import Path

import jax
import pytest

from genrec_jax.data.datasets import load_named
from genrec_jax.models.contract import abstract_model
from genrec_jax.models.genrec.model import GenRecShape

D = 768
BART = {
    "token embedding": 50_265 * D,
    "positions": 2 * 1_026 * D,
    "encoder": 42_528_768,
    "decoder": 56_712_192,
}
# Users and items in Table 2 of the paper, and the number of trained parameters.
DATASETS = [
    ("beauty", 22_363, 12_101, 165_888_768),
    ("sports", 35_598, 18_357, 180_857_856),
    ("yelp", 30_431, 20_033, 178_176_768),
]


@pytest.mark.parametrize(("name", "users", "items", "trained"), DATASETS)
def test_parameters_by_part(
    name: str, users: int, items: int, trained: int, data_dir: Path
) -> None:
    """BART-base has 139,420,416 parameters, and an id table has one row per user or item."""
    sequences = load_named(name, str(data_dir))
    _, params = abstract_model(GenRecShape(), sequences.n_users, sequences.n_items)
    positions = {
        side: params[side]["embedding"].pop("positions") for side in ("encoder", "decoder")
    }
    assert sum(BART.values()) == 139_420_416
    expected = {**BART, "user table": users * D, "item table": items * D}
    assert {
        "token embedding": count(params["token_embedding"]),
        "positions": count(positions),
        "encoder": count(params["encoder"]),
        "decoder": count(params["decoder"]),
        "user table": count(params["user_embedding"]),
        "item table": count(params["item_embedding"]),
    } == expected
    assert sum(expected.values()) == trained
    assert count(params["final_logits_bias"]) == 50_265  # constant, not trained


def count(tree: object) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))

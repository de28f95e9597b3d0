"""Training and all rankings of a run share one copy of the token table and of the trie."""

import gc
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest

from genrec_jax.core.signals import StopRequest
from genrec_jax.decoding.ranker import SCORES, Ranker
from genrec_jax.identifiers.trie import decided
from genrec_jax.runs.checkpoint import Checkpoints
from genrec_jax.runs.config import config_from_dict, default_config
from genrec_jax.runs.dataset import load_sequences
from genrec_jax.runs.identifiers import build_catalogue
from genrec_jax.runs.model import ModelSetup
from genrec_jax.runs.run_folder import MetricsWriter, RunFolder
from genrec_jax.training.phase import PhaseRunner, make_phases

MODEL = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "attention_heads": 2}
MODEL |= {"ffn_dim": 32, "vocab_size": 64, "max_tokens": 64}

CHANGES = {
    "data": {"synthetic_users": 70, "synthetic_items": 45, "buckets": 8},
    "codes": {"dims": 8},
    "model": MODEL,
    "pretrain": {"epochs": 10, "batch_size": 16},
    "finetune": {"batch_size": 16},
    "evaluate": {"validation_users": 0, "users": 0, "batch_size": 32},
}


def copies(array: np.ndarray) -> int:
    """How many buffers on the device hold these numbers."""
    gc.collect()
    like = [one for one in jax.live_arrays() if one.shape == array.shape and one.dtype == np.int32]
    same = [one for one in like if np.array_equal(one, array)]
    return len({one.unsafe_buffer_pointer() for one in same})


@pytest.mark.parametrize("family", ["genrec", "code_genrec"])
def test_training_and_rankings_share_their_tables(family: str, tmp_path: Path) -> None:
    values = default_config(family).to_dict()
    values["indexing"] = "collaborative" if family == "code_genrec" else "random"
    for group, changes in CHANGES.items():
        values[group] |= changes
    config = config_from_dict(values)
    sequences = load_sequences(config.data)
    catalogue = build_catalogue(config, sequences, None)
    setup = ModelSetup.new(config, catalogue, sequences, None)
    searched = catalogue.trie if family == "genrec" else decided(catalogue.trie)
    counted = {"tokens": catalogue.table.tokens, "trie": searched.first_child}
    assert {name: copies(array) for name, array in counted.items()} == {"tokens": 0, "trie": 0}
    ranker = Ranker(setup, config.evaluate, 1, "next_item")
    folder = RunFolder(tmp_path / "run")
    folder.create(config, setup.shape)
    rankers = [ranker._ranker(search) for search in ("constrained", SCORES)]
    with Checkpoints(folder.checkpoints) as checkpoints, closing(MetricsWriter(folder)) as writer:
        work = (setup, sequences, ranker, checkpoints, writer, StopRequest())
        phases = list(make_phases(config, sequences, setup.lengths))
        runners = [PhaseRunner(config, phase, *work) for phase in phases]
        assert (len(runners), len(rankers)) == (2, 2)
        assert {name: copies(array) for name, array in counted.items()} == {"tokens": 1, "trie": 1}

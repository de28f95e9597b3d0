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
from genrec_jax.runs.config import CodesConfig, Config, DataConfig, EvaluateConfig, ModelConfig
from genrec_jax.runs.dataset import load_sequences
from genrec_jax.runs.identifiers import build_catalogue
from genrec_jax.runs.model import model_shape
from genrec_jax.runs.run_folder import MetricsWriter, RunFolder
from genrec_jax.training.phase import PhaseRunner, make_phases

MODEL = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "attention_heads": 2}
MODEL |= {"ffn_dim": 32, "vocab_size": 64, "max_tokens": 64}
BEYOND = {
    "vocabulary": {},
    "trie": {"encoder_unit": "item", "head": "trie", "residual": "vector"},
}


def copies(array: np.ndarray) -> int:
    """How many buffers on the device hold these numbers."""
    gc.collect()
    like = [one for one in jax.live_arrays() if one.shape == array.shape and one.dtype == np.int32]
    same = [one for one in like if np.array_equal(one, array)]
    return len({one.unsafe_buffer_pointer() for one in same})


@pytest.mark.parametrize("head", BEYOND)
def test_training_and_rankings_share_their_tables(head: str, tmp_path: Path) -> None:
    config = Config(
        data=DataConfig(synthetic_users=70, synthetic_items=45),
        indexing="collaborative" if head == "trie" else "random",
        codes=CodesConfig(dims=8),
        model=ModelConfig(**MODEL, **BEYOND[head]),
        evaluate=EvaluateConfig(validation_users=0, users=0),
    )
    sequences = load_sequences(config.data)
    catalogue = build_catalogue(config, sequences, None)
    shape = model_shape(config.model, catalogue, None)
    searched = catalogue.trie if head == "vocabulary" else decided(catalogue.trie)
    counted = {"tokens": catalogue.table.tokens, "trie": searched.first_child}
    assert {name: copies(array) for name, array in counted.items()} == {"tokens": 0, "trie": 0}
    ranker = Ranker(catalogue, shape, config.evaluate, 64, buckets=1)
    folder = RunFolder(tmp_path / "run")
    folder.create(config, shape)
    rankers = [ranker._ranker(search) for search in ("constrained", SCORES)]
    with Checkpoints(folder.checkpoints) as checkpoints, closing(MetricsWriter(folder)) as writer:
        work = (catalogue, shape, sequences, ranker, checkpoints, writer, StopRequest())
        phases = list(make_phases(config, sequences, catalogue))
        runners = [PhaseRunner(config, phase, *work) for phase in phases]
        assert (len(runners), len(rankers)) == (2, 2)
        assert {name: copies(array) for name, array in counted.items()} == {"tokens": 1, "trie": 1}

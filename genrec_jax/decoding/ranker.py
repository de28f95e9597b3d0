"""A run's parameters and a plan of batches → the ranked items of each example.

Evaluation, training's validations and serving rank through this one class.
"""

import logging
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from genrec_jax.core.devices import Devices
from genrec_jax.core.jax_settings import pinned, recorded
from genrec_jax.data.batches import BatchPlan
from genrec_jax.data.sequences import Examples
from genrec_jax.decoding.beam_search import SearchSpec
from genrec_jax.decoding.exhaustive import block_size, make_blocks
from genrec_jax.decoding.ranking import (
    Rank,
    RankedLists,
    Watch,
    find_by_beams,
    find_exhaustively,
    join,
    make_ranker,
    rank_chunks,
    score_all,
    split_into_chunks,
)
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.sentences import plan_batches
from genrec_jax.identifiers.trie import Trie, decided
from genrec_jax.models.device_trie import DeviceTrie
from genrec_jax.models.device_trie import put_on_device as put_trie_on_device
from genrec_jax.models.genrec import GenRecShape, Params, abstract_model
from genrec_jax.models.inputs import DeviceTable, put_on_device
from genrec_jax.models.precision import cast_params
from genrec_jax.runs.checkpoint import Checkpoints
from genrec_jax.runs.config import EvaluateConfig, check_evaluate
from genrec_jax.runs.run_folder import RunFolder

log = logging.getLogger(__name__)

SCORES = "scores"  # not a search: every item with its score
SCORE_CHUNK = 1024  # examples whose scores of all items are held at once
# Where states are vectors, and short names share beginnings, small blocks do the least work.
TREE_BLOCK = 128


def unwatched(batches: Iterable[Any], label: str, total: int) -> Iterable[Any]:
    return batches


class Ranker:
    """Ranks the catalogue for examples; compiled once for each batch shape."""

    def __init__(
        self,
        catalogue: Catalogue,
        shape: GenRecShape,
        evaluate: EvaluateConfig,
        max_tokens: int,
        buckets: int,
        params: Params | None = None,
        devices: Devices | None = None,
        causal: bool = False,
    ):
        """Without `params`, set them before the first list is asked for (training does).

        Without `devices`, all of them work. The parameters lie where `Devices.put_params` puts
        them.
        `causal` says how an encoder of one vector an item reads (`Config.reads_causally`).

        Raises:
            InputError: `evaluate` does not fit together, or its batches cannot be split.
        """
        check_evaluate(evaluate)
        self.devices = devices or Devices.all()
        self.devices.check_divides("config.evaluate.batch_size", evaluate.batch_size)
        self.catalogue = catalogue
        self.evaluate = evaluate
        self._shape = shape
        self.params = params
        self._max_tokens = min(max_tokens, shape.longest_input or max_tokens)
        self._buckets = buckets
        self.causal = causal
        self._rankers: dict[tuple[str, bool], Rank] = {}

    @property
    def params(self) -> Params | None:
        """The model's parameters as ranking takes them: cast to the compute dtype when they are
        set, where the model would cast them in every batch."""
        return self._params

    @params.setter
    def params(self, params: Params | None) -> None:
        self._params = None if params is None else cast_params(self._graph, params)

    @cached_property
    def _graph(self) -> Any:
        table = self.catalogue.table
        return abstract_model(self._shape, table.n_users, table.n_items)[0]

    @cached_property
    def table(self) -> DeviceTable:
        """The token table on the devices, with the trie for a model that scores its nodes.

        All rankings share this one copy, and training on the same devices does too.
        """
        trie = self._device_trie if self._shape.head == "trie" else None
        return self.devices.put_whole(put_on_device(self.catalogue.table, trie))

    @cached_property
    def _trie(self) -> Trie:
        """What a search walks: whole names where tokens are written, else paths to one item."""
        trie = self.catalogue.trie
        return trie if self._shape.head == "vocabulary" else decided(trie)

    @cached_property
    def _device_trie(self) -> DeviceTrie:
        return self.devices.put_whole(put_trie_on_device(self._trie))

    @classmethod
    @pinned()
    def load(
        cls,
        workdir: str | Path,
        step: int | None = None,
        evaluate: EvaluateConfig | None = None,
        devices: Devices | None = None,
    ) -> "Ranker":
        """From a run's folder, which need not have its dataset at hand.

        Logs a warning if the run was trained under other settings of JAX that change numbers.

        Args:
            workdir: the run's folder.
            step: of the checkpoint; the best by validation if not given.
            evaluate: how to search, if not as the run's config says.
            devices: to rank on, not necessarily those of the training; all if not given.

        Raises:
            InputError: no run there, no such step, a checkpoint of another shape, or a search
                that does not go with the run.
        """
        folder = RunFolder(Path(workdir))
        config = folder.read_config()
        if evaluate is not None:
            config = config.searching(evaluate)
        if differing := folder.differing_jax_settings(recorded()):
            log.warning(
                "WARNING: %s was trained under other JAX settings (%s): scores may differ in the "
                "last digits, and so may ranks",
                *(workdir, "; ".join(differing)),
            )
        shape = folder.read_shape()
        catalogue = Catalogue.load(folder.identifiers)
        table = catalogue.table
        devices = devices or Devices.all()
        devices.check_width(shape.d_model)
        _, like = abstract_model(shape, table.n_users, table.n_items)
        with Checkpoints(folder.checkpoints) as checkpoints:
            best = checkpoints.best() if step is None else step
            params = checkpoints.params(best, devices.like(like))
            causal = checkpoints.progress(best).get("causal")
        return cls(
            catalogue,
            shape,
            config.evaluate,
            config.model.max_tokens,
            config.data.buckets,
            params,
            devices,
            config.reads_causally if causal is None else causal,
        )

    def plan(self, examples: Examples, label: str) -> BatchPlan:
        """The batches that some examples fall into; what is cut from them is logged."""
        return plan_batches(
            examples,
            self.catalogue.table,
            self._max_tokens,
            self.evaluate.batch_size,
            self._buckets,
            label,
            self._shape.encoder_unit,
        )

    def rank(
        self,
        plan: BatchPlan,
        label: str,
        watch: Watch = unwatched,
        search: str | None = None,
    ) -> RankedLists:
        """Item rows and scores of each example of the plan, top_k of them, best first."""
        chunks = split_into_chunks(len(plan.examples))
        return join(self.rank_chunks(plan, chunks, label, watch, search))

    def rank_chunks(
        self,
        plan: BatchPlan,
        chunks: list[tuple[int, int]],
        label: str,
        watch: Watch = unwatched,
        search: str | None = None,
    ) -> Iterator[tuple[int, RankedLists]]:
        """The same, a chunk of examples at a time, as (start of the chunk, lists).

        Args:
            plan: of all examples.
            chunks: (start, stop) of those to rank.
            label: for `watch`.
            watch: wraps the batches, to show progress.
            search: if not as `evaluate.search` says.
        """
        if self.params is None:
            raise ValueError("the ranker has no parameters yet")
        return rank_chunks(
            self._ranker(search or self.evaluate.search),
            self.params,
            plan,
            chunks,
            self.evaluate.exclude_history,
            watch,
            label,
        )

    def score_chunks(
        self, plan: BatchPlan, label: str, watch: Watch = unwatched
    ) -> Iterator[tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n N"]]]:
        """The log-probability of every item for each example, as (rows of the plan, scores).

        Items of the histories have theirs too. Memory is bounded by SCORE_CHUNK examples.
        """
        if self.params is None:
            raise ValueError("the ranker has no parameters yet")
        chunks = split_into_chunks(len(plan.examples), SCORE_CHUNK)
        rank = self._ranker(SCORES)
        for start, found in rank_chunks(rank, self.params, plan, chunks, False, watch, label):
            yield np.arange(start, start + len(found.scores)), found.scores

    @pinned()
    def _ranker(self, search: str) -> Rank:
        """Made when it is first asked for."""
        if (search, self.causal) in self._rankers:
            return self._rankers[search, self.causal]
        table = self.catalogue.table
        beams = self.evaluate.beams
        if search == "constrained" and beams > len(self.catalogue.item_ids):
            beams = max(len(self.catalogue.item_ids), self.evaluate.top_k)
            log.info("%d beams do for %d items", beams, len(self.catalogue.item_ids))
        spec = SearchSpec(
            beams=beams,
            eos=table.eos,
            pad=table.pad,
            search="free" if search == "free" else "constrained",
            length_penalty=self.evaluate.length_penalty,
        )
        if search in ("exhaustive", SCORES):
            size = (
                block_size(self.evaluate.batch_size, self._shape.vocab_size)
                if self._shape.head == "vocabulary"
                else TREE_BLOCK
            )
            find = score_all if search == SCORES else find_exhaustively(spec, self.evaluate.top_k)
            where = self.devices.put_whole(make_blocks(self._trie, table.eos, size))
        else:
            find = find_by_beams(spec, self.evaluate.top_k)
            where = self._device_trie
        ranker = make_ranker(self._graph, self.table, find, where, self.devices, self.causal)
        ranker = pinned()(ranker)
        self._rankers[search, self.causal] = ranker
        return ranker

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
from genrec_jax.decoding.exhaustive import make_blocks
from genrec_jax.decoding.ranking import (
    Find,
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
from genrec_jax.identifiers.trie import Trie
from genrec_jax.models.contract import RANKED_AS, Objective, Params
from genrec_jax.models.device_trie import DeviceTrie
from genrec_jax.models.device_trie import put_on_device as put_trie_on_device
from genrec_jax.models.precision import cast_params
from genrec_jax.models.run_config import EvaluateConfig, RunConfig
from genrec_jax.models.tables import Tables
from genrec_jax.runs.checkpoint import Checkpoints
from genrec_jax.runs.model import ModelSetup
from genrec_jax.runs.run_folder import RunFolder

log = logging.getLogger(__name__)

SCORES = "scores"  # not a search: every item with its score
SCORE_CHUNK = 1024  # examples whose scores of all items are held at once


def unwatched(batches: Iterable[Any], label: str, total: int) -> Iterable[Any]:
    return batches


class Ranker:
    """Ranks the catalogue for examples; compiled once for each batch shape."""

    def __init__(
        self,
        setup: ModelSetup,
        evaluate: EvaluateConfig,
        buckets: int,
        objective: Objective,
        params: Params | None = None,
        devices: Devices | None = None,
    ):
        """Prepare to rank; nothing is compiled before the first batch.

        Args:
            setup: the model and its catalogue.
            evaluate: how to search.
            buckets: the most padded lengths of batches.
            objective: that the parameters were last trained with; training sets it for each phase.
            params: without them, set `params` before the first list is asked for (training does).
            devices: all if not given. The parameters are where `Devices.put_params` puts them.

        Raises:
            InputError: `evaluate` does not fit together, or its batches cannot be split.
        """
        evaluate.check()
        self.devices = devices or Devices.all()
        self.devices.check_divides("config.evaluate.batch_size", evaluate.batch_size)
        self.setup = setup
        self.evaluate = evaluate
        self._settings = evaluate.search_settings()
        self.params = params
        self.objective: Objective = objective
        self._buckets = buckets
        self._rankers: dict[tuple[str, Objective], Rank] = {}

    @property
    def catalogue(self) -> Catalogue:
        """The users and items of the run."""
        return self.setup.catalogue

    @property
    def params(self) -> Params | None:
        """The model's parameters as ranking takes them: cast to the compute dtype when they are
        set, where the model would cast them in every batch."""
        return self._params

    @params.setter
    def params(self, params: Params | None) -> None:
        graph, _ = self.setup.graph_and_like
        self._params = None if params is None else cast_params(graph, params)

    @cached_property
    def tables(self) -> Tables:
        """What the model reads on the devices.

        All rankings share this one copy, and training on the same devices does too.
        """
        tables = self.setup.family.tables(self.catalogue, self._device_trie)
        return self.devices.put_whole(tables)

    @cached_property
    def _trie(self) -> Trie | None:
        return self.setup.family.search_trie(self.catalogue)

    @cached_property
    def _device_trie(self) -> DeviceTrie | None:
        if self._trie is None:
            return None
        return self.devices.put_whole(put_trie_on_device(self._trie))

    @classmethod
    @pinned()
    def load(
        cls,
        workdir: str | Path,
        step: int | None = None,
        config: RunConfig | None = None,
        devices: Devices | None = None,
    ) -> "Ranker":
        """Restore a run's model from its directory; its dataset need not be at hand.

        Logs a warning if the run was trained under other settings of JAX that change numbers.

        Args:
            workdir: the run's directory.
            step: of the checkpoint; the best by validation if not given.
            config: the run's, with other keys of `evaluate`; None: as it is stored.
            devices: to rank on, not necessarily those of the training; all if not given.

        Raises:
            InputError: no run there, no such step, a checkpoint of another shape, or a search
                that does not go with the run.
        """
        folder = RunFolder(Path(workdir))
        config = folder.read_config() if config is None else config
        if differing := folder.differing_jax_settings(recorded()):
            log.warning(
                "WARNING: %s was trained under other JAX settings (%s): scores may differ in the "
                "last digits, and so may ranks",
                *(workdir, "; ".join(differing)),
            )
        setup = ModelSetup.load(folder, config)
        devices = devices or Devices.all()
        devices.check_width(setup.shape.width)
        _, like = setup.graph_and_like
        with Checkpoints(folder.checkpoints) as checkpoints:
            best = checkpoints.best() if step is None else step
            params = checkpoints.params(best, devices.like(like))
            objective = checkpoints.progress(best)["objective"]
        return cls(setup, config.evaluate, config.data.buckets, objective, params, devices)

    def plan(self, examples: Examples, label: str) -> BatchPlan:
        """The batches that some examples fall into; what is cut from them is logged."""
        lengths, longest = self.setup.lengths, self.setup.shape.longest_input
        return plan_batches(
            examples,
            lengths,
            self.evaluate.batch_size,
            self._buckets,
            label,
            min(lengths.most, longest or lengths.most),
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
            self._ranker(search or self._settings.search),
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
        """Make the ranker of a search when it is first asked for."""
        objective = RANKED_AS[self.objective]
        if (search, objective) not in self._rankers:
            graph, _ = self.setup.graph_and_like
            find, where = self._search(search)
            ranker = make_ranker(graph, self.tables, find, where, objective, self.devices)
            self._rankers[search, objective] = pinned()(ranker)
        return self._rankers[search, objective]

    def _search(self, search: str) -> tuple[Find, Any]:
        """A search and what it searches, on the devices."""
        evaluate, trie = self.evaluate, self._trie
        spec = SearchSpec(
            beams=self._beams(search),
            eos=0 if trie is None else self.catalogue.table.eos,
            pad=0 if trie is None else self.catalogue.table.pad,
            search="free" if search == "free" else "constrained",
            length_penalty=self._settings.length_penalty,
        )
        if search not in ("exhaustive", SCORES):
            return find_by_beams(spec, evaluate.top_k), self._device_trie
        find = score_all if search == SCORES else find_exhaustively(spec, evaluate.top_k)
        if trie is None:
            return find, None
        size = self.setup.family.block_nodes(self.setup.shape, evaluate.batch_size)
        return find, self.devices.put_whole(make_blocks(trie, spec.eos, size))

    def _beams(self, search: str) -> int:
        beams, items = self._settings.beams, self.catalogue.n_items
        if search == "constrained" and beams > items:
            beams = max(items, self.evaluate.top_k)
            log.info("%d beams do for %d items", beams, items)
        return beams

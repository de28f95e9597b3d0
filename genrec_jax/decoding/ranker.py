"""Rank the catalogue for the examples of a plan with a run's parameters.

Evaluation, validation during training, and serving all rank through the class `Ranker`.
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
    Rank,
    Rankings,
    Search,
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
from genrec_jax.identifiers.input_lengths import plan_batches
from genrec_jax.identifiers.trie import Trie
from genrec_jax.models.contract import RANKING_OBJECTIVE, Objective, Params
from genrec_jax.models.device_trie import DeviceTrie
from genrec_jax.models.device_trie import put_on_device as put_trie_on_device
from genrec_jax.models.precision import cast_params
from genrec_jax.models.run_config import EvaluateConfig, RunConfig
from genrec_jax.models.tables import Tables
from genrec_jax.runs.checkpoint import Checkpoints
from genrec_jax.runs.model import ModelSetup
from genrec_jax.runs.run_folder import RunFolder

log = logging.getLogger(__name__)

SCORES = "scores"  # in place of a search: scores every item and does not rank
SCORE_CHUNK = 1024  # examples whose scores of all items are in memory together


def without_progress(batches: Iterable[Any], label: str, total: int) -> Iterable[Any]:
    """Return the batches unchanged, without showing progress: a `Watch`."""
    return batches


class Ranker:
    """Rank the catalogue for examples; each batch shape is compiled once."""

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
            evaluate: the search settings, the batch size and k.
            buckets: the maximum number of padded lengths of batches.
            objective: the objective that the parameters were last trained with. Training sets the
                attribute in each phase.
            params: the model's parameters, placed by `Devices.put_params`; if None, the attribute
                `params` must be set before ranking, as training does.
            devices: the devices to rank on; None: all.

        Raises:
            InputError: settings in `evaluate` contradict each other, or its batch size is not a
                multiple of the number of devices.
        """
        evaluate.check()
        self.devices = devices or Devices.all()
        self.devices.check_batch_size("config.evaluate.batch_size", evaluate.batch_size)
        self.setup = setup
        self.evaluate = evaluate
        self._settings = evaluate.search_settings()
        self.params = params
        self.objective: Objective = objective
        self._buckets = buckets
        self._rankers: dict[tuple[str, Objective], Rank] = {}

    @property
    def catalogue(self) -> Catalogue:
        """The run's catalogue of users and items."""
        return self.setup.catalogue

    @property
    def params(self) -> Params | None:
        """The model's parameters, cast to the compute dtype.

        They are cast once when they are set, if the model would otherwise cast them in every batch.
        """
        return self._params

    @params.setter
    def params(self, params: Params | None) -> None:
        graph, _ = self.setup.graph_and_like
        self._params = None if params is None else cast_params(graph, params)

    @cached_property
    def tables(self) -> Tables:
        """The model's tables on the devices.

        All searches share this copy, and so does training on the same devices.
        """
        tables = self.setup.family.tables(self.catalogue, self._device_trie)
        return self.devices.replicate(tables)

    @cached_property
    def _trie(self) -> Trie | None:
        return self.setup.family.search_trie(self.catalogue)

    @cached_property
    def _device_trie(self) -> DeviceTrie | None:
        if self._trie is None:
            return None
        return self.devices.replicate(put_trie_on_device(self._trie))

    @classmethod
    @pinned()
    def load(
        cls,
        workdir: str | Path,
        step: int | None = None,
        config: RunConfig | None = None,
        devices: Devices | None = None,
    ) -> "Ranker":
        """Restore a run's model from its directory; the dataset is not needed.

        A warning is logged if the run was trained under different JAX settings that affect results.

        Args:
            workdir: the run directory.
            step: the step of the checkpoint; None: the best one by validation.
            config: the run's config, possibly with changed keys of `evaluate`; None: the stored
                config.
            devices: the devices to rank on, which may differ from those of training; None: all.

        Raises:
            InputError: `workdir` contains no run or no checkpoint of the step, the checkpoint has
                other shapes, or the model does not support the search.
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
        """Return the batches of some examples; histories that are truncated are logged.

        Args:
            examples: the examples to rank.
            label: the name of the examples in log lines.
        """
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
        watch: Watch = without_progress,
        search: str | None = None,
    ) -> Rankings:
        """Return the top-k items and scores of each example, best first.

        Args:
            plan: the batches of the examples, from `plan`.
            label: the label of the progress display.
            watch: wraps the batches to show progress.
            search: the search to use; None: `evaluate.search`.

        Raises:
            ValueError: the ranker has no parameters.
        """
        chunks = split_into_chunks(len(plan.examples))
        return join(self.rank_chunks(plan, chunks, label, watch, search))

    def rank_chunks(
        self,
        plan: BatchPlan,
        chunks: list[tuple[int, int]],
        label: str,
        watch: Watch = without_progress,
        search: str | None = None,
    ) -> Iterator[tuple[int, Rankings]]:
        """Yield the top-k items and scores of each chunk, as (start of the chunk, rankings).

        Args:
            plan: the batches of all examples, from `plan`.
            chunks: (start, stop) of each chunk to rank.
            label: the label of the progress display.
            watch: wraps the batches to show progress.
            search: the search to use; None: `evaluate.search`.

        Raises:
            ValueError: the ranker has no parameters.
        """
        if self.params is None:
            raise ValueError("Ranker.params: found None, expected parameters before ranking")
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
        self, plan: BatchPlan, label: str, watch: Watch = without_progress
    ) -> Iterator[tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n N"]]]:
        """Yield the log-probability of every item for each example, as (rows of the plan, scores).

        Items of the histories are included. Memory is bounded by SCORE_CHUNK examples.

        Args:
            plan: the batches of all examples, from `plan`.
            label: the label of the progress display.
            watch: wraps the batches to show progress.

        Raises:
            ValueError: the ranker has no parameters.
        """
        if self.params is None:
            raise ValueError("Ranker.params: found None, expected parameters before ranking")
        chunks = split_into_chunks(len(plan.examples), SCORE_CHUNK)
        rank = self._ranker(SCORES)
        for start, result in rank_chunks(rank, self.params, plan, chunks, False, watch, label):
            yield np.arange(start, start + len(result.scores)), result.scores

    @pinned()
    def _ranker(self, search: str) -> Rank:
        """Return the jitted ranker of a search, which is created at first use."""
        objective = RANKING_OBJECTIVE[self.objective]
        if (search, objective) not in self._rankers:
            graph, _ = self.setup.graph_and_like
            find, catalogue = self._search(search)
            ranker = make_ranker(graph, self.tables, find, catalogue, objective, self.devices)
            self._rankers[search, objective] = pinned()(ranker)
        return self._rankers[search, objective]

    def _search(self, search: str) -> tuple[Search, Any]:
        """Return a search and the catalogue in the form that it expects, on the devices."""
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
        return find, self.devices.replicate(make_blocks(trie, spec.eos, size))

    def _beams(self, search: str) -> int:
        """Return the number of beams: `evaluate.beams`, or fewer for a small catalogue."""
        beams, items = self._settings.beams, self.catalogue.n_items
        if search == "constrained" and beams > items:
            beams = max(items, self.evaluate.top_k)
            log.info("using %d beams: the catalogue has only %d items", beams, items)
        return beams

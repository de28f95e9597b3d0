"""The Python interface: a run's checkpoint and a history → top items.

from genrec_jax import Recommender

recommender = Recommender.load("runs/beauty")
recommender.recommend([(22, [1234, 87])])   # user id, item ids, the most recent last

A run on a prepared dataset takes and gives the log's own ids, which are text, and titles:

recommender.recommend([("A1YJEY40YUW4SE", ["B000142FVW"])])

JAX's switches are the caller's: nothing here changes them, and rankings are the same under
`jax_enable_x64` and the like (core/jax_settings.py).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from genrec_jax.core.devices import Devices
from genrec_jax.core.errors import InputError
from genrec_jax.data.sequences import Examples
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.log_ids import Id
from genrec_jax.runs.config import with_evaluate
from genrec_jax.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Recommendation:
    """An item by its id in the log or the sequence file, and its log-probability in nats."""

    item: Id
    score: float
    title: str | None = None


# A user, None for somebody that the run does not know, and items, the most recent last.
History = tuple[Id | None, Sequence[Id]]


class Recommender:
    """Recommends items for histories; see the module's docstring."""

    def __init__(self, ranker: Ranker):
        """Serve what `ranker` ranks."""
        self.ranker = ranker

    @property
    def catalogue(self) -> Catalogue:
        """The users and items that the run knows."""
        return self.ranker.catalogue

    @classmethod
    def load(
        cls,
        workdir: str | Path,
        step: int | None = None,
        evaluate: Mapping[str, Any] | None = None,
        devices: Devices | None = None,
    ) -> "Recommender":
        """Restore a run; its dataset need not be at hand. See `Ranker.load`.

        Args:
            workdir: the run's directory.
            step: of the checkpoint; the best by validation if not given.
            evaluate: keys of the run's `config.evaluate` to change, as {"search": "exhaustive"}.
            devices: to rank on, not necessarily those of the training; all if not given.

        Raises:
            InputError: no run there, no such step, a checkpoint of another shape, or a search
                that does not go with the run.
        """
        config = RunFolder(Path(workdir)).read_config()
        config = with_evaluate(config, {} if evaluate is None else evaluate, is_measured=False)
        return cls(Ranker.load(workdir, step, config, devices))

    def recommend(self, histories: Iterable[History]) -> list[list[Recommendation]]:
        """Top items for each (user id, item ids), ids as the log or the sequence file has them.

        A user of None is a stranger: the history alone speaks. It takes a model that was trained
        with `model.user_dropout` to make much of that.

        Raises:
            InputError: a user or an item that the run was not trained on.
        """
        asked = list(histories)
        if not asked:
            return []
        plan = self.ranker.plan(self.examples(asked), "recommend")
        lists = self.ranker.rank(plan, "recommend")
        return [self.named(items, scores) for items, scores in zip(*lists, strict=True)]

    def named(
        self, items: Int[np.ndarray, " k"], scores: Float[np.ndarray, " k"]
    ) -> list[Recommendation]:
        """One ranked list with ids and titles; places that free search left empty are out."""
        there = items[items >= 0]
        titles = self.catalogue.titles(there)
        columns = (
            self.catalogue.items.take(there).to_pylist(),
            scores[items >= 0].tolist(),
            titles,
        )
        return [Recommendation(*line) for line in zip(*columns, strict=True)]

    def examples(self, histories: Sequence[History]) -> Examples:
        """Histories of ids as rows; raises InputError for ids that are unknown or of another kind.

        A user of None has the row -1.
        """
        for number, history in enumerate(histories):
            is_pair = isinstance(history, tuple | list) and len(history) == 2
            if (
                not is_pair
                or not isinstance(history[1], Collection)
                or isinstance(history[1], str | bytes)
            ):
                raise InputError(
                    f"history {number}: found {history!r:.100}, expected (user, [item, item, …])"
                )
        lengths = np.array([len(items) for _, items in histories], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        flat = [item for _, items in histories for item in items]
        known = np.array([user is not None for user, _ in histories], dtype=bool)
        users = np.full(len(histories), -1)
        users[known] = self.catalogue.users.rows([u for u, _ in histories if u is not None])
        return Examples(
            items=self.catalogue.items.rows(flat).astype(np.int32),
            users=users,
            starts=offsets[:-1],
            stops=offsets[1:],
            targets=np.full(len(histories), -1),
        )

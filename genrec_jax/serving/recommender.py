"""The Python interface to a trained run: recommend the top-k next items of histories.

    from genrec_jax import Recommender

    recommender = Recommender.load("runs/beauty")
    recommender.recommend([(22, [1234, 87])])  # (user id, item ids with the most recent last)

For a run on a prepared log, ids are the strings of the log, and recommendations have titles if the
log has them:

    recommender.recommend([("A1YJEY40YUW4SE", ["B000142FVW"])])

JAX's settings are left to the caller. Rankings do not depend on `jax_enable_x64` and similar
settings (core/jax_settings.py).
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
    """A recommended item.

    Attributes:
        item: the item's id, as in the dataset: a string for a prepared log, a number otherwise.
        score: the item's score, by which recommendations are sorted. For generative models, it is
            the log-probability of the item's identifier in nats, divided by a power of its length
            if `evaluate.length_penalty` is not 0.
        title: the item's title; None if the dataset has none.
    """

    item: Id
    score: float
    title: str | None = None


# (user id, item ids with the most recent last); the user is None if unknown.
History = tuple[Id | None, Sequence[Id]]


class Recommender:
    """A trained run that recommends the next items of histories.

    Example:
        Load the best checkpoint of a run, and print the three best items for a user:

            from genrec_jax import Recommender

            recommender = Recommender.load("runs/quickstart")
            history = (22, [12, 87, 3])  # user 22, whose most recent item is 3
            (recommendations,) = recommender.recommend([history])
            for recommendation in recommendations[:3]:
                print(recommendation.item, recommendation.score)

    The number of recommendations per history, and the search, are those of the run's
    `config.evaluate`, unless `load` gets other values. The model is compiled for each batch shape
    on its first use, so that later calls of `recommend` are faster. Pass many histories in one call
    for the best throughput.
    """

    def __init__(self, ranker: Ranker):
        """Wrap a ranker; use `load` to create a recommender from a run's directory."""
        self.ranker = ranker

    @property
    def catalogue(self) -> Catalogue:
        """The users and items of the run, with their ids and titles."""
        return self.ranker.catalogue

    @classmethod
    def load(
        cls,
        workdir: str | Path,
        step: int | None = None,
        evaluate: Mapping[str, Any] | None = None,
        devices: Devices | None = None,
    ) -> "Recommender":
        """Load a run from its directory. The dataset is not needed.

        Args:
            workdir: the run's directory, the `--workdir` of its training.
            step: the step of the checkpoint; None for the best by validation.
            evaluate: values of the run's `config.evaluate` to replace, such as
                `{"search": "exhaustive", "top_k": 10}`.
            devices: the devices to rank on, which may differ from those of the training; None for
                all devices.

        Returns:
            A recommender with the model on the devices.

        Raises:
            InputError: there is no run or no checkpoint of the step, the checkpoint does not match
                the run's shape, or `evaluate` has an unknown key or a value that the run does not
                support.
        """
        config = RunFolder(Path(workdir)).read_config()
        config = with_evaluate(config, {} if evaluate is None else evaluate, is_measured=False)
        return cls(Ranker.load(workdir, step, config, devices))

    def recommend(self, histories: Iterable[History]) -> list[list[Recommendation]]:
        """Recommend items for each history.

        Args:
            histories: pairs of a user id and item ids, with the most recent item last. Ids are
                those of the dataset: strings for a prepared log, numbers otherwise. Long histories
                lose their oldest items. Use None for a user who is not in the dataset. The
                recommendations then depend only on the items, which works well if the run was
                trained with `config.model.user_dropout`.

        Returns:
            One list per history, in the order of `histories`, with at most `evaluate.top_k`
            recommendations, best first.

        Raises:
            InputError: a history is not such a pair, or the run's dataset does not have one of the
                users or items.
        """
        pairs = list(histories)
        if not pairs:
            return []
        plan = self.ranker.plan(self.examples(pairs), "recommend")
        rankings = self.ranker.rank(plan, "recommend")
        return [self._with_ids(items, scores) for items, scores in zip(*rankings, strict=True)]

    def _with_ids(
        self, items: Int[np.ndarray, " k"], scores: Float[np.ndarray, " k"]
    ) -> list[Recommendation]:
        """Convert a ranking of item rows to recommendations, without padding (-1)."""
        rows = items[items >= 0]
        columns = (
            self.catalogue.items.take(rows).to_pylist(),
            scores[items >= 0].tolist(),
            self.catalogue.titles(rows),
        )
        return [Recommendation(*values) for values in zip(*columns, strict=True)]

    def examples(self, histories: Sequence[History]) -> Examples:
        """Convert histories of ids to examples for the ranker, in which users and items are rows.

        Args:
            histories: histories as in `recommend`.

        Returns:
            One example per history. An unknown user has the row -1, and there are no targets.

        Raises:
            InputError: a history is not a pair of a user and items, or an id is unknown or has the
                wrong type.
        """
        for number, history in enumerate(histories):
            is_pair = isinstance(history, tuple | list) and len(history) == 2
            if (
                not is_pair
                or not isinstance(history[1], Collection)
                or isinstance(history[1], str | bytes)
            ):
                raise InputError(
                    f"histories[{number}]: found {history!r:.100}, expected (user, [item, …])"
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

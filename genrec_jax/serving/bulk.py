"""Write the top-k recommendations for many histories to a file (the recommend command)."""

import json
import logging
import os
from itertools import islice
from pathlib import Path

import numpy as np

from genrec_jax.core.devices import Devices
from genrec_jax.core.errors import InputError
from genrec_jax.core.progress import track
from genrec_jax.data.sequences import Examples, read_id_lines, whole_histories
from genrec_jax.decoding.predictions import check_writable, rank_to_file
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.decoding.ranking import Rankings
from genrec_jax.models import load_family
from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs.dataset import load_log_metadata, load_sequences
from genrec_jax.runs.run_folder import RunFolder
from genrec_jax.serving.recommender import History, Recommender

log = logging.getLogger(__name__)

SHOWN_USERS = 3  # number of users whose recommendations are logged, if items have titles
SHOWN_ITEMS = 5  # number of recommendations, and of most recent items, that are logged per user
LONGEST_TITLE = 70  # characters after which a logged title is truncated


def recommend(
    config: RunConfig,
    folder: RunFolder,
    step: int | None,
    histories: Path | None,
    output: Path | None,
) -> None:
    """Write recommendations for all users of the dataset, or for a file of histories.

    Args:
        config: the run's config, whose `evaluate` may differ from that of the training.
        folder: the run's directory.
        step: the step of the checkpoint; None for the best by validation.
        histories: a file in the format of `read_histories`; None for all users of the dataset with
            their whole sequences.
        output: the Parquet file to write; None for predictions/recommendations.parquet in the run's
            directory.

    Raises:
        InputError: there is no run, the dataset is not that of the run, or the histories or the
            output cannot be used.
        DiskError: the output cannot be written.
    """
    path = output or folder.predictions / "recommendations.parquet"
    check_writable(path, "--output")
    if histories is not None:
        _check_differs(path, histories)
    devices = Devices.for_ranking(config.table_parts())
    recommender = Recommender(Ranker.load(folder.path, step, config, devices))
    if histories is None:
        sequences = load_sequences(config.data)
        recommender.catalogue.check_same_dataset(sequences, load_log_metadata(config.data))
        examples = whole_histories(sequences)
        if config.data.drop_last:
            log.info("histories do not include each user's last %d items", config.data.drop_last)
    else:
        examples = read_histories(histories, recommender)
    if unknown := int((examples.users < 0).sum()):
        have = "history has" if unknown == 1 else "histories have"
        log.info("%d %s an unknown user%s", unknown, have, _unknown_user_caveat(config))
    ranker = recommender.ranker
    plan = ranker.plan(examples, "recommend")
    for start, rankings in rank_to_file(path, ranker, examples, plan, "recommend", track):
        if start == 0:
            log_examples(recommender, examples, rankings)


def _check_differs(output: Path, histories: Path) -> None:
    """Raise InputError if the file of histories is missing, or the output would overwrite it."""
    try:
        histories_stat = histories.stat()
    except OSError as error:
        raise InputError(f"{histories}: cannot be read as a file of histories: {error}") from None
    if output.exists() and os.path.samestat(histories_stat, output.stat()):
        raise InputError(f"--output={output}: found the file of histories, expected another file")


def _unknown_user_caveat(config: RunConfig) -> str:
    """Return a note that the model was not trained for unknown users, or ""."""
    if load_family(config.model.family).supports_unknown_users(config):
        return ""
    return ", for whom this model was not trained (config.model.user_dropout=0)"


def read_histories(path: Path, recommender: Recommender) -> Examples:
    """Read a file of histories, one per line, with the most recent item last.

    Args:
        path: a file of JSON lines such as `{"user": "A1", "items": ["B00", "B07"]}`, in which a
            user of null is unknown. For a run whose ids are numbers, its lines may also be
            `user item item …`.
        recommender: the run that the ids belong to.

    Returns:
        The histories as rows of the run's users and items, in the order of the file.

    Raises:
        InputError: the file cannot be read, a line has another format, or the run does not have one
            of the users or items.
    """
    lines = _read_json_lines(path) if _starts_as_json(path) else _read_numbers(path, recommender)
    try:
        return recommender.examples([history for _, history in lines])
    except InputError:
        for number, history in lines:
            try:
                recommender.examples([history])
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
        raise


def _starts_as_json(path: Path) -> bool:
    """Return whether the file starts with a JSON object."""
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"{")
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a file of histories: {error}") from None


def _read_numbers(path: Path, recommender: Recommender) -> list[tuple[int, History]]:
    """Read the line number and history of every line `user item item …`."""
    if recommender.catalogue.users.are_text:
        raise InputError(
            f'{path}, line 1: found no JSON, expected {{"user": "…", "items": ["…", …]}}, since '
            "the ids of this run are strings"
        )
    lines = read_id_lines(path, "a file of histories")
    return [(number, (ids[0], ids[1:])) for number, ids in lines]


def _read_json_lines(path: Path) -> list[tuple[int, History]]:
    """Read the line number and history of every line `{"user": …, "items": […]}`."""
    try:
        # Not splitlines, which also splits at separators that JSON strings may contain.
        lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a file of histories: {error}") from None
    histories = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            if not isinstance(values, dict) or values.keys() != {"user", "items"}:
                raise ValueError("expected an object with the keys user and items")
            if not isinstance(values["items"], list):
                raise ValueError("items is not a list")
            ids = [*values["items"], *([] if values["user"] is None else [values["user"]])]
            if wrong := [value for value in ids if type(value) not in (int, str)]:
                raise ValueError(f"{wrong[0]!r} is neither a string nor a whole number")
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number}: found {line[:40]!r}, expected "
                f'{{"user": …, "items": […]}}: {error}'
            ) from None
        histories.append((number, (values["user"], values["items"])))
    return histories


def log_examples(recommender: Recommender, examples: Examples, rankings: Rankings) -> None:
    """Log the histories and recommendations of the first users, if items have titles.

    Args:
        recommender: the run's recommender.
        examples: the histories.
        rankings: the recommendations for the first histories, in the same order.
    """
    catalogue = recommender.catalogue
    if catalogue.log_metadata is None or not catalogue.log_metadata.has_titles:
        return
    for row, (items, scores) in enumerate(islice(zip(*rankings, strict=True), SHOWN_USERS)):
        user = catalogue.users.take(examples.users[row : row + 1]).to_pylist()[0]
        lines = [f"user {'unknown' if user is None else user}, most recent items:"]
        recent = examples.history(row)[-SHOWN_ITEMS:]
        lines += [f"      {label}" for label in _labels(recommender, recent)]
        lines.append("  recommendations (log-probability):")
        labels = _labels(recommender, items[items >= 0][:SHOWN_ITEMS])
        lines += [
            f"    {rank}. {label}  ({score:.2f})"
            for rank, (label, score) in enumerate(zip(labels, scores, strict=False), start=1)
        ]
        log.info("%s", "\n".join(lines))


def _labels(recommender: Recommender, items: np.ndarray) -> list[str]:
    """Return `TITLE [ID]` of each item row, or `[ID]` for an item without a title."""
    ids = recommender.catalogue.items.take(items).to_pylist()
    titles = recommender.catalogue.titles(items)
    return [
        f"{_truncated(title)} [{item}]" if title else f"[{item}]"
        for item, title in zip(ids, titles, strict=True)
    ]


def _truncated(title: str) -> str:
    """Return a title on one line, with at most LONGEST_TITLE characters."""
    text = " ".join(title.split())
    return text if len(text) <= LONGEST_TITLE else f"{text[: LONGEST_TITLE - 1]}…"

"""A checkpoint and histories → top-k lists in a file."""

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
from genrec_jax.decoding.ranking import RankedLists
from genrec_jax.models import load_family
from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs.dataset import load_names, load_sequences
from genrec_jax.runs.run_folder import RunFolder
from genrec_jax.serving.recommender import History, Recommender

log = logging.getLogger(__name__)

SHOWN = 3  # lists on the console, where items have titles
PLACES = 5  # of each, and newest items of its history
LONGEST_SHOWN = 70  # characters of a title


def recommend(
    config: RunConfig,
    folder: RunFolder,
    step: int | None,
    histories: Path | None,
    output: Path | None,
) -> None:
    """Write the next items of every user of the dataset, or of a file of histories.

    Args:
        config: the run's, with perhaps another `evaluate` part.
        folder: the run.
        step: of the checkpoint; the best by validation if None.
        histories: see `read_histories`; None: all users of the dataset with everything that is
            known of them.
        output: the file to write; None: predictions/recommendations.parquet of the run.
    """
    path = output or folder.predictions / "recommendations.parquet"
    check_writable(path, "--output")
    if histories is not None:
        _check_histories_are_not(path, histories)
    devices = Devices.to_rank(config.table_parts())
    recommender = Recommender(Ranker.load(folder.path, step, config, devices))
    if histories is None:
        sequences = load_sequences(config.data)
        recommender.catalogue.check_same_dataset(sequences, load_names(config.data))
        examples = whole_histories(sequences)
        if config.data.drop_last:
            log.info("histories end before the last %d items of each user", config.data.drop_last)
    else:
        examples = read_histories(histories, recommender)
    if strangers := int((examples.users < 0).sum()):
        histories_are = "history is" if strangers == 1 else "histories are"
        log.info("%d %s of no known user%s", strangers, histories_are, _doubt(config))
    ranker = recommender.ranker
    plan = ranker.plan(examples, "recommend")
    for start, lists in rank_to_file(path, ranker, examples, plan, "recommend", track):
        if start == 0:
            show(recommender, examples, lists)


def _check_histories_are_not(output: Path, histories: Path) -> None:
    """Raise InputError if the file of histories is missing, or the output would overwrite it."""
    try:
        found = histories.stat()
    except OSError as error:
        raise InputError(f"{histories}: cannot be read as a file of histories: {error}") from None
    if output.exists() and os.path.samestat(found, output.stat()):
        raise InputError(f"--output={output}: is the file of histories itself, expected another")


def _doubt(config: RunConfig) -> str:
    if load_family(config.model.family).knows_strangers(config):
        return ""
    return ", which this model has never seen in training (model.user_dropout is 0)"


def read_histories(path: Path, recommender: Recommender) -> Examples:
    """The histories of a file, in its order, the most recent item last.

    Lines of `user item item …` for a run on numbers; for any run JSON lines, as
    `{"user": "A1", "items": ["B00", …]}`: a log's own ids may hold spaces. A user of null is one
    that the run does not know.

    Raises:
        InputError: see `read_id_lines`; a line that is no such JSON; also a user or an item that
            the run does not know.
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
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"{")
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a file of histories: {error}") from None


def _read_numbers(path: Path, recommender: Recommender) -> list[tuple[int, History]]:
    if recommender.catalogue.users.are_text:
        raise InputError(
            f'{path}, line 1: expected JSON lines, {{"user": "…", "items": ["…", …]}}, since this '
            "run knows users and items by the log's own ids"
        )
    lines = read_id_lines(path, "a file of histories")
    return [(number, (ids[0], ids[1:])) for number, ids in lines]


def _read_json_lines(path: Path) -> list[tuple[int, History]]:
    """The (line number, history) of every line."""
    try:
        # Not splitlines: JSON text may hold other line separators.
        lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a file of histories: {error}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            if not isinstance(values, dict) or values.keys() != {"user", "items"}:
                raise ValueError("expected an object with the keys user and items")
            if not isinstance(values["items"], list):
                raise ValueError("items are no list")
            ids = [*values["items"], *([] if values["user"] is None else [values["user"]])]
            if wrong := [one for one in ids if type(one) not in (int, str)]:
                raise ValueError(f"{wrong[0]!r} is no id")
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number}: found {line[:40]!r}, expected "
                f'{{"user": …, "items": […]}}: {error}'
            ) from None
        found.append((number, (values["user"], values["items"])))
    return found


def show(recommender: Recommender, examples: Examples, lists: RankedLists) -> None:
    """The first lists on the console, where items have titles."""
    catalogue = recommender.catalogue
    if catalogue.names is None or not catalogue.names.has_titles:
        return
    for row, (items, scores) in enumerate(islice(zip(*lists, strict=True), SHOWN)):
        user = catalogue.users.take(examples.users[row : row + 1]).to_pylist()[0]
        lines = [f"user {'unknown' if user is None else user}, after"]
        newest = examples.history(row)[-PLACES:]
        lines += [f"      {name}" for name in _names(recommender, newest)]
        lines.append("  these, best first:")
        names = _names(recommender, items[items >= 0][:PLACES])
        lines += [
            f"    {place}. {name}  ({score:.2f})"
            for place, (name, score) in enumerate(zip(names, scores, strict=False), start=1)
        ]
        log.info("%s", "\n".join(lines))


def _names(recommender: Recommender, items: np.ndarray) -> list[str]:
    ids = recommender.catalogue.items.take(items).to_pylist()
    titles = recommender.catalogue.titles(items)
    return [
        f"{_short(title)} [{one}]" if title else f"[{one}]"
        for one, title in zip(ids, titles, strict=True)
    ]


def _short(title: str) -> str:
    text = " ".join(title.split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"

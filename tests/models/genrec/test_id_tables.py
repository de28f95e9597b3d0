"""Runs that start from exported id tables take a row only for the user or item with its id."""

import dataclasses
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from genrec_jax.data.identity import DatasetId, identify
from genrec_jax.data.prepared import LogMetadata, Prepared, write_prepared
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.indexing import Indexing
from genrec_jax.models.contract import Params, init_params
from genrec_jax.models.genrec.config import Config
from genrec_jax.models.genrec.export import Origin, write_folder
from genrec_jax.models.genrec.family import FAMILY
from genrec_jax.models.genrec.id_tables import (
    FILE,
    TABLES,
    id_tables_of,
    read_id_tables,
    take_id_rows,
    write_id_tables,
)
from genrec_jax.models.genrec.model import GenRecShape
from genrec_jax.models.run_config import DataConfig
from genrec_jax.runs.dataset import load_sequences
from genrec_jax.runs.identifiers import build_catalogue

USERS, ITEMS = 30, 24
ORIGIN = Origin("test", 7, "file")


def started(shape: GenRecShape, catalogue: Catalogue, folder: Path) -> Params:
    """Return the initial parameters of a training from the folder, with another seed."""
    vectors = np.zeros((catalogue.n_items, 1))
    return FAMILY.start_params(Config(seed=9), shape, catalogue, folder, lambda *_: vectors)


def write_log(folder: Path, users: Sequence[str], items: Sequence[str], name: str) -> Path:
    """Write a prepared log in which every user has six items, and every item has users."""
    starts = np.arange(len(users))[:, None] * 5
    numbers = (starts + np.arange(6)) % len(items) + 1
    prepared = Prepared(
        items=numbers.ravel().astype(np.int32),
        times=np.arange(numbers.size),
        offsets=np.arange(len(users) + 1) * 6,
        user_ids=users,
        item_ids=items,
    )
    folder.mkdir(parents=True)
    write_prepared(folder, name, prepared)
    return folder


def write_lines(path: Path, items: int = ITEMS, shift: int = 0) -> Path:
    """Write a sequence file of USERS users."""
    rows = [[(user * 5 + i + shift) % items + 1 for i in range(6)] for user in range(USERS)]
    lines = [f"{user} {' '.join(map(str, row))}\n" for user, row in enumerate(rows, start=1)]
    path.write_text("".join(lines))
    return path


def ids(letter: str, numbers: Sequence[int] | range) -> list[str]:
    return [f"{letter}{number}" for number in numbers]


def catalogue_of(data: Path | DataConfig, pretrained: Path | None = None, **keys: Any) -> Catalogue:
    """Build the catalogue of a run on a prepared log, a sequence file, or a config's dataset."""
    if isinstance(data, Path):
        data = DataConfig(name="file", file=str(data), drop_last=keys.pop("drop_last", 0))
    config = dataclasses.replace(Config(), data=data, **keys)
    return build_catalogue(config, load_sequences(config.data), pretrained)


def shape_of(catalogue: Catalogue) -> GenRecShape:
    return GenRecShape(catalogue.vocabulary.size, 8, 1, 1, 2, 2, 8, 8, 64)


def fresh_params(catalogue: Catalogue, seed: int, shape: GenRecShape | None = None) -> Params:
    table = catalogue.table
    return init_params(shape or shape_of(catalogue), table.n_users, table.n_items, seed)


def export(catalogue: Catalogue, folder: Path) -> Params:
    """Export random parameters to a folder, and return them."""
    params = fresh_params(catalogue, seed=1)
    write_folder(folder, catalogue, shape_of(catalogue), params, ORIGIN)
    return params


def rows_by_id(catalogue: Catalogue, params: Params) -> list[dict[str | int, bytes]]:
    """Return, for users and for items, the bytes of the row of each id."""
    return [
        {id_: row.tobytes() for id_, row in zip(known, np.asarray(params[name]), strict=True)}
        for known, name in zip((catalogue.users.known, catalogue.items.known), TABLES, strict=True)
    ]


def check_start(catalogue: Catalogue, exported: Path, ours: Catalogue, params: Params) -> list[int]:
    """Start from an exported folder, and check that every row is that of its id, or random.

    Args:
        catalogue: the catalogue of the new run.
        exported: the exported folder.
        ours: the catalogue of the exported run.
        params: the parameters of the exported run.

    Returns:
        The number of rows taken from the folder, for each table.
    """
    shape = dataclasses.replace(shape_of(catalogue), vocab_size=ours.vocabulary.size)
    params_at_start = started(shape, catalogue, exported)
    fresh = fresh_params(catalogue, 9, shape)
    counts = []
    for found, start, saved in zip(
        rows_by_id(catalogue, params_at_start),
        rows_by_id(catalogue, fresh),
        rows_by_id(ours, params),
        strict=True,
    ):
        taken = {id_ for id_, row in found.items() if row != start[id_]}
        assert all(found[id_] == saved.get(id_) for id_ in taken)
        counts.append(len(taken))
    return counts


def lines_of(caplog: pytest.LogCaptureFixture, level: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == level]


# ------------------------------------------------------------------------------------ two logs


@pytest.fixture(scope="module")
def april(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Catalogue, Params]:
    """A log of USERS users and ITEMS items: the exported folder, catalogue and parameters."""
    folder = tmp_path_factory.mktemp("april")
    users, items = ids("u", range(USERS)), ids("i", range(ITEMS))
    catalogue = catalogue_of(write_log(folder / "log", users, items, "april"))
    return folder / "exported", catalogue, export(catalogue, folder / "exported")


def test_no_row_goes_to_a_log_with_other_ids(
    april, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both logs have as many users and items, with the same numbers but other ids."""
    exported, ours, params = april
    other = write_log(tmp_path / "log", ids("v", range(USERS)), ids("j", range(ITEMS)), "other")
    catalogue = catalogue_of(other, exported)
    np.testing.assert_array_equal(catalogue.indexing.item_numbers, ours.indexing.item_numbers)
    assert check_start(catalogue, exported, ours, params) == [0, 0]
    datasets = "(exported from dataset 'april', this run is on 'other')"
    assert lines_of(caplog, "WARNING") == [
        f"WARNING: {kind} table: 0 of {rows} rows taken from {exported}, {rows} initialised "
        f"randomly {datasets}"
        for kind, rows in (("user", 30), ("item", 24))
    ]


def test_rows_are_matched_by_id_in_an_overlapping_log(
    april, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other log has another order and other numbers. Some ids are missing, some are new."""
    exported, ours, params = april
    users, items = ids("u", range(31, 1, -1)), ids("i", [*range(30, 40), *range(20)])
    catalogue = catalogue_of(write_log(tmp_path / "log", users, items, "may"), exported)
    with caplog.at_level(logging.INFO):
        assert check_start(catalogue, exported, ours, params) == [28, 20]
    assert lines_of(caplog, "WARNING") == []
    lines = lines_of(caplog, "INFO")[-3:]
    datasets = "(exported from dataset 'april', this run is on 'may')"
    assert lines[:2] == [
        f"user table: 28 of 30 rows taken from {exported}, 2 initialised randomly {datasets}",
        f"item table: 20 of 30 rows taken from {exported}, 10 initialised randomly {datasets}",
    ]
    assert re.match(r"\d+ of these users and items have another identifier", lines[2])


def test_numbers_in_identifiers_do_not_matter(april, caplog: pytest.LogCaptureFixture) -> None:
    """A log with other numbers takes every row, and the differing identifiers are logged."""
    exported, ours, params = april
    renumbered = catalogue_of(exported.parent / "log", exported, indexing="random")
    assert (renumbered.indexing.item_numbers != ours.indexing.item_numbers).any()
    with caplog.at_level(logging.INFO):
        assert check_start(renumbered, exported, ours, params) == [USERS, ITEMS]
    lines = lines_of(caplog, "INFO")
    assert f"item table: 24 of 24 rows taken from {exported}, 0 initialised randomly" in lines
    different = [
        f"{kind}_{new}"
        for kind in ("user", "item")
        for new, old in zip(
            getattr(renumbered.indexing, f"{kind}_numbers"),
            getattr(ours.indexing, f"{kind}_numbers"),
            strict=True,
        )
        if new != old
    ]
    line = next(line for line in lines if "another identifier" in line)
    assert line.startswith(f"{len(different)} of these users and items have another identifier")
    assert f"such as {different[-1]} instead of item_" in line
    # No such line if the numbers are the same.
    caplog.clear()
    with caplog.at_level(logging.INFO):
        check_start(ours, exported, ours, params)
    assert "another identifier" not in caplog.text


# ------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("guest", [[], ["guest"]], ids=["all", "all but one"])
@pytest.mark.parametrize("name", ["april", "other"])
def test_ids_without_letters_need_a_log_of_the_same_name(
    name: str, guest: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two logs number their users, as databases do. Their items have ids with letters."""
    users, items = [*ids("", range(USERS)), *guest], ids("B0", range(ITEMS))
    ours = catalogue_of(write_log(tmp_path / "ours", users, items, "april"))
    params = export(ours, tmp_path / "exported")
    theirs = write_log(tmp_path / "theirs", users[::-1], items, name)
    catalogue = catalogue_of(theirs, tmp_path / "exported")
    taken = check_start(catalogue, tmp_path / "exported", ours, params)
    assert taken == [USERS * (name == "april") + len(guest), ITEMS]
    (line,) = (line for line in lines_of(caplog, "WARNING") if "without a letter" in line)
    assert line.startswith(f"WARNING: {USERS} user ids without a letter, such as '29', are both in")
    assert "--config.name" in line
    assert (f"rows are {'taken' if name == 'april' else 'initialised randomly'}") in line
    # With the same log, there is no warning.
    caplog.clear()
    assert check_start(ours, tmp_path / "exported", ours, params) == [len(users), ITEMS]
    assert lines_of(caplog, "WARNING") == []


def test_numbers_of_a_sequence_file_are_valid_in_that_file_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files that are moved or shortened are the same dataset.

    A file with other content and a prepared log of the same name are not.
    """
    path = write_lines(tmp_path / "file.txt")
    ours = catalogue_of(path)
    exported = tmp_path / "exported"
    params = export(ours, exported)
    moved = Path(path.rename(tmp_path / "moved.txt"))
    for same in (catalogue_of(moved, exported), catalogue_of(moved, exported, drop_last=2)):
        assert check_start(same, exported, ours, params) == [USERS, ITEMS]
    assert lines_of(caplog, "WARNING") == []

    write_lines(path, shift=1)
    other = catalogue_of(path, exported)
    assert check_start(other, exported, ours, params) == [0, 0]
    warnings = lines_of(caplog, "WARNING")
    assert len(warnings) == 4
    assert warnings[0].startswith(
        "WARNING: 30 user ids without a letter, such as '1', are both in dataset 'file' of "
        f"{exported} and in dataset 'file' of this run: their rows are initialised randomly, "
    )
    log = write_log(tmp_path / "log", ids("", range(1, 31)), ids("", range(1, 25)), "file")
    prepared = catalogue_of(log, exported)
    caplog.clear()
    assert check_start(prepared, exported, ours, params) == [0, 0]
    assert (
        f"WARNING: the user ids in {exported} are numbers of a dataset, but in this run they are "
        "strings of a prepared log: no rows are taken"
    ) in lines_of(caplog, "WARNING")


@pytest.mark.parametrize("name", ["beauty", "sports"])
def test_items_of_named_datasets(
    name: str,
    catalogue: Catalogue,
    data_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Item 7 of Beauty is not item 7 of Sports, nor item 7 of a log with the name beauty."""

    def named(dataset: str) -> Catalogue:
        sequences = load_sequences(DataConfig(name=dataset, dir=str(data_dir)))
        users, items = sequences.user_ids, sequences.item_ids
        return dataclasses.replace(
            catalogue,
            user_ids=users,
            item_ids=items,
            indexing=Indexing("published", users, items),
            dataset=identify(sequences, None),
        )

    def tables(like: Catalogue, value: float) -> dict[str, np.ndarray]:
        sizes = zip(TABLES, (len(like.user_ids), len(like.item_ids)), strict=True)
        return {table: np.full((rows, 2), value, np.float32) for table, rows in sizes}

    beauty, theirs = named("beauty"), named(name)
    write_id_tables(tmp_path, id_tables_of(beauty, *tables(beauty, 1).values()))
    found = take_id_rows(tmp_path, theirs, tables(theirs, 0))
    assert all((table == (name == "beauty")).all() for table in found.values())
    assert bool(lines_of(caplog, "WARNING")) == (name == "sports")
    known = (ids("", range(1, 31)), ids("", range(1, 25)))
    log = any_catalogue(catalogue, *known, DatasetId("beauty", "aa"), 0)
    assert not any(table.any() for table in take_id_rows(tmp_path, log, tables(log, 0)).values())


# ------------------------------------------------------------------------------------ any two logs

one_id = st.one_of(
    st.text("ab1", min_size=1, max_size=2),  # short, so that logs overlap
    st.text(min_size=1, max_size=5).filter(str.isprintable),
)
id_lists = st.lists(one_id, min_size=1, max_size=12, unique=True)


def any_catalogue(
    catalogue: Catalogue, users: list[str], items: list[str], dataset: DatasetId, seed: int
) -> Catalogue:
    """Return a catalogue with the given ids and random numbers.

    Its tokens are those of `catalogue`, and are not used.
    """
    rng = np.random.default_rng(seed)
    numbers = [rng.permutation(len(known)) + 1 for known in (users, items)]
    log_metadata = LogMetadata(users, items, [None] * len(items))
    indexing = Indexing("random", *numbers)
    user_ids, item_ids = (np.arange(1, len(known) + 1) for known in (users, items))
    return dataclasses.replace(
        catalogue,
        user_ids=user_ids,
        item_ids=item_ids,
        indexing=indexing,
        log_metadata=log_metadata,
        dataset=dataset,
    )


@settings(max_examples=200)
@given(id_lists, id_lists, id_lists, id_lists, st.sampled_from(["april", "may"]), st.integers(0, 9))
def test_every_row_that_is_taken_belongs_to_its_id(
    catalogue: Catalogue,
    tmp_path_factory: pytest.TempPathFactory,
    their_users: list[str],
    their_items: list[str],
    our_users: list[str],
    our_items: list[str],
    name: str,
    seed: int,
) -> None:
    """This holds for any order and overlap of two logs. A row's second value is its index."""
    folder = tmp_path_factory.mktemp("any")
    theirs = any_catalogue(catalogue, their_users, their_items, DatasetId("april", "aa"), seed)
    ours = any_catalogue(catalogue, our_users, our_items, DatasetId(name, "bb"), seed + 1)
    tables = [np.full((len(known), 2), 1.0, np.float32) for known in (their_users, their_items)]
    for table in tables:
        table[:, 1] = np.arange(len(table))
    write_id_tables(folder, id_tables_of(theirs, *tables))
    fresh = {
        table: np.full((len(known), 2), -1.0, np.float32)
        for table, known in zip(TABLES, (our_users, our_items), strict=True)
    }
    found = take_id_rows(folder, ours, fresh)
    for table, known, saved in zip(
        TABLES, (our_users, our_items), (their_users, their_items), strict=True
    ):
        for id_, row in zip(known, found[table].tolist(), strict=True):
            matches = id_ in saved and (name == "april" or any(map(str.isalpha, id_)))
            expected = [1.0, saved.index(id_)] if matches else [-1.0, -1.0]
            assert row == expected
        assert (fresh[table] == -1).all()


# ------------------------------------------------------------------------------------ the file


def test_the_file_stores_ids_and_their_dataset(april) -> None:
    exported, catalogue, params = april
    with safe_open(exported / FILE, "np") as file:
        assert catalogue.dataset is not None
        assert file.metadata() == {
            "format": "pt",
            "ids": "log",
            "dataset_name": "april",
            "dataset_sha256": catalogue.dataset.sha256,
        }
    found = read_id_tables(exported, 8)
    assert found is not None
    assert found.dataset == catalogue.dataset
    users, items = found.tables
    assert (users.ids, items.ids) == (
        catalogue.log_metadata.user_ids,
        catalogue.log_metadata.item_ids,
    )
    assert users.vectors.tobytes() == np.asarray(params["user_embedding"]).tobytes()
    np.testing.assert_array_equal(items.numbers, catalogue.indexing.item_numbers)


def test_ids_with_special_characters_and_their_model_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are stored unchanged, and the example of the model card runs with them."""
    users = ["ü {user} 'x' \"y\"", "日本", "\\n", *ids("u", range(USERS))]
    items = ["{i}", "it's", "\U0001f9f4", "item_7", *ids("i", range(ITEMS))]
    catalogue = catalogue_of(write_log(tmp_path / "log", users, items, "hard {name} 'ü'"))
    exported = tmp_path / "exported"
    params = export(catalogue, exported)
    assert check_start(catalogue, exported, catalogue, params) == [len(users), len(items)]
    code = re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(exported)
    variables: dict[str, object] = {}
    exec(compile(code[1], "README.md", "exec"), variables)
    assert (variables["user"], variables["history"]) == (users[0], items[:3])
    for kind, known in (("user", users), ("item", items)):
        numbers = getattr(catalogue.indexing, f"{kind}_numbers")
        for row, id_ in enumerate(known):
            identifier, vector = variables["identifier_and_vector"](kind, id_)
            assert identifier == f"{kind}_{numbers[row]}"
            expected = np.asarray(params[f"{kind}_embedding"])[row]
            assert vector.numpy().tobytes() == expected.tobytes()
    assert set(variables["item_ids"].values()) == set(items)


def test_files_of_older_versions_are_ignored(
    april, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They store numbers instead of ids, and every prepared log has the same numbers."""
    _, catalogue, params = april
    older = {
        **{name: np.asarray(params[name]) for name in TABLES},
        "user_ids": np.arange(1, USERS + 1),
        "item_ids": np.arange(1, ITEMS + 1),
        "user_numbers": catalogue.indexing.user_numbers,
        "item_numbers": catalogue.indexing.item_numbers,
    }
    save_file(older, tmp_path / FILE, metadata={"format": "pt"})
    fresh = {name: np.zeros_like(params[name]) for name in TABLES}
    assert take_id_rows(tmp_path, catalogue, fresh) == {}
    assert lines_of(caplog, "WARNING") == [
        f"WARNING: {tmp_path / FILE} was written by an older version, which did not store the ids "
        "of its rows: both id tables are initialised randomly; export the run again to use them"
    ]

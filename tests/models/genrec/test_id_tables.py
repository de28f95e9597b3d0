"""Exported id tables in other runs: a row goes to the user or item with its id, or to nobody."""

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
from genrec_jax.data.prepared import Names, Prepared, write_prepared
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
    """The parameters that training starts from, of another seed than the folder's."""
    vectors = np.zeros((catalogue.n_items, 1))
    return FAMILY.start_params(Config(seed=9), shape, catalogue, folder, lambda *_: vectors)


def write_log(folder: Path, users: Sequence[str], items: Sequence[str], name: str) -> Path:
    """A prepared log in which every user has six items, and every item some users."""
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
    """A sequence file of USERS users."""
    rows = [[(user * 5 + i + shift) % items + 1 for i in range(6)] for user in range(USERS)]
    lines = [f"{user} {' '.join(map(str, row))}\n" for user, row in enumerate(rows, start=1)]
    path.write_text("".join(lines))
    return path


def ids(letter: str, numbers: Sequence[int] | range) -> list[str]:
    return [f"{letter}{number}" for number in numbers]


def catalogue_of(data: Path | DataConfig, pretrained: Path | None = None, **keys: Any) -> Catalogue:
    """That of a run on a prepared log, a sequence file, or what a config describes."""
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
    """Write a folder of random parameters, and give them back."""
    params = fresh_params(catalogue, seed=1)
    write_folder(folder, catalogue, shape_of(catalogue), params, ORIGIN)
    return params


def rows_by_id(catalogue: Catalogue, params: Params) -> list[dict[str | int, bytes]]:
    """Of the users and of the items: id → the bytes of its row."""
    return [
        {one: row.tobytes() for one, row in zip(known, np.asarray(params[name]), strict=True)}
        for known, name in zip((catalogue.users.known, catalogue.items.known), TABLES, strict=True)
    ]


def check_start(catalogue: Catalogue, exported: Path, ours: Catalogue, params: Params) -> list[int]:
    """Start from an exported folder, and check that every row is its own id's, or fresh.

    Args:
        catalogue: of the run that starts.
        exported: the folder.
        ours: the catalogue of the run that was exported.
        params: its parameters.

    Returns:
        How many rows of each table came from the folder.
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
        taken = {one for one, row in found.items() if row != start[one]}
        assert all(found[one] == saved.get(one) for one in taken)
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
    """As many users and items, with the same numbers in the same text, and none the same."""
    exported, ours, params = april
    other = write_log(tmp_path / "log", ids("v", range(USERS)), ids("j", range(ITEMS)), "other")
    catalogue = catalogue_of(other, exported)
    np.testing.assert_array_equal(catalogue.indexing.item_numbers, ours.indexing.item_numbers)
    assert check_start(catalogue, exported, ours, params) == [0, 0]
    datasets = "(of dataset 'april' there, 'other' here)"
    assert lines_of(caplog, "WARNING") == [
        f"WARNING: user table: 0 of 30 rows from {exported}, 30 start anew {datasets}",
        f"WARNING: item table: 0 of 24 rows from {exported}, 24 start anew {datasets}",
    ]


def test_rows_follow_their_ids_into_a_log_that_overlaps(
    april, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In another order, with some ids gone and some new, and other numbers in the text."""
    exported, ours, params = april
    users, items = ids("u", range(31, 1, -1)), ids("i", [*range(30, 40), *range(20)])
    catalogue = catalogue_of(write_log(tmp_path / "log", users, items, "may"), exported)
    with caplog.at_level(logging.INFO):
        assert check_start(catalogue, exported, ours, params) == [28, 20]
    assert lines_of(caplog, "WARNING") == []
    found = lines_of(caplog, "INFO")[-3:]
    datasets = "(of dataset 'april' there, 'may' here)"
    assert found[:2] == [
        f"user table: 28 of 30 rows from {exported}, 2 start anew {datasets}",
        f"item table: 20 of 30 rows from {exported}, 10 start anew {datasets}",
    ]
    assert re.match(
        r"\d+ of these users and items are written differently in this run's text", found[2]
    )


def test_numbers_of_the_text_do_not_matter(april, caplog: pytest.LogCaptureFixture) -> None:
    """A log that is numbered differently keeps every row, and one line says so."""
    exported, ours, params = april
    again = catalogue_of(exported.parent / "log", exported, indexing="random")
    assert (again.indexing.item_numbers != ours.indexing.item_numbers).any()
    with caplog.at_level(logging.INFO):
        assert check_start(again, exported, ours, params) == [USERS, ITEMS]
    found = lines_of(caplog, "INFO")
    assert f"item table: 24 of 24 rows from {exported}, 0 start anew" in found
    different = [
        f"{kind}_{here}"
        for kind in ("user", "item")
        for here, there in zip(
            getattr(again.indexing, f"{kind}_numbers"),
            getattr(ours.indexing, f"{kind}_numbers"),
            strict=True,
        )
        if here != there
    ]
    line = next(line for line in found if "written differently" in line)
    assert line.startswith(f"{len(different)} of these users and items are written differently")
    assert f"(such as {different[-1]}, there item_" in line
    # Nothing to say where the numbers are the same.
    caplog.clear()
    with caplog.at_level(logging.INFO):
        check_start(ours, exported, ours, params)
    assert "written differently" not in caplog.text


# ------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("guest", [[], ["guest"]], ids=["all", "all but one"])
@pytest.mark.parametrize("name", ["april", "other"])
def test_ids_without_letters_need_a_log_of_the_same_name(
    name: str, guest: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two logs count their users 1 … 30, as databases do. Their items have ids with letters."""
    users, items = [*ids("", range(USERS)), *guest], ids("B0", range(ITEMS))
    ours = catalogue_of(write_log(tmp_path / "ours", users, items, "april"))
    params = export(ours, tmp_path / "exported")
    theirs = write_log(tmp_path / "theirs", users[::-1], items, name)
    catalogue = catalogue_of(theirs, tmp_path / "exported")
    taken = check_start(catalogue, tmp_path / "exported", ours, params)
    assert taken == [USERS * (name == "april") + len(guest), ITEMS]
    (line,) = (line for line in lines_of(caplog, "WARNING") if "without a letter" in line)
    assert line.startswith(f"WARNING: {USERS} user ids without a letter, such as '29', are in ")
    assert line.endswith("name (--config.name)")
    assert ("their rows are taken" if name == "april" else "they start anew") in line
    # The same log again is no matter of doubt.
    caplog.clear()
    assert check_start(ours, tmp_path / "exported", ours, params) == [len(users), ITEMS]
    assert lines_of(caplog, "WARNING") == []


def test_numbers_of_a_sequence_file_are_those_of_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """1 … N in two files of one name; in one that is shortened, moved, or prepared as a log."""
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
    assert warnings[0] == (
        "WARNING: 30 user ids without a letter, such as '1', are in dataset 'file' of "
        f"{exported} and in dataset 'file' here: they start anew, since a number means another "
        "user or item in every dataset"
    )
    log = write_log(tmp_path / "log", ids("", range(1, 31)), ids("", range(1, 25)), "file")
    prepared = catalogue_of(log, exported)
    caplog.clear()
    assert check_start(prepared, exported, ours, params) == [0, 0]
    assert (
        f"WARNING: the user ids of {exported} are numbers of a dataset, and here they are texts "
        "of a prepared log, which never mean the same"
    ) in lines_of(caplog, "WARNING")


@pytest.mark.parametrize("name", ["beauty", "sports"])
def test_items_of_named_datasets(
    name: str,
    catalogue: Catalogue,
    data_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Item 7 of Beauty is no item 7 of Sports, nor of a log that is called beauty."""

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
    st.text(min_size=1, max_size=5).filter(lambda one: one.isprintable()),
)
id_lists = st.lists(one_id, min_size=1, max_size=12, unique=True)


def any_catalogue(
    catalogue: Catalogue, users: list[str], items: list[str], dataset: DatasetId, seed: int
) -> Catalogue:
    """One with these ids, numbered randomly. Its tokens, which nobody reads, are another's."""
    rng = np.random.default_rng(seed)
    numbers = [rng.permutation(len(known)) + 1 for known in (users, items)]
    names = Names(users, items, [None] * len(items))
    indexing = Indexing("random", *numbers)
    user_ids, item_ids = (np.arange(1, len(known) + 1) for known in (users, items))
    return dataclasses.replace(
        catalogue,
        user_ids=user_ids,
        item_ids=item_ids,
        indexing=indexing,
        names=names,
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
    """Whatever the order and the overlap of two logs, whose rows tell which id they are of."""
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
        for one, row in zip(known, found[table].tolist(), strict=True):
            trusted = name == "april" or any(letter.isalpha() for letter in one)
            expected = [1.0, saved.index(one)] if one in saved and trusted else [-1.0, -1.0]
            assert row == expected
        assert (fresh[table] == -1).all()


# ------------------------------------------------------------------------------------ the file


def test_the_file_says_what_the_ids_are_of(april) -> None:
    """Hard ids too come back as they were."""
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
    assert (users.ids, items.ids) == (catalogue.names.user_ids, catalogue.names.item_ids)
    assert users.vectors.tobytes() == np.asarray(params["user_embedding"]).tobytes()
    np.testing.assert_array_equal(items.numbers, catalogue.indexing.item_numbers)


def test_hard_ids_and_the_snippet_of_their_model_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = ["ü {user} 'x' \"y\"", "日本", "\\n", *ids("u", range(USERS))]
    items = ["{i}", "it's", "\U0001f9f4", "item_7", *ids("i", range(ITEMS))]
    catalogue = catalogue_of(write_log(tmp_path / "log", users, items, "hard {name} 'ü'"))
    exported = tmp_path / "exported"
    params = export(catalogue, exported)
    assert check_start(catalogue, exported, catalogue, params) == [len(users), len(items)]
    code = re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(exported)
    names: dict[str, object] = {}
    exec(compile(code[1], "README.md", "exec"), names)
    assert (names["user"], names["history"]) == (users[0], items[:3])
    for kind, known in (("user", users), ("item", items)):
        numbers = getattr(catalogue.indexing, f"{kind}_numbers")
        for row, one in enumerate(known):
            name, vector = names["name_and_vector"](kind, one)
            assert name == f"{kind}_{numbers[row]}"
            expected = np.asarray(params[f"{kind}_embedding"])[row]
            assert vector.numpy().tobytes() == expected.tobytes()
    assert set(names["item_ids"].values()) == set(items)


def test_files_of_older_versions_start_anew(
    april, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They have the rows' numbers, which every prepared log has too."""
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
        f"WARNING: {tmp_path / FILE} is of an older version, which does not store the ids of the "
        "log that its rows belong to: both id tables start anew; export the run again to keep them"
    ]

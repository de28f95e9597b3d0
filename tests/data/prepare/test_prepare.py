"""Logs of every format become the expected dataset; the order of the lines does not matter."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_logs import by_ids, core_by_hand, real_sequences, with_noise, write_amazon2014, write_yelp
from repository import ROOT

from genrec_jax.cli.prepare import main
from genrec_jax.core.errors import InputError
from genrec_jax.data.prepare import core_filter, csv_files, log_chunks
from genrec_jax.data.prepare.config import PrepareConfig
from genrec_jax.data.prepare.core_filter import order_ties
from genrec_jax.data.prepare.prepare import prepare
from genrec_jax.data.prepared import RECORD, read_log_metadata, read_prepared
from genrec_jax.models.run_config import DataConfig
from genrec_jax.runs.dataset import load_sequences

CONFIG = ROOT / "configs" / "prepare.py"


def run(source: str, output: Path, **keys: Any) -> None:
    """Run the command; the key log_file, for example, sets --config.log.file."""
    flags = []
    for key, value in keys.items():
        group, _, name = key.partition("_")
        dotted = f"{group}.{name}" if group in ("log", "metadata") else key
        flags.append(f"--config.{dotted}={value}")
    config = f"--config={CONFIG}" + f":{source}" * bool(source)
    assert main(["prepare", config, f"--output={output}", *flags]) == 0


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RECORD).read_text())


def same_bytes(folder: Path, other: Path) -> bool:
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)


SIZES = [
    pytest.param(6000, id="6000 users"),
    pytest.param(None, id="whole", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("users", SIZES)
def test_an_amazon_log_gives_the_published_sequences(
    users: int | None, tmp_path: Path, data_dir: Path
) -> None:
    expected = real_sequences(data_dir / "Beauty.txt", users)
    assert len(expected) == 22_363 or 200 < len(expected) < (users or 0)
    write_amazon2014(with_noise(expected), tmp_path / "reviews_Beauty_5.json.gz")
    run("amazon2014", tmp_path / "out", log_file=tmp_path / "reviews_Beauty_5.json.gz")
    assert by_ids(tmp_path / "out") == expected
    rounds = [step for step in record(tmp_path / "out")["steps"] if "round" in step["step"]]
    assert len(rounds) >= 3
    assert rounds[0]["users"] > len(expected)


@pytest.mark.parametrize("users", SIZES)
def test_a_yelp_log_gives_the_published_sequences(
    users: int | None, tmp_path: Path, data_dir: Path
) -> None:
    expected = real_sequences(data_dir / "Yelp.txt", users)
    assert len(expected) == 30_431 or 200 < len(expected) < (users or 0)
    write_yelp(with_noise(expected), tmp_path / "yelp_academic_dataset_review.json")
    run("yelp", tmp_path / "out", log_file=tmp_path / "yelp_academic_dataset_review.json")
    assert by_ids(tmp_path / "out") == expected
    window = next(s for s in record(tmp_path / "out")["steps"] if "window" in s["step"])
    assert window["interactions"] < record(tmp_path / "out")["input"]["rows"]


def small_log(seed: int = 0, rows: int = 400) -> list[dict[str, Any]]:
    """Return rows of 12 users, 10 items and 40 days, many at the same instant."""
    draw = random.Random(seed)
    return [
        {
            "user": f"u {draw.randrange(12)}",
            "item": f"ítem_{draw.randrange(10)}",
            "time": 1_500_000_000 + 86_400 * draw.randrange(40),
        }
        for _ in range(rows)
    ]


def expected_of(rows: list[dict[str, Any]]) -> dict[str, set[tuple[int, str]]]:
    events: dict[str, set[tuple[int, str]]] = {}
    for row in rows:
        events.setdefault(row["user"], set()).add((row["time"], row["item"]))
    return events


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    lines = [",".join(map(str, row.values())) for row in rows]
    path.write_text("\n".join(["user,item,time", *lines, ""]))


def test_runs_shuffled_lines_and_compressed_files_give_the_same_bytes(tmp_path: Path) -> None:
    rows = small_log()
    for name in ("first", "second", "shuffled", "compressed"):
        (tmp_path / name).mkdir()
    write_csv(rows, tmp_path / "first" / "log.csv")
    write_csv(rows, tmp_path / "second" / "log.csv")
    random.Random(1).shuffle(rows)
    write_csv(rows, tmp_path / "shuffled" / "log.csv")
    for name in ("first", "second", "shuffled"):
        run("", tmp_path / f"{name}_out", log_file=tmp_path / name / "log.csv")
    assert same_bytes(tmp_path / "first_out", tmp_path / "second_out")
    assert same_bytes(tmp_path / "first_out", tmp_path / "shuffled_out")
    content = (tmp_path / "shuffled" / "log.csv").read_bytes()
    (tmp_path / "compressed" / "log.csv").write_bytes(
        pa.compress(content, codec="zstd", asbytes=True)
    )
    run("", tmp_path / "compressed_out", log_file=tmp_path / "compressed" / "log.csv")
    assert same_bytes(tmp_path / "first_out", tmp_path / "compressed_out")
    other = [dict(row, time=row["time"] + (row is rows[0])) for row in rows]
    write_csv(other, tmp_path / "second" / "log.csv")
    run("", tmp_path / "other_out", log_file=tmp_path / "second" / "log.csv")
    sums = [record(tmp_path / f"{n}_out")["input"]["checksum_of_rows"] for n in ("first", "other")]
    assert sums[0] != sums[1]


def test_the_sizes_of_chunks_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = small_log()
    write_csv(rows, tmp_path / "log.csv")
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("", tmp_path / "csv", log_file=tmp_path / "log.csv")
    run("", tmp_path / "jsonl", log_file=tmp_path / "log.jsonl", log_format="jsonl")
    monkeypatch.setattr(log_chunks, "BLOCK", 100)
    monkeypatch.setattr(log_chunks, "ROWS", 7)
    monkeypatch.setattr(csv_files, "BLOCK", 100)
    monkeypatch.setattr(core_filter, "ROWS_PER_INSERT", 50)
    monkeypatch.setattr(core_filter, "FETCHED", 10)
    run("", tmp_path / "csv", log_file=tmp_path / "log.csv")  # refuses a different dataset
    run("", tmp_path / "jsonl", log_file=tmp_path / "log.jsonl", log_format="jsonl")


def test_every_format_gives_the_same_sequences(tmp_path: Path) -> None:
    rows = small_log()
    text = [{key: str(value) for key, value in row.items()} for row in rows]
    write_csv(rows, tmp_path / "log.csv")
    tabs = (tmp_path / "log.csv").read_text().replace(",", "\t")
    (tmp_path / "log.tsv.gz").write_bytes(gzip.compress(tabs.encode()))
    body = (tmp_path / "log.csv").read_text().split("\n", 1)[1].replace(",", "::")
    (tmp_path / "log.dat").write_text(body)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "log.jsonl.zst").write_bytes(
        pa.compress(lines.encode(), codec="zstd", asbytes=True)
    )
    pq.write_table(pa.Table.from_pylist(text), tmp_path / "text.parquet")
    stamps = [dict(row, time=np.datetime64(row["time"], "s")) for row in rows]
    pq.write_table(pa.Table.from_pylist(stamps), tmp_path / "stamps.parquet")
    dates = [dict(row, time=str(np.datetime64(row["time"], "s"))) for row in rows]
    write_csv(dates, tmp_path / "dates.csv")
    milliseconds = [dict(row, time=row["time"] * 1000) for row in rows]
    write_csv(milliseconds, tmp_path / "milliseconds.csv")

    run("", tmp_path / "csv", log_file=tmp_path / "log.csv")
    run("", tmp_path / "tsv", log_file=tmp_path / "log.tsv.gz", log_delimiter="tab")
    dat = {"log_delimiter": "::", "log_columns": "user,item,time"}
    run("", tmp_path / "dat", log_file=tmp_path / "log.dat", **dat)
    run("", tmp_path / "jsonl", log_file=tmp_path / "log.jsonl.zst", log_format="jsonl")
    run("", tmp_path / "text", log_file=tmp_path / "text.parquet", log_format="parquet")
    run("", tmp_path / "stamps", log_file=tmp_path / "stamps.parquet", log_format="parquet")
    run("", tmp_path / "dates", log_file=tmp_path / "dates.csv")
    run("", tmp_path / "milliseconds", log_file=tmp_path / "milliseconds.csv")
    found = by_ids(tmp_path / "csv")
    assert {user: len(items) for user, items in found.items()} == {
        user: len(events) for user, events in expected_of(rows).items()
    }
    for name in ("tsv", "dat", "jsonl", "text", "stamps", "dates", "milliseconds"):
        for file in ("sequences.parquet", "users.parquet", "items.parquet"):
            same = (tmp_path / name / file).read_bytes() == (tmp_path / "csv" / file).read_bytes()
            assert same, (name, file)


def test_training_reads_the_folder(tmp_path: Path) -> None:
    rows = small_log()
    write_csv(rows, tmp_path / "log.csv")
    run("", tmp_path / "out", log_file=tmp_path / "log.csv")
    sequences = load_sequences(DataConfig(name="file", file=str(tmp_path / "out")))
    assert sequences.name == "log"
    times = pq.read_table(tmp_path / "out" / "sequences.parquet")["times"].to_pylist()
    metadata = read_log_metadata(tmp_path / "out")
    found = {
        metadata.user_ids[u]: {
            (time, metadata.item_ids[item])
            for time, item in zip(times[u], sequences.of(u), strict=True)
        }
        for u in range(sequences.n_users)
    }
    assert found == expected_of(rows)
    assert all(moments == sorted(moments) for moments in times)


def test_the_order_within_an_instant_depends_on_the_seed_and_not_on_the_numbers(
    tmp_path: Path,
) -> None:
    """With all interactions at one instant, every user and every seed has another order."""
    rows = [{"user": f"u{u}", "item": f"i{i}", "time": 7} for u in range(200) for i in range(12)]
    write_csv(rows, tmp_path / "log.csv")
    orders = []
    for seed in (0, 1):
        out = tmp_path / f"seed{seed}"
        run("", out, log_file=tmp_path / "log.csv", seed=seed)
        sequences, metadata = read_prepared(out), read_log_metadata(out)
        numbers = np.stack([sequences.of(user) for user in range(200)])
        orders.append(by_ids(out))
        # The order depends neither on the number nor on the id: the mean position of every item is
        # in the middle, and every user has another order.
        assert len(np.unique(numbers, axis=0)) == 200
        positions = np.argsort(numbers, axis=1).mean(axis=0)
        assert np.abs(positions - 5.5).max() < 5 * np.sqrt(143 / 12 / 200)
        assert abs(np.corrcoef(positions, np.arange(12))[0, 1]) < 0.9
        assert metadata.item_ids != sorted(metadata.item_ids)
    assert orders[0] != orders[1]


def test_ties_are_ordered_in_place() -> None:
    users = np.array([1, 1, 1, 2, 2], dtype=np.int32)
    items = np.array([1, 2, 3, 3, 2], dtype=np.int32)
    times = np.array([5, 5, 9, 5, 6])
    user_ties = np.array([3, 8], dtype=np.uint64)
    tied = order_ties(users, items, times, user_ties, np.array([10, 20, 30], dtype=np.uint64))
    assert tied == 2
    assert sorted(items[:2]) == [1, 2]
    assert items[2:].tolist() == [3, 3, 2]


def test_duplicates(tmp_path: Path) -> None:
    rows = [{"user": f"u{u}", "item": f"i{i}", "time": i} for u in range(5) for i in range(5)]
    rows += [*rows[:3], {"user": "u0", "item": "i0", "time": 99}]
    write_csv(rows, tmp_path / "log.csv")
    counts = {}
    for rule in ("exact", "first", "keep"):
        run("", tmp_path / rule, log_file=tmp_path / "log.csv", duplicates=rule)
        counts[rule] = record(tmp_path / rule)["interactions"]
    assert counts == {"exact": 26, "first": 25, "keep": 29}
    assert by_ids(tmp_path / "exact")["u0"] == ["i0", "i1", "i2", "i3", "i4", "i0"]
    assert by_ids(tmp_path / "first")["u0"] == ["i0", "i1", "i2", "i3", "i4"]


@pytest.mark.parametrize("seed", range(4))
def test_the_core_matches_a_plain_loop(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    rows = [
        {"user": draw.randrange(60), "item": int(draw.paretovariate(0.7)) % 80, "time": time}
        for time in range(400)
    ]
    sequences: dict[str, list[str]] = {}
    for row in rows:
        sequences.setdefault(str(row["user"]), []).append(str(row["item"]))
    expected = core_by_hand(sequences)
    draw.shuffle(rows)
    write_csv(rows, tmp_path / "log.csv")
    run("", tmp_path / "out", log_file=tmp_path / "log.csv")
    assert by_ids(tmp_path / "out") == expected


def test_a_single_pass_is_one_round_and_removes_short_users(tmp_path: Path) -> None:
    # u0 … u5 have i0 … i4 and remain. "thin" has five items, of which the round removes four.
    rows = [{"user": f"u{u}", "item": f"i{i}", "time": i} for u in range(6) for i in range(5)]
    rows += [{"user": "thin", "item": f"x{i}", "time": i} for i in range(4)]
    rows += [{"user": "thin", "item": "i0", "time": 9}]
    rows += [{"user": "some", "item": item, "time": 1} for item in ("x9", "x8", "i1", "i2", "i3")]
    write_csv(rows, tmp_path / "log.csv")
    run("", tmp_path / "out", log_file=tmp_path / "log.csv", rounds=1)
    found = by_ids(tmp_path / "out")
    assert {user: len(items) for user, items in found.items()} == {
        **{f"u{u}": 5 for u in range(6)},
        "some": 3,  # below the core of 5, but long enough to be split
    }
    assert record(tmp_path / "out")["steps"][-1]["step"].startswith("users with at least 3")


def test_ids_are_used_literally(tmp_path: Path) -> None:
    ids = [
        "i 1",
        "i  1",
        "I 1",
        "item_1",
        "ítem",
        "ítem",
        "x" * 300,
        '"q"',
        "a,b",
        "<&>",
        "0",
        "00",
    ]
    rows = [
        {"user": f"u\n{u}", "item": item, "time": t} for u in range(5) for t, item in enumerate(ids)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("", tmp_path / "out", log_file=tmp_path / "log.jsonl", log_format="jsonl")
    assert by_ids(tmp_path / "out") == {f"u\n{u}": ids for u in range(5)}


def test_titles_and_attributes_from_the_metadata_file(tmp_path: Path) -> None:
    rows = [
        {"reviewerID": f"u{u}", "asin": f"i{i}", "unixReviewTime": i}
        for u in range(5)
        for i in range(5)
    ]
    (tmp_path / "reviews.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items: list[dict[str, Any]] = [
        {"asin": "i0", "title": "B side", "categories": [["Beauty", "Hair"], ["Beauty", "Nails"]]},
        {"asin": "i0", "title": "A side", "brand": "Ö"},
        {"asin": "i1", "title": "  "},
        {"asin": "i2", "title": "Été « 2 »", "brand": "X"},
        {"asin": "unknown", "title": "never bought"},
    ]
    path = tmp_path / "meta.json.gz"
    for order in (items, items[::-1]):
        path.write_bytes(gzip.compress("".join(repr(item) + "\n" for item in order).encode()))
        files = {"log_file": tmp_path / "reviews.json", "metadata_file": path}
        run("amazon2014", tmp_path / "out", **files)  # the second run must give the same dataset
    metadata = read_log_metadata(tmp_path / "out")
    known = dict(
        zip(metadata.item_ids, zip(metadata.titles, metadata.attributes, strict=True), strict=True)
    )
    assert known == {
        "i0": ("A side", ["Ö"]),
        "i1": (None, None),
        "i2": ("Été « 2 »", ["X"]),
        "i3": (None, None),
        "i4": (None, None),
    }


def test_titles_from_the_log_and_from_movielens(tmp_path: Path) -> None:
    lines = [f'u{u},i{i},{i},"Film, {i}"\n' for u in range(5) for i in range(5)]
    (tmp_path / "log.csv").write_text("user,item,time,name\n" + "".join(lines))
    run("", tmp_path / "out", log_file=tmp_path / "log.csv", log_title="name")
    metadata = read_log_metadata(tmp_path / "out")
    assert metadata.titles == [f"Film, {item[1:]}" for item in metadata.item_ids]

    ratings = [f"{u}::{i}::5::{978300760 + i}\n" for u in range(1, 6) for i in range(1, 6)]
    (tmp_path / "ratings.dat").write_text("".join(ratings))
    movies = "".join(f"{i}::Misérables: {i} (1995)::Drama|War\n" for i in range(1, 8))
    (tmp_path / "movies.dat").write_bytes(movies.encode("latin-1"))
    files = {"log_file": tmp_path / "ratings.dat", "metadata_file": tmp_path / "movies.dat"}
    run("movielens_dat", tmp_path / "ml", **files)
    metadata = read_log_metadata(tmp_path / "ml")
    assert metadata.titles == [f"Misérables: {item} (1995)" for item in metadata.item_ids]
    assert metadata.attributes[0] == ["Drama", "War"]


def test_bad_lines_are_dropped_and_counted_if_the_config_allows_it(tmp_path: Path) -> None:
    good = [f"u{u},i{i},{i}\n" for u in range(5) for i in range(5)]
    bad = ["u0,,3\n", ",i1,3\n", "u1,i1,soon\n", "u1,i1\n", ",,\n"]
    (tmp_path / "log.csv").write_text("user,item,time\n" + "".join(good + bad) + "u1,i1,1356")
    run("", tmp_path / "out", log_file=tmp_path / "log.csv", on_bad_line="drop")
    steps = {step["step"]: step["interactions"] for step in record(tmp_path / "out")["steps"]}
    assert steps == {
        "rows read": 31,
        "dropped: another number of columns": 30,
        "dropped: no item": 29,
        "dropped: no time": 28,
        "dropped: no user": 26,
        "dropped: the file ends in mid-line": 25,
        "in the log": 25,
        "without duplicates (exact)": 25,
    }


def test_another_dataset_is_never_overwritten(tmp_path: Path) -> None:
    write_csv(small_log(), tmp_path / "log.csv")
    values = PrepareConfig().to_dict()
    values["log"]["file"] = str(tmp_path / "log.csv")
    prepare(PrepareConfig.from_dict(values), tmp_path / "out")
    before = (tmp_path / "out" / RECORD).read_bytes()
    prepare(PrepareConfig.from_dict(values), tmp_path / "out")
    with pytest.raises(InputError, match="another dataset"):
        prepare(PrepareConfig.from_dict({**values, "seed": 3}), tmp_path / "out")
    assert (tmp_path / "out" / RECORD).read_bytes() == before
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="expected a new folder"):
        prepare(PrepareConfig.from_dict(values), tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "mine", "out"]

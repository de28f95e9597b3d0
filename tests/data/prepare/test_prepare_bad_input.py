"""Invalid logs give a clear message of one line, and never a traceback or a partial folder."""

import bz2
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_logs import by_ids
from repository import ROOT

from genrec_jax.cli.prepare import main
from genrec_jax.core.errors import InputError
from genrec_jax.data.prepare.config import PrepareConfig
from genrec_jax.data.prepare.prepare import prepare

GOOD = "user,item,time\n" + "".join(f"u{u},i{i},{i}\n" for u in range(5) for i in range(5))
JSON_GOOD = "".join(
    json.dumps({"user": f"u{u}", "item": f"i{i}", "time": i}) + "\n"
    for u in range(5)
    for i in range(5)
)


def prepared(path: Path, output: Path, **log_keys: Any) -> None:
    values = PrepareConfig().to_dict()
    for key, value in log_keys.items():
        (values if key in values else values["log"])[key] = value
    values["log"]["file"] = str(path)
    prepare(PrepareConfig.from_dict(values), output)


def refused(path: Path, **keys: Any) -> str:
    """Return the error message, and check that no output or scratch folder remains."""
    with pytest.raises(InputError) as error:
        prepared(path, path.parent / "out", **keys)
    assert "\n" not in str(error.value)
    assert [p for p in path.parent.iterdir() if p.is_dir()] == []
    return str(error.value)


CSV_FAULTS = {
    "": "found an empty file",
    "user,item,time\n": "no interactions (rows read: 0)",
    "user,item,when\nu,i,1\n": "found the columns 'user', 'item', 'when', expected 'time'",
    "user;item;time\nu;i;1\n": "found the columns 'user;item;time', expected 'user'",
    "Time,user,item,time,time\n": "found 2 columns 'time', expected one",
    GOOD + "u1,i2\n": "line 27: found 2 columns in ['u1', 'i2'], expected 3",
    GOOD + "u1,i2,3,4\n": "line 27: found 4 columns in",
    GOOD + ",i2,3\n": "line 27: found no user, expected one in the column 'user'",
    GOOD + "u1,  ,3\n": "line 27: found no item",
    GOOD + "u1,i2,\n": "line 27: found time '', expected seconds",
    GOOD + "u1,i2,soon\n": "line 27: found time 'soon', expected seconds",
    GOOD + "u1,i2,nan\n": "line 27: found time 'nan'",
    GOOD + "u1,i2,2019-01-01\n": "line 27: found time '2019-01-01', expected seconds",
    GOOD + "u1,i2,1356739200000\n": "line 27: found time '1356739200000', expected seconds",
    GOOD + 'u1,"i2,3\nu4,i3,2\n': "line 27: found 2 columns",
    GOOD + "u1,i2,3": "line 27: found b'u1,i2,3' without a newline",
    GOOD + '\n"u\n1",i2,x\n': "line 28: found time 'x'",  # an empty line, then a row of two lines
}


@pytest.mark.parametrize("content", CSV_FAULTS)
def test_a_csv_log_with_a_fault_is_refused_with_its_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(content)
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "log.csv.zst").write_bytes(
        pa.compress(content.encode(), codec="zstd", asbytes=True)
    )
    for name in ("log.csv", "log.csv.gz", "log.csv.zst"):
        message = refused(tmp_path / name)
        assert CSV_FAULTS[content] in message
        assert message.startswith(str(tmp_path / name))


JSON_FAULTS = {
    JSON_GOOD + '{"user": "u1", "item": "i1"}\n': "line 26: found no time",
    JSON_GOOD + '{"user": null, "item": "i1", "time": 1}\n': "line 26: found no user",
    JSON_GOOD + '{"user": 7, "item": "i1", "time": 1}\n': "line 26: found 7 as the user's id, "
    "expected text as in the other rows",
    JSON_GOOD + '{"user": "u", "item": true, "time": 1}\n': "line 26: found True as the item's id",
    JSON_GOOD + '{"user": "u", "item": ["i"], "time": 1}\n': "line 26: found ['i'] as the item's",
    JSON_GOOD + '{"user": "u", "item": 1.5, "time": 1}\n': "line 26: found 1.5 as the item's id",
    JSON_GOOD + '{"user": "u", "item": "i", "time": "1"}\n': "line 26: found time '1', "
    "expected a number or text",
    JSON_GOOD + '{"user": "u", "item": "i", "time": {}}\n': "line 26: found time {}",
    JSON_GOOD + '["u", "i", 1]\n': 'line 26: found b\'["u", "i", 1]\\n\', expected a JSON object',
    JSON_GOOD + "\n\n{'user': 'u'}\n": "line 28: found b\"{'user': 'u'}",
    JSON_GOOD + '{"user": "u", "item"': "line 26: the last line has no newline",
    '{"User": "u", "item": "i", "time": 1}\n': "line 1: found no user, expected one in the column",
}


@pytest.mark.parametrize("content", JSON_FAULTS)
def test_json_lines_with_a_fault_are_refused_with_their_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    assert JSON_FAULTS[content] in refused(tmp_path / "log.jsonl", format="jsonl")


def test_a_python_literal_is_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = f"{{'user': open({str(trace)!r}, 'w').write('x'), 'item': 'i', 'time': 1}}\n"
    (tmp_path / "log.json").write_text(code)
    assert "line 1: found" in refused(tmp_path / "log.json", format="loose_jsonl")
    assert not trace.exists()
    # The plain JSON reader rejects Python literals.
    (tmp_path / "log.json").write_text("{'user': 'u', 'item': 'i', 'time': 1}\n")
    assert "expected a JSON object" in refused(tmp_path / "log.json", format="jsonl")


def test_parquet_columns_of_the_wrong_type(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user": ["u"], "item": [1.0], "time": [1]}), path)
    assert "found a column of double for the item's id" in refused(path, format="parquet")
    pq.write_table(pa.table({"user": ["u"], "item": [1], "time": [[1]]}), path)
    assert "a time column of list" in refused(path, format="parquet")
    pq.write_table(pa.table({"user": ["u", None], "item": [1, 2], "time": [1, 2]}), path)
    assert "row 2: found no user" in refused(path, format="parquet")
    path.write_bytes(path.read_bytes()[:-20])
    assert "cannot be read as parquet" in refused(path, format="parquet")


def test_truncated_damaged_and_binary_files(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    packed = gzip.compress(GOOD.encode())
    path.write_bytes(packed[:-12])
    assert "cannot be read as csv" in refused(path)
    path.write_bytes(packed[:-8] + b"\0\0\0\0" + packed[-4:])
    assert "cannot be read as csv" in refused(path)
    path.write_bytes(pa.compress(GOOD.encode(), codec="zstd", asbytes=True)[:-4])
    assert "cannot be read as csv" in refused(path)
    path.write_bytes(GOOD.encode() + "u1,é,3\n".encode("latin-1"))
    assert "line 27: found ['u1', '\ufffd', '3'], expected text in UTF-8" in refused(path)
    path.write_bytes(bz2.compress(GOOD.encode()))
    refused(path)
    assert "none.csv, which does not exist" in refused(tmp_path / "none.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="found the folder"):
        prepared(tmp_path / "folder", tmp_path / "out")


def test_an_empty_window_or_core_is_refused_with_the_counts(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(GOOD)
    assert "rows read: 25; in the time window: 0" in refused(path, since="2019-01-01")
    message = refused(path, user_core=6)
    assert "in the log: 5 users, 5 items, 25 interactions" in message
    assert "round 1: 0 users, 0 items, 0 interactions" in message


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"user_core": 2}, "config.user_core: found 2, expected at least 3"),
        ({"format": "xml"}, "config.log.format: found 'xml', expected one of csv, jsonl"),
        ({"item": "user"}, "config.log.item: found 'user', the column of config.log.user"),
        ({"time": ""}, "config.log.time: found none"),
        ({"since": "yesterday"}, "config.log.since: found 'yesterday'"),
        ({"since": "2020-01-01", "until": "2019-01-01"}, "config.log.until"),
        ({"encoding": "klingon"}, "config.log.encoding"),
        ({"memory_gb": 0}, "config.memory_gb"),
        ({"duplicates": "some"}, "config.duplicates"),
        ({"rounds": 1.5}, "config.rounds: found 1.5, expected a value of type int"),
    ],
)
def test_invalid_keys_are_refused(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(GOOD)
    assert message in refused(tmp_path / "log.csv", **keys)


def test_the_command_reports_faults_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = f"--config={ROOT / 'configs' / 'prepare.py'}"
    for flags, message in (
        (["--output=x"], "--config: found none"),
        (["--config=nowhere.py"], "--config: found no file nowhere.py"),
        ([f"{config}:amazon"], "no variant 'amazon', expected one of amazon2014"),
        ([config, "--output=x"], "config.log.file: found none"),
        ([config], "--output: found none"),
        ([config, "--config.log.fiel=x"], "did you mean config.log.file"),
        ([config, "--config.user_core=five"], "user_core=five: expected a whole number"),
        ([config, "more"], "more: not a flag"),
    ):
        if message.startswith("--output"):
            flags = [*flags, "--config.log.file=x"]
        assert main(["prepare", *flags]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert message in printed
        assert printed.count("\n") == 1


def fault(path: Path, output: Path, **keys: Any) -> str | None:
    """Return the error message; None if a dataset was written."""
    try:
        prepared(path, output, **keys)
    except InputError as error:
        return str(error)
    return None


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Return the content with a few bytes changed, truncated, removed, repeated or inserted."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        index = draw.randrange(len(data)) if data else 0
        span = draw.randint(1, 30)
        match draw.randrange(5):
            case 0 if data:
                data[index] = draw.randrange(256)
            case 1:
                del data[index:]
            case 2:
                del data[index : index + span]
            case 3:
                data[index:index] = data[index : index + span] * draw.randint(1, 20)
            case _:
                data[index:index] = draw.choice(
                    [b'"', b"\0", b"\n", b",", b"\xff", b"{", b"1e999", b"\r"]
                )
    return bytes(data)


FUZZED = {
    "csv": ("csv", GOOD.encode()),
    "gzip": ("csv", gzip.compress(GOOD.encode(), mtime=0)),
    "zstd": ("jsonl", pa.compress(JSON_GOOD.encode(), codec="zstd", asbytes=True)),
    "jsonl": ("jsonl", JSON_GOOD.encode()),
    "loose": ("loose_jsonl", JSON_GOOD.replace('"', "'").encode()),
    "sequences": ("sequences", b"".join(b"%d 1 2 3 4 5\n" % u for u in range(1, 8))),
}


@pytest.mark.parametrize("kind", [*FUZZED, "parquet"])
def test_mutated_files_give_a_dataset_or_a_message_of_one_line(kind: str, tmp_path: Path) -> None:
    if kind == "parquet":
        pq.write_table(
            pa.table({"user": list("aaabbb"), "item": [1, 2, 3] * 2, "time": [1] * 6}),
            tmp_path / "good",
        )
        log_format, content = "parquet", (tmp_path / "good").read_bytes()
    else:
        log_format, content = FUZZED[kind]
    draw = random.Random(kind)
    outcomes = set()
    for number in range(35):
        path = tmp_path / f"{number}.log"
        path.write_bytes(mutated(content, draw))
        keys = {"format": log_format, "user_core": 3, "item_core": 1}
        keys["on_bad_line"] = draw.choice(["refuse", "drop"])
        output = tmp_path / f"out{number}"
        message = fault(path, output, **keys)
        outcomes.add(message is None)
        if message is None:
            assert by_ids(output)
        else:
            assert "\n" not in message
            assert not output.exists()
    assert False in outcomes

"""From a prepared dataset with titles to lists with titles: the whole way by the command line."""

import html
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from repository import ROOT
from test_main import SMALL_MODEL, command, fails
from titled import titles, write_titled

from genrec_jax.serving.recommender import Recommender

CONFIG = f"--config={ROOT / 'configs' / 'quickstart.py'}"
OWN_IDS = [*SMALL_MODEL, "--config.model.vocab_size=400", "--config.model.max_tokens=128"]
OWN_IDS += ["--config.data.name=file"]
TITLED = [*OWN_IDS, "--config.indexing=title"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_titled(tmp_path_factory.mktemp("prepared") / "titled")


@pytest.fixture(
    scope="module", params=["by number", pytest.param("by title", marks=pytest.mark.slow)]
)
def run(
    request: pytest.FixtureRequest, prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run, moved away from where it was trained, whose items are written so."""
    folder = tmp_path_factory.mktemp("runs") / "titled"
    how = OWN_IDS if request.param == "by number" else TITLED
    assert command(CONFIG, f"--workdir={folder}", f"--config.data.file={prepared}", *how) == 0
    return Path(shutil.move(folder, tmp_path_factory.mktemp("moved") / "titled"))


def test_lists_hold_the_logs_own_ids_and_titles(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    title_of = {f"B00{row:05d}": title for row, title in enumerate(titles(200))}
    test = pq.read_table(run / "predictions" / "test.parquet").to_pylist()
    assert len(test) == 120
    assert {line["user"] for line in test} >= {"A00000", "user 1 é"}
    assert all(line["target"] in title_of for line in test)
    output = tmp_path / "lists.jsonl"
    assert command("--mode=recommend", f"--workdir={run}", f"--output={output}") == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["user"] for line in lines][:2] == ["A00000", "user 1 é"]
    for line in lines:
        assert len(set(line["items"])) == 20
        assert line["titles"] == [title_of[item] for item in line["items"]]
    shown = capsys.readouterr().out
    assert "user user 1 é, most recent items:" in shown
    first = next(title for title in lines[0]["titles"] if title)
    assert " ".join(first.split())[:20] in shown


def test_histories_in_the_logs_own_ids(run: Path, tmp_path: Path) -> None:
    asked = [("user 1 é", ["B0000003", "B0000150"]), (None, ["B0000199"]), ("A00000", [])]
    path = tmp_path / "asked.jsonl"
    objects = ({"user": user, "items": items} for user, items in asked)
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects))
    output = tmp_path / "lists.parquet"
    arguments = (f"--workdir={run}", f"--histories={path}", f"--output={output}")
    assert command("--mode=recommend", *arguments) == 0
    lines = pq.read_table(output).to_pylist()
    assert [line["user"] for line in lines] == ["user 1 é", None, "A00000"]
    found = Recommender.load(run).recommend(asked)
    for line, recommended in zip(lines, found, strict=True):
        assert [one.item for one in recommended] == line["items"]
        assert [one.title for one in recommended] == line["titles"]
        assert len(recommended) == 20


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("A00000 B0000001\n", ["line 1", "found no JSON, expected {"]),
        ('{"user": "A00000", "items": []}\n{"user": "who", "items": []}\n', ["line 2", "'who'"]),
        (
            '{"user": "A00000", "items": ["B1"]}\n',
            ["line 1", "item 'B1' is unknown, expected one of the run's 200"],
        ),
        ('{"user": "A00000", "items": [5]}\n', ["line 1", "found the item 5, expected a string"]),
        ('{"user": "A00000", "items": "B0000001"}\n', ["line 1", "items is not a list"]),
        ('{"user": "A00000", "items": [["a"]]}\n', ["line 1", "is neither a string nor"]),
        ('{"user": "A00000"}\n', ["line 1", "the keys user and items"]),
        ('{"user": "A00000", "items": []}\n\n{}\n', ["line 2", "found ''"]),
        ('{"user": "A0', ["line 1", "expected"]),
    ],
)
def test_wrong_histories(
    run: Path, text: str, parts: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "histories.jsonl"
    path.write_text(text)
    line = fails(capsys, "--mode=recommend", f"--workdir={run}", f"--histories={path}")
    for part in [str(path), *parts]:
        assert part in line


def test_the_report_shows_titles_and_no_markup_of_theirs(run: Path) -> None:
    text = (run / "report.html").read_text()
    by_title = json.loads((run / "config.json").read_text())["indexing"] == "title"
    assert ("titles as item identifiers" in text) == by_title
    assert "<b>markup" not in text
    assert "<mask>" not in text
    shown = [title for title in titles(200) if title and len(title) < 60 and title.isprintable()]
    assert sum(f"<bdi>{html.escape(title)}</bdi>" in text for title in shown) > 50
    assert "x" * 100 not in text.replace('title="' + "x" * 300, "")


def test_the_audit_of_titles(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = f"--config.data.file={prepared}"
    assert command("--mode=audit", CONFIG, data, *TITLED) == 0
    printed = capsys.readouterr().out
    assert "titled, titles, tokenizer trained on the identifiers" in printed
    assert (
        "No evidence of leakage in the numbers: the items of titled are identified by their titles"
        in printed
    )


def test_titles_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workdir = f"--workdir={tmp_path / 'run'}"
    line = fails(capsys, CONFIG, workdir, "--config.indexing=title")
    assert "found 'title' with data.name='synthetic', which has no titles" in line
    path = tmp_path / "mine.txt"
    path.write_text("1 5 6 7\n2 5 6 7\n")
    data = ["--config.data.name=file", f"--config.data.file={path}", "--config.indexing=title"]
    assert "found 'title', but mine has no titles" in fails(capsys, CONFIG, workdir, *data)
    data[1] = f"--config.data.file={tmp_path}"
    assert "found neither dataset.json nor dataset_info.json" in fails(
        capsys, CONFIG, workdir, *data
    )
    data[1] = f"--config.data.file={tmp_path / 'nowhere'}"
    assert f"found nothing at {tmp_path / 'nowhere'}" in fails(capsys, CONFIG, workdir, *data)


def test_another_log_of_the_same_size_is_refused(
    run: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((run / "config.json").read_text())
    moved = Path(shutil.copytree(run, tmp_path / "copy"))
    other = write_titled(tmp_path / "other", prefix="C")
    config["data"]["file"] = str(other)
    (moved / "config.json").write_text(json.dumps(config))
    line = fails(capsys, "--mode=recommend", f"--workdir={moved}")
    assert "whose ids in the log differ from the run's" in line

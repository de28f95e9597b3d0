"""The page of a run and the tables of several runs, from a small run trained here."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_main import CONFIG, SMALL_MODEL, command

from genrec_jax.cli.report import main as report
from genrec_jax.reporting.charts import bar_chart, line_chart, ticks
from genrec_jax.reporting.paper import METRICS, TABLE_1, TABLE_3
from genrec_jax.reporting.paper_tables import as_markdown, table_of

VOID = {"meta", "link", "br"}


class Tags(HTMLParser):
    """Collect addresses and tags, and fail if an element is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href") and v]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    assert command(CONFIG, f"--workdir={folder}", *SMALL_MODEL) == 0
    return folder


def test_the_page_of_a_run(run: Path) -> None:
    text = (run / "report.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.addresses == ["data:,"]  # nothing outside the file
    assert "script" not in tags.seen
    results = json.loads((run / "results.json").read_text())
    assert f"{results['metrics']['HR@10']:.4f}" in text
    for name in results["references"]:
        assert name in text
    assert text.count("<summary>user_") == 10
    assert "config.finetune.epochs" in text
    assert "orbax-checkpoint" in text
    assert "No evidence of leakage: the random numbers of synthetic" in text
    assert text.count("<svg") >= 3
    assert str(run.parent) not in text


def test_results_have_confidence_intervals(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    for metric, (low, high) in results["intervals"].items():
        assert low <= results["metrics"][metric] <= high
    assert set(results["differences"]) == set(results["references"])
    assert results["indexing"] == "random"
    assert results["indexing_seed"] == 0


def test_several_runs_compared_with_the_paper(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = json.loads((run / "results.json").read_text())
    for dataset in ("beauty", "yelp"):
        folder = tmp_path / dataset
        folder.mkdir()
        for name in ("run.json", "config.json", "fingerprints.json"):
            (folder / name).write_text((run / name).read_text())
        (folder / "results.json").write_text(json.dumps({**results, "dataset": dataset}))
    runs = [str(tmp_path / "beauty"), str(tmp_path / "yelp"), str(run)]
    assert report(["report", *runs]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line.startswith("##")] == [
        *("## beauty", "## yelp", "## synthetic"),
    ]
    quoted = [line for line in text.splitlines() if line.endswith("quoted from the paper |")]
    assert len(quoted) == 2 * 11
    assert "| *P5-B* | – | – | – | – | quoted from the paper |" in quoted
    assert "| *GenRec* | 0.0515 | 0.0397 | 0.0641 | 0.0439 | quoted from the paper |" in quoted
    ours = results["metrics"]["HR@5"]
    assert re.search(rf"\| beauty \(random ids\) \| {ours:.4f} ± 0\.\d+ ", text)
    page = tmp_path / "tables.html"
    assert report(["report", *runs, f"--output={page}"]) == 0
    tags = Tags()
    tags.feed(page.read_text())
    assert {tag for tag in tags.open if tag != "tr"} == set()


def test_invalid_arguments_of_the_report(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(["report", str(tmp_path)]) == 2
    assert "found no run.json, expected a run's folder" in capsys.readouterr().err
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    assert report(["report", str(tmp_path)]) == 2
    assert "expected a run of genrec_jax 0.2.0 or later" in capsys.readouterr().err
    (tmp_path / "run.json").write_text((run / "run.json").read_text())
    assert report(["report", str(tmp_path)]) == 2
    assert "the run is not finished" in capsys.readouterr().err
    assert report(["report", str(run), "--output=tables.pdf"]) == 2
    assert "expected a name in .md or .html" in capsys.readouterr().err


def test_the_papers_results_are_quoted_exactly(data_dir: Path) -> None:
    """Compare with the text of the paper, if it is stored beside the datasets."""
    paper = data_dir.parent / "paper" / "genrec_paper.md"
    if not paper.is_file():
        pytest.skip("the paper's text is not available")
    rows = {}
    for line in re.sub(r"</?[a-z]+>", "", paper.read_text()).splitlines():
        name, *cells = line.split("\t")
        if cells and all(re.fullmatch(r"0\.\d+|-", cell) for cell in cells):
            rows[name] = [None if cell == "-" else float(cell) for cell in cells]
    for name in TABLE_1["sports"]:
        expected = [*TABLE_1["sports"][name], *TABLE_1["beauty"][name], *TABLE_1["yelp"][name]]
        assert rows[name] == expected
    for dataset, row in TABLE_3.items():
        assert rows[f"{dataset.title()} w/o pretraining"] == list(row)
        assert rows[dataset.title()] == list(TABLE_1[dataset]["GenRec"])


def test_a_dataset_without_results_in_the_paper(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    lines = table_of("mine", {"a": results, "b": results})
    assert [line.name for line in lines][:2] == ["a (random ids)", "b (random ids)"]
    assert len(lines) == 2 + len(results["references"])
    assert all(len(line.values) == len(METRICS) for line in lines)
    assert "Quoted rows" not in as_markdown({"mine": lines})
    assert "Quoted rows" in as_markdown({"mine": lines, "beauty": table_of("beauty", {})})


def test_baselines_under_different_history_rules_are_separate_rows(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    names = ("popularity", "largest number + 1, …", "item-transition kNN")
    baselines = {name: results["references"][name] for name in names}
    without = {**results, "exclude_history": True, "references": baselines}
    lines = {line.name for line in table_of("mine", {"a": results, "b": without})}
    assert {"popularity", "popularity, history items excluded"} <= lines


def test_charts_contain_their_data() -> None:
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(0.0, 0.0)[-1] > 0
    for low, high in ((0.0, 0.013), (3.0, 4.0), (600.0, 1413.0), (1e-6, 2e-6)):
        positions = ticks(low, high)
        assert positions[0] <= low + 1e-12
        assert positions[-1] >= high - 1e-12
        assert 2 <= len(positions) <= 8
    lines = line_chart({"loss": [(0.0, 1.0), (5.0, 0.5)]}, "step")
    assert lines.count("<polyline") == 1
    bars = bar_chart([("1–4", 0.1, 0.05, 0.2), ("<5", 0.0, 0.0, 0.0)], "HR")
    assert bars.count('class="bar"') == 2
    assert "&lt;5" in bars

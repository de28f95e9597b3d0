"""What a sweep came to: a table and a chart, as Markdown and as one HTML page.

trials.json    every trial: flags, state, validation, test metrics, seconds
table.md       the table that is printed
report.html    the same, with a chart
"""

import html
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrec_jax.core.disk import write_atomically
from genrec_jax.models.heuristics.baselines import NEWEST, POPULARITY, TRANSITIONS
from genrec_jax.reporting.charts import dot_chart, line_chart
from genrec_jax.reporting.page import STYLE
from genrec_jax.reporting.paper import METRICS
from genrec_jax.runs.run_folder import METRIC
from genrec_jax.sweeps.spec import MIXED_SUFFIX
from genrec_jax.sweeps.trials import Trial

# Those that do not depend on how the items are numbered, which may differ between settings.
LINES_TO_BEAT = (POPULARITY, NEWEST, TRANSITIONS)
ABLATION_NOTE = (
    "Mean over the seeds ± standard deviation (n - 1). Validation chooses among the checkpoints of "
    "a run and the weights of a mix; the test split is ranked once, at the end. Lines to beat "
    "learn nothing and are measured on the same users."
)
SEARCH_NOTE = (
    f"By validation {METRIC}; the test split plays no part. Those that were cut show what they had "
    "reached."
)


@dataclass
class Row:
    """A line of an ablation: one value for each seed that is through."""

    label: str
    seeds: int  # that were asked for
    validation: list[float] = field(default_factory=list)
    test: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in METRICS})
    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def done(self) -> str:
        of = f"{len(self.validation)} of {self.seeds}"
        return of if not self.failed else f"{of}, {self.failed} failed"


def ablation_rows(
    trials: Sequence[Trial], seconds: Mapping[str, float], failures: Mapping[str, str]
) -> list[Row]:
    """A row a setting, a row its mix with the kNN where there is one."""
    rows: dict[str, Row] = {}
    for trial in trials:
        kinds = [(trial.label, False), (trial.label + MIXED_SUFFIX, True)]
        for label, is_mixed in kinds[: 1 + trial.mix]:
            row = rows.setdefault(label, Row(label, 0))
            row.seeds += 1
            row.failed += trial.name in failures
            result = trial.mixed if is_mixed else trial.result
            if result is None:
                continue
            row.validation.append(
                result["validation"]["metrics"][METRIC] if is_mixed else trial.score()
            )
            for name in METRICS:
                row.test[name].append(result["metrics"][name])
            if not is_mixed and trial.name in seconds:  # training and mixing together
                row.seconds.append(seconds[trial.name])
    return list(rows.values())


def lines_to_beat(trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """Test metrics of what learns nothing, a mean over the runs that are through.

    Runs without the items of the history have no own-history baselines.
    """
    results = [trial.result for trial in trials]
    references = [result["references"] for result in results if result is not None]
    return {
        name: {
            metric: statistics.fmean(found[name][metric] for found in references)
            for metric in METRICS
        }
        for name in LINES_TO_BEAT
        if references and all(name in found for found in references)
    }


def ablation_table(rows: Sequence[Row], beat: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Cells; the first line is the heads."""
    heads = ["setting", "seeds", f"validation {METRIC}", *(f"test {m}" for m in METRICS), "minutes"]
    lines = [heads]
    for row in rows:
        test = [_spread(row.test[name]) for name in METRICS]
        minutes = f"{statistics.fmean(row.seconds) / 60:.1f}" if row.seconds else "–"
        lines.append([row.label, row.done, _spread(row.validation), *test, minutes])
    for name, metrics in beat.items():
        figures = (f"{metrics[metric]:.4f}" for metric in METRICS)
        lines.append([f"*{name}*", "–", "–", *figures, "–"])
    return lines


def ablation_chart(rows: Sequence[Row], beat: Mapping[str, Mapping[str, float]]) -> str:
    shown = [(row.label, row.test[METRIC]) for row in rows if row.test[METRIC]]
    shown += [(name, [metrics[METRIC]]) for name, metrics in beat.items()]
    return dot_chart(shown, f"test {METRIC}, a dot a seed") if shown else ""


@dataclass(frozen=True)
class Tried:
    """A line of a search."""

    name: str
    state: str
    values: Mapping[str, Any]  # key → value
    score: float | None  # validation NDCG@10; of a trial that was cut, the best it had reached
    seconds: float


def search_table(tried: Sequence[Tried]) -> list[list[str]]:
    """Cells, the best trial first."""
    keys = list(dict.fromkeys(key for one in tried for key in one.values))
    lines = [["trial", "state", f"validation {METRIC}", *keys, "minutes"]]
    for one in sorted(tried, key=lambda one: -math.inf if one.score is None else one.score)[::-1]:
        score = "–" if one.score is None else f"{one.score:.4f}"
        values = (_value(one.values[key]) if key in one.values else "–" for key in keys)
        lines.append([one.name, one.state, score, *values, f"{one.seconds / 60:.1f}"])
    return lines


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def search_chart(tried: Sequence[Tried]) -> str:
    points = [(float(n), one.score) for n, one in enumerate(tried) if one.score is not None]
    if not points:
        return ""
    best = [(x, max(score for _, score in points[: n + 1])) for n, (x, _) in enumerate(points)]
    return line_chart({"best so far": best, "trial": points}, f"trial; validation {METRIC}")


def write(
    workdir: Path, cells: list[list[str]], chart: str, note: str, trials: Sequence[dict[str, Any]]
) -> str:
    """Write the three files; returns the table as Markdown."""
    table = as_markdown(cells)
    name = workdir.name
    write_atomically(workdir / "trials.json", json.dumps(trials, indent=2) + "\n")
    write_atomically(workdir / "table.md", f"## {name}\n\n{table}\n\n{note}\n")
    write_atomically(workdir / "report.html", as_html(name, cells, chart, note))
    return table


def as_markdown(cells: list[list[str]]) -> str:
    """Columns are as wide as their widest cell, so that the text is a table to the eye too."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [cells[0], rule, *cells[1:]]
    return "\n".join(
        "| " + " | ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def as_html(name: str, cells: list[list[str]], chart: str, note: str) -> str:
    """One self-contained page."""
    head, *lines = (
        "".join(f"<{tag}>{html.escape(cell.strip('*'))}</{tag}>" for cell in line)
        for tag, line in zip(["th"] + ["td"] * len(cells), cells, strict=False)
    )
    body = "".join(f"<tr>{line}</tr>" for line in (head, *lines))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{html.escape(name)}</title><style>{STYLE}</style>"
        f"<main><h1>{html.escape(name)}</h1><div class=wide><table>{body}</table></div>"
        f"<figure>{chart}</figure><p>{html.escape(note)}</p></main></html>\n"
    )


def _spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"

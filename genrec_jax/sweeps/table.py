"""The results of a sweep as a table and a chart, in Markdown and HTML.

trials.json    flags, state, validation score, test metrics and seconds of every trial
table.md       the table that the command prints
report.html    the table with a chart, as one self-contained page
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
from genrec_jax.sweeps.spec import ENSEMBLE_SUFFIX
from genrec_jax.sweeps.trials import Trial

# Baselines that do not depend on the numbering of the items, which may differ between settings.
BASELINES = (POPULARITY, NEWEST, TRANSITIONS)
ABLATION_NOTE = (
    "Mean over seeds ± sample standard deviation (n − 1). The best checkpoint of each run and the "
    "ensemble weights are selected on the validation items; test items are ranked once, at the "
    "end. Baselines are untrained and evaluated on the same users. Minutes: mean "
    "wall time per run."
)
SEARCH_NOTE = (
    f"Trials are sorted by validation {METRIC}; the test items are not used. For pruned and "
    "stopped trials, the score is the best one reached so far. The chart shows the score of each "
    "trial and the best score so far."
)


@dataclass
class Row:
    """A row of an ablation's table, with one value per finished seed."""

    label: str
    seeds: int  # number of seeds of the ablation
    validation: list[float] = field(default_factory=list)
    test: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in METRICS})
    seconds: list[float] = field(default_factory=list)  # wall time of each run
    failed: int = 0  # number of failed seeds

    @property
    def progress(self) -> str:
        """The number of finished and failed seeds, such as `2 of 3, 1 failed`."""
        finished = f"{len(self.validation)} of {self.seeds}"
        return finished if not self.failed else f"{finished}, {self.failed} failed"


def ablation_rows(
    trials: Sequence[Trial], seconds: Mapping[str, float], failures: Mapping[str, str]
) -> list[Row]:
    """Create the table's rows: one per setting, and one per ensemble with the kNN.

    Args:
        trials: all trials of the ablation.
        seconds: the trial's name → wall time in seconds.
        failures: the name of each failed trial → the reason.
    """
    rows: dict[str, Row] = {}
    for trial in trials:
        kinds = [(trial.label, False), (trial.label + ENSEMBLE_SUFFIX, True)]
        for label, is_ensemble in kinds[: 1 + trial.ensemble]:
            row = rows.setdefault(label, Row(label, 0))
            row.seeds += 1
            row.failed += trial.name in failures
            result = trial.ensemble_result if is_ensemble else trial.result
            if result is None:
                continue
            row.validation.append(
                result["validation"]["metrics"][METRIC] if is_ensemble else trial.score()
            )
            for name in METRICS:
                row.test[name].append(result["metrics"][name])
            if not is_ensemble and trial.name in seconds:  # includes the ensemble's time
                row.seconds.append(seconds[trial.name])
    return list(rows.values())


def baseline_means(trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """Average the baselines' test metrics over the finished runs.

    Runs that exclude history items have no own-history baselines, which are then omitted.

    Args:
        trials: all trials of the ablation.

    Returns:
        The baseline's name → metric → mean.
    """
    results = [trial.result for trial in trials]
    references = [result["references"] for result in results if result is not None]
    return {
        name: {
            metric: statistics.fmean(baselines[name][metric] for baselines in references)
            for metric in METRICS
        }
        for name in BASELINES
        if references and all(name in baselines for baselines in references)
    }


def ablation_table(
    rows: Sequence[Row], baselines: Mapping[str, Mapping[str, float]]
) -> list[list[str]]:
    """Return the cells of an ablation's table, header row first.

    Args:
        rows: the settings and ensembles.
        baselines: the baseline's name → metric → value.
    """
    test_heads = (f"test {metric}" for metric in METRICS)
    lines = [["setting", "seeds", f"validation {METRIC}", *test_heads, "minutes"]]
    for row in rows:
        test = [_spread(row.test[name]) for name in METRICS]
        minutes = f"{statistics.fmean(row.seconds) / 60:.1f}" if row.seconds else "–"
        lines.append([row.label, row.progress, _spread(row.validation), *test, minutes])
    for name, metrics in baselines.items():
        values = (f"{metrics[metric]:.4f}" for metric in METRICS)
        lines.append([f"*{name}*", "–", "–", *values, "–"])
    return lines


def ablation_chart(rows: Sequence[Row], baselines: Mapping[str, Mapping[str, float]]) -> str:
    """Return an SVG chart of the test scores by setting; "" if there are none.

    Args:
        rows: the settings and ensembles.
        baselines: the baseline's name → metric → value.
    """
    shown = [(row.label, row.test[METRIC]) for row in rows if row.test[METRIC]]
    shown += [(name, [metrics[METRIC]]) for name, metrics in baselines.items()]
    return dot_chart(shown, f"test {METRIC}, one dot per seed") if shown else ""


@dataclass(frozen=True)
class CompletedTrial:
    """A row of a search's table."""

    name: str
    state: str  # such as `complete`, `pruned below the median` or `stopped, resumable`
    values: Mapping[str, Any]  # searched key → value
    score: float | None  # validation NDCG@10; the best so far if the trial did not finish
    seconds: float  # wall time


def search_table(trials: Sequence[CompletedTrial]) -> list[list[str]]:
    """Return the cells of a search's table: the header row, then the trials, best first.

    Args:
        trials: all trials so far.
    """
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    lines = [["trial", "state", f"validation {METRIC}", *keys, "minutes"]]
    for trial in sorted(trials, key=lambda t: -math.inf if t.score is None else t.score)[::-1]:
        score = "–" if trial.score is None else f"{trial.score:.4f}"
        values = (_value(trial.values[key]) if key in trial.values else "–" for key in keys)
        lines.append([trial.name, trial.state, score, *values, f"{trial.seconds / 60:.1f}"])
    return lines


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def search_chart(trials: Sequence[CompletedTrial]) -> str:
    """Return an SVG chart of the score by trial and the best so far; "" without scores.

    Args:
        trials: all trials so far, in the order in which they were proposed.
    """
    points = [(float(n), trial.score) for n, trial in enumerate(trials) if trial.score is not None]
    if not points:
        return ""
    best = [(x, max(score for _, score in points[: n + 1])) for n, (x, _) in enumerate(points)]
    return line_chart(
        {"best so far": best, "trial": points}, f"trial number (vertical: validation {METRIC})"
    )


def write(
    workdir: Path, cells: list[list[str]], chart: str, note: str, trials: Sequence[dict[str, Any]]
) -> str:
    """Write trials.json, table.md and report.html.

    Args:
        workdir: the sweep's directory.
        cells: the table, header row first.
        chart: the chart as SVG; may be empty.
        note: the note below the table.
        trials: the entries of trials.json.

    Returns:
        The table as Markdown.

    Raises:
        DiskError: a file cannot be written.
    """
    table = as_markdown(cells)
    name = workdir.name
    write_atomically(workdir / "trials.json", json.dumps(trials, indent=2) + "\n")
    write_atomically(workdir / "table.md", f"## {name}\n\n{table}\n\n{note}\n")
    write_atomically(workdir / "report.html", as_html(name, cells, chart, note))
    return table


def as_markdown(cells: list[list[str]]) -> str:
    """Format cells as a Markdown table whose columns are aligned in plain text too."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [cells[0], rule, *cells[1:]]
    return "\n".join(
        "| " + " | ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def as_html(name: str, cells: list[list[str]], chart: str, note: str) -> str:
    """Format cells, a chart and a note as one self-contained HTML page."""
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
    """Format values as mean ± sample standard deviation; "–" if there are none."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"

"""Tables 1 and 3 of the GenRec paper extended with finished runs, as Markdown or HTML."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genrec_jax.reporting.page import STYLE
from genrec_jax.reporting.paper import METRICS, TABLE_1, TABLE_3, Row

QUOTED = "quoted from the paper"
MEASURED = "measured"
MEASURED_NOTE = (
    "Measured rows: one run each, ± half-width of the 95 % bootstrap confidence interval over its "
    "test users. Baselines are untrained and evaluated on the same users."
)
QUOTED_NOTE = (
    "Quoted rows: results reported in the paper, which uses the published numbering of users and "
    "items. This numbering leaks test items: the untrained baseline 'largest number + 1, …' "
    "exploits it, so compare these rows with that baseline on the published numbering."
)


@dataclass(frozen=True)
class Line:
    """A row of a table."""

    name: str  # the run, baseline or model
    values: tuple[str, ...]  # the formatted value of each metric
    source: str  # MEASURED or QUOTED


def table_of(dataset: str, runs: Mapping[str, Mapping[str, Any]]) -> list[Line]:
    """Create the rows of one dataset: runs, their baselines, and the paper's results.

    Args:
        dataset: the dataset's name; the paper's results are added for `beauty`, `sports` and
            `yelp`.
        runs: the run's name → the content of its results.json. Baselines with equal values in
            several runs are listed once.
    """
    lines = []
    baselines: dict[tuple[str, ...], Line] = {}
    for name, result in runs.items():
        lines.append(Line(_label(name, result), _measured(result), MEASURED))
        for baseline, metrics in result["references"].items():
            numbered = f"{baseline} ({result.get('indexing')} ids)"
            label = numbered if "number" in baseline else baseline
            if result["exclude_history"]:
                label += ", history items excluded"
            if result["counts"]["users"] < result["counts"]["users_of_dataset"]:
                label += f", {result['counts']['users']} users"
            values = tuple(f"{metrics[metric]:.4f}" for metric in METRICS)
            baselines[label, *values] = Line(label, values, MEASURED)
    lines += baselines.values()
    lines += [Line(name, _quoted(row), QUOTED) for name, row in TABLE_1.get(dataset, {}).items()]
    if dataset in TABLE_3:
        lines.append(Line("GenRec w/o pretraining", _quoted(TABLE_3[dataset]), QUOTED))
    return lines


def _label(name: str, result: Mapping[str, Any]) -> str:
    """Return a run's name with the conditions of its evaluation."""
    details = [f"{result['indexing']} ids"] if "indexing" in result else []
    if result["exclude_history"]:
        details.append("history items excluded")
    if result["counts"]["users"] < result["counts"]["users_of_dataset"]:
        details.append(f"{result['counts']['users']} users")
    return f"{name} ({', '.join(details)})" if details else name


def _measured(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Format a run's metrics with the half-widths of their confidence intervals."""
    values = []
    for metric in METRICS:
        low, high = result["intervals"][metric]
        values.append(f"{result['metrics'][metric]:.4f} ± {(high - low) / 2:.4f}")
    return tuple(values)


def _quoted(row: Row) -> tuple[str, ...]:
    return tuple("–" if value is None else f"{value:.4f}" for value in row)


def _notes(tables: Mapping[str, Sequence[Line]]) -> list[str]:
    """Return the notes that apply to the rows of the tables."""
    sources = {line.source for lines in tables.values() for line in lines}
    return [MEASURED_NOTE, *([QUOTED_NOTE] if QUOTED in sources else [])]


def as_markdown(tables: Mapping[str, Sequence[Line]]) -> str:
    """Format the tables as Markdown: a heading and a table per dataset, then the notes."""
    parts = []
    for dataset, lines in tables.items():
        parts += [f"## {dataset}", ""]
        parts += [f"| | {' | '.join(METRICS)} | source |", "| --- |" + " ---: |" * 4 + " --- |"]
        for line in lines:
            name = f"*{line.name}*" if line.source == QUOTED else line.name
            parts.append(f"| {name} | {' | '.join(line.values)} | {line.source} |")
        parts.append("")
    return "\n".join([*parts, *(f"{note}\n" for note in _notes(tables))])


def as_html(tables: Mapping[str, Sequence[Line]]) -> str:
    """Format the tables as one self-contained HTML page."""
    parts = []
    for dataset, lines in tables.items():
        heads = "".join(f"<th>{name}</th>" for name in ("", *METRICS, "source"))
        parts.append(f"<h2>{html.escape(dataset)}</h2><div class=wide><table><tr>{heads}</tr>")
        for line in lines:
            values = (re.sub(r" (± .*)", r"<small>\1</small>", text) for text in line.values)
            cells = (html.escape(line.name), *values, line.source)
            kind = " class=quoted" if line.source == QUOTED else ""
            parts.append(f"<tr{kind}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        parts.append("</table></div>")
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in _notes(tables))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>Runs compared with the GenRec paper</title><style>{STYLE}</style>"
        f"<main><h1>Runs compared with the GenRec paper</h1>{''.join(parts)}{notes}</main></html>\n"
    )

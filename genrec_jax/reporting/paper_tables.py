"""Tables 1 and 3 of the paper with our runs, as Markdown or HTML."""

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
    "Measured rows: one run each, ± half of the 95 % bootstrap interval over its test users; "
    "baselines learn nothing and are measured on the same users."
)
QUOTED_NOTE = (
    "Quoted rows are the paper's figures, on the published numbering of users and items, which "
    "leaks the answer: they prove little beside 'largest number + 1, …' on the same numbering."
)


@dataclass(frozen=True)
class Line:
    """A row of a table: a recommender, its figures as they are shown, where they are from."""

    name: str
    figures: tuple[str, ...]
    source: str


def table_of(dataset: str, runs: Mapping[str, Mapping[str, Any]]) -> list[Line]:
    """All rows on one dataset.

    Args:
        dataset: its name.
        runs: a run's name → its results.json; runs on the same users and numbers have the same
            lines to beat, which are listed once.
    """
    lines = []
    references: dict[tuple[str, ...], Line] = {}
    for name, result in runs.items():
        lines.append(Line(_label(name, result), _measured(result), MEASURED))
        for reference, metrics in result["references"].items():
            where = f"{reference} ({result.get('indexing')} ids)"
            label = where if "number" in reference else reference
            if result["exclude_history"]:
                label += ", history left out"
            if result["counts"]["users"] < result["counts"]["users_of_dataset"]:
                label += f", {result['counts']['users']} users"
            figures = tuple(f"{metrics[metric]:.4f}" for metric in METRICS)
            line = Line(label, figures, MEASURED)
            references[label, *figures] = line
    lines += references.values()
    lines += [Line(name, _quoted(row), QUOTED) for name, row in TABLE_1.get(dataset, {}).items()]
    if dataset in TABLE_3:
        lines.append(Line("GenRec w/o pretraining", _quoted(TABLE_3[dataset]), QUOTED))
    return lines


def _label(name: str, result: Mapping[str, Any]) -> str:
    told = [f"{result['indexing']} ids"] if "indexing" in result else []
    if result["exclude_history"]:
        told.append("history left out")
    if result["counts"]["users"] < result["counts"]["users_of_dataset"]:
        told.append(f"{result['counts']['users']} users")
    return f"{name} ({', '.join(told)})" if told else name


def _measured(result: Mapping[str, Any]) -> tuple[str, ...]:
    shown = []
    for metric in METRICS:
        low, high = result["intervals"][metric]
        shown.append(f"{result['metrics'][metric]:.4f} ± {(high - low) / 2:.4f}")
    return tuple(shown)


def _quoted(row: Row) -> tuple[str, ...]:
    return tuple("–" if value is None else f"{value:.4f}" for value in row)


def _notes(tables: Mapping[str, Sequence[Line]]) -> list[str]:
    """What the reader must know of the rows that are there."""
    sources = {line.source for lines in tables.values() for line in lines}
    return [MEASURED_NOTE, *([QUOTED_NOTE] if QUOTED in sources else [])]


def as_markdown(tables: Mapping[str, Sequence[Line]]) -> str:
    """A heading and a table a dataset, and the notes."""
    parts = []
    for dataset, lines in tables.items():
        parts += [f"## {dataset}", ""]
        parts += [f"| | {' | '.join(METRICS)} | source |", "| --- |" + " ---: |" * 4 + " --- |"]
        for line in lines:
            name = f"*{line.name}*" if line.source == QUOTED else line.name
            parts.append(f"| {name} | {' | '.join(line.figures)} | {line.source} |")
        parts.append("")
    return "\n".join([*parts, *(f"{note}\n" for note in _notes(tables))])


def as_html(tables: Mapping[str, Sequence[Line]]) -> str:
    """The same as one self-contained page."""
    parts = []
    for dataset, lines in tables.items():
        heads = "".join(f"<th>{name}</th>" for name in ("", *METRICS, "source"))
        parts.append(f"<h2>{html.escape(dataset)}</h2><div class=wide><table><tr>{heads}</tr>")
        for line in lines:
            figures = (re.sub(r" (± .*)", r"<small>\1</small>", text) for text in line.figures)
            cells = (html.escape(line.name), *figures, line.source)
            kind = " class=quoted" if line.source == QUOTED else ""
            parts.append(f"<tr{kind}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        parts.append("</table></div>")
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in _notes(tables))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>GenRec: runs beside the paper</title><style>{STYLE}</style>"
        f"<main><h1>Runs beside the paper</h1>{''.join(parts)}{notes}</main></html>\n"
    )

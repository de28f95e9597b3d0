"""A run as one self-contained HTML page: no script, no font, no address outside the file."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genrec_jax.evaluation.breakdown import METRICS
from genrec_jax.evaluation.leak import LABELS
from genrec_jax.identifiers.indexing import writing
from genrec_jax.reporting.charts import bar_chart, line_chart

LONGEST_TITLE = 90  # characters
STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5d6670; --rule: #d5dade;
  --paper: #ffffff; --one: #1f6fb2; --two: #b4541a; --hit: #d9f0dd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --soft: #9aa4ae; --rule: #3a4148;
  --paper: #15181b; --one: #6cb2ec; --two: #f0a06a; --hit: #1f4a2b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
p { max-width: 46rem; } .soft { color: var(--soft); } .verdict { font-weight: 600; }
.wide { overflow-x: auto; } table { font-size: .95rem; border-collapse: collapse;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--rule); text-align: right;
  white-space: nowrap; } th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal;
  min-width: 7.5rem; } td small { font-size: .9em; font-weight: 400; }
@media (max-width: 40rem) { .extra { display: none; } th, td { padding: .25rem .2rem; }
  table { font-size: .75rem; } th:first-child, td:first-child { min-width: 5rem; } }
td small { color: var(--soft); display: block; } tr.ours td { font-weight: 600; }
tr.quoted td { color: var(--soft); }
.charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .9rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 22px; }
.grid { stroke: var(--rule); } .line { fill: none; stroke-width: 2; }
.line-0 { stroke: var(--one); } .line-1 { stroke: var(--two); }
.dot-0, .bar { fill: var(--one); } .dot-1 { fill: var(--two); }
.key { margin-right: 1rem; } .key-0 { color: var(--one); } .key-1 { color: var(--two); }
.whisker { stroke: var(--ink); stroke-width: 2; }
details { border-bottom: 1px solid var(--rule); padding: .4rem 0; }
summary { cursor: pointer; } .items { display: flex; flex-wrap: wrap; gap: .3rem; padding: 0;
  list-style: none; font-size: .9rem; }
.items li { border: 1px solid var(--rule); border-radius: .3rem; padding: .1rem .4rem; }
.items li.hit { background: var(--hit); } .items small { color: var(--soft); }
.items li, summary { overflow-wrap: anywhere; } .items li { max-width: 100%; }
code { font-size: .9rem; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Item:
    """An item as a reader meets it: its title or name, and what else is known of it.

    No two items of a page are alike in both.
    """

    name: str
    about: str = ""


@dataclass(frozen=True)
class SampledUser:
    """One user's history, oldest first, the list that was made from it, and what came next."""

    name: str
    history: Sequence[Item]
    items: Sequence[Item]
    target: Item


@dataclass(frozen=True)
class Page:
    """What a page is made from."""

    name: str
    result: Mapping[str, Any]  # results.json
    lines: Sequence[Mapping[str, Any]]  # metrics.jsonl
    audit: Mapping[str, Any] | None  # None: the model reads no identifiers, which could leak
    users: Sequence[SampledUser]
    config: Mapping[str, Any]  # config.a.b → value


def render(page: Page) -> str:
    """The whole page."""
    result = page.result
    counts = result["counts"]
    sections = [
        f"<h1>{_text(page.name)}</h1>",
        f"<p class=soft>{_text(result['model'])} on {_text(result['dataset'])}: "
        f"{counts['users']:,} test users, {counts['items']:,} items, "
        f"{_written(result.get('indexing'))}{_text(result['search'])} search.</p>",
        *([f"<p class=verdict>{_text(page.audit['sentence'])}</p>"] if page.audit else []),
        "<h2>Results</h2>",
        _results(result),
        "<h2>Against the lines to beat</h2>",
        _differences(result),
        "<h2>For whom</h2>",
        _breakdown(result),
        "<h2>Training</h2>",
        _curves(page.lines),
        *(["<h2>Does the numbering leak?</h2>", _audit(page.audit)] if page.audit else []),
        "<h2>Ten users</h2>",
        "<p class=soft>Drawn by the seed, not chosen. The test item is marked where the list has "
        "it.</p>",
        *map(_user, page.users),
        "<h2>Config and versions</h2>",
        _pairs("Config", page.config),
        _pairs("Versions", result["versions"]),
        _pairs("Counts and seconds", {**counts, **_seconds(result)}),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{_text(page.name)}</title>'
        f"<style>{STYLE}</style></head><body><main>\n" + "\n".join(sections) + "\n</main></body>"
        "</html>\n"
    )


def _results(result: Mapping[str, Any]) -> str:
    doubt = result["intervals"]
    others = dict(result["references"])
    if "without_history" in result:
        struck_out = f"{result['model']}, its history struck out"
        others = {struck_out: result["without_history"], **others}
    rows = [f'<tr class="ours"><td>{_text(result["model"])}</td>']
    for name, value in result["metrics"].items():
        shown = f"{value:.4f}<small>± {_half(doubt[name]):.4f}</small>"
        rows.append(f"<td{_extra(name)}>{shown}</td>")
    for reference, metrics in others.items():
        cells = (f"<td{_extra(name)}>{value:.4f}</td>" for name, value in metrics.items())
        rows.append(f"</tr><tr><td>{_text(reference)}</td>{''.join(cells)}")
    return (
        f"<div class=wide><table>{_head('', *result['metrics'])}{''.join(rows)}</tr></table></div>"
        "<p class=soft>All items are ranked. ±: half of the 95 % bootstrap interval over users, "
        "which results.json has whole. The other rows are trained on nothing.</p>"
    )


def _extra(metric: str) -> str:
    """A metric that a phone has no room for."""
    return " class=extra" if metric in ("HR@1", "HR@20", "NDCG@20") else ""


def _differences(result: Mapping[str, Any]) -> str:
    rows = []
    for name, differences in result["differences"].items():
        cells = []
        for metric in METRICS:
            difference, low, high = differences[metric]
            cells.append(f"{difference:+.4f}<small>± {_half((low, high)):.4f}</small>")
        spread = result["spread"][name]
        rows.append(_row(_text(name), [*cells, *_spread(spread)], ""))
    ours = _row(_text(result["model"]), ["", "", *_spread(result["spread"]["model"])], "ours")
    heads = _head("", *(f"Δ {metric}" for metric in METRICS), "coverage", "top 1 %")
    return (
        f"<div class=wide><table>{heads}{ours}{''.join(rows)}</table></div>"
        f"<p class=soft>Δ: {_text(result['model'])} less each line, paired by user, ± half of the "
        "95 % interval of the difference. Coverage: share of the catalogue in any first ten "
        "places. Top 1 %: share of those places that the most popular 1 % of the items take.</p>"
    )


def _spread(spread: Mapping[str, float]) -> list[str]:
    return [f"{spread['coverage']:.1%}", f"{spread['top_share']:.1%}"]


def _breakdown(result: Mapping[str, Any]) -> str:
    metric = METRICS[-1]
    figures = []
    for kind, groups in result["breakdown"].items():
        if len(groups) < 2:
            continue  # everybody
        bars = [(group["group"], group[metric], *group["intervals"][metric]) for group in groups]
        users = ", ".join(f"{group['group']}: {group['users']:,}" for group in groups)
        figures.append(
            f"<figure><h3>By {_text(kind)}</h3>{bar_chart(bars, f'{metric} by {kind}')}"
            f"<figcaption>{metric} with 95 % intervals. Users: {_text(users)}.</figcaption>"
            "</figure>"
        )
    return f"<div class=charts>{''.join(figures)}</div>"


def _curves(lines: Sequence[Mapping[str, Any]]) -> str:
    losses: dict[str, list[tuple[float, float]]] = {}
    scores: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        if "loss" in line:
            losses.setdefault(f"{line['phase']} loss", []).append(
                (float(line["step"]), line["loss"])
            )
        for metric in METRICS:
            if metric in line:
                scores.setdefault(f"validation {metric}", []).append(
                    (float(line["step"]), line[metric])
                )
    figures = [
        f"<figure><h3>{title}</h3>{line_chart(series, 'step')}{_key(series)}</figure>"
        for title, series in (("Loss a token, in nats", losses), ("Validation", scores))
        if series
    ]
    return f"<div class=charts>{''.join(figures)}</div>"


def _audit(audit: Mapping[str, Any]) -> str:
    rows = [_row(_text(name), [f"{value:.2%}"], "") for name, value in audit["test"].items()]
    parts = [
        f"<div class=wide><table>{_head('of the test items', 'share')}{''.join(rows)}"
        "</table></div>",
    ]
    for name, test in audit["tests"].items():
        if test is None:
            parts.append(f"<p>Against {_text(name)}: too few test items to look at.</p>")
            continue
        rows = [
            _row(
                LABELS[statistic],
                [
                    f"{value:.4f}",
                    f"{test['by_chance'][statistic]:.4f}",
                    f"{test['z'][statistic]:+.1f}",
                ],
                "",
            )
            for statistic, value in test["observed"].items()
        ]
        parts.append(
            f"<h3>Against {_text(name)}: p = {test['p']:.3f}, {test['items']:,} items dealt anew, "
            f"{test['users']:,} users</h3><div class=wide><table>"
            f"{_head('', 'found', 'by chance', 'z')}{''.join(rows)}</table></div>"
        )
    return "".join(parts)


def _key(names: Iterable[str]) -> str:
    shown = (
        f'<span class="key key-{number}">— {_text(name)}</span>'
        for number, name in enumerate(names)
    )
    return f"<figcaption>{''.join(shown)}</figcaption>"


def _half(interval: Sequence[float]) -> float:
    return (interval[1] - interval[0]) / 2


def _user(user: SampledUser) -> str:
    found = user.target in user.items
    place = f"place {user.items.index(user.target) + 1}" if found else "not in the list"
    return (
        f"<details open><summary>{_text(user.name)}: {len(user.history)} items, then "
        f"{_title(user.target.name)} ({place})</summary><h3>History, oldest first</h3>"
        f"{_items(user.history, None)}<h3>Recommended, best first</h3>"
        f"{_items(user.items, user.target)}</details>"
    )


def _items(items: Sequence[Item], target: Item | None) -> str:
    shown = []
    for item in items:
        kind = " class=hit" if item == target else ""
        about = f" <small>{_text(item.about)}</small>" if item.about else ""
        shown.append(f"<li{kind}>{_title(item.name)}{about}</li>")
    return f"<ol class=items>{''.join(shown)}</ol>"


def _title(text: str) -> str:
    """Any script, in its own direction; of a long one the beginning, and all of it on hovering."""
    if len(text) <= LONGEST_TITLE:
        return f"<bdi>{_text(text)}</bdi>"
    return f'<bdi title="{_text(text)}">{_text(text[: LONGEST_TITLE - 1].rstrip())}…</bdi>'


def _written(indexing: str | None) -> str:
    if indexing is None:  # of a model that reads no identifiers
        return ""
    return ("titles as names" if indexing == "title" else _text(writing(indexing))) + ", "


def _seconds(result: Mapping[str, Any]) -> dict[str, Any]:
    return {f"seconds of {name}": value for name, value in result["seconds"].items()}


def _pairs(title: str, values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{_text(name)}</code></td><td><code>{_text(value)}</code></td></tr>"
        for name, value in values.items()
    )
    return (
        f"<details><summary>{title}</summary><div class=wide><table>{rows}</table></div></details>"
    )


def _head(*names: str) -> str:
    cells = (f"<th{_extra(name)}>{_text(name)}</th>" for name in names)
    return f"<tr>{''.join(cells)}</tr>"


def _row(name: str, cells: Sequence[str], kind: str) -> str:
    return f'<tr class="{kind}"><td>{name}</td>' + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"


def _text(value: Any) -> str:
    return html.escape(str(value))

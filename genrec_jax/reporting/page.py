"""The report of a run as one self-contained HTML page without scripts or external resources."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genrec_jax.evaluation.breakdown import METRICS
from genrec_jax.evaluation.leak import LABELS
from genrec_jax.identifiers.indexing import describe_kind
from genrec_jax.reporting.charts import bar_chart, line_chart

LONGEST_TITLE = 90  # maximum number of characters of a title before it is truncated
# Kinds of user groups in results.json → their descriptions on the page.
GROUP_KINDS = {
    "items in the history": "number of items in the history",
    "training interactions of the target": "training interactions of the test item",
    "target": "novelty of the test item",
}
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
    """An item as the page shows it. No two items of a page have both fields in common."""

    name: str  # title or identifier
    details: str = ""  # original id or attributes


@dataclass(frozen=True)
class SampledUser:
    """A sampled test user with the history, the ranking and the test item."""

    name: str
    history: Sequence[Item]  # oldest first
    ranking: Sequence[Item]  # best first
    target: Item  # the test item


@dataclass(frozen=True)
class Page:
    """The content of a run's page."""

    name: str  # the name of the run
    result: Mapping[str, Any]  # the content of results.json
    lines: Sequence[Mapping[str, Any]]  # the lines of metrics.jsonl
    audit: Mapping[str, Any] | None  # the leakage audit; None if the model reads no identifiers
    users: Sequence[SampledUser]
    config: Mapping[str, Any]  # config.a.b → value


def render(page: Page) -> str:
    """Render a run's page as HTML."""
    result = page.result
    counts = result["counts"]
    sections = [
        f"<h1>{_text(page.name)}</h1>",
        f"<p class=soft>{_text(result['model'])} on {_text(result['dataset'])}: "
        f"{counts['users']:,} test users, {counts['items']:,} items, "
        f"{_identifiers(result.get('indexing'))}{_text(result['search'])} search.</p>",
        *([f"<p class=verdict>{_text(page.audit['sentence'])}</p>"] if page.audit else []),
        "<h2>Results</h2>",
        _results(result),
        "<h2>Comparison with the baselines</h2>",
        _differences(result),
        "<h2>Results by user group</h2>",
        _breakdown(result),
        "<h2>Training</h2>",
        _curves(page.lines),
        *(["<h2>Leakage audit of the identifiers</h2>", _audit(page.audit)] if page.audit else []),
        "<h2>Sampled users</h2>",
        "<p class=soft>These test users were sampled at random with the run's seed. The test item "
        "is highlighted if it was recommended.</p>",
        *map(_user, page.users),
        "<h2>Config and versions</h2>",
        _pairs("Config", page.config),
        _pairs("Versions", result["versions"]),
        _pairs("Counts and run times", {**counts, **_seconds(result)}),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{_text(page.name)}</title>'
        f"<style>{STYLE}</style></head><body><main>\n" + "\n".join(sections) + "\n</main></body>"
        "</html>\n"
    )


def _results(result: Mapping[str, Any]) -> str:
    """Return the table of the model's and the baselines' metrics, with its note."""
    intervals = result["intervals"]
    others = dict(result["references"])
    note = ""
    if "without_history" in result:
        filtered = f"{result['model']}, history items removed"
        others = {filtered: result["without_history"], **others}
        note = f" “{_text(filtered)}” evaluates the same rankings without the items of the history."
    rows = [f'<tr class="ours"><td>{_text(result["model"])}</td>']
    for name, value in result["metrics"].items():
        shown = f"{value:.4f}<small>± {_half_width(intervals[name]):.4f}</small>"
        rows.append(f"<td{_extra(name)}>{shown}</td>")
    for label, metrics in others.items():
        cells = (f"<td{_extra(name)}>{value:.4f}</td>" for name, value in metrics.items())
        rows.append(f"</tr><tr><td>{_text(label)}</td>{''.join(cells)}")
    heads = _head("model", *result["metrics"])
    return (
        f"<div class=wide><table>{heads}{''.join(rows)}</tr></table></div>"
        "<p class=soft>Metrics are computed over the full item catalogue. ±: half-width of the "
        f"95 % bootstrap confidence interval over test users. Baselines are untrained.{note}</p>"
    )


def _extra(metric: str) -> str:
    """Return the HTML class of a metric that narrow screens hide; "" for the other metrics."""
    return " class=extra" if metric in ("HR@1", "HR@20", "NDCG@20") else ""


def _differences(result: Mapping[str, Any]) -> str:
    """Return the table of paired differences and of catalogue coverage, with its note."""
    rows = []
    for name, differences in result["differences"].items():
        cells = []
        for metric in METRICS:
            difference, low, high = differences[metric]
            cells.append(f"{difference:+.4f}<small>± {_half_width((low, high)):.4f}</small>")
        spread = result["spread"][name]
        rows.append(_row(_text(name), [*cells, *_spread(spread)], ""))
    ours = _row(_text(result["model"]), ["", "", *_spread(result["spread"]["model"])], "ours")
    heads = _head("model", *(f"Δ {metric}" for metric in METRICS), "coverage", "top 1 %")
    return (
        f"<div class=wide><table>{heads}{ours}{''.join(rows)}</table></div>"
        f"<p class=soft>Δ: paired difference, {_text(result['model'])} minus baseline, ± "
        "half-width of its 95 % confidence interval. Coverage: share of the catalogue that occurs "
        "in at least one user's top 10. Top 1 %: share of all top-10 recommendations that are "
        "among the 1 % of items with the most training interactions.</p>"
    )


def _spread(spread: Mapping[str, float]) -> list[str]:
    return [f"{spread['coverage']:.1%}", f"{spread['top_share']:.1%}"]


def _breakdown(result: Mapping[str, Any]) -> str:
    """Return a bar chart for each kind of user group."""
    metric = METRICS[-1]
    figures = []
    for kind, groups in result["breakdown"].items():
        if len(groups) < 2:
            continue  # the only group contains all users
        kind = GROUP_KINDS.get(kind, kind)
        bars = [(group["group"], group[metric], *group["intervals"][metric]) for group in groups]
        users = ", ".join(f"{group['group']}: {group['users']:,}" for group in groups)
        figures.append(
            f"<figure><h3>By {_text(kind)}</h3>{bar_chart(bars, f'{metric} by {kind}')}"
            f"<figcaption>{metric} with 95 % confidence intervals. Number of users: {_text(users)}."
            "</figcaption>"
            "</figure>"
        )
    return f"<div class=charts>{''.join(figures)}</div>"


def _curves(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the charts of the training loss and the validation metrics by step."""
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
        f"<figure><h3>{title}</h3>{line_chart(series, 'step')}{_legend(series)}</figure>"
        for title, series in (
            ("Training loss per token, in nats", losses),
            ("Validation metrics", scores),
        )
        if series
    ]
    return f"<div class=charts>{''.join(figures)}</div>"


def _audit(audit: Mapping[str, Any]) -> str:
    """Return the tables of the leakage audit."""
    rows = [_row(_text(name), [f"{value:.2%}"], "") for name, value in audit["test"].items()]
    parts = [
        f"<div class=wide><table>{_head('test items', 'share')}{''.join(rows)}</table></div>",
    ]
    for name, test in audit["tests"].items():
        if test is None:
            parts.append(
                f"<p>Permutation test against {_text(name)}: not possible, too few test items.</p>"
            )
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
            f"<h3>Permutation test against {_text(name)}: p = {test['p']:.3f}</h3>"
            f"<p class=soft>{test['items']:,} items permuted, {test['users']:,} test users.</p>"
            "<div class=wide><table>"
            f"{_head('statistic', 'observed', 'at random', 'z')}{''.join(rows)}</table></div>"
        )
    return "".join(parts)


def _legend(names: Iterable[str]) -> str:
    """Return the legend of a line chart as its caption."""
    shown = (
        f'<span class="key key-{number}">— {_text(name)}</span>'
        for number, name in enumerate(names)
    )
    return f"<figcaption>{''.join(shown)}</figcaption>"


def _half_width(interval: Sequence[float]) -> float:
    return (interval[1] - interval[0]) / 2


def _user(user: SampledUser) -> str:
    """Return a user's history and ranking as a block that can be collapsed."""
    is_hit = user.target in user.ranking
    rank = f"rank {user.ranking.index(user.target) + 1}" if is_hit else "not recommended"
    return (
        f"<details open><summary>{_text(user.name)}: {len(user.history)} history items; test item "
        f"{_title(user.target.name)} ({rank})</summary><h3>History, oldest first</h3>"
        f"{_items(user.history, None)}<h3>Recommendations, best first</h3>"
        f"{_items(user.ranking, user.target)}</details>"
    )


def _items(items: Sequence[Item], target: Item | None) -> str:
    shown = []
    for item in items:
        kind = " class=hit" if item == target else ""
        details = f" <small>{_text(item.details)}</small>" if item.details else ""
        shown.append(f"<li{kind}>{_title(item.name)}{details}</li>")
    return f"<ol class=items>{''.join(shown)}</ol>"


def _title(text: str) -> str:
    """Return a title in its own text direction; a long one is truncated and complete on hover."""
    if len(text) <= LONGEST_TITLE:
        return f"<bdi>{_text(text)}</bdi>"
    return f'<bdi title="{_text(text)}">{_text(text[: LONGEST_TITLE - 1].rstrip())}…</bdi>'


def _identifiers(indexing: str | None) -> str:
    if indexing is None:  # the model reads no identifiers
        return ""
    return f"{_text(describe_kind(indexing))} as item identifiers, "


def _seconds(result: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name} (seconds)": value for name, value in result["seconds"].items()}


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

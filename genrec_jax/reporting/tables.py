"""Results as text tables, as the commands print them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from genrec_jax.evaluation.ensembles import Mix
from genrec_jax.evaluation.evaluate import ORACLE
from genrec_jax.evaluation.leak import LABELS, PERMUTATIONS
from genrec_jax.evaluation.transition_settings import CHOSEN_BY
from genrec_jax.identifiers.indexing import writing
from genrec_jax.runs.run_folder import METRIC


def format_table(rows: Mapping[str, Mapping[str, float]], title: str) -> str:
    """One line a recommender, one column a metric, five decimals.

    Args:
        rows: recommender → metric → value; all rows have the same metrics.
        title: stands above the first column.
    """
    names = list(next(iter(rows.values())))
    width = max(len(title), *(len(row) for row in rows))
    lines = [f"{title:<{width}}  " + "  ".join(f"{name:>8}" for name in names)]
    lines.append("-" * len(lines[0]))
    for row, values in rows.items():
        lines.append(f"{row:<{width}}  " + "  ".join(f"{values[name]:8.5f}" for name in names))
    return "\n".join(lines)


def result_table(result: dict[str, Any]) -> str:
    """What training and evaluation both print."""
    counts = result["counts"]
    title = f"{result['dataset']}, {result['split']}, {counts['users']} users"
    rows = {result["model"]: result["metrics"]}
    rows["  ± half of the 95 % interval"] = {
        metric: (high - low) / 2 for metric, (low, high) in result["intervals"].items()
    }
    if struck_out := result.get("without_history"):
        rows["  its history struck out"] = struck_out
    table = format_table(rows | result["references"], title)
    return "\n".join([table, *search_notes(result), *doubt_notes(result)])


def search_notes(result: dict[str, Any]) -> list[str]:
    """How the lists were made, and what the search missed."""
    notes = []
    if empty := result["counts"]["empty_places"]:
        notes.append(f"{empty} places of the lists name no item")
    line = f"indexing {result['indexing']}, " if "indexing" in result else ""
    line += f"{result['search']} search"
    if result["search"] != "exhaustive":
        line += f", {result['beams']} beams"
    if result.get("length_penalty"):
        line += f", length penalty {result['length_penalty']}"
    if result["exclude_history"]:
        line += ", items of the history left out"
    notes.append(line)
    if exact := result.get("against_exact"):
        notes.append(
            f"of the exact lists of {exact['users']} users the search found "
            f"{100 * exact['found']:.2f} %; it lost HR@10 {exact['HR@10 lost']:+.5f}"
        )
    return notes


def doubt_notes(result: dict[str, Any]) -> list[str]:
    """The model against the strongest baseline, and what its numbers give away."""
    notes = []
    if result.get("differences"):
        strongest = max(
            (name for name in result["references"] if name != ORACLE),
            key=lambda name: result["references"][name][METRIC],
        )
        difference, low, high = result["differences"][strongest][METRIC]
        word = "above" if low > 0 else "below" if high < 0 else "level with"
        notes.append(
            f"{METRIC} is {word} that of the strongest baseline, '{strongest}': "
            f"{difference:+.5f}, 95 % interval {low:+.5f} to {high:+.5f}"
        )
    if result.get("indexing") == "published" and result["dataset"] in ("beauty", "sports", "yelp"):
        notes.append(
            "The published ids leak the answer: 'largest number + 1, …' learns nothing "
            "(README, 'What a figure means here')."
        )
    return notes


def mixed_table(result: dict[str, Any]) -> str:
    """What the command prints."""
    title = f"{result['dataset']}, {result['split']}, {result['counts']['users']} users"
    doubt = {metric: (high - low) / 2 for metric, (low, high) in result["intervals"].items()}
    rows = {f"{result['model']} + kNN": result["metrics"], "  ± half of the 95 % interval": doubt}
    curve = result["validation"]["curve"]
    by = f" by {result['chooser']}" if result["chooser"] else ""
    lines = [
        format_table(rows | result["references"], title),
        f"{Mix(**result['mix'])}; kNN: {result['kNN']}",
        f"chosen{by} for {CHOSEN_BY} of {result['validation']['users']} validation users:",
    ]
    fields = [field.name for field in dataclasses.fields(Mix)]
    for one in sorted(curve, key=lambda one: -one[CHOSEN_BY])[:5]:
        mix = Mix(**{name: one[name] for name in fields})
        lines.append(f"  {one[CHOSEN_BY]:.5f}  {mix}")
    return "\n".join(lines)


def audit_text(found: dict[str, Any]) -> str:
    """What --mode=audit prints; the sentence comes last."""
    lines = [f"{found['dataset']}, {writing(found['indexing'])}"]
    if "tokenizer" in found:
        lines[0] += f", tokenizer {found['tokenizer']}"
    lines += ["", "the dataset"]
    lines += [
        _line(name, f"{value:,.4g}" if value % 1 else f"{value:,}")
        for name, value in found["statistics"].items()
    ]
    lines += ["", "the test items"]
    lines += [_line(name, f"{value:.2%}") for name, value in found["test"].items()]
    title = f"test, {found['statistics']['users']} users"
    title += ", history left out" * found["exclude_history"]
    lines += ["", format_table(found["references"], title), f"kNN: {found['kNN']}"]
    for name, test in found["tests"].items():
        lines += ["", *_test_lines(name, test)]
    return "\n".join([*lines, "", found["sentence"]])


def _line(name: str, value: str) -> str:
    return f"  {name:<40} {value:>10}"


def _test_lines(name: str, test: dict[str, Any] | None) -> list[str]:
    if test is None:
        return [f"against {name}: not possible, too few test items to look at"]
    lines = [
        f"against {name}: the numbers of {test['items']:,} items dealt anew {PERMUTATIONS} times, "
        f"{test['users']:,} users, p = {test['p']:.3f}",
        f"  {'':40} {'found':>10} {'by chance':>10} {'z':>8}",
    ]
    for statistic, label in LABELS.items():
        found, chance = (f"{test[key][statistic]:.4f}" for key in ("observed", "by_chance"))
        lines.append(f"{_line(label, found)} {chance:>10} {test['z'][statistic]:>8.1f}")
    return lines

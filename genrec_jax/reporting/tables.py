"""Text tables of results, as the commands print them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from genrec_jax.evaluation.ensembles import Ensemble
from genrec_jax.evaluation.evaluate import ORACLE
from genrec_jax.evaluation.leak import LABELS, PERMUTATIONS
from genrec_jax.evaluation.transition_settings import TUNING_METRIC
from genrec_jax.identifiers.indexing import describe_kind
from genrec_jax.runs.run_folder import METRIC

INTERVAL = "  95 % confidence interval, ±"  # the row of half-widths below a model's metrics


def format_table(rows: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Format a text table with one row per model, one column per metric and five decimals.

    Args:
        rows: model → metric → value; all rows have the same metrics.
        title: the heading of the first column.
    """
    metrics = list(next(iter(rows.values())))
    width = max(len(title), *(len(row) for row in rows))
    lines = [f"{title:<{width}}  " + "  ".join(f"{metric:>8}" for metric in metrics)]
    lines.append("-" * len(lines[0]))
    for row, values in rows.items():
        lines.append(f"{row:<{width}}  " + "  ".join(f"{values[m]:8.5f}" for m in metrics))
    return "\n".join(lines)


def result_table(result: dict[str, Any]) -> str:
    """Format the result of a split, as training and evaluation print it.

    Args:
        result: the content of results.json.
    """
    counts = result["counts"]
    title = f"{result['dataset']}, {result['split']}, {counts['users']} users"
    rows = {result["model"]: result["metrics"]}
    rows[INTERVAL] = {
        metric: (high - low) / 2 for metric, (low, high) in result["intervals"].items()
    }
    if new_items := result.get("without_history"):
        rows["  history items removed"] = new_items
    table = format_table(rows | result["references"], title)
    return "\n".join([table, *search_notes(result), *interval_notes(result)])


def search_notes(result: dict[str, Any]) -> list[str]:
    """Describe how the rankings were computed and how they differ from exact rankings.

    Args:
        result: the content of results.json.
    """
    notes = []
    if empty := result["counts"]["empty_places"]:
        notes.append(f"{empty} positions of the rankings are empty")
    line = f"indexing {result['indexing']}, " if "indexing" in result else ""
    line += f"{result['search']} search"
    if result["search"] != "exhaustive":
        line += f", {result['beams']} beams"
    if result.get("length_penalty"):
        line += f", length penalty {result['length_penalty']}"
    if result["exclude_history"]:
        line += ", history items excluded"
    notes.append(line)
    if exact := result.get("against_exact"):
        notes.append(
            f"compared with exact ranking on {exact['users']} users: the search found "
            f"{100 * exact['found']:.2f} % of the items and lost {exact['HR@10 lost']:+.5f} HR@10"
        )
    return notes


def interval_notes(result: dict[str, Any]) -> list[str]:
    """Compare the model with the strongest baseline, and warn of identifiers that leak.

    Args:
        result: the content of results.json.
    """
    notes = []
    if result.get("differences"):
        strongest = max(
            (name for name in result["references"] if name != ORACLE),
            key=lambda name: result["references"][name][METRIC],
        )
        difference, low, high = result["differences"][strongest][METRIC]
        relation = (
            "above" if low > 0 else "below" if high < 0 else "not significantly different from"
        )
        notes.append(
            f"{METRIC} is {relation} that of the strongest baseline, '{strongest}': paired "
            f"difference {difference:+.5f}, 95 % confidence interval {low:+.5f} to {high:+.5f}"
        )
    if result.get("indexing") == "published" and result["dataset"] in ("beauty", "sports", "yelp"):
        notes.append(
            "WARNING: the published ids leak test items, as the untrained baseline "
            "'largest number + 1, …' shows; use a :leakfree config variant "
            "(docs/evaluation.md explains the leak)."
        )
    return notes


def ensemble_table(result: dict[str, Any]) -> str:
    """Format the result of an ensemble with the kNN, as the command prints it.

    Args:
        result: the content of results_ensemble.json.
    """
    title = f"{result['dataset']}, {result['split']}, {result['counts']['users']} users"
    half_widths = {name: (high - low) / 2 for name, (low, high) in result["intervals"].items()}
    rows = {f"{result['model']} + kNN": result["metrics"], INTERVAL: half_widths}
    curve = result["validation"]["curve"]
    tuning_run = f" with the weight-tuning run {result['chooser']}" if result["chooser"] else ""
    lines = [
        format_table(rows | result["references"], title),
        f"{Ensemble(**result['ensemble'])}; kNN: {result['kNN']}",
        f"selected{tuning_run} by {TUNING_METRIC} on {result['validation']['users']} "
        "validation users; best candidates:",
    ]
    fields = [field.name for field in dataclasses.fields(Ensemble)]
    for candidate in sorted(curve, key=lambda point: -point[TUNING_METRIC])[:5]:
        ensemble = Ensemble(**{name: candidate[name] for name in fields})
        lines.append(f"  {candidate[TUNING_METRIC]:.5f}  {ensemble}")
    return "\n".join(lines)


def audit_text(audit: dict[str, Any]) -> str:
    """Format the result of an audit, as --mode=audit prints it; the verdict comes last.

    Args:
        audit: the result of `evaluation.audit.audit`.
    """
    lines = [f"{audit['dataset']}, {describe_kind(audit['indexing'])}"]
    if "tokenizer" in audit:
        lines[0] += f", tokenizer {audit['tokenizer']}"
    lines += ["", "dataset"]
    lines += [
        _line(name, f"{value:,.4g}" if value % 1 else f"{value:,}")
        for name, value in audit["statistics"].items()
    ]
    lines += ["", "share of test items"]
    lines += [_line(name, f"{value:.2%}") for name, value in audit["test"].items()]
    title = f"test, {audit['statistics']['users']} users"
    title += ", history items excluded" * audit["exclude_history"]
    lines += ["", format_table(audit["references"], title), f"kNN: {audit['kNN']}"]
    for name, test in audit["tests"].items():
        lines += ["", *_test_lines(name, test)]
    return "\n".join([*lines, "", audit["sentence"]])


def _line(name: str, value: str) -> str:
    return f"  {name:<40} {value:>10}"


def _test_lines(name: str, test: dict[str, Any] | None) -> list[str]:
    """Format one permutation test; `test` is None if there were too few test items for it."""
    if test is None:
        return [f"permutation test against {name}: not possible, too few test items"]
    lines = [
        f"permutation test against {name}: p = {test['p']:.3f}; {PERMUTATIONS} permutations of "
        f"{test['items']:,} items, {test['users']:,} users",
        f"  {'':40} {'observed':>10} {'at random':>10} {'z':>8}",
    ]
    for statistic, label in LABELS.items():
        observed, random = (f"{test[key][statistic]:.4f}" for key in ("observed", "by_chance"))
        lines.append(f"{_line(label, observed)} {random:>10} {test['z'][statistic]:>8.1f}")
    return lines

"""Metrics as a table that people read."""

from collections.abc import Mapping


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

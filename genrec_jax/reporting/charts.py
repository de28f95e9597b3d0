"""Inline SVG charts: line charts, bar charts with intervals, and dot charts by label.

A report needs only these three. Matplotlib would add ten packages to every installation, and its
SVGs have fixed fonts and colours, which a style sheet cannot adapt to dark mode.
"""

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 88, 44, 16, 64  # margins for text that is legible on a phone
DOT_ROW = 60  # height of a row in a dot chart, including its label

Points = Sequence[tuple[float, float]]


def line_chart(series: Mapping[str, Points], x_name: str) -> str:
    """Draw one line per series; the n-th line has the CSS class `line-n`.

    Args:
        series: name → (x, y) points ordered by x; at least one point in total.
        x_name: the label of the x axis.

    Returns:
        The chart as an `<svg>` element.
    """
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(0.0, *ys), max(ys))
    parts = [_frame(x_ticks, y_ticks, x_name)]
    for number, points in enumerate(series.values()):
        pixels = [(_to_pixel_x(x, x_ticks), _to_pixel_y(y, y_ticks)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
        parts.append(f'<polyline class="line line-{number}" points="{path}"/>')
        if len(pixels) < 60:
            parts += [
                f'<circle class="dot dot-{number}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
                for x, y in pixels
            ]
    return _svg("".join(parts), ", ".join(series))


def bar_chart(bars: Sequence[tuple[str, float, float, float]], name: str) -> str:
    """Draw bars with an interval each.

    Args:
        bars: (label, value, low, high) of each bar; all values are at least 0.
        name: a description of the chart for screen readers.

    Returns:
        The chart as an `<svg>` element.
    """
    y_ticks = ticks(0.0, max(high for _, _, _, high in bars))
    spacing = (WIDTH - LEFT - RIGHT) / len(bars)
    parts = [_frame([], y_ticks, "")]
    for number, (label, value, low, high) in enumerate(bars):
        middle = LEFT + (number + 0.5) * spacing
        half = min(spacing * 0.35, 40)
        top = _to_pixel_y(value, y_ticks)
        parts.append(
            f'<rect class="bar" x="{middle - half:.1f}" y="{top:.1f}" width="{2 * half:.1f}"'
            f' height="{HEIGHT - BOTTOM - top:.1f}"/>'
            f'<line class="whisker" x1="{middle:.1f}" x2="{middle:.1f}"'
            f' y1="{_to_pixel_y(low, y_ticks):.1f}" y2="{_to_pixel_y(high, y_ticks):.1f}"/>'
            f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 26}" text-anchor="middle">'
            f"{html.escape(label)}</text>"
        )
    return _svg("".join(parts), name)


def dot_chart(rows: Sequence[tuple[str, Sequence[float]]], name: str) -> str:
    """Draw one row per label, with a dot for each value and a vertical mark at their mean.

    Args:
        rows: (label, values) of each row; at least one value per row.
        name: the label of the x axis.

    Returns:
        The chart as an `<svg>` element.
    """
    x_ticks = ticks(min(min(values) for _, values in rows), max(max(v) for _, v in rows))
    tick_pixels = [_to_pixel_x(x, x_ticks) for x in x_ticks]
    height = TOP + len(rows) * DOT_ROW + BOTTOM
    bottom = height - BOTTOM
    parts = [
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>'
        f'<text x="{x:.1f}" y="{bottom + 26}" text-anchor="middle">{tick:.6g}</text>'
        for x, tick in zip(tick_pixels, x_ticks, strict=True)
    ]
    for number, (label, values) in enumerate(rows):
        top = TOP + number * DOT_ROW
        level, middle = top + 42, _to_pixel_x(sum(values) / len(values), x_ticks)
        parts.append(
            f'<text x="0" y="{top + 22}">{html.escape(label)}</text>'
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level}" y2="{level}"/>'
            f'<line class="whisker" x1="{middle:.1f}" x2="{middle:.1f}" y1="{level - 9}"'
            f' y2="{level + 9}"/>'
        )
        parts += [
            f'<circle class="dot-0" cx="{_to_pixel_x(x, x_ticks):.1f}" cy="{level}" r="5"/>'
            for x in values
        ]
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 8}" text-anchor="middle">'
        f"{html.escape(name)}</text>"
    )
    return _svg("".join(parts), name, height)


def ticks(low: float, high: float) -> list[float]:
    """Return equally spaced round numbers, usually three to seven, that cover [low, high]."""
    span = high - low or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _frame(x_ticks: Sequence[float], y_ticks: Sequence[float], x_name: str) -> str:
    """Draw the horizontal grid lines and the labels of both axes."""
    parts = []
    for y in y_ticks:
        height = _to_pixel_y(y, y_ticks)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}"'
            f' y2="{height:.1f}"/><text x="{LEFT - 8}" y="{height + 7:.1f}" text-anchor="end">'
            f"{y:.6g}</text>"
        )
    for x in x_ticks:
        parts.append(
            f'<text x="{_to_pixel_x(x, x_ticks):.1f}" y="{HEIGHT - BOTTOM + 26}"'
            f' text-anchor="middle">{x:.6g}</text>'
        )
    if x_name:
        parts.append(
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
            f"{html.escape(x_name)}</text>"
        )
    return "".join(parts)


def _to_pixel_x(x: float, x_ticks: Sequence[float]) -> float:
    share = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _to_pixel_y(y: float, y_ticks: Sequence[float]) -> float:
    share = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _svg(inside: str, name: str, height: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(name)}">'
        f"{inside}</svg>"
    )

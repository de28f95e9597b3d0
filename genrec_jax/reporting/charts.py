"""Charts as inline SVG: lines over steps, bars with intervals, and dots on named lines.

Hand-made, since a report needs no more than these: matplotlib would bring ten packages into every
installation, and an SVG of its own fonts and colours that no style sheet can darken.
"""

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 88, 44, 16, 64  # room for text that is still read on a phone
DOT_ROW = 60  # height of a row of dots with its label

Points = Sequence[tuple[float, float]]


def line_chart(series: Mapping[str, Points], x_name: str) -> str:
    """Named lines; the page gives the n-th the style `.line-n`.

    Args:
        series: name → (x, y) in the order of x; at least one point in all.
        x_name: under the axis.
    """
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(0.0, *ys), max(ys))
    parts = [_frame(x_ticks, y_ticks, x_name)]
    for number, points in enumerate(series.values()):
        places = [(_across(x, x_ticks), _up(y, y_ticks)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line line-{number}" points="{path}"/>')
        if len(places) < 60:
            parts += [
                f'<circle class="dot dot-{number}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
                for x, y in places
            ]
    return _svg("".join(parts), ", ".join(series))


def bar_chart(bars: Sequence[tuple[str, float, float, float]], name: str) -> str:
    """Bars with a whisker each.

    Args:
        bars: (label, value, low, high), none below 0.
        name: what is shown, for those who hear the page.
    """
    y_ticks = ticks(0.0, max(high for _, _, _, high in bars))
    slot = (WIDTH - LEFT - RIGHT) / len(bars)
    parts = [_frame([], y_ticks, "")]
    for number, (label, value, low, high) in enumerate(bars):
        middle = LEFT + (number + 0.5) * slot
        half = min(slot * 0.35, 40)
        top = _up(value, y_ticks)
        parts.append(
            f'<rect class="bar" x="{middle - half:.1f}" y="{top:.1f}" width="{2 * half:.1f}"'
            f' height="{HEIGHT - BOTTOM - top:.1f}"/>'
            f'<line class="whisker" x1="{middle:.1f}" x2="{middle:.1f}"'
            f' y1="{_up(low, y_ticks):.1f}" y2="{_up(high, y_ticks):.1f}"/>'
            f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 26}" text-anchor="middle">'
            f"{html.escape(label)}</text>"
        )
    return _svg("".join(parts), name)


def dot_chart(rows: Sequence[tuple[str, Sequence[float]]], name: str) -> str:
    """A line a row under its label: a dot for each value, a whisker at their mean.

    Args:
        rows: (label, values), at least one value in each.
        name: of what is on the axis.
    """
    x_ticks = ticks(min(min(values) for _, values in rows), max(max(v) for _, v in rows))
    places = [_across(x, x_ticks) for x in x_ticks]
    height = TOP + len(rows) * DOT_ROW + BOTTOM
    floor = height - BOTTOM
    parts = [
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{floor}"/>'
        f'<text x="{x:.1f}" y="{floor + 26}" text-anchor="middle">{tick:.6g}</text>'
        for x, tick in zip(places, x_ticks, strict=True)
    ]
    for number, (label, values) in enumerate(rows):
        top = TOP + number * DOT_ROW
        level, middle = top + 42, _across(sum(values) / len(values), x_ticks)
        parts.append(
            f'<text x="0" y="{top + 22}">{html.escape(label)}</text>'
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level}" y2="{level}"/>'
            f'<line class="whisker" x1="{middle:.1f}" x2="{middle:.1f}" y1="{level - 9}"'
            f' y2="{level + 9}"/>'
        )
        parts += [
            f'<circle class="dot-0" cx="{_across(x, x_ticks):.1f}" cy="{level}" r="5"/>'
            for x in values
        ]
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 8}" text-anchor="middle">'
        f"{html.escape(name)}</text>"
    )
    return _svg("".join(parts), name, height)


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers from at or below low to at or above high."""
    span = high - low or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _frame(x_ticks: Sequence[float], y_ticks: Sequence[float], x_name: str) -> str:
    parts = []
    for y in y_ticks:
        height = _up(y, y_ticks)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}"'
            f' y2="{height:.1f}"/><text x="{LEFT - 8}" y="{height + 7:.1f}" text-anchor="end">'
            f"{y:.6g}</text>"
        )
    for x in x_ticks:
        parts.append(
            f'<text x="{_across(x, x_ticks):.1f}" y="{HEIGHT - BOTTOM + 26}"'
            f' text-anchor="middle">{x:.6g}</text>'
        )
    if x_name:
        parts.append(
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
            f"{html.escape(x_name)}</text>"
        )
    return "".join(parts)


def _across(x: float, x_ticks: Sequence[float]) -> float:
    share = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _up(y: float, y_ticks: Sequence[float]) -> float:
    share = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _svg(inside: str, name: str, height: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(name)}">'
        f"{inside}</svg>"
    )

"""Charts: lines over axes as inline SVG, coloured by the page's style sheet."""

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 360, 200  # px of a chart
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 34, 40  # px around the plot
TICK_STEPS = (1, 2, 2.5, 5, 10)  # times a power of ten: what ticks may lie apart


def line_chart(points: Sequence[tuple[float, float]], title: str, x_name: str, y_name: str, dots: bool = False) -> str:
    """Draw a line through points (x, y) -> an SVG element as text; its horizontal axis begins at 0.

    Args:
        points: at least one, in order of x.
        title: what a screen reader says in place of the picture.
        dots: whether each point is marked.
    """
    xs, ys = zip(*points, strict=True)
    x_ticks = nice_ticks(0, max(xs), 5)
    y_ticks = nice_ticks(min(ys), max(ys), 4)

    def place(x, y):
        right = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + right * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in y_ticks:
        _, y = place(x_ticks[0], tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x, _ = place(tick, y_ticks[0])
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text class="name" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_name)}</text>')
    parts.append(f'<text class="name" x="{LEFT}" y="14">{escape(y_name)}</text>')
    placed = [place(x, y) for x, y in points]
    parts.append('<polyline class="line" points="{}"/>'.format(" ".join(f"{x:.1f},{y:.1f}" for x, y in placed)))
    if dots:
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in placed]
    return "".join([*parts, "</svg>"])


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Choose round numbers, evenly apart, that enclose low..high: `about` as many as that, two at least."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * nice for nice in TICK_STEPS if power * nice * about >= span * 0.999)
    first, last = int(low // step), int(-(-high // step))
    return [round(step * i, 10) for i in range(first, max(last, first + 1) + 1)]

"""How long models take, and what that costs: curves and points."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from llmhub.notebook.canvas import Ink, axes_of, dressed, height_pt, look_of, said, width_pt
from llmhub.notebook.labels import place_labels
from llmhub.notebook.tally import Floats, Frame, Tally, tally, want_of
from llmhub.notebook.writing import plain_usd, seconds, shortened, spread

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

QUANTILES: Final = (0.50, 0.95, 0.99)
MOST_POINTS: Final = 2000
"""Points of a drawn curve: more are not seen."""
WIDE: Final = 20.0
"""From this ratio of largest to smallest on, an axis is logarithmic."""
DECADES: Final = 2000.0
"""From this ratio on, a logarithmic axis numbers powers of ten alone."""
HEIGHT_IN: Final = 3.6
"""Height of the curves in a figure of our own."""
KEY_PT: Final = 8.0
KEY_LEADING: Final = 1.66
"""Size of a key's text, and distance of its lines in sizes."""
P_LINE_PT: Final = 8.0
"""Height of a percentile's label."""
Side: TypeAlias = Literal["center", "top", "bottom"]
MONO: Final = 0.602
KEY_CHARS: Final = 48
"""Width of a character of the key's face in sizes, and characters of its sign and figures."""


def latency_ecdf(table: pa.Table | Frame, ax: Axes | None = None) -> Axes:
    """Draw which share of each model's calls was answered within which time.

    Rows answered from a cache are left out, failures are counted beside the name, and the median and the 95th
    and 99th percentile are marked: each is the latency of a call that was made. Curves have at most
    2,000 points; the percentiles are exact.

    Parameters and errors are those of `cost_by_model`.
    """
    tallies = tally(table)
    timed = [(place, each) for place, each in enumerate(tallies) if len(each.latency_s)]
    if not timed:
        return said(ax, "Latency by model", want_of(tallies) or "No latencies: every answer came from the cache")
    ax, size = _room(ax, len(tallies) + 1)
    handles: list[Artist] = []
    for place, each in timed:
        look = look_of(place)
        line = ax.plot(*curve(each.latency_s), color=look.colour, drawstyle="steps-post", label=each.name)
        line[0].set(linewidth=1.8, linestyle=look.dash)
        handles += line
        marks = [quantile(each.latency_s, share) for share in QUANTILES]
        ax.plot(marks, QUANTILES, look.marker, color=look.colour, markersize=4.5, label="_quantiles")
    calls = sum(len(each.latency_s) for _, each in timed)
    ink = dressed(ax, "Latency by model", f"share of {calls:,} calls answered within the time", grid="x")
    _shares(ax, ink)
    ax.set_xlabel("provider's time for a call (s)", fontsize=9, color=ink.muted)
    _scaled(ax, "x", [quantile(each.latency_s, share) for _, each in timed for share in (0.001, 1.0)])
    order = sorted(range(len(timed)), key=lambda at: quantile(timed[at][1].latency_s, 0.5))
    silent = [each for each in tallies if not len(each.latency_s)]
    _key(ax, ink, [timed[at][1] for at in order] + silent, [handles[at] for at in order], size)
    return ax


def cost_against_latency(table: pa.Table | Frame, ax: Axes | None = None) -> Axes:
    """Draw what a thousand of each model's answers are worth over its median latency, and the front of the best.

    A filled point is on the Pareto front: no other model is both cheaper and faster. Models without a known
    price or without a call of their own are counted, not drawn.

    Parameters and errors are those of `cost_by_model`.
    """
    tallies = tally(table)
    shown = [(place, each) for place, each in enumerate(tallies) if each.priced and len(each.latency_s)]
    if not shown:
        want = want_of(tallies) or "No model has both a known price and a call of its own"
        return said(ax, "Cost against latency", want)
    ax = axes_of(ax, 4.2, left_in=0.9)
    points = [(quantile(each.latency_s, 0.5), each.worth_usd / each.priced * 1000) for _, each in shown]
    best = [points[at] for at in front(points)]
    left = len(tallies) - len(shown)
    missing = f"{left} without a known price or a call of {'its' if left == 1 else 'their'} own; " if left else ""
    ink = dressed(ax, "Cost against latency", f"{missing}filled: no model is both cheaper and faster")
    for (place, each), point in zip(shown, points, strict=True):
        look = look_of(place)
        face = look.colour if point in best else ink.ground
        dot = ax.scatter(*point, s=64, marker=look.marker, color=face, zorder=3, label=each.name)
        dot.set(edgecolor=look.colour, linewidth=1.8)
    stairs = steps_of(best)
    line = ax.plot(*zip(*stairs, strict=True), color=ink.muted, linewidth=1.2, zorder=2, label="_front")
    line[0].set_linestyle((0, (4, 3)))
    ax.set_xlabel("median time of a call (s)", fontsize=9, color=ink.muted)
    ax.set_ylabel("US dollars for 1,000 answers", fontsize=9, color=ink.muted)
    _scaled(ax, "x", [time_s for time_s, _ in points], margin=0.18)
    _scaled(ax, "y", [cost_usd for _, cost_usd in points], margin=0.18)
    ax.yaxis.set_major_formatter(lambda value, _: plain_usd(value))
    place_labels(ax, points, [(each.name, look_of(place)) for place, each in shown], stairs)
    return ax


def curve(latency_s: Floats) -> tuple[Floats, Floats]:
    """Give the steps of the empirical distribution of sorted latencies, thinned to at most `MOST_POINTS`.

    Examples
    --------
    >>> times, shares = curve(np.array([0.1, 0.2]))
    >>> times.tolist(), shares.tolist()
    ([0.1, 0.1, 0.2], [0.0, 0.5, 1.0])
    """
    count = len(latency_s)
    even = np.linspace(0, count - 1, min(count, MOST_POINTS - len(QUANTILES) - 1)).round().astype(np.int64)
    marked = [_rank(count, share) for share in QUANTILES]
    kept = np.unique(np.append(even, marked))
    times, shares = latency_s[kept], (kept + 1) / count
    return np.append(times[:1], times), np.append(0.0, shares)


def quantile(latency_s: Floats, share: float) -> float:
    """Give the smallest of sorted latencies that ``share`` of them do not exceed."""
    return float(latency_s[_rank(len(latency_s), share)])


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Give the positions of the points that no other is below and left of, from left to right.

    Examples
    --------
    >>> front([(1, 5), (2, 3), (3, 4), (4, 1)])
    [0, 1, 3]
    """
    best: list[int] = []
    for at in sorted(range(len(points)), key=lambda at: points[at]):
        if not best or points[at][1] < points[best[-1]][1]:
            best.append(at)
    return best


def steps_of(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Join points by a stair: to the right first, then down.

    Examples
    --------
    >>> steps_of([(1, 5), (2, 3)])
    [(1, 5), (2, 5), (2, 3)]
    """
    corners = [corner for (_, y), (x1, y1) in pairwise(points) for corner in ((x1, y), (x1, y1))]
    return [*points[:1], *corners]


def _rank(count: int, share: float) -> int:
    # The product may lie a hair above a whole number that it should equal.
    return max(int(np.ceil(round(share * count, 6))) - 1, 0)


def _room(ax: Axes | None, lines: int) -> tuple[Axes, float]:
    """Make room for curves and so many lines of key below them; give the size of the key's text, too."""
    if ax is None:
        return axes_of(ax, HEIGHT_IN, left_in=0.7, foot_in=0.75 + lines * KEY_PT * KEY_LEADING / 72), KEY_PT
    size = min(KEY_PT - 1, width_pt(ax) / ((KEY_CHARS + 24) * MONO), height_pt(ax) * 0.5 / (lines * KEY_LEADING))
    place = ax.get_position()
    kept = 1 - lines * size * KEY_LEADING / height_pt(ax)
    ax.set_position((place.x0, place.y1 - place.height * kept, place.width, place.height * kept))
    return ax, size


def _shares(ax: Axes, ink: Ink) -> None:
    """Mark shares on the left, percentiles on the right."""
    across = ax.get_yaxis_transform()
    for share in (0.0, *QUANTILES, 1.0):
        ax.axhline(share, color=ink.faint, linewidth=0.8, zorder=0)
    tight = height_pt(ax) * (QUANTILES[2] - QUANTILES[1]) < P_LINE_PT
    sides: tuple[Side, ...] = ("center", "top", "bottom") if tight else ("center", "center", "center")
    for share, side in zip(QUANTILES, sides, strict=True):
        ax.text(1.008, share, f"p{share * 100:.0f}", transform=across, fontsize=7, va=side, color=ink.muted)
    ax.set_ylim(0, 1.015)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])


def _scaled(ax: Axes, name: Literal["x", "y"], values: Sequence[float], margin: float = 0.0) -> None:
    """Scale an axis: logarithmic where values lie far apart, about them where they lie close, else from zero."""
    from matplotlib.ticker import LogLocator, NullLocator  # noqa: PLC0415 - matplotlib is loaded by those who plot

    axis = ax.xaxis if name == "x" else ax.yaxis
    low, high = min(values), max(values)
    if spread(values) >= WIDE:
        room = (high / low) ** (margin or 0.02)
        ax.set(**{f"{name}scale": "log", f"{name}lim": (low / room, high * room)})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < DECADES else (1,)))
        axis.set_minor_locator(NullLocator())
    elif margin and low < high < 2 * low:
        ax.set(**{f"{name}lim": (low - (high - low) * 0.6, high + (high - low) * 0.6)})
    else:
        ax.set(**{f"{name}lim": (0, high * (1 + (margin or 0.02)) or 1)})
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def _key(ax: Axes, ink: Ink, tallies: Sequence[Tally], handles: Sequence[Artist], size: float) -> None:
    """List the models with their percentiles, calls and failures below the curves."""
    wide = min(max(len(each.name) for each in tallies), max(int(width_pt(ax) / (size * MONO)) - KEY_CHARS, 12))
    head = f"{'':{wide}} {'p50':>8} {'p95':>8} {'p99':>8} {'calls':>9} {'failed':>7}"
    rows = [f"{shortened(each.name, wide):{wide}} {_figures(each)}" for each in tallies]
    legend = ax.legend(
        [_blank(), *handles, *[_blank()] * (len(tallies) - len(handles))],
        [head, *rows],
        loc="upper left",
        bbox_to_anchor=(-20 / width_pt(ax), -37 / height_pt(ax)),
        borderaxespad=0,
        handlelength=2.2,
        frameon=False,
        prop={"family": "monospace", "size": size},
    )
    for text in legend.get_texts():
        text.set(color=ink.text, parse_math=False)


def _blank() -> Artist:
    """Make a sign that is not seen."""
    from matplotlib.lines import Line2D  # noqa: PLC0415 - matplotlib is loaded by those who plot

    return Line2D([], [], linestyle="none")


def _figures(each: Tally) -> str:
    """Write a model's percentiles, calls and failures in columns."""
    marks = [seconds(quantile(each.latency_s, share)) if len(each.latency_s) else "" for share in QUANTILES]
    failed = f"{each.failed:,}" if each.failed else "-"
    return " ".join(f"{mark:>8}" for mark in marks) + f" {len(each.latency_s):>9,} {failed:>7}"

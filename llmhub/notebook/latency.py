"""How long models take: curves of whole calls and of first tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from llmhub.drawing.canvas import Ink, axes_of, dressed, height_pt, look_of, said, scaled, width_pt
from llmhub.drawing.writing import seconds, shortened
from llmhub.notebook.tally import Floats, Frame, Tally, tally, want_of

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

QUANTILES: Final = (0.50, 0.95, 0.99)
MOST_POINTS: Final = 2000
"""Points of a drawn curve: more are not seen."""
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


@dataclass(frozen=True, slots=True)
class _Measure:
    """A time that calls took: whose it is, and the words around it."""

    of: Callable[[Tally], Floats]
    title: str
    subtitle: str
    axis: str
    none: str


LATENCY: Final = _Measure(
    of=lambda each: each.latency_s,
    title="Latency by model",
    subtitle="calls answered within the time",
    axis="provider's time for a call (s)",
    none="No latencies: every answer came from the cache",
)
TTFT: Final = _Measure(
    of=lambda each: each.ttft_s,
    title="Time to the first token by model",
    subtitle="streamed calls that had begun to answer within the time",
    axis="provider's time to the first token (s)",
    none="No times to a first token: ask with stream=True to measure them",
)


def latency_ecdf(table: pa.Table | Frame, ax: Axes | None = None) -> Axes:
    """Draw which share of each model's calls was answered within which time.

    Rows answered from a cache are left out, failures are counted beside the name, and the median and the 95th
    and 99th percentile are marked: each is the latency of a call that was made. Curves have at most
    2,000 points; the percentiles are exact.

    Parameters and errors are those of `cost_by_model`.
    """
    return _ecdf(tally(table), ax, LATENCY)


def ttft_ecdf(table: pa.Table | Frame, ax: Axes | None = None) -> Axes:
    """Draw which share of each model's streamed calls had its first token within which time.

    As `latency_ecdf`, of ``ttft_s``: calls that were not streamed have none.
    """
    return _ecdf(tally(table), ax, TTFT)


def _ecdf(tallies: Sequence[Tally], ax: Axes | None, measure: _Measure) -> Axes:
    """Draw the curves of one measure, and the key below them."""
    timed = [(place, each, measure.of(each)) for place, each in enumerate(tallies) if len(measure.of(each))]
    if not timed:
        return said(ax, measure.title, want_of(tallies) or measure.none)
    ax, size = _room(ax, len(tallies) + 1)
    handles: list[Artist] = []
    for place, each, times_s in timed:
        look = look_of(place)
        line = ax.plot(*curve(times_s), color=look.colour, drawstyle="steps-post", label=each.name)
        line[0].set(linewidth=1.8, linestyle=look.dash)
        handles += line
        marks = [quantile(times_s, share) for share in QUANTILES]
        ax.plot(marks, QUANTILES, look.marker, color=look.colour, markersize=4.5, label="_quantiles")
    calls = sum(len(times_s) for *_, times_s in timed)
    ink = dressed(ax, measure.title, f"share of {calls:,} {measure.subtitle}", grid="x")
    _shares(ax, ink)
    ax.set_xlabel(measure.axis, fontsize=9, color=ink.muted)
    scaled(ax, "x", [quantile(times_s, share) for *_, times_s in timed for share in (0.001, 1.0)])
    order = sorted(range(len(timed)), key=lambda at: quantile(timed[at][2], 0.5))
    silent = [each for each in tallies if not len(measure.of(each))]
    listed = [(each, measure.of(each)) for each in [*(timed[at][1] for at in order), *silent]]
    _key(ax, ink, listed, [handles[at] for at in order], size)
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


def _key(ax: Axes, ink: Ink, listed: Sequence[tuple[Tally, Floats]], handles: Sequence[Artist], size: float) -> None:
    """List the models with their percentiles, calls and failures below the curves."""
    wide = min(max(len(each.name) for each, _ in listed), max(int(width_pt(ax) / (size * MONO)) - KEY_CHARS, 12))
    head = f"{'':{wide}} {'p50':>8} {'p95':>8} {'p99':>8} {'calls':>9} {'failed':>7}"
    rows = [f"{shortened(each.name, wide):{wide}} {_figures(each, times_s)}" for each, times_s in listed]
    legend = ax.legend(
        [_blank(), *handles, *[_blank()] * (len(listed) - len(handles))],
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


def _figures(each: Tally, times_s: Floats) -> str:
    """Write a model's percentiles, calls and failures in columns."""
    marks = [seconds(quantile(times_s, share)) if len(times_s) else "" for share in QUANTILES]
    failed = f"{each.failed:,}" if each.failed else "-"
    return " ".join(f"{mark:>8}" for mark in marks) + f" {len(times_s):>9,} {failed:>7}"

"""How long models take: curves of whole calls and of first tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from llmhub.formatting.numbers import format_duration
from llmhub.formatting.palette import series_style
from llmhub.formatting.text import truncate_middle
from llmhub.plots.model_summary import DataFrameLike, FloatArray, ModelSummary, no_data_message, summarize_models
from llmhub.plots.style import (
    ThemeColors,
    axes_height_pt,
    axes_width_pt,
    draw_message,
    ensure_axes,
    set_axis_scale,
    style_axes,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
from llmhub.plots.model_summary import _rank_index, quantile

QUANTILES: Final = (0.50, 0.95, 0.99)
MAX_POINTS: Final = 2000
"""Points of a drawn curve: more are not seen."""
HEIGHT_IN: Final = 3.6
"""Height of the curves in a figure of our own."""
LEGEND_PT: Final = 8.0
LEGEND_LEADING: Final = 1.66
"""Size of a key's text, and distance of its lines in sizes."""
P_LINE_PT: Final = 8.0
"""Height of a percentile's label."""
Side: TypeAlias = Literal["center", "top", "bottom"]
MONO: Final = 0.602
LEGEND_CHARS: Final = 48
"""Width of a character of the key's face in sizes, and characters of its sign and figures."""


@dataclass(frozen=True, slots=True)
class _LatencyMetric:
    """A time that calls took: whose it is, and the words around it."""

    of: Callable[[ModelSummary], FloatArray]
    title: str
    subtitle: str
    axis: str
    none: str


LATENCY: Final = _LatencyMetric(
    of=lambda each: each.latency_s,
    title="Latency by model",
    subtitle="calls answered within the time",
    axis="provider's time for a call (s)",
    none="No latencies: every answer came from the cache",
)
TTFT: Final = _LatencyMetric(
    of=lambda each: each.ttft_s,
    title="Time to the first token by model",
    subtitle="streamed calls that had begun to answer within the time",
    axis="provider's time to the first token (s)",
    none="No times to a first token: ask with stream=True to measure them",
)


def latency_ecdf(table: pa.Table | DataFrameLike, ax: Axes | None = None) -> Axes:
    """Draw which share of each model's calls was answered within which time.

    Rows answered from a cache are left out, failures are counted beside the name, and the median and the 95th
    and 99th percentile are marked: each is the latency of a call that was made. Curves have at most
    2,000 points; the percentiles are exact.

    Parameters and errors are those of `cost_by_model`.
    """
    return _ecdf(summarize_models(table), ax, LATENCY)


def ttft_ecdf(table: pa.Table | DataFrameLike, ax: Axes | None = None) -> Axes:
    """Draw which share of each model's streamed calls had its first token within which time.

    As `latency_ecdf`, of ``ttft_s``: calls that were not streamed have none.
    """
    return _ecdf(summarize_models(table), ax, TTFT)


def _ecdf(tallies: Sequence[ModelSummary], ax: Axes | None, measure: _LatencyMetric) -> Axes:
    """Draw the curves of one measure, and the key below them."""
    timed = [(place, each, measure.of(each)) for place, each in enumerate(tallies) if len(measure.of(each))]
    if not timed:
        return draw_message(ax, measure.title, no_data_message(tallies) or measure.none)
    ax, size = _make_room(ax, len(tallies) + 1)
    handles: list[Artist] = []
    for place, each, times_s in timed:
        look = series_style(place)
        line = ax.plot(*ecdf_points(times_s), color=look.color, drawstyle="steps-post", label=each.name)
        line[0].set(linewidth=1.8, linestyle=look.dash)
        handles += line
        marks = [quantile(times_s, share) for share in QUANTILES]
        ax.plot(marks, QUANTILES, look.marker, color=look.color, markersize=4.5, label="_quantiles")
    calls = sum(len(times_s) for *_, times_s in timed)
    ink = style_axes(ax, measure.title, f"share of {calls:,} {measure.subtitle}", grid="x")
    _draw_share_axis(ax, ink)
    ax.set_xlabel(measure.axis, fontsize=9, color=ink.muted)
    set_axis_scale(ax, "x", [quantile(times_s, share) for *_, times_s in timed for share in (0.001, 1.0)])
    order = sorted(range(len(timed)), key=lambda at: quantile(timed[at][2], 0.5))
    silent = [each for each in tallies if not len(measure.of(each))]
    listed = [(each, measure.of(each)) for each in [*(timed[at][1] for at in order), *silent]]
    _draw_legend(ax, ink, listed, [handles[at] for at in order], size)
    return ax


def ecdf_points(latency_s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Give the steps of the empirical distribution of sorted latencies, thinned to at most `MAX_POINTS`.

    Examples
    --------
    >>> times, shares = ecdf_points(np.array([0.1, 0.2]))
    >>> times.tolist(), shares.tolist()
    ([0.1, 0.1, 0.2], [0.0, 0.5, 1.0])
    """
    count = len(latency_s)
    even = np.linspace(0, count - 1, min(count, MAX_POINTS - len(QUANTILES) - 1)).round().astype(np.int64)
    marked = [_rank_index(count, share) for share in QUANTILES]
    kept = np.unique(np.append(even, marked))
    times, shares = latency_s[kept], (kept + 1) / count
    return np.append(times[:1], times), np.append(0.0, shares)


def _make_room(ax: Axes | None, lines: int) -> tuple[Axes, float]:
    """Make room for curves and so many lines of key below them; give the size of the key's text, too."""
    if ax is None:
        return ensure_axes(
            ax, HEIGHT_IN, left_in=0.7, bottom_in=0.75 + lines * LEGEND_PT * LEGEND_LEADING / 72
        ), LEGEND_PT
    size = min(
        LEGEND_PT - 1,
        axes_width_pt(ax) / ((LEGEND_CHARS + 24) * MONO),
        axes_height_pt(ax) * 0.5 / (lines * LEGEND_LEADING),
    )
    place = ax.get_position()
    kept = 1 - lines * size * LEGEND_LEADING / axes_height_pt(ax)
    ax.set_position((place.x0, place.y1 - place.height * kept, place.width, place.height * kept))
    return ax, size


def _draw_share_axis(ax: Axes, ink: ThemeColors) -> None:
    """Mark shares on the left, percentiles on the right."""
    across = ax.get_yaxis_transform()
    for share in (0.0, *QUANTILES, 1.0):
        ax.axhline(share, color=ink.faint, linewidth=0.8, zorder=0)
    tight = axes_height_pt(ax) * (QUANTILES[2] - QUANTILES[1]) < P_LINE_PT
    sides: tuple[Side, ...] = ("center", "top", "bottom") if tight else ("center", "center", "center")
    for share, side in zip(QUANTILES, sides, strict=True):
        ax.text(1.008, share, f"p{share * 100:.0f}", transform=across, fontsize=7, va=side, color=ink.muted)
    ax.set_ylim(0, 1.015)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])


def _draw_legend(
    ax: Axes,
    ink: ThemeColors,
    listed: Sequence[tuple[ModelSummary, FloatArray]],
    handles: Sequence[Artist],
    size: float,
) -> None:
    """List the models with their percentiles, calls and failures below the curves."""
    wide = min(
        max(len(each.name) for each, _ in listed), max(int(axes_width_pt(ax) / (size * MONO)) - LEGEND_CHARS, 12)
    )
    head = f"{'':{wide}} {'p50':>8} {'p95':>8} {'p99':>8} {'calls':>9} {'failed':>7}"
    rows = [f"{truncate_middle(each.name, wide):{wide}} {_legend_figures(each, times_s)}" for each, times_s in listed]
    legend = ax.legend(
        [_blank_handle(), *handles, *[_blank_handle()] * (len(listed) - len(handles))],
        [head, *rows],
        loc="upper left",
        bbox_to_anchor=(-20 / axes_width_pt(ax), -37 / axes_height_pt(ax)),
        borderaxespad=0,
        handlelength=2.2,
        frameon=False,
        prop={"family": "monospace", "size": size},
    )
    for text in legend.get_texts():
        text.set(color=ink.text, parse_math=False)


def _blank_handle() -> Artist:
    """Make a sign that is not seen."""
    from matplotlib.lines import Line2D  # noqa: PLC0415 - matplotlib is loaded by those who plot

    return Line2D([], [], linestyle="none")


def _legend_figures(each: ModelSummary, times_s: FloatArray) -> str:
    """Write a model's percentiles, calls and failures in columns."""
    marks = [format_duration(quantile(times_s, share)) if len(times_s) else "" for share in QUANTILES]
    failed = f"{each.failed:,}" if each.failed else "-"
    return " ".join(f"{mark:>8}" for mark in marks) + f" {len(times_s):>9,} {failed:>7}"

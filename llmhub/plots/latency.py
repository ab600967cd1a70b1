"""Empirical distribution functions of latencies and times to the first token, by model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from llmhub.formatting.numbers import format_duration
from llmhub.formatting.palette import series_style
from llmhub.formatting.text import truncate_middle
from llmhub.plots.model_summary import (
    DataFrameLike,
    FloatArray,
    ModelSummary,
    extract_columns,
    is_simulated,
    no_data_message,
    quantile,
    rank_index,
    summarize_models,
)
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

QUANTILES: Final = (0.50, 0.95, 0.99)
MAX_POINTS: Final = 2000
"""Points of a curve; more cannot be seen."""
HEIGHT_IN: Final = 3.6
"""Height of the curves in a new figure."""
LEGEND_PT: Final = 8.0
"""Font size of the legend."""
LEGEND_LEADING: Final = 1.66
"""Line height of the legend in font sizes."""
LEGEND_CHARS: Final = 48
"""Characters of a legend row without the model's name: handle and figures."""
MIN_NAME_CHARS: Final = 12
MONOSPACE_WIDTH: Final = 0.602
"""Width of a character of the monospaced font in font sizes."""
QUANTILE_LABEL_PT: Final = 8.0
"""Height of the label of a quantile."""
VerticalAlign: TypeAlias = Literal["center", "top", "bottom"]


@dataclass(frozen=True, slots=True)
class _LatencyMetric:
    """A duration of calls, and the texts of its plot."""

    values: Callable[[ModelSummary], FloatArray]
    title: str
    subtitle: str
    x_label: str
    no_values: str


LATENCY: Final = _LatencyMetric(
    values=lambda model: model.latency_s,
    title="Latency by model",
    subtitle="calls answered within the time",
    x_label="latency of a call at the provider (s)",
    no_values="No latencies: every answer came from the cache",
)
TTFT: Final = _LatencyMetric(
    values=lambda model: model.ttft_s,
    title="Time to the first token by model",
    subtitle="streamed calls with a first token within the time",
    x_label="time to the first token at the provider (s)",
    no_values="No times to the first token: pass stream=True to measure them",
)


def latency_ecdf(table: pa.Table | DataFrameLike, ax: Axes | None = None) -> Axes:
    """Plot the share of each model's calls that were answered within a time.

    Cache hits are left out; failures are counted in the legend. The median and the 95th and 99th percentile are marked;
    each is the latency of an actual call. Curves have at most 2,000 points, but the percentiles are exact.

    Parameters and errors are those of `cost_by_model`.
    """
    return _ecdf(summarize_models(table), ax, LATENCY, simulated=is_simulated(table))


def ttft_ecdf(table: pa.Table | DataFrameLike, ax: Axes | None = None) -> Axes:
    """Plot the share of each model's streamed calls that had a first token within a time (see `latency_ecdf`)."""
    summaries = summarize_models(table)
    extract_columns(table, ("ttft_s",))
    return _ecdf(summaries, ax, TTFT, simulated=is_simulated(table))


def _ecdf(summaries: Sequence[ModelSummary], ax: Axes | None, metric: _LatencyMetric, *, simulated: bool) -> Axes:
    """Draw the curves of a metric, and the legend below them."""
    timed = [(index, model, metric.values(model)) for index, model in enumerate(summaries) if len(metric.values(model))]
    if not timed:
        return draw_message(ax, metric.title, no_data_message(summaries) or metric.no_values)
    ax, font_pt = _make_room(ax, len(summaries) + 1)
    handles: list[Artist] = []
    for index, model, times_s in timed:
        style = series_style(index)
        line = ax.plot(*ecdf_points(times_s), color=style.color, drawstyle="steps-post", label=model.name)
        line[0].set(linewidth=1.8, linestyle=style.dash)
        handles += line
        marks = [quantile(times_s, q) for q in QUANTILES]
        ax.plot(marks, QUANTILES, style.marker, color=style.color, markersize=4.5, label="_quantiles")
    calls = sum(len(times_s) for *_, times_s in timed)
    colors = style_axes(ax, metric.title, f"share of {calls:,} {metric.subtitle}", grid="x", simulated=simulated)
    _draw_share_axis(ax, colors)
    ax.set_xlabel(metric.x_label, fontsize=9, color=colors.muted)
    set_axis_scale(ax, "x", [quantile(times_s, q) for *_, times_s in timed for q in (0.001, 1.0)])
    order = sorted(range(len(timed)), key=lambda index: quantile(timed[index][2], 0.5))
    untimed = [model for model in summaries if not len(metric.values(model))]
    entries = [(model, metric.values(model)) for model in [*(timed[index][1] for index in order), *untimed]]
    _draw_legend(ax, colors, entries, [handles[index] for index in order], font_pt)
    return ax


def ecdf_points(latency_s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the steps of the empirical distribution function of sorted latencies, at most `MAX_POINTS` of them.

    Examples
    --------
    >>> times, shares = ecdf_points(np.array([0.1, 0.2]))
    >>> times.tolist(), shares.tolist()
    ([0.1, 0.1, 0.2], [0.0, 0.5, 1.0])
    """
    count = len(latency_s)
    even = np.linspace(0, count - 1, min(count, MAX_POINTS - len(QUANTILES) - 1)).round().astype(np.int64)
    marked = [rank_index(count, q) for q in QUANTILES]
    kept = np.unique(np.append(even, marked))
    times, shares = latency_s[kept], (kept + 1) / count
    return np.append(times[:1], times), np.append(0.0, shares)


def _make_room(ax: Axes | None, legend_rows: int) -> tuple[Axes, float]:
    """Return axes with space for a legend below, and the font size of the legend."""
    if ax is None:
        legend_in = legend_rows * LEGEND_PT * LEGEND_LEADING / 72
        return ensure_axes(ax, HEIGHT_IN, left_in=0.7, bottom_in=0.75 + legend_in), LEGEND_PT
    fits_width = axes_width_pt(ax) / ((LEGEND_CHARS + 24) * MONOSPACE_WIDTH)
    fits_height = axes_height_pt(ax) * 0.5 / (legend_rows * LEGEND_LEADING)
    font_pt = min(LEGEND_PT - 1, fits_width, fits_height)
    box = ax.get_position()
    height = box.height * (1 - legend_rows * font_pt * LEGEND_LEADING / axes_height_pt(ax))
    ax.set_position((box.x0, box.y1 - height, box.width, height))
    return ax, font_pt


def _draw_share_axis(ax: Axes, colors: ThemeColors) -> None:
    """Draw shares on the left and the marked percentiles on the right."""
    transform = ax.get_yaxis_transform()
    for share in (0.0, *QUANTILES, 1.0):
        ax.axhline(share, color=colors.faint, linewidth=0.8, zorder=0)
    tight = axes_height_pt(ax) * (QUANTILES[2] - QUANTILES[1]) < QUANTILE_LABEL_PT
    aligns: tuple[VerticalAlign, ...] = ("center", "top", "bottom") if tight else ("center", "center", "center")
    for q, align in zip(QUANTILES, aligns, strict=True):
        ax.text(1.008, q, f"p{q * 100:.0f}", transform=transform, fontsize=7, va=align, color=colors.muted)
    ax.set_ylim(0, 1.015)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])


def _draw_legend(
    ax: Axes,
    colors: ThemeColors,
    entries: Sequence[tuple[ModelSummary, FloatArray]],
    handles: Sequence[Artist],
    font_pt: float,
) -> None:
    """List the models with percentiles, calls and failures below the curves."""
    max_chars = max(int(axes_width_pt(ax) / (font_pt * MONOSPACE_WIDTH)) - LEGEND_CHARS, MIN_NAME_CHARS)
    chars = min(max(len(model.name) for model, _ in entries), max_chars)
    header = f"{'':{chars}} {'p50':>8} {'p95':>8} {'p99':>8} {'calls':>9} {'failed':>7}"
    rows = [
        f"{truncate_middle(model.name, chars):{chars}} {_legend_figures(model, times_s)}" for model, times_s in entries
    ]
    legend = ax.legend(
        [_blank_handle(), *handles, *[_blank_handle()] * (len(entries) - len(handles))],
        [header, *rows],
        loc="upper left",
        bbox_to_anchor=(-20 / axes_width_pt(ax), -37 / axes_height_pt(ax)),
        borderaxespad=0,
        handlelength=2.2,
        frameon=False,
        prop={"family": "monospace", "size": font_pt},
    )
    for text in legend.get_texts():
        text.set(color=colors.text, parse_math=False)


def _blank_handle() -> Artist:
    from matplotlib.lines import Line2D  # noqa: PLC0415 - matplotlib is imported only to plot

    return Line2D([], [], linestyle="none")


def _legend_figures(model: ModelSummary, times_s: FloatArray) -> str:
    """Return percentiles, calls and failures in columns of fixed width."""
    percentiles = [format_duration(quantile(times_s, q)) if len(times_s) else "" for q in QUANTILES]
    failed = f"{model.failed:,}" if model.failed else "-"
    return " ".join(f"{value:>8}" for value in percentiles) + f" {len(times_s):>9,} {failed:>7}"

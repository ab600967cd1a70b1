"""Ridgeline plots by model, all on one x axis, and the histogram of tokens drawn with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import numpy as np
import pyarrow as pa

from llmhub.formatting.numbers import format_count, format_count_tick
from llmhub.formatting.palette import SeriesStyle, series_style
from llmhub.plots.model_summary import (
    DataFrameLike,
    FloatArray,
    count_summary,
    extract_columns,
    factorize_models,
    is_simulated,
    no_data_message,
    quantile,
    summarize_models,
    to_floats,
)
from llmhub.plots.style import (
    axes_height_pt,
    blend,
    draw_hatch,
    draw_message,
    ensure_axes,
    fit_text,
    set_axis_scale,
    style_axes,
    theme_colors,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TokenKind: TypeAlias = Literal["input", "output", "reasoning"]
BINS: Final = 48
ROW_HEIGHT_IN: Final = 0.72
"""Height of a row in a new figure."""
RIDGE_HEIGHT: Final = 0.56
"""Height of the highest ridge as a share of its row."""
BASELINE: Final = 0.96
"""Position of the baseline as a share of the row, from its top."""
RIDGE_MAX_PT: Final = 9.5
RIDGE_MIN_PT: Final = 4.0
FADE: Final = 0.35


@dataclass(frozen=True, slots=True)
class Ridge:
    """Ridge of one model: its name on the left, a value on the right, its style, and heights between 0 and 1."""

    name: str
    value: str
    style: SeriesStyle
    heights: FloatArray


def token_histogram(table: pa.Table | DataFrameLike, ax: Axes | None = None, *, kind: TokenKind = "output") -> Axes:
    """Plot the distribution of token counts for each model.

    Parameters
    ----------
    table
        Results in any kind of frame, compact or with all columns.
    ax
        Axes to draw on; those of a new figure if omitted.
    kind
        ``"output"`` (including reasoning), ``"input"`` (including cached tokens) or ``"reasoning"``.

    Notes
    -----
    Cached answers are included, because the length is a property of the answer. The tick below a ridge is the median.
    Each ridge is scaled to its own maximum, so heights of different models cannot be compared.

    Raises
    ------
    BadRequestError
        ``table`` is not a frame of results, or lacks a column that the plot needs.
    ValueError
        ``kind`` is unknown.
    """
    if kind not in get_args(TokenKind):
        raise ValueError(f"kind must be one of {', '.join(map(repr, get_args(TokenKind)))}, not {kind!r}")
    title = f"{kind.capitalize()} tokens by model"
    summaries = summarize_models(table)
    counts = _sorted_counts(table, f"{kind}_tokens")
    if not counts:
        return draw_message(ax, title, no_data_message(summaries) or f"No provider reported {kind} tokens")
    ax = ridge_axes(ax, len(counts))
    subtitle = f"{count_summary(summaries)}; tick: median"
    colors = style_axes(ax, title, subtitle, grid="x", simulated=is_simulated(table))
    ax.set_xlabel(f"{kind} tokens of an answer", fontsize=9, color=colors.muted)
    set_axis_scale(ax, "x", [float(values[end]) for _, _, values in counts for end in (0, -1)], margin=0.02)
    ax.xaxis.set_major_formatter(lambda value, _: format_count_tick(value))
    edges = _bin_edges(ax)
    is_log = ax.get_xscale() == "log"
    draw_ridges(ax, [_ridge(name, style, values, edges, is_log=is_log) for name, style, values in counts], edges)
    for index, (_, style, values) in enumerate(counts):
        median, base = quantile(values, 0.5), index + BASELINE
        ax.plot([median, median], [base - 0.06, base + 0.02], color=style.color, linewidth=2.2, label="_median")
    return ax


def ridge_axes(ax: Axes | None, rows: int, *, height_in: float = 0.0, left_in: float = 0.4) -> Axes:
    """Return axes with space for ``rows`` ridges, the first at the top."""
    ax = ensure_axes(ax, height_in or ROW_HEIGHT_IN * rows + 0.1, left_in=left_in)
    ax.set_ylim(rows - 0.02, -0.12)
    ax.set_yticks([])
    return ax


def draw_ridges(ax: Axes, ridges: Sequence[Ridge], edges: FloatArray) -> None:
    """Draw ridges as filled steps between ``edges``, of which there is one more than heights."""
    colors = theme_colors(ax)
    for index, ridge in enumerate(ridges):
        base = index + BASELINE
        color = blend(ridge.style.color, colors.background, FADE)
        stairs = ax.stairs(base - ridge.heights * RIDGE_HEIGHT, edges, baseline=base, fill=True, label=ridge.name)
        stairs.set(facecolor=color, linewidth=0)
        draw_hatch(stairs, ridge.style, colors)
        draw_row_text(ax, index, ridge.name, ridge.value, rows=len(ridges))


def draw_row_text(ax: Axes, index: int, name: str, value: str, *, rows: int, bottom: float = 0.34) -> None:
    """Write a name on the left and a value on the right of a row; a long name is cut in its middle.

    ``bottom`` is the position of their lower end as a share of the row, from its top.
    """
    colors = theme_colors(ax)
    text_style: dict[str, Any] = {
        "transform": ax.get_yaxis_transform(),
        "va": "bottom",
        "fontsize": min(RIDGE_MAX_PT, max(RIDGE_MIN_PT, axes_height_pt(ax) / rows * 0.2)),
        "parse_math": False,
        "bbox": {"facecolor": colors.background, "edgecolor": "none", "pad": 1.0, "alpha": 0.8},
    }
    right = ax.text(1, index + bottom, value, ha="right", color=colors.muted, **text_style)
    value_share = right.get_window_extent().width / ax.get_window_extent().width
    fit_text(ax, ax.text(0, index + bottom, name, color=colors.text, **text_style), max(0.97 - value_share, 0.2))


def _sorted_counts(table: pa.Table | DataFrameLike, column: str) -> list[tuple[str, SeriesStyle, FloatArray]]:
    """Return name, style and sorted token counts of each model that has any."""
    columns = extract_columns(table, ("provider", "model", "status", column))
    codes, names = factorize_models(columns)
    counts = to_floats(columns[column])
    ok = np.asarray(columns["status"].cast(pa.string()).to_numpy(zero_copy_only=False) == "ok", np.bool_)
    known = ok & np.isfinite(counts)
    by_model = ((name, series_style(code), np.sort(counts[known & (codes == code)])) for code, name in enumerate(names))
    return [entry for entry in by_model if len(entry[2])]


def _bin_edges(ax: Axes) -> FloatArray:
    """Divide the x axis into bins; none is narrower than 1, because counts are integers."""
    low, high = ax.get_xlim()
    if ax.get_xscale() == "log":
        return np.unique(np.geomspace(max(low, 1.0), high, BINS + 1).round()) - 0.5
    width = max(1.0, np.ceil((high - low) / BINS))
    return np.arange(np.floor(low) - 0.5, high + width, width)


def _ridge(name: str, style: SeriesStyle, counts: FloatArray, edges: FloatArray, *, is_log: bool) -> Ridge:
    heights = np.histogram(counts, edges)[0].astype(np.float64)
    if is_log:
        # Bins hold a different number of integers, from one on: counts for an equal share of the axis are drawn.
        integers = np.diff(edges)
        heights = heights / integers * (edges[:-1] + integers / 2)
    value = f"median {format_count(quantile(counts, 0.5))}, p95 {format_count(quantile(counts, 0.95))}"
    return Ridge(name, value, style, heights / (heights.max() or 1.0))

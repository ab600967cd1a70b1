"""How many tokens answers have: one small histogram a model, all on one scale.

A ridge a model: its name and figures above a filled hill, all hills on one scale across.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

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
    no_data_message,
    quantile,
    summarize_models,
    to_floats,
)
from llmhub.plots.style import draw_message, set_axis_scale, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmhub.plots.style import axes_height_pt, blend, ensure_axes, fit_text, theme_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmhub.plots.model_summary import FloatArray


TokenKind: TypeAlias = Literal["input", "output", "reasoning"]
BINS: Final = 48


def token_histogram(table: pa.Table | DataFrameLike, ax: Axes | None = None, *, kind: TokenKind = "output") -> Axes:
    """Draw how the tokens of each model's answers are distributed: a line for each model, all on one scale.

    Parameters
    ----------
    table
        Results, with the columns of the result schema.
    ax
        Where to draw; a new figure's axes where it is left out.
    kind
        ``"output"`` (reasoning included), ``"input"`` (what was cached included) or ``"reasoning"``.

    Notes
    -----
    Each answer counts once, also one from a cache: its length is a property of the answer. The tick below a hill is
    the median. Heights compare within a model, not between models.

    Raises
    ------
    ValueError
        A column of the result schema is not there, or there is no such kind of tokens.
    """
    if kind not in get_args(TokenKind):
        raise ValueError(f"kind={kind!r} is no kind of tokens; give {', '.join(map(repr, get_args(TokenKind)))}")
    title = f"{kind.capitalize()} tokens by model"
    tallies = summarize_models(table)
    counts = _sorted_counts(table, f"{kind}_tokens")
    if not counts:
        return draw_message(ax, title, no_data_message(tallies) or f"No provider counted {kind} tokens")
    ax = ridge_axes(ax, len(counts))
    ink = style_axes(ax, title, f"{count_summary(tallies)}; tick: median", grid="x")
    ax.set_xlabel(f"{kind} tokens of an answer", fontsize=9, color=ink.muted)
    set_axis_scale(ax, "x", [float(each[at]) for _, _, each in counts for at in (0, -1)], margin=0.02)
    ax.xaxis.set_major_formatter(lambda value, _: format_count_tick(value))
    edges = _bin_edges(ax)
    draw_ridges(ax, [_ridge(name, look, each, edges) for name, look, each in counts], edges)
    for at, (_, look, each) in enumerate(counts):
        middle, foot = quantile(each, 0.5), at + BASELINE
        ax.plot([middle, middle], [foot - 0.06, foot + 0.02], color=look.color, linewidth=2.2, label="_median")
    return ax


def _sorted_counts(table: pa.Table | DataFrameLike, column: str) -> list[tuple[str, SeriesStyle, FloatArray]]:
    """Sort each model's counts; models without any are left out."""
    columns = extract_columns(table, ("provider", "model", "status", column))
    places, names = factorize_models(columns)
    counts = to_floats(columns[column])
    ok = np.asarray(columns["status"].cast(pa.string()).to_numpy(zero_copy_only=False) == "ok", np.bool_)
    known = ok & np.isfinite(counts)
    sorts = ((name, series_style(at), np.sort(counts[known & (places == at)])) for at, name in enumerate(names))
    return [each for each in sorts if len(each[2])]


def _bin_edges(ax: Axes) -> FloatArray:
    """Divide the axis into bins; a count is whole, so no bin is narrower than one."""
    low, high = ax.get_xlim()
    if ax.get_xscale() == "log":
        return np.unique(np.geomspace(max(low, 1.0), high, BINS + 1).round()) - 0.5
    width = max(1.0, np.ceil((high - low) / BINS))
    return np.arange(np.floor(low) - 0.5, high + width, width)


def _ridge(name: str, look: SeriesStyle, counts: FloatArray, edges: FloatArray) -> Ridge:
    heights, _ = np.histogram(counts, edges)
    value = f"median {format_count(quantile(counts, 0.5))}, p95 {format_count(quantile(counts, 0.95))}"
    return Ridge(name, value, look, heights / max(heights.max(), 1))


ROW_HEIGHT_IN: Final = 0.72
"""Height of a model's line in a figure of our own."""
RIDGE_HEIGHT: Final = 0.56
"""Height of the highest hill, in lines."""
BASELINE: Final = 0.96
"""Where a hill stands, in lines from the top of its own."""
RIDGE_MAX_PT: Final = 9.5
RIDGE_MIN_PT: Final = 4.0
FADE: Final = 0.35


@dataclass(frozen=True, slots=True)
class Ridge:
    """One model's hill: its name, what is said at the right, how it is drawn, and its heights from 0 to 1."""

    name: str
    value: str
    style: SeriesStyle
    heights: FloatArray


def ridge_axes(ax: Axes | None, lines: int) -> Axes:
    """Give an axes with room for so many hills, the first at the top."""
    ax = ensure_axes(ax, ROW_HEIGHT_IN * lines + 0.1)
    ax.set_ylim(lines - 0.02, -0.12)
    ax.set_yticks([])
    return ax


def draw_ridges(ax: Axes, hills: Sequence[Ridge], edges: FloatArray) -> None:
    """Draw the hills over ``edges``, which are one longer than heights."""
    ink = theme_colors(ax)
    size = min(RIDGE_MAX_PT, max(RIDGE_MIN_PT, axes_height_pt(ax) / len(hills) * 0.2))
    words: dict[str, Any] = {
        "transform": ax.get_yaxis_transform(),
        "va": "bottom",
        "fontsize": size,
        "parse_math": False,
        "bbox": {"facecolor": ink.background, "edgecolor": "none", "pad": 1.0, "alpha": 0.8},
    }
    for at, hill in enumerate(hills):
        foot = at + BASELINE
        colour = blend(hill.style.color, ink.background, FADE)
        ax.stairs(foot - hill.heights * RIDGE_HEIGHT, edges, baseline=foot, fill=True, color=colour, label=hill.name)
        value = ax.text(1, at + 0.34, hill.value, ha="right", color=ink.muted, **words)
        taken = value.get_window_extent().width / ax.get_window_extent().width
        name = ax.text(0, at + 0.34, hill.name, color=ink.text, **words)
        fit_text(ax, name, max(0.97 - taken, 0.2))

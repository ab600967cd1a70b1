"""Scatter plots of the cost of models against their latency or quality, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.formatting.numbers import format_percent, format_usd_tick
from llmhub.formatting.palette import series_style
from llmhub.plots.model_summary import (
    DataFrameLike,
    ModelSummary,
    extract_columns,
    factorize_models,
    is_simulated,
    list_price_hint,
    no_data_message,
    quantile,
    summarize_models,
    to_floats,
)
from llmhub.plots.point_labels import Point, place_labels
from llmhub.plots.style import draw_message, ensure_axes, set_axis_scale, style_axes, theme_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ScoreSource: TypeAlias = "str | Mapping[str, float]"
"""Name of a column of scores, or the score of each model by its name."""
SCORE_COLUMN: Final = "score"
UNIT_LIMIT: Final = 1.0
"""Scores between 0 and this are shares, and shown as percentages."""
MARGIN: Final = 0.18


def cost_against_latency(table: pa.Table | DataFrameLike, ax: Axes | None = None) -> Axes:
    """Plot the list price of a thousand answers of each model over its median latency, with the Pareto front.

    A filled point is on the Pareto front: no other model is both cheaper and faster. Models without a known price or
    without a call of their own are counted in the subtitle.

    Parameters and errors are those of `cost_by_model`.
    """
    title = "Cost against latency"
    summaries = summarize_models(table)
    shown = [(index, model) for index, model in enumerate(summaries) if model.priced and len(model.latency_s)]
    if not shown:
        return draw_message(ax, title, _no_points_message(summaries, "a call of its own"))
    hidden = len(summaries) - len(shown)
    missing = f"{hidden} without a known price or a call of {'its' if hidden == 1 else 'their'} own; " if hidden else ""
    points = [(quantile(model.latency_s, 0.5), _usd_per_thousand(model)) for _, model in shown]
    best = [points[index] for index in pareto_front(points)]
    text = _PlotText(
        title=title,
        subtitle=f"{missing}filled: Pareto-optimal, no model is both cheaper and faster",
        x_label="median latency of a call (s)",
        y_label="list price of 1,000 answers (US dollars)",
        simulated=is_simulated(table),
    )
    ax = _styled_axes(ax, text)
    _draw_points(ax, points, best, shown)
    set_axis_scale(ax, "x", [latency_s for latency_s, _ in points], margin=MARGIN)
    set_axis_scale(ax, "y", [cost_usd for _, cost_usd in points], margin=MARGIN)
    ax.yaxis.set_major_formatter(lambda value, _: format_usd_tick(value))
    _draw_names(ax, points, shown, staircase(best))
    return ax


def cost_against_quality(
    table: pa.Table | DataFrameLike, ax: Axes | None = None, *, score: ScoreSource = SCORE_COLUMN
) -> Axes:
    """Plot the mean score of each model over the list price of a thousand answers, with the Pareto front.

    Parameters
    ----------
    table
        Results in any kind of frame, compact or with all columns.
    ax
        Axes to draw on; those of a new figure if omitted.
    score
        Name of a column of scores (numbers or booleans; null is left out), or a score for each ``provider/model``.
        Higher is better.

    Notes
    -----
    A filled point is on the Pareto front: no other model is both cheaper and better. Models without a known price or
    without a score are counted in the subtitle.

    Raises
    ------
    BadRequestError
        ``table`` is not a frame of results, or lacks the column of scores.
    """
    title = "Quality against cost"
    summaries = summarize_models(table)
    scores = score if isinstance(score, Mapping) else _mean_scores(table, score)
    shown = [(index, model) for index, model in enumerate(summaries) if model.priced and model.name in scores]
    if not shown:
        return draw_message(ax, title, _no_points_message(summaries, "a score"))
    hidden = len(summaries) - len(shown)
    missing = f"{hidden} without a known price or a score; " if hidden else ""
    points = [(_usd_per_thousand(model), scores[model.name]) for _, model in shown]
    best = [points[index] for index in pareto_front([(cost_usd, -value) for cost_usd, value in points])]
    text = _PlotText(
        title=title,
        subtitle=f"{missing}filled: Pareto-optimal, no model is both cheaper and better",
        x_label="list price of 1,000 answers (US dollars)",
        y_label=f"mean {score}" if isinstance(score, str) else "score",
        simulated=is_simulated(table),
    )
    ax = _styled_axes(ax, text)
    _draw_points(ax, points, best, shown)
    set_axis_scale(ax, "x", [cost_usd for cost_usd, _ in points], margin=MARGIN)
    ax.xaxis.set_major_formatter(lambda value, _: format_usd_tick(value))
    _scale_scores(ax, [value for _, value in points])
    _draw_names(ax, points, shown, staircase(best))
    return ax


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Return the indices of points that no other point is below and left of, from left to right.

    Examples
    --------
    >>> pareto_front([(1, 5), (2, 3), (3, 4), (4, 1)])
    [0, 1, 3]
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: points[index]):
        if not front or points[index][1] < points[front[-1]][1]:
            front.append(index)
    return front


def staircase(points: Sequence[Point]) -> list[Point]:
    """Return the corners of a line that joins points by steps: to the right first, then down or up.

    Examples
    --------
    >>> staircase([(1, 5), (2, 3)])
    [(1, 5), (2, 5), (2, 3)]
    """
    corners = [corner for (_, y), (x1, y1) in pairwise(points) for corner in ((x1, y), (x1, y1))]
    return [*points[:1], *corners]


@dataclass(frozen=True, slots=True)
class _PlotText:
    """Texts around a scatter plot."""

    title: str
    subtitle: str
    x_label: str
    y_label: str
    simulated: bool


def _styled_axes(ax: Axes | None, text: _PlotText) -> Axes:
    ax = ensure_axes(ax, 4.2, left_in=0.9)
    colors = style_axes(ax, text.title, text.subtitle, simulated=text.simulated)
    ax.set_xlabel(text.x_label, fontsize=9, color=colors.muted)
    ax.set_ylabel(text.y_label, fontsize=9, color=colors.muted)
    return ax


def _draw_points(
    ax: Axes, points: Sequence[Point], best: Sequence[Point], shown: Sequence[tuple[int, ModelSummary]]
) -> None:
    """Draw the points, filled if on the Pareto front, and the staircase of the front."""
    colors = theme_colors(ax)
    for (index, model), point in zip(shown, points, strict=True):
        style = series_style(index)
        face = style.color if point in best else colors.background
        marker = ax.scatter(*point, s=64, marker=style.marker, color=face, zorder=3, label=model.name)
        marker.set(edgecolor=style.color, linewidth=1.8)
    line = ax.plot(*zip(*staircase(best), strict=True), color=colors.muted, linewidth=1.2, zorder=2, label="_front")
    line[0].set_linestyle((0, (4, 3)))


def _draw_names(
    ax: Axes, points: Sequence[Point], shown: Sequence[tuple[int, ModelSummary]], front: Sequence[Point]
) -> None:
    place_labels(ax, points, [(model.name, series_style(index)) for index, model in shown], front)


def _no_points_message(summaries: Sequence[ModelSummary], other: str) -> str:
    """Return the reason why no model can be placed."""
    message = f"No model has both a known price and {other}"
    hint = list_price_hint(summaries)
    return no_data_message(summaries) or (f"{message};\n{hint}" if hint else message)


def _usd_per_thousand(model: ModelSummary) -> float:
    return model.list_usd / model.priced * 1000


def _mean_scores(table: pa.Table | DataFrameLike, score: str) -> dict[str, float]:
    """Return the mean of a column of scores by model."""
    columns = extract_columns(table, ("provider", "model", score))
    codes, names = factorize_models(columns)
    column = columns[score]
    values = to_floats(pc.cast(column, pa.int8()) if pa.types.is_boolean(column.type) else column)
    known = np.isfinite(values)
    sums = np.bincount(codes[known], values[known], minlength=len(names))
    counts = np.bincount(codes[known], minlength=len(names))
    return {name: float(sums[code] / counts[code]) for code, name in enumerate(names) if counts[code]}


def _scale_scores(ax: Axes, scores: Sequence[float]) -> None:
    """Set limits and ticks of the axis of scores; shares are percentages, and end shortly beyond 0 and 100 %."""
    low, high = min(scores), max(scores)
    padding = (high - low) * 0.2 or abs(high) * 0.1 or 0.1
    ax.set_ylim(low - padding, high + padding)
    if low >= 0 and high <= UNIT_LIMIT:
        ax.set_ylim(max(low - padding, -0.03), min(high + padding, 1.03))
        digits = 0 if high - low > 0.05 else 1  # noqa: PLR2004 - closer scores need a decimal place to differ
        ax.yaxis.set_major_formatter(lambda value, _: format_percent(value, digits) if 0 <= value <= 1 else "")
    else:
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")

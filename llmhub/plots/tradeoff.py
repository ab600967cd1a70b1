"""What models cost against what they give for it: points, and the front that none of them beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.formatting.numbers import format_usd_tick
from llmhub.formatting.palette import series_style
from llmhub.plots.model_summary import (
    DataFrameLike,
    ModelSummary,
    extract_columns,
    factorize_models,
    no_data_message,
    quantile,
    summarize_models,
    to_floats,
)
from llmhub.plots.point_labels import place_labels
from llmhub.plots.style import draw_message, ensure_axes, set_axis_scale, style_axes, theme_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes


ScoreSource: TypeAlias = "str | Mapping[str, float]"
"""The name of a column of scores, or each model's score by its name."""
Point: TypeAlias = tuple[float, float]
SCORE_COLUMN: Final = "score"
"""The column in which a score is looked for unless another is named."""
UNIT_LIMIT: Final = 1.0
"""Scores that all lie in 0..1 are shares, and are written as such."""


def cost_against_latency(table: pa.Table | DataFrameLike, ax: Axes | None = None) -> Axes:
    """Draw what a thousand of each model's answers are worth over its median latency, and the front of the best.

    A filled point is on the Pareto front: no other model is both cheaper and faster. Models without a known
    price or without a call of their own are counted, not drawn.

    Parameters and errors are those of `cost_by_model`.
    """
    tallies = summarize_models(table)
    shown = [(place, each) for place, each in enumerate(tallies) if each.priced and len(each.latency_s)]
    if not shown:
        want = no_data_message(tallies) or "No model has both a known price and a call of its own"
        return draw_message(ax, "Cost against latency", want)
    left = len(tallies) - len(shown)
    missing = f"{left} without a known price or a call of {'its' if left == 1 else 'their'} own; " if left else ""
    points = [(quantile(each.latency_s, 0.5), _per_thousand(each)) for _, each in shown]
    best = [points[at] for at in pareto_front(points)]
    view = _PlotText(
        title="Cost against latency",
        subtitle=f"{missing}filled: no model is both cheaper and faster",
        across="median time of a call (s)",
        up="US dollars for 1,000 answers",
    )
    ax = _styled_axes(ax, view)
    _draw_points(ax, points, best, shown)
    set_axis_scale(ax, "x", [time_s for time_s, _ in points], margin=0.18)
    set_axis_scale(ax, "y", [cost_usd for _, cost_usd in points], margin=0.18)
    ax.yaxis.set_major_formatter(lambda value, _: format_usd_tick(value))
    _draw_names(ax, points, shown, staircase(best))
    return ax


def cost_against_quality(
    table: pa.Table | DataFrameLike, ax: Axes | None = None, *, score: ScoreSource = SCORE_COLUMN
) -> Axes:
    """Draw how good each model's answers are over what a thousand of them are worth, and the front of the best.

    Parameters
    ----------
    table
        Results, with the columns of the result schema.
    ax
        Where to draw; a new figure's axes where it is left out.
    score
        The column that says how good a row is (a number or a truth value; a row without one does not count), or
        each model's score by its name ``provider/model``. More is better.

    Notes
    -----
    A filled point is on the Pareto front: no other model is both cheaper and better. Models without a known price or
    without a score are counted, not drawn.

    Raises
    ------
    ValueError
        A column of the result schema, or that of the scores, is not there.
    """
    tallies = summarize_models(table)
    scores = score if isinstance(score, Mapping) else _mean_scores(table, score)
    shown = [(place, each) for place, each in enumerate(tallies) if each.priced and each.name in scores]
    if not shown:
        want = no_data_message(tallies) or "No model has both a known price and a score"
        return draw_message(ax, "Quality against cost", want)
    left = len(tallies) - len(shown)
    points = [(_per_thousand(each), scores[each.name]) for _, each in shown]
    best = [points[at] for at in pareto_front([(cost_usd, -good) for cost_usd, good in points])]
    view = _PlotText(
        title="Quality against cost",
        subtitle=f"{f'{left} without a known price or a score; ' if left else ''}"
        "filled: no model is both cheaper and better",
        across="US dollars for 1,000 answers",
        up=f"mean {score}" if isinstance(score, str) else "score",
    )
    ax = _styled_axes(ax, view)
    _draw_points(ax, points, best, shown)
    set_axis_scale(ax, "x", [cost_usd for cost_usd, _ in points], margin=0.18)
    ax.xaxis.set_major_formatter(lambda value, _: format_usd_tick(value))
    _scale_scores(ax, [good for _, good in points])
    _draw_names(ax, points, shown, staircase(best))
    return ax


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Give the positions of the points that no other is below and left of, from left to right.

    Examples
    --------
    >>> pareto_front([(1, 5), (2, 3), (3, 4), (4, 1)])
    [0, 1, 3]
    """
    best: list[int] = []
    for at in sorted(range(len(points)), key=lambda at: points[at]):
        if not best or points[at][1] < points[best[-1]][1]:
            best.append(at)
    return best


def staircase(points: Sequence[Point]) -> list[Point]:
    """Join points by a stair: to the right first, then down or up.

    Examples
    --------
    >>> staircase([(1, 5), (2, 3)])
    [(1, 5), (2, 5), (2, 3)]
    """
    corners = [corner for (_, y), (x1, y1) in pairwise(points) for corner in ((x1, y), (x1, y1))]
    return [*points[:1], *corners]


@dataclass(frozen=True, slots=True)
class _PlotText:
    """The words around a field of points."""

    title: str
    subtitle: str
    across: str
    up: str


def _styled_axes(ax: Axes | None, view: _PlotText) -> Axes:
    ax = ensure_axes(ax, 4.2, left_in=0.9)
    ink = style_axes(ax, view.title, view.subtitle)
    ax.set_xlabel(view.across, fontsize=9, color=ink.muted)
    ax.set_ylabel(view.up, fontsize=9, color=ink.muted)
    return ax


def _draw_points(
    ax: Axes, points: Sequence[Point], best: Sequence[Point], shown: Sequence[tuple[int, ModelSummary]]
) -> None:
    """Draw the points, those on the front filled, and the front's stair."""
    ink = theme_colors(ax)
    for (place, each), point in zip(shown, points, strict=True):
        look = series_style(place)
        face = look.color if point in best else ink.background
        dot = ax.scatter(*point, s=64, marker=look.marker, color=face, zorder=3, label=each.name)
        dot.set(edgecolor=look.color, linewidth=1.8)
    line = ax.plot(*zip(*staircase(best), strict=True), color=ink.muted, linewidth=1.2, zorder=2, label="_front")
    line[0].set_linestyle((0, (4, 3)))


def _draw_names(
    ax: Axes, points: Sequence[Point], shown: Sequence[tuple[int, ModelSummary]], stairs: Sequence[Point]
) -> None:
    place_labels(ax, points, [(each.name, series_style(place)) for place, each in shown], stairs)


def _per_thousand(each: ModelSummary) -> float:
    return each.list_usd / each.priced * 1000


def _mean_scores(table: pa.Table | DataFrameLike, score: str) -> dict[str, float]:
    """Average a column of scores by model."""
    columns = extract_columns(table, ("provider", "model", score))
    places, names = factorize_models(columns)
    column = columns[score]
    values = to_floats(pc.cast(column, pa.int8()) if pa.types.is_boolean(column.type) else column)
    known = np.isfinite(values)
    sums = np.bincount(places[known], values[known], minlength=len(names))
    counts = np.bincount(places[known], minlength=len(names))
    return {name: float(sums[at] / counts[at]) for at, name in enumerate(names) if counts[at]}


def _scale_scores(ax: Axes, scores: Sequence[float]) -> None:
    """Scale the axis of scores about them: shares as per cent, never beyond what a share can be by much."""
    low, high = min(scores), max(scores)
    room = (high - low) * 0.2 or abs(high) * 0.1 or 0.1
    ax.set_ylim(low - room, high + room)
    if low >= 0 and high <= UNIT_LIMIT:
        ax.set_ylim(max(low - room, -0.03), min(high + room, 1.03))
        digits = 0 if high - low > 0.05 else 1  # noqa: PLR2004 - closer scores need a decimal to differ
        ax.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.{digits}f} %" if 0 <= value <= 1 else "")
    else:
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")

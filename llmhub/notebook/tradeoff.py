"""What models cost against what they give for it: points, and the front that none of them beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.drawing.canvas import axes_of, dressed, ink_of, look_of, said, scaled
from llmhub.drawing.labels import place_labels
from llmhub.drawing.writing import plain_usd
from llmhub.notebook.latency import quantile
from llmhub.notebook.tally import Frame, Tally, columns_of, floats, models_of, tally, want_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scores: TypeAlias = "str | Mapping[str, float]"
"""The name of a column of scores, or each model's score by its name."""
Point: TypeAlias = tuple[float, float]
SCORED: Final = "score"
"""The column in which a score is looked for unless another is named."""
UNIT_LIMIT: Final = 1.0
"""Scores that all lie in 0..1 are shares, and are written as such."""


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
    left = len(tallies) - len(shown)
    missing = f"{left} without a known price or a call of {'its' if left == 1 else 'their'} own; " if left else ""
    points = [(quantile(each.latency_s, 0.5), _per_thousand(each)) for _, each in shown]
    best = [points[at] for at in front(points)]
    view = _View(
        title="Cost against latency",
        subtitle=f"{missing}filled: no model is both cheaper and faster",
        across="median time of a call (s)",
        up="US dollars for 1,000 answers",
    )
    ax = _begun(ax, view)
    _marked(ax, points, best, shown)
    scaled(ax, "x", [time_s for time_s, _ in points], margin=0.18)
    scaled(ax, "y", [cost_usd for _, cost_usd in points], margin=0.18)
    ax.yaxis.set_major_formatter(lambda value, _: plain_usd(value))
    _named(ax, points, shown, steps_of(best))
    return ax


def cost_against_quality(table: pa.Table | Frame, ax: Axes | None = None, *, score: Scores = SCORED) -> Axes:
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
    tallies = tally(table)
    scores = score if isinstance(score, Mapping) else _means(table, score)
    shown = [(place, each) for place, each in enumerate(tallies) if each.priced and each.name in scores]
    if not shown:
        want = want_of(tallies) or "No model has both a known price and a score"
        return said(ax, "Quality against cost", want)
    left = len(tallies) - len(shown)
    points = [(_per_thousand(each), scores[each.name]) for _, each in shown]
    best = [points[at] for at in front([(cost_usd, -good) for cost_usd, good in points])]
    view = _View(
        title="Quality against cost",
        subtitle=f"{f'{left} without a known price or a score; ' if left else ''}"
        "filled: no model is both cheaper and better",
        across="US dollars for 1,000 answers",
        up=f"mean {score}" if isinstance(score, str) else "score",
    )
    ax = _begun(ax, view)
    _marked(ax, points, best, shown)
    scaled(ax, "x", [cost_usd for cost_usd, _ in points], margin=0.18)
    ax.xaxis.set_major_formatter(lambda value, _: plain_usd(value))
    _levelled(ax, [good for _, good in points])
    _named(ax, points, shown, steps_of(best))
    return ax


def front(points: Sequence[Point]) -> list[int]:
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


def steps_of(points: Sequence[Point]) -> list[Point]:
    """Join points by a stair: to the right first, then down or up.

    Examples
    --------
    >>> steps_of([(1, 5), (2, 3)])
    [(1, 5), (2, 5), (2, 3)]
    """
    corners = [corner for (_, y), (x1, y1) in pairwise(points) for corner in ((x1, y), (x1, y1))]
    return [*points[:1], *corners]


@dataclass(frozen=True, slots=True)
class _View:
    """The words around a field of points."""

    title: str
    subtitle: str
    across: str
    up: str


def _begun(ax: Axes | None, view: _View) -> Axes:
    ax = axes_of(ax, 4.2, left_in=0.9)
    ink = dressed(ax, view.title, view.subtitle)
    ax.set_xlabel(view.across, fontsize=9, color=ink.muted)
    ax.set_ylabel(view.up, fontsize=9, color=ink.muted)
    return ax


def _marked(ax: Axes, points: Sequence[Point], best: Sequence[Point], shown: Sequence[tuple[int, Tally]]) -> None:
    """Draw the points, those on the front filled, and the front's stair."""
    ink = ink_of(ax)
    for (place, each), point in zip(shown, points, strict=True):
        look = look_of(place)
        face = look.colour if point in best else ink.ground
        dot = ax.scatter(*point, s=64, marker=look.marker, color=face, zorder=3, label=each.name)
        dot.set(edgecolor=look.colour, linewidth=1.8)
    line = ax.plot(*zip(*steps_of(best), strict=True), color=ink.muted, linewidth=1.2, zorder=2, label="_front")
    line[0].set_linestyle((0, (4, 3)))


def _named(ax: Axes, points: Sequence[Point], shown: Sequence[tuple[int, Tally]], stairs: Sequence[Point]) -> None:
    place_labels(ax, points, [(each.name, look_of(place)) for place, each in shown], stairs)


def _per_thousand(each: Tally) -> float:
    return each.worth_usd / each.priced * 1000


def _means(table: pa.Table | Frame, score: str) -> dict[str, float]:
    """Average a column of scores by model."""
    columns = columns_of(table, ("provider", "model", score))
    places, names = models_of(columns)
    column = columns[score]
    values = floats(pc.cast(column, pa.int8()) if pa.types.is_boolean(column.type) else column)
    known = np.isfinite(values)
    sums = np.bincount(places[known], values[known], minlength=len(names))
    counts = np.bincount(places[known], minlength=len(names))
    return {name: float(sums[at] / counts[at]) for at, name in enumerate(names) if counts[at]}


def _levelled(ax: Axes, scores: Sequence[float]) -> None:
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

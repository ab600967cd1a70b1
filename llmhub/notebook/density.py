"""How many tokens answers have: one small histogram a model, all on one scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import numpy as np
import pyarrow as pa

from llmhub.drawing.canvas import Look, dressed, look_of, said, scaled
from llmhub.drawing.writing import amount, plain_amount
from llmhub.notebook.latency import quantile
from llmhub.notebook.ridge import FOOT, Hill, draw_ridge, ridge_axes
from llmhub.notebook.tally import Floats, Frame, columns_of, counts_of, floats, models_of, tally, want_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind: TypeAlias = Literal["input", "output", "reasoning"]
BINS: Final = 48


def token_histogram(table: pa.Table | Frame, ax: Axes | None = None, *, kind: Kind = "output") -> Axes:
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
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r} is no kind of tokens; give {', '.join(map(repr, get_args(Kind)))}")
    title = f"{kind.capitalize()} tokens by model"
    tallies = tally(table)
    counts = _counts(table, f"{kind}_tokens")
    if not counts:
        return said(ax, title, want_of(tallies) or f"No provider counted {kind} tokens")
    ax = ridge_axes(ax, len(counts))
    ink = dressed(ax, title, f"{counts_of(tallies)}; tick: median", grid="x")
    ax.set_xlabel(f"{kind} tokens of an answer", fontsize=9, color=ink.muted)
    scaled(ax, "x", [float(each[at]) for _, _, each in counts for at in (0, -1)], margin=0.02)
    ax.xaxis.set_major_formatter(lambda value, _: plain_amount(value))
    edges = _edges(ax)
    draw_ridge(ax, [_hill(name, look, each, edges) for name, look, each in counts], edges)
    for at, (_, look, each) in enumerate(counts):
        middle, foot = quantile(each, 0.5), at + FOOT
        ax.plot([middle, middle], [foot - 0.06, foot + 0.02], color=look.colour, linewidth=2.2, label="_median")
    return ax


def _counts(table: pa.Table | Frame, column: str) -> list[tuple[str, Look, Floats]]:
    """Sort each model's counts; models without any are left out."""
    columns = columns_of(table, ("provider", "model", "status", column))
    places, names = models_of(columns)
    counts = floats(columns[column])
    ok = np.asarray(columns["status"].cast(pa.string()).to_numpy(zero_copy_only=False) == "ok", np.bool_)
    known = ok & np.isfinite(counts)
    sorts = ((name, look_of(at), np.sort(counts[known & (places == at)])) for at, name in enumerate(names))
    return [each for each in sorts if len(each[2])]


def _edges(ax: Axes) -> Floats:
    """Divide the axis into bins; a count is whole, so no bin is narrower than one."""
    low, high = ax.get_xlim()
    if ax.get_xscale() == "log":
        return np.unique(np.geomspace(max(low, 1.0), high, BINS + 1).round()) - 0.5
    width = max(1.0, np.ceil((high - low) / BINS))
    return np.arange(np.floor(low) - 0.5, high + width, width)


def _hill(name: str, look: Look, counts: Floats, edges: Floats) -> Hill:
    heights, _ = np.histogram(counts, edges)
    value = f"median {amount(quantile(counts, 0.5))}, p95 {amount(quantile(counts, 0.95))}"
    return Hill(name, value, look, heights / max(heights.max(), 1))

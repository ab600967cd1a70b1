"""Plots of a results table: what models cost, how good and how quick they are, what they use, how a run went.

Each function takes a table of results (an Arrow table or a data frame) and draws on the axes it is given, or
on those of a new figure; it returns the axes, shows nothing and leaves matplotlib's global state alone. A
model has the same colour in every plot of a table.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmhub.plots.bars import cost_by_model, tokens_by_model
from llmhub.plots.latency import latency_ecdf, ttft_ecdf
from llmhub.plots.ridgeline import token_histogram
from llmhub.plots.throughput import throughput, timeline
from llmhub.plots.tradeoff import cost_against_latency, cost_against_quality

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


__all__ = [
    "cost_against_latency",
    "cost_against_quality",
    "cost_by_model",
    "latency_ecdf",
    "save",
    "throughput",
    "timeline",
    "token_histogram",
    "tokens_by_model",
    "ttft_ecdf",
]


def save(drawing: Figure | Axes, path: str | Path) -> Path:
    """Write a figure, or the figure of an axes, in the format that the path's extension says.

    Returns the path. Whatever stands at the edges is kept.
    """
    from matplotlib.axes import Axes  # noqa: PLC0415 - matplotlib is loaded by those who plot
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = drawing.get_figure(root=True) if isinstance(drawing, Axes) else drawing
    if not isinstance(figure, Figure):
        raise TypeError(f"expected a figure or axes of one, got {type(drawing).__name__}")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=200, bbox_inches="tight", pad_inches=0.15)
    return target

"""``df.llm.plot``: the plots of `llmhub.plots` as methods of a frame of results."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from llmhub import plots
from llmhub.tables.result_frames import results_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT_FUNCTIONS: Final[Mapping[str, Callable[..., Axes]]] = {
    name: getattr(plots, name)
    for name in plots.__all__
    if "table" in inspect.signature(getattr(plots, name)).parameters
}
"""Functions of `llmhub.plots` that draw a table of results, by name."""


class PlotAccessor:
    """Plots of one frame of results: ``df.llm.plot.cost_by_model()``.

    Each method takes the arguments of the function of its name in `llmhub.plots` after the table, and returns the axes.

    Parameters
    ----------
    frame
        A frame of results, as `FrameAccessor.complete` returns it.
    prefix
        Prefix of its result columns; set with ``df.llm.plot(prefix="gpt_")``.

    Examples
    --------
    >>> import pandas as pd
    >>> sorted(name for name in dir(pd.DataFrame().llm.plot) if name.startswith("cost"))
    ['cost_against_latency', 'cost_against_quality', 'cost_by_model']
    """

    def __init__(self, frame: Any, prefix: str = "") -> None:
        self._frame = frame
        self._prefix = prefix

    def __call__(self, *, prefix: str) -> PlotAccessor:
        """Return the plots of result columns whose names begin with ``prefix``."""
        return PlotAccessor(self._frame, prefix)

    def __getattr__(self, name: str) -> Callable[..., Axes]:
        """Raise for a name that is no plot; the plots are methods."""
        raise AttributeError(f"no plot {name!r}; the plots are {', '.join(sorted(PLOT_FUNCTIONS))}")

    def __dir__(self) -> list[str]:
        """List the plots."""
        return sorted(PLOT_FUNCTIONS)

    def __repr__(self) -> str:
        """Return the names of the plots."""
        return f"<plots of results: {', '.join(sorted(PLOT_FUNCTIONS))}>"


def _as_method(plot: Callable[..., Axes]) -> Callable[..., Axes]:
    """Return a plot as a method of the accessor, whose signature lacks the table."""

    @wraps(plot)
    def draw(self: PlotAccessor, *args: Any, **options: Any) -> Axes:
        table = results_table(self._frame, self._prefix) if self._prefix else self._frame
        return plot(table, *args, **options)

    signature = inspect.signature(plot)
    own = [each for name, each in signature.parameters.items() if name != "table"]
    receiver = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    draw.__signature__ = signature.replace(parameters=[receiver, *own])  # type: ignore[attr-defined]
    return draw


for _name, _plot in PLOT_FUNCTIONS.items():
    setattr(PlotAccessor, _name, _as_method(_plot))

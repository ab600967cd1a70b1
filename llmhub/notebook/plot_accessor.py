"""``df.llm.plot``: the plots of `llmhub.plots`, of the frame they are asked of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from llmhub.plots import api

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PLOT_FUNCTIONS: Final[Mapping[str, Callable[..., Axes]]] = {
    name: getattr(api, name) for name in api.__all__ if "table" in inspect.signature(getattr(api, name)).parameters
}
"""The functions that draw a table of results, by name."""


class PlotAccessor:
    """The plots of one frame of results: ``df.llm.plot.cost_by_model()``.

    Each takes what the function of its name in `llmhub.plots` takes after the table, and gives the axes.

    Parameters
    ----------
    frame
        What `FrameAccessor.complete` gave.
    prefix
        What stands before the names of its result columns; ``df.llm.plot(prefix="gpt_")`` says it.

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
        """Give the plots of the columns whose names begin with ``prefix``."""
        return PlotAccessor(self._frame, prefix)

    def __getattr__(self, name: str) -> Callable[..., Axes]:
        """Give the plot of that name."""
        plot = PLOT_FUNCTIONS.get(name)
        if plot is None:
            raise AttributeError(f"there is no plot {name!r}; there are {', '.join(sorted(PLOT_FUNCTIONS))}")

        @wraps(plot)
        def draw(*args: Any, **options: Any) -> Axes:
            return plot(_without_prefix(self._frame, self._prefix), *args, **options)

        return draw

    def __dir__(self) -> list[str]:
        """List the plots."""
        return sorted(PLOT_FUNCTIONS)


def _without_prefix(frame: Any, prefix: str) -> Any:
    """Give the columns whose names begin with ``prefix`` without it, and the others that do not clash."""
    if not prefix:
        return frame
    names = {name: str(name).removeprefix(prefix) for name in frame.columns if str(name).startswith(prefix)}
    kept = [name for name in frame.columns if name in names or name not in names.values()]
    return frame[kept].rename(columns=names)

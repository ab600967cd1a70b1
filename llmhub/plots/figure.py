"""Figures that show themselves: in notebooks as pictures, in a terminal without windows as the path of a file.

New figures join pyplot's, as those of pandas do, so ``plt.show()``, ``plt.close()`` and the inline backend of notebooks
find them. pyplot works in the main thread only; a figure made in another thread is not among its figures.

This module imports matplotlib, so it is imported only to plot.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
import threading
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib._pylab_helpers import Gcf
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.figure import Figure

INLINE_BACKENDS: Final = ("inline", "module://matplotlib_inline.backend_inline")
"""Names of the backend that draws pyplot's figures below the cell of a notebook that made them."""
DPI: Final = 144
"""Resolution of a picture in a notebook or a file."""


class PlotFigure(Figure):
    """A figure that displays itself."""

    def _repr_png_(self) -> bytes:
        return to_png(self)

    def __repr__(self) -> str:
        """Return a description; in a terminal without windows, the path that the picture was saved to."""
        return _saved_text(self) if _is_plain_prompt(self) else super().__repr__()


class PlotAxes(Axes):
    """Axes that display the figure they are in."""

    def _ipython_display_(self) -> None:
        """Show nothing where the inline backend draws the figure at the end of the cell: neither twice nor as text."""
        figure = self.get_figure(root=True)
        if figure is None or mpl.get_backend() not in INLINE_BACKENDS or not _is_managed(figure):
            raise NotImplementedError  # IPython then asks for the picture

    def _repr_png_(self) -> bytes | None:
        figure = self.get_figure(root=True)
        return None if figure is None else to_png(figure)

    def __repr__(self) -> str:
        """Return a description; in a terminal without windows, the path that the picture was saved to."""
        figure = self.get_figure(root=True)
        return _saved_text(figure) if figure is not None and _is_plain_prompt(figure) else super().__repr__()


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return a new figure, which is pyplot's current one if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return PlotFigure(figsize=(width_in, height_in))
    import matplotlib.pyplot as plt  # noqa: PLC0415 - chooses a backend, which only a new figure needs

    figure = plt.figure(FigureClass=PlotFigure, figsize=(width_in, height_in))
    manager = figure.canvas.manager
    if manager is not None and not _has_window(figure) and not _in_notebook():
        # pyplot's show() calls that of every figure's manager; that of a backend without windows does nothing.
        manager.show = partial(_announce, figure)  # type: ignore[method-assign]
    return figure


def to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG picture, with the labels outside the axes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15)
    return buffer.getvalue()


def _announce(figure: Figure) -> None:
    """Save a figure and write where, because no window can show it."""
    sys.stderr.write(f"{_saved_text(figure)}\n")


def _saved_text(figure: Figure) -> str:
    """Save a figure to a file of its own in a temporary folder, and return a sentence with the path."""
    titles = [title for axes in figure.axes if (title := axes.get_title(loc="left") or axes.get_title())]
    title = titles[0] if titles else "plot"
    path = _picture_folder() / f"{_slug(title)}-{id(figure):x}.png"
    path.write_bytes(to_png(figure))
    return f"<{title}: no window can be opened here; saved to {path}>"


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", title.partition(":")[0].lower()).strip("_") or "plot"


@cache
def _picture_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="llmhub-plots-"))


def _is_managed(figure: Figure) -> bool:
    """Return whether pyplot still holds a figure."""
    return any(manager.canvas.figure is figure for manager in Gcf.get_all_fig_managers())


def _is_plain_prompt(figure: Figure) -> bool:
    """Return whether a person types at a prompt that cannot open a window for a figure."""
    return hasattr(sys, "ps1") and not _in_notebook() and not _has_window(figure)


def _has_window(figure: Figure) -> bool:
    """Return whether the backend opens a window for a figure, unlike that of notebooks or files."""
    manager = figure.canvas.manager
    return manager is not None and type(manager).show is not FigureManagerBase.show


def _in_notebook() -> bool:
    """Return whether a Jupyter kernel runs this process."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")

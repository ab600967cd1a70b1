"""Writing of figures to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def save(drawing: Figure | Axes, path: str | Path) -> Path:
    """Write a figure, or the figure of an axes, to a file, and return its path.

    The file extension decides the format (``.png``, ``.svg``, ``.pdf``). Missing folders are created. Labels outside
    the axes are included.
    """
    from matplotlib.axes import Axes  # noqa: PLC0415 - matplotlib is imported only to plot
    from matplotlib.figure import Figure  # noqa: PLC0415 - see above

    figure = drawing.get_figure(root=True) if isinstance(drawing, Axes) else drawing
    if not isinstance(figure, Figure):
        raise TypeError(f"drawing must be a matplotlib Figure or Axes, not {type(drawing).__name__}")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=200, bbox_inches="tight", pad_inches=0.15)
    return target

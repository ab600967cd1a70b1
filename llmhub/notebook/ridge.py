"""A ridge a model: its name and figures above a filled hill, all hills on one scale across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llmhub.drawing.canvas import Look, axes_of, height_pt, ink_of, mixed, shrink

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmhub.notebook.tally import Floats

LINE_IN: Final = 0.72
"""Height of a model's line in a figure of our own."""
HILL: Final = 0.56
"""Height of the highest hill, in lines."""
FOOT: Final = 0.96
"""Where a hill stands, in lines from the top of its own."""
LARGEST_PT: Final = 9.5
SMALLEST_PT: Final = 4.0
FADE: Final = 0.35


@dataclass(frozen=True, slots=True)
class Hill:
    """One model's hill: its name, what is said at the right, how it is drawn, and its heights from 0 to 1."""

    name: str
    value: str
    look: Look
    heights: Floats


def ridge_axes(ax: Axes | None, lines: int) -> Axes:
    """Give an axes with room for so many hills, the first at the top."""
    ax = axes_of(ax, LINE_IN * lines + 0.1)
    ax.set_ylim(lines - 0.02, -0.12)
    ax.set_yticks([])
    return ax


def draw_ridge(ax: Axes, hills: Sequence[Hill], edges: Floats) -> None:
    """Draw the hills over ``edges``, which are one longer than heights."""
    ink = ink_of(ax)
    size = min(LARGEST_PT, max(SMALLEST_PT, height_pt(ax) / len(hills) * 0.2))
    words: dict[str, Any] = {
        "transform": ax.get_yaxis_transform(),
        "va": "bottom",
        "fontsize": size,
        "parse_math": False,
        "bbox": {"facecolor": ink.ground, "edgecolor": "none", "pad": 1.0, "alpha": 0.8},
    }
    for at, hill in enumerate(hills):
        foot = at + FOOT
        colour = mixed(hill.look.colour, ink.ground, FADE)
        ax.stairs(foot - hill.heights * HILL, edges, baseline=foot, fill=True, color=colour, label=hill.name)
        value = ax.text(1, at + 0.34, hill.value, ha="right", color=ink.muted, **words)
        taken = value.get_window_extent().width / ax.get_window_extent().width
        name = ax.text(0, at + 0.34, hill.name, color=ink.text, **words)
        shrink(ax, name, max(0.97 - taken, 0.2))

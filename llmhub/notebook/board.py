"""A board of bars: a line for each model, its name and value above its bar, so that no name is too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llmhub.drawing.canvas import axes_of, dressed, height_pt, mixed, shrink, width_pt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE_IN: Final = 0.52
"""Height of a line in a figure of our own."""
LARGEST_PT: Final = 9.5
SMALLEST_PT: Final = 4.0
BAR: Final = 0.4
"""Thickness of a bar, in lines."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A piece of a line's bar; ``fade`` mixes in the background, below zero the text's colour."""

    start: float
    width: float
    colour: str
    fade: float = 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """A model's line: its name, what is said at the right, and its bar's pieces, drawn in order."""

    name: str
    value: str
    bars: Sequence[Bar]


def board(lines: Sequence[Line], ax: Axes | None, *, title: str, subtitle: str, unit: str) -> Axes:
    """Draw the lines from top to bottom."""
    ax = axes_of(ax, LINE_IN * len(lines) + 0.1)
    ax.set_ylim(len(lines) - 0.05, -0.12)
    ax.set_yticks([])
    longest = max((bar.start + bar.width for line in lines for bar in line.bars), default=0.0)
    ax.set_xlim(0, longest * 1.02 or 1.0)
    ink = dressed(ax, title, subtitle, grid="x")
    ax.set_xlabel(unit, fontsize=9, color=ink.muted)
    size = min(LARGEST_PT, max(SMALLEST_PT, height_pt(ax) / len(lines) * 0.26))
    words: dict[str, Any] = {
        "transform": ax.get_yaxis_transform(),
        "va": "bottom",
        "fontsize": size,
        "parse_math": False,
    }
    patch = {"facecolor": ink.ground, "edgecolor": "none", "pad": 1.0}
    for at, line in enumerate(lines):
        value = ax.text(1, at + 0.36, line.value, ha="right", color=ink.muted, bbox=patch, **words)
        taken = value.get_window_extent().width / ax.get_window_extent().width
        name = ax.text(0, at + 0.36, line.name, color=ink.text, bbox=patch, **words)
        shrink(ax, name, max(0.97 - taken, 0.2))
        for bar in line.bars:
            colour = mixed(bar.colour, ink.ground if bar.fade > 0 else ink.text, abs(bar.fade))
            ax.barh(at + 0.62, bar.width, BAR, bar.start, color=colour, linewidth=0, label=line.name)
    if not longest:
        ax.set_xticks([])
    elif width_pt(ax) < 260:  # noqa: PLR2004 - room for few numbers
        ax.locator_params(axis="x", nbins=3)
    return ax

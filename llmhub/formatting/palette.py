"""Colours, dashes and markers that tell models apart, the same in every plot, table and progress bar.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/, read 2026-11-22), which colour-blind readers can
tell apart. Their yellow is left out, because it is faint on white; their black is a dark grey, so that it does not
outweigh the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Dash: TypeAlias = "Literal['solid'] | tuple[float, tuple[float, ...]]"
"""A line style as matplotlib takes it: a name, or an offset and lengths of dashes and gaps in points."""

PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A5A5A")
DASHES: Final[tuple[Dash, ...]] = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS: Final = ("o", "s", "^", "D")


@dataclass(frozen=True, slots=True)
class SeriesStyle:
    """How one model is drawn: its colour, and a dash and a marker in case there are more models than colours."""

    color: str
    dash: Dash
    marker: str


def series_style(index: int) -> SeriesStyle:
    """Return the style of the model at ``index`` in order of first appearance.

    Examples
    --------
    >>> series_style(0) == series_style(0), series_style(0) == series_style(7)
    (True, False)
    """
    cycle = index // len(PALETTE)
    return SeriesStyle(PALETTE[index % len(PALETTE)], DASHES[cycle % len(DASHES)], MARKERS[cycle % len(MARKERS)])

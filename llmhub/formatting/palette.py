"""Colours, dashes and markers that tell models apart, the same in every plot, table and progress bar.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/, read 2026-11-22), which colour-blind readers can
tell apart. Their yellow is left out, because it is faint on white; their black is a dark grey, so that it does not
outweigh the others. The wine red of Paul Tol's muted scheme (https://sronpersonalpages.nl/~pault/, read 2026-11-30) is
the eighth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Dash: TypeAlias = "Literal['solid'] | tuple[float, tuple[float, ...]]"
"""A line style as matplotlib takes it: a name, or an offset and lengths of dashes and gaps in points."""

PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A5A5A", "#882255")
DASHES: Final[tuple[Dash, ...]] = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS: Final = ("o", "s", "^", "D")
HATCHES: Final = ("", "////", "....", "xxxx")
PLAIN_STYLES: Final = 7
"""Models that are told apart by colour alone; each further group of as many has a dash, marker and hatch of its own."""


@dataclass(frozen=True, slots=True)
class SeriesStyle:
    """How one model is drawn: its colour, and from the eighth model on a dash, a marker and a hatch of its group."""

    color: str
    dash: Dash
    marker: str
    hatch: str = ""


def series_style(index: int) -> SeriesStyle:
    """Return the style of the model at ``index`` in order of first appearance.

    Examples
    --------
    >>> series_style(0) == series_style(0), series_style(0) == series_style(7)
    (True, False)
    """
    group = index // PLAIN_STYLES % len(DASHES)
    return SeriesStyle(PALETTE[index % len(PALETTE)], DASHES[group], MARKERS[group], HATCHES[group])

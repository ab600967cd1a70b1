"""The look of the plots: colours, text, grids and places, without matplotlib's global state.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/, read 2026-11-22), which stay apart for
colour-blind readers; their yellow is left out, since it is faint on white, and their black is a dark grey,
which does not outweigh the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    pass


PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A5A5A")


DASHES: Final[tuple[Dash, ...]] = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))


MARKERS: Final = ("o", "s", "^", "D")


Dash: TypeAlias = "Literal['solid'] | tuple[float, tuple[float, ...]]"


@dataclass(frozen=True, slots=True)
class SeriesStyle:
    """How one model is drawn: by colour, and by dash and marker where there are more models than colours."""

    color: str
    dash: Dash
    marker: str


def series_style(index: int) -> SeriesStyle:
    """Give the look of the model at ``index`` in the order of first appearance.

    Examples
    --------
    >>> series_style(0) == series_style(0), series_style(0) == series_style(7)
    (True, False)
    """
    turn = index // len(PALETTE)
    return SeriesStyle(PALETTE[index % len(PALETTE)], DASHES[turn % len(DASHES)], MARKERS[turn % len(MARKERS)])

"""The look of the plots: colours, text, grids and places, without matplotlib's global state.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/, read 2026-11-22), which stay apart for
colour-blind readers; their yellow is left out, since it is faint on white, and their black is a dark grey,
which does not outweigh the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from llmhub.formatting.numbers import range_ratio
from llmhub.formatting.text import truncate_middle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text


WIDTH_IN: Final = 8.5
"""Width of a figure of our own."""
TOP_IN: Final = 0.75
RIGHT_IN: Final = 0.45
SUBTITLE_PT: Final = (9.0, 8.0, 7.0)
LOG_SCALE_RATIO: Final = 20.0
"""From this ratio of largest to smallest on, an axis is logarithmic."""
DECADES_ONLY_RATIO: Final = 2000.0
"""From this ratio on, a logarithmic axis numbers powers of ten alone; one across already where numbers would touch."""
LABEL_SHARE: Final = 0.55
LABEL_PT: Final = 30.0
"""Share of an axis across that numbers may count on, names being put beside it, and how wide they are."""
Color: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class ThemeColors:
    """The colours of what is not data, after the theme that is set."""

    text: Color
    muted: Color
    faint: Color
    background: Color


def theme_colors(ax: Axes) -> ThemeColors:
    """Read the theme's text and background colours."""
    from matplotlib import rcParams  # noqa: PLC0415 - matplotlib is loaded by those who plot
    from matplotlib.colors import to_rgb  # noqa: PLC0415 - as above

    text, ground = to_rgb(rcParams["text.color"]), to_rgb(ax.get_facecolor())
    return ThemeColors(text, blend(text, ground, 0.42), blend(text, ground, 0.88), ground)


def blend(color: str | Color, other: str | Color, share: float) -> Color:
    """Mix ``share`` of ``other`` into ``color``.

    Examples
    --------
    >>> blend("black", "white", 0.5)
    (0.5, 0.5, 0.5)
    """
    from matplotlib.colors import to_rgb  # noqa: PLC0415 - matplotlib is loaded by those who plot

    red, green, blue = (a + (b - a) * share for a, b in zip(to_rgb(color), to_rgb(other), strict=True))
    return red, green, blue


def ensure_axes(ax: Axes | None, height_in: float, *, left_in: float = 0.4, bottom_in: float = 0.6) -> Axes:
    """Give ``ax``, or the axes of a new figure whose plotting area is ``height_in`` high."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure  # noqa: PLC0415 - matplotlib is loaded by those who plot

    whole_in = TOP_IN + height_in + bottom_in
    figure = Figure(figsize=(WIDTH_IN, whole_in))
    across = 1 - (left_in + RIGHT_IN) / WIDTH_IN
    return figure.add_axes((left_in / WIDTH_IN, bottom_in / whole_in, across, height_in / whole_in))


def style_axes(ax: Axes, title: str, subtitle: str, *, grid: Literal["both", "x", "y"] = "both") -> ThemeColors:
    """Set titles, a light grid and no more frame than needed."""
    ink = theme_colors(ax)
    ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=ink.text, pad=22, parse_math=False)
    below = ax.annotate(
        subtitle,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 8),
        textcoords="offset points",
        color=ink.muted,
        annotation_clip=False,
        parse_math=False,
    )
    _fit_subtitle(ax, below)
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(visible=True, axis=grid, color=ink.faint, linewidth=0.8)
    ax.tick_params(which="both", length=0, labelsize=8.5, labelcolor=ink.muted)
    return ink


def draw_message(ax: Axes | None, title: str, text: str) -> Axes:
    """Let an axes without data say why it has none."""
    ax = ensure_axes(ax, 1.6)
    ink = style_axes(ax, title, "")
    ax.grid(visible=False)
    ax.set(xticks=[], yticks=[])
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=11, color=ink.muted)
    return ax


def fit_text(ax: Axes, text: Text, share: float) -> None:
    """Take characters out of a text until it is no wider than a share of the axes."""
    room = ax.get_window_extent().width * share
    whole = text.get_text()
    most = len(whole)
    while most > 1 and (wide := text.get_window_extent().width) > room:
        most = min(most - 1, int(len(text.get_text()) * room / wide))
        text.set_text(truncate_middle(whole, most))


def _fit_subtitle(ax: Axes, text: Text) -> None:
    """Make a subtitle fit: in a smaller size, else without its first clauses, which say less."""
    room = ax.get_window_extent().width
    for size in SUBTITLE_PT:
        text.set_fontsize(size)
        if text.get_window_extent().width <= room:
            return
    while "; " in text.get_text() and text.get_window_extent().width > room:
        text.set_text(text.get_text().partition("; ")[2])
    fit_text(ax, text, 1.0)


def narrow_axes(ax: Axes, share: float) -> None:
    """Leave an axes a share of its width, so that what follows has room at its right."""
    place = ax.get_position()
    ax.set_position((place.x0, place.y0, place.width * share, place.height))


def axes_width_pt(ax: Axes) -> float:
    """Measure the axes' width in points."""
    return ax.get_window_extent().width / ax.figure.dpi * 72


def axes_height_pt(ax: Axes) -> float:
    """Measure the axes' height in points."""
    return ax.get_window_extent().height / ax.figure.dpi * 72


def set_axis_scale(ax: Axes, name: Literal["x", "y"], values: Sequence[float], margin: float = 0.0) -> None:
    """Scale an axis: logarithmic where values lie far apart, about them where they lie close, else from zero."""
    from matplotlib.ticker import LogLocator, NullLocator  # noqa: PLC0415 - matplotlib is loaded by those who plot

    axis = ax.xaxis if name == "x" else ax.yaxis
    low, high = min(values), max(values)
    decades = DECADES_ONLY_RATIO if name == "y" else 10 ** (axes_width_pt(ax) * LABEL_SHARE / (3 * LABEL_PT))
    if range_ratio(values) >= LOG_SCALE_RATIO:
        room = (high / low) ** (margin or 0.02)
        ax.set(**{f"{name}scale": "log", f"{name}lim": (low / room, high * room)})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if range_ratio(values) < decades else (1,)))
        axis.set_minor_locator(NullLocator())
    elif margin and low < high < 2 * low:
        ax.set(**{f"{name}lim": (low - (high - low) * 0.6, high + (high - low) * 0.6)})
    else:
        ax.set(**{f"{name}lim": (0, high * (1 + (margin or 0.02)) or 1)})
    axis.set_major_formatter(lambda value, _: f"{value:g}")

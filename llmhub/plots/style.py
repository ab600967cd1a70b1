"""Appearance shared by all plots: titles, grids, axis scales and text fitting, without matplotlib's global state.

Text and background follow the theme in ``rcParams``. matplotlib is imported inside functions, because importing
it takes longer than most runs of the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from llmhub.formatting.numbers import range_ratio
from llmhub.formatting.text import truncate_middle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch
    from matplotlib.text import Text

    from llmhub.formatting.palette import SeriesStyle

WIDTH_IN: Final = 8.5
"""Width of a new figure in inches."""
TOP_IN: Final = 0.75
RIGHT_IN: Final = 0.45
SUBTITLE_PT: Final = (9.0, 8.0, 7.0)
"""Font sizes to try for a subtitle that is too wide."""
LOG_SCALE_RATIO: Final = 20.0
"""Ratio of the largest to the smallest value from which on an axis is logarithmic."""
DECADES_ONLY_RATIO: Final = 2000.0
"""Ratio from which on a logarithmic y axis has ticks at powers of ten only."""
LABEL_SHARE: Final = 0.55
"""Share of the width of an x axis that is available for tick labels."""
LABEL_PT: Final = 30.0
"""Width of a tick label of an x axis in points."""
HATCH_FADE: Final = 0.8
LOG_NOTE: Final = "logarithmic"
"""Added to the label of a logarithmic axis."""
Color: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class ThemeColors:
    """Colours of everything but data, from the current theme."""

    text: Color
    muted: Color
    faint: Color
    background: Color


def theme_colors(ax: Axes) -> ThemeColors:
    """Return the colours of the current theme."""
    from matplotlib import rcParams  # noqa: PLC0415 - matplotlib is imported only to plot
    from matplotlib.colors import to_rgb  # noqa: PLC0415 - see above

    text, background = to_rgb(rcParams["text.color"]), to_rgb(ax.get_facecolor())
    return ThemeColors(text, blend(text, background, 0.42), blend(text, background, 0.88), background)


def blend(color: str | Color, other: str | Color, share: float) -> Color:
    """Mix ``share`` of ``other`` into ``color``.

    Examples
    --------
    >>> blend("black", "white", 0.5)
    (0.5, 0.5, 0.5)
    """
    from matplotlib.colors import to_rgb  # noqa: PLC0415 - matplotlib is imported only to plot

    red, green, blue = (a + (b - a) * share for a, b in zip(to_rgb(color), to_rgb(other), strict=True))
    return red, green, blue


def ensure_axes(ax: Axes | None, height_in: float, *, left_in: float = 0.4, bottom_in: float = 0.6) -> Axes:
    """Return ``ax``, or the axes of a new figure with a plotting area ``height_in`` inches high."""
    if ax is not None:
        return ax
    from llmhub.plots.figure import PlotAxes, new_figure  # noqa: PLC0415 - matplotlib is imported only to plot

    figure_height_in = TOP_IN + height_in + bottom_in
    figure = new_figure(WIDTH_IN, figure_height_in)
    width = 1 - (left_in + RIGHT_IN) / WIDTH_IN
    position = (left_in / WIDTH_IN, bottom_in / figure_height_in, width, height_in / figure_height_in)
    return figure.add_axes(position, axes_class=PlotAxes)


def style_axes(
    ax: Axes, title: str, subtitle: str, *, grid: Literal["both", "x", "y"] = "both", simulated: bool = False
) -> ThemeColors:
    """Set title and subtitle, draw a light grid, and hide the frame. Return the colours of the theme.

    The title of ``simulated`` results says so.
    """
    colors = theme_colors(ax)
    if simulated:
        head, colon, tail = title.partition(":")
        title = f"{head} (simulated){colon}{tail}"
    ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=colors.text, pad=22, parse_math=False)
    text = ax.annotate(
        subtitle,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 8),
        textcoords="offset points",
        color=colors.muted,
        annotation_clip=False,
        parse_math=False,
    )
    _fit_subtitle(ax, text)
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(visible=True, axis=grid, color=colors.faint, linewidth=0.8)
    ax.tick_params(which="both", length=0, labelsize=8.5, labelcolor=colors.muted)
    return colors


def draw_hatch(patch: Patch, style: SeriesStyle, colors: ThemeColors) -> None:
    """Hatch a filled area, if its model shares the colour of another."""
    if style.hatch:
        patch.set(hatch=style.hatch, edgecolor=blend(style.color, colors.background, HATCH_FADE))


def draw_message(ax: Axes | None, title: str, text: str) -> Axes:
    """Draw a text instead of data, such as the reason why there is nothing to plot."""
    ax = ensure_axes(ax, 1.6)
    colors = style_axes(ax, title, "")
    ax.grid(visible=False)
    ax.set(xticks=[], yticks=[])
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=11, color=colors.muted)
    return ax


def fit_text(ax: Axes, text: Text, share: float) -> None:
    """Truncate a text in the middle until it is at most ``share`` of the axes wide."""
    available = ax.get_window_extent().width * share
    full = text.get_text()
    length = len(full)
    while length > 1 and (width := text.get_window_extent().width) > available:
        length = min(length - 1, int(len(text.get_text()) * available / width))
        text.set_text(truncate_middle(full, length))


def _fit_subtitle(ax: Axes, text: Text) -> None:
    """Reduce the font size of a subtitle that is too wide, then drop its first clauses, which matter least."""
    available = ax.get_window_extent().width
    for size in SUBTITLE_PT:
        text.set_fontsize(size)
        if text.get_window_extent().width <= available:
            return
    while "; " in text.get_text() and text.get_window_extent().width > available:
        text.set_text(text.get_text().partition("; ")[2])
    fit_text(ax, text, 1.0)


def narrow_axes(ax: Axes, share: float) -> None:
    """Reduce the width of an axes to ``share`` of it, keeping its left edge."""
    box = ax.get_position()
    ax.set_position((box.x0, box.y0, box.width * share, box.height))


def axes_width_pt(ax: Axes) -> float:
    """Return the width of an axes in points."""
    return ax.get_window_extent().width / ax.figure.dpi * 72


def axes_height_pt(ax: Axes) -> float:
    """Return the height of an axes in points."""
    return ax.get_window_extent().height / ax.figure.dpi * 72


def set_axis_scale(ax: Axes, name: Literal["x", "y"], values: Sequence[float], margin: float = 0.0) -> None:
    """Set scale and limits of an axis to fit ``values``.

    The axis is logarithmic if the values span a ratio of 20 or more, cut off below if they are close to each other
    and there is a margin, and starts at zero otherwise. The label of a logarithmic axis says so.
    """
    from matplotlib.ticker import LogLocator, NullLocator  # noqa: PLC0415 - matplotlib is imported only to plot

    axis = ax.xaxis if name == "x" else ax.yaxis
    low, high = min(values), max(values)
    decades_only = DECADES_ONLY_RATIO if name == "y" else 10 ** (axes_width_pt(ax) * LABEL_SHARE / (3 * LABEL_PT))
    if range_ratio(values) >= LOG_SCALE_RATIO:
        padding = (high / low) ** (margin or 0.02)
        ax.set(**{f"{name}scale": "log", f"{name}lim": (low / padding, high * padding)})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if range_ratio(values) < decades_only else (1,)))
        axis.set_minor_locator(NullLocator())
    elif margin and low < high < 2 * low:
        ax.set(**{f"{name}lim": (low - (high - low) * 0.6, high + (high - low) * 0.6)})
    else:
        ax.set(**{f"{name}lim": (0, high * (1 + (margin or 0.02)) or 1)})
    if axis.get_scale() == "log" and (label := axis.get_label_text()):
        axis.set_label_text(f"{label}, {LOG_NOTE}")
    axis.set_major_formatter(lambda value, _: f"{value:g}")

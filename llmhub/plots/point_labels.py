"""Labels of points in a scatter plot: beside their points if there is space, otherwise in a column with leader lines.

Positions and sizes are in points (1/72 inch) from the lower left corner of the axes. Text widths are estimated from the
number of characters, because measuring them takes a renderer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from llmhub.formatting.palette import SeriesStyle
from llmhub.formatting.text import truncate_middle
from llmhub.plots.style import axes_height_pt, axes_width_pt, blend, narrow_axes, theme_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point: TypeAlias = tuple[float, float]
LabelAnchor: TypeAlias = tuple[float, float, Literal["left", "center", "right"]]
"""Offset of a label from its point, and the horizontal alignment of the label."""
Box: TypeAlias = tuple[float, float, float, float]
"""Left, bottom, right, top."""

FONT_PT: Final = 8.5
LINE_PT: Final = 11.5
"""Height of a label."""
GLYPH_WIDTH: Final = 0.6
"""Width of a character as a share of the font size; model names are slightly narrower on average."""
MARKER_RADIUS_PT: Final = 5
LINE_BOX_PT: Final = 2
"""Half the size of the boxes that cover a line."""
ANCHORS: Final[Sequence[LabelAnchor]] = (
    (9.0, 0.0, "left"),
    (-9.0, 0.0, "right"),
    (0.0, 13.0, "center"),
    (0.0, -13.0, "center"),
    (5.0, 12.0, "left"),
    (5.0, -12.0, "left"),
    (-5.0, 12.0, "right"),
    (-5.0, -12.0, "right"),
)
"""Possible places of a label, best first."""
MAX_NAME_CHARS: Final = 54
MAX_COLUMN_SHARE: Final = 0.5
"""Largest share of the width of the axes that a column of labels takes."""


def place_labels(
    ax: Axes, points: Sequence[Point], names: Sequence[tuple[str, SeriesStyle]], line: Sequence[Point] = ()
) -> None:
    """Label points with names that overlap neither each other nor the points nor a line.

    Parameters
    ----------
    ax
        Axes with their final limits and scales.
    points
        Data coordinates.
    names
        Name and style of each point.
    line
        Corners of a line to keep free, in data coordinates.
    """
    texts = [truncate_middle(name, MAX_NAME_CHARS) for name, _ in names]
    positions = [_position_pt(ax, point) for point in points]
    radius = MARKER_RADIUS_PT
    taken: list[Box] = [(x - radius, y - radius, x + radius, y + radius) for x, y in positions]
    taken += _line_boxes([_position_pt(ax, point) for point in line])
    anchors = _place_beside(positions, texts, taken, (0, 0, axes_width_pt(ax), axes_height_pt(ax)))
    if anchors is None:
        _draw_column(ax, points, texts, [style for _, style in names])
        return
    for point, text, (dx, dy, align) in zip(points, texts, anchors, strict=True):
        label = ax.annotate(text, point, xytext=(dx, dy), textcoords="offset points", ha=align, va="center")
        label.set(fontsize=FONT_PT, color=theme_colors(ax).text, annotation_clip=False, parse_math=False)


def _position_pt(ax: Axes, point: Point) -> Point:
    """Convert data coordinates to points from the lower left corner of the axes."""
    corner, scale = ax.get_window_extent(), 72 / ax.figure.dpi
    x, y = ax.transData.transform(point)
    return (float(x) - corner.x0) * scale, (float(y) - corner.y0) * scale


def _line_boxes(corners: Sequence[Point]) -> list[Box]:
    """Return small boxes that cover a line."""
    half = LINE_BOX_PT
    boxes: list[Box] = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        steps = int(max(abs(x1 - x0), abs(y1 - y0)) // 6) + 1
        for step in range(steps + 1):
            x, y = x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps
            boxes.append((x - half, y - half, x + half, y + half))
    return boxes


def _place_beside(
    positions: Sequence[Point], texts: Sequence[str], taken: list[Box], bounds: Box
) -> list[LabelAnchor] | None:
    """Return a free anchor for every label, or ``None`` if one of them has none."""
    anchors: list[LabelAnchor] = []
    for (x, y), text in zip(positions, texts, strict=True):
        width = len(text) * FONT_PT * GLYPH_WIDTH
        for dx, dy, align in ANCHORS:
            left = x + dx - width * {"left": 0.0, "center": 0.5, "right": 1.0}[align]
            box = (left, y + dy - LINE_PT / 2, left + width, y + dy + LINE_PT / 2)
            if _inside(box, bounds) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                anchors.append((dx, dy, align))
                break
        else:
            return None
    return anchors


def _inside(box: Box, bounds: Box) -> bool:
    return box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_column(ax: Axes, points: Sequence[Point], texts: Sequence[str], styles: Sequence[SeriesStyle]) -> None:
    """Narrow the axes, and list the labels at its right in the vertical order of their points, with leader lines."""
    height = axes_height_pt(ax)
    font_pt = min(FONT_PT, height / len(texts) * 0.7)
    max_chars = int(axes_width_pt(ax) * MAX_COLUMN_SHARE / (font_pt * GLYPH_WIDTH))
    column_pt = min(max(map(len, texts)), max_chars) * font_pt * GLYPH_WIDTH + 28
    narrow_axes(ax, 1 - column_pt / axes_width_pt(ax))
    colors, width = theme_colors(ax), axes_width_pt(ax)
    positions = [_position_pt(ax, point) for point in points]
    order = sorted(range(len(texts)), key=lambda index: (-positions[index][1], positions[index][0]))
    label_heights = _spread_apart([positions[index][1] for index in order], font_pt * 1.4, height)
    for index, label_height in zip(order, label_heights, strict=True):
        marker, text = (1 + 14 / width, label_height / height), (1 + 22 / width, label_height / height)
        line = {"arrowstyle": "-", "color": blend(colors.muted, colors.background, 0.4), "linewidth": 0.6, "shrinkB": 5}
        leader = ax.annotate("", points[index], xytext=marker, textcoords="axes fraction", arrowprops=line)
        leader.set(annotation_clip=False, zorder=1)
        style = styles[index]
        mark = ax.plot(*marker, style.marker, color=style.color, transform=ax.transAxes, label="_sign")
        mark[0].set(clip_on=False, markersize=5)
        label = ax.annotate(truncate_middle(texts[index], max_chars), text, xycoords="axes fraction", va="center")
        label.set(fontsize=font_pt, color=colors.text, annotation_clip=False, parse_math=False)


def _spread_apart(heights: Sequence[float], step: float, limit: float) -> list[float]:
    """Move descending heights apart to a distance of at least ``step``, as little as possible, between 0 and ``limit``.

    Examples
    --------
    >>> _spread_apart([50, 50, 10], 10, 100)
    [55.0, 45.0, 10.0]
    """
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while (
            len(groups) > 1 and _mean(groups[-2]) - _mean(groups[-1]) < step * (len(groups[-2]) + len(groups[-1])) / 2
        ):
            last = groups.pop()
            groups[-1] += last
    spread = [_mean(group) + step * ((len(group) - 1) / 2 - index) for group in groups for index in range(len(group))]
    excess = max(0.0, max(spread) - (limit - step / 2))
    lowered = [height - excess for height in spread]
    floor = step / 2
    for index in range(len(lowered) - 1, -1, -1):
        lowered[index] = max(lowered[index], floor)
        floor = lowered[index] + step
    return lowered


def _mean(group: Sequence[float]) -> float:
    return sum(group) / len(group)

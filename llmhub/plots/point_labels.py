"""Names beside points: each where there is room, or else all in a column at the right with lines to them."""

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
Box: TypeAlias = tuple[float, float, float, float]
"""Left, bottom, right and top in points of the axes."""
SIZE_PT: Final = 8.5
LINE_PT: Final = 11.5
GLYPH_WIDTH: Final = 0.6
"""Width of a character in font sizes: a little more than names take on average."""
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
"""Where a name may stand, from the best: offsets from its point in points, and which of its ends is there."""
MAX_NAME_CHARS: Final = 54
"""Characters of a name."""
MAX_COLUMN_SHARE: Final = 0.5
"""Share of the axes' width that a column of names may take."""


def place_labels(
    ax: Axes, points: Sequence[Point], names: Sequence[tuple[str, SeriesStyle]], line: Sequence[Point] = ()
) -> None:
    """Write each name beside its point and off the line; limits and scales of the axes must be final."""
    texts = [truncate_middle(name, MAX_NAME_CHARS) for name, _ in names]
    spots = [_position_pt(ax, point) for point in points]
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    taken += _line_boxes([_position_pt(ax, point) for point in line])
    sides = _place_beside(spots, texts, taken, (0, 0, axes_width_pt(ax), axes_height_pt(ax)))
    if sides is None:
        _draw_column(ax, points, texts, [look for _, look in names])
        return
    for point, text, (across, up, side) in zip(points, texts, sides, strict=True):
        label = ax.annotate(text, point, xytext=(across, up), textcoords="offset points", ha=side, va="center")
        label.set(fontsize=SIZE_PT, color=theme_colors(ax).text, annotation_clip=False, parse_math=False)


def _position_pt(ax: Axes, point: Point) -> Point:
    """Say where a point lies, in points from the axes' lower left corner."""
    corner, scale = ax.get_window_extent(), 72 / ax.figure.dpi
    x, y = ax.transData.transform(point)
    return (float(x) - corner.x0) * scale, (float(y) - corner.y0) * scale


def _line_boxes(corners: Sequence[Point]) -> list[Box]:
    """Cover a line with small boxes."""
    boxes: list[Box] = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        count = int(max(abs(x1 - x0), abs(y1 - y0)) // 6) + 1
        for at in range(count + 1):
            x, y = x0 + (x1 - x0) * at / count, y0 + (y1 - y0) * at / count
            boxes.append((x - 2, y - 2, x + 2, y + 2))
    return boxes


def _place_beside(
    spots: Sequence[Point], texts: Sequence[str], taken: list[Box], room: Box
) -> list[LabelAnchor] | None:
    """Find each name a place beside its point that nothing else takes; ``None`` if one has none."""
    found: list[LabelAnchor] = []
    for (x, y), text in zip(spots, texts, strict=True):
        for across, up, side in ANCHORS:
            wide = len(text) * SIZE_PT * GLYPH_WIDTH
            left = x + across - wide * {"left": 0.0, "center": 0.5, "right": 1.0}[side]
            box = (left, y + up - LINE_PT / 2, left + wide, y + up + LINE_PT / 2)
            if _inside(box, room) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                found.append((across, up, side))
                break
        else:
            return None
    return found


def _inside(box: Box, room: Box) -> bool:
    return box[0] >= room[0] and box[1] >= room[1] and box[2] <= room[2] and box[3] <= room[3]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_column(ax: Axes, points: Sequence[Point], texts: Sequence[str], looks: Sequence[SeriesStyle]) -> None:
    """Make room at the right and write the names there, from top to bottom as the points lie."""
    high = axes_height_pt(ax)
    size = min(SIZE_PT, high / len(texts) * 0.7)
    most = int(axes_width_pt(ax) * MAX_COLUMN_SHARE / (size * GLYPH_WIDTH))
    narrow_axes(
        ax, 1 - min(max(map(len, texts)), most) * size * GLYPH_WIDTH / axes_width_pt(ax) - 28 / axes_width_pt(ax)
    )
    ink, wide = theme_colors(ax), axes_width_pt(ax)
    order = sorted(
        range(len(texts)), key=lambda at: (-_position_pt(ax, points[at])[1], _position_pt(ax, points[at])[0])
    )
    for at, height in zip(
        order, _spread_apart([_position_pt(ax, points[at])[1] for at in order], size * 1.4, high), strict=True
    ):
        sign, text = (1 + 14 / wide, height / high), (1 + 22 / wide, height / high)
        thin = {"arrowstyle": "-", "color": blend(ink.muted, ink.background, 0.4), "linewidth": 0.6, "shrinkB": 5}
        leader = ax.annotate("", points[at], xytext=sign, textcoords="axes fraction", arrowprops=thin)
        leader.set(annotation_clip=False, zorder=1)
        mark = ax.plot(*sign, looks[at].marker, color=looks[at].color, transform=ax.transAxes, label="_sign")
        mark[0].set(clip_on=False, markersize=5)
        label = ax.annotate(truncate_middle(texts[at], most), text, xycoords="axes fraction", va="center")
        label.set(fontsize=size, color=ink.text, annotation_clip=False, parse_math=False)


def _spread_apart(heights: Sequence[float], step: float, room: float) -> list[float]:
    """Move falling heights apart by at least ``step``, as little as needed, within the room.

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
    spread = [_mean(group) + step * ((len(group) - 1) / 2 - at) for group in groups for at in range(len(group))]
    over = max(0.0, max(spread) - (room - step / 2))
    low = [height - over for height in spread]
    floor = step / 2
    for at in range(len(low) - 1, -1, -1):
        low[at] = max(low[at], floor)
        floor = low[at] + step
    return low


def _mean(group: Sequence[float]) -> float:
    return sum(group) / len(group)

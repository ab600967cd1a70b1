"""A comparison as a forest plot: each model's score, and each pair's difference, with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llmhub.evals import report
from llmhub.formatting.palette import SeriesStyle, series_style
from llmhub.formatting.text import truncate_middle
from llmhub.plots.style import RIGHT_IN, TOP_IN, WIDTH_IN, ThemeColors, draw_message, style_axes, theme_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmhub.evals.comparison import Comparison


LINE_IN: Final = 0.36


BETWEEN_IN: Final = 1.25


FOOT_IN: Final = 0.55


GLYPH_IN: Final = 0.068
"""Width of a character of a name."""


MAX_NAME_CHARS: Final = 44


MAX_PAIRS_DRAWN: Final = 21


@dataclass(frozen=True, slots=True)
class _ForestRow:
    """One line of a forest: a name, a value with its interval, how it is drawn, and what is written beside it."""

    name: str
    value: float
    low: float | None
    high: float | None
    look: SeriesStyle
    beside: str
    strong: bool = True


def forest_plot(comparison: Comparison, scorer: str, ax: Axes | None = None) -> Axes:
    """Draw each model's score by one scorer, the best first, and below it each pair's difference.

    On axes that are given, scores alone are drawn. Hollow points are pairs that the rows cannot tell apart.

    Returns
    -------
    matplotlib.axes.Axes
        The axes of the scores; its figure holds the differences too.
    """
    scores, pairs = _scores(comparison, scorer), _differences(comparison, scorer)
    title = f"Score by {scorer}"
    if not scores:
        return draw_message(ax, title, f"No answer has a score by {scorer}")
    write = report.score_formatter(report.score_unit(comparison, scorer))
    top, below = (ax, None) if ax is not None else _room(scores, pairs)
    rows = max(row["rows"] for row in comparison.ranked(scorer))
    level = f"{comparison.design.settings.level:.0%}"
    ink = style_axes(top, title, f"{rows:,} rows; lines are {level} intervals", grid="x")
    _draw(top, scores, write, ink)
    if below is not None:
        more = len(comparison.pairs_of(scorer)) - len(pairs)
        rest = f"{more} further pairs in .pairs; " if more else ""
        ink = style_axes(below, "Difference by pair", f"{rest}hollow: these rows cannot tell the two apart", grid="x")
        below.axvline(0, color=ink.muted, linewidth=1, linestyle=(0, (3, 2)), zorder=1)
        _draw(below, pairs, report.signed_formatter(write), ink, (0.0,))
    return top


def _scores(comparison: Comparison, scorer: str) -> list[_ForestRow]:
    place = {name: at for at, name in enumerate(comparison.design.models)}
    write = report.score_formatter(report.score_unit(comparison, scorer))
    return [
        _ForestRow(
            row["model"], row["value"], row["low"], row["high"], series_style(place[row["model"]]), write(row["value"])
        )
        for row in comparison.ranked(scorer)
        if row["value"] is not None
    ]


def _differences(comparison: Comparison, scorer: str) -> list[_ForestRow]:
    place = {name: at for at, name in enumerate(comparison.design.models)}
    brief = _brief(comparison.design.models)
    write = report.signed_formatter(report.score_formatter(report.score_unit(comparison, scorer)))
    found = []
    for pair in comparison.pairs_of(scorer)[:MAX_PAIRS_DRAWN]:
        if pair["difference"] is None:
            continue
        # The better first, so that every line points the same way.
        turned = pair["difference"] < 0
        ahead, behind = (pair["right"], pair["left"]) if turned else (pair["left"], pair["right"])
        sign = -1.0 if turned else 1.0
        ends = [
            None if pair[end] is None else sign * pair[end] for end in (("high", "low") if turned else ("low", "high"))
        ]
        name = f"{brief[ahead]} \u2212 {brief[behind]}"
        beside = f"{write(abs(pair['difference']))}   p {report.format_p_value(pair['p_holm'])}"
        found.append(
            _ForestRow(
                name, abs(pair["difference"]), ends[0], ends[1], series_style(place[ahead]), beside, not pair["tied"]
            )
        )
    return found


def _brief(models: Sequence[str]) -> dict[str, str]:
    """Shorten names to the model's own, where that says which it is, and to half a line."""
    own = [name.rpartition("/")[2] for name in models]
    names = own if len(set(own)) == len(own) else models
    return {name: truncate_middle(each, (MAX_NAME_CHARS - 3) // 2) for name, each in zip(models, names, strict=True)}


def _room(scores: Sequence[_ForestRow], pairs: Sequence[_ForestRow]) -> tuple[Axes, Axes | None]:
    """Make a figure with room for every line and its name."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - matplotlib is loaded by those who plot

    heights = [LINE_IN * (len(lines) + 0.4) for lines in (scores, pairs) if lines]
    whole_in = TOP_IN + sum(heights) + BETWEEN_IN * (len(heights) - 1) + FOOT_IN
    left_in = 0.35 + GLYPH_IN * max(len(truncate_middle(line.name, MAX_NAME_CHARS)) for line in (*scores, *pairs))
    figure = Figure(figsize=(WIDTH_IN, whole_in))
    across = 1 - (left_in + RIGHT_IN + 0.6) / WIDTH_IN
    made = []
    top_in = TOP_IN
    for height in heights:
        place = (left_in / WIDTH_IN, 1 - (top_in + height) / whole_in, across, height / whole_in)
        made.append(figure.add_axes(place))
        top_in += height + BETWEEN_IN
    return made[0], made[1] if len(made) > 1 else None


def _draw(
    ax: Axes, lines: Sequence[_ForestRow], write: Callable[[float], str], ink: ThemeColors, shown: Sequence[float] = ()
) -> None:
    """Draw lines from top to bottom, on an axis that shows some values in any case."""
    known = [*shown] + [end for line in lines for end in (line.value, line.low, line.high) if end is not None]
    low, high = min(known), max(known)
    room = (high - low) * 0.06 or 0.05
    for at, line in enumerate(lines):
        ends = (low - room if line.low is None else line.low, high + room if line.high is None else line.high)
        ax.plot(ends, (at, at), color=line.look.color, linewidth=2.4, alpha=0.55, solid_capstyle="round", zorder=2)
        dot = ax.plot(line.value, at, line.look.marker, color=line.look.color, markersize=7.5, zorder=3)
        dot[0].set(markerfacecolor=line.look.color if line.strong else ink.background, markeredgewidth=1.8)
        beside = ax.annotate(
            line.beside, (1, at), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points"
        )
        beside.set(va="center", fontsize=8.5, color=ink.text, annotation_clip=False)
    ax.set(xlim=(low - room, high + room), ylim=(len(lines) - 0.5, -0.6))
    ax.set_yticks(range(len(lines)), [truncate_middle(line.name, MAX_NAME_CHARS) for line in lines])
    for label in ax.get_yticklabels():
        label.set(color=theme_colors(ax).text, fontsize=9, parse_math=False)
    ax.xaxis.set_major_formatter(lambda value, _: _short(write(value)))


def _short(text: str) -> str:
    """Take zeros behind the point off an axis's number.

    Examples
    --------
    >>> _short("80.0 %"), _short("0.500")
    ('80 %', '0.5')
    """
    number, space, unit = text.partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}{space}{unit}"

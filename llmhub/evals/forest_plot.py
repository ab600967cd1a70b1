"""Forest plot of a comparison: each model's score and each pair's difference, with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llmhub.evals import report
from llmhub.formatting.palette import SeriesStyle, series_style
from llmhub.formatting.text import truncate_middle
from llmhub.plots.style import RIGHT_IN, TOP_IN, WIDTH_IN, ThemeColors, draw_message, style_axes, theme_colors
from llmhub.tables.schema import is_simulated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmhub.evals.comparison import Comparison

ROW_IN: Final = 0.36
GAP_IN: Final = 1.25
BOTTOM_IN: Final = 0.55
CHAR_IN: Final = 0.068
"""Width of a character of a model name."""
MAX_NAME_CHARS: Final = 44
MAX_PAIRS_DRAWN: Final = 21


@dataclass(frozen=True, slots=True)
class _ForestRow:
    """Row of a forest plot: its name, value and interval, style, and the text at its right."""

    name: str
    value: float
    low: float | None
    high: float | None
    style: SeriesStyle
    annotation: str
    is_filled: bool = True


def forest_plot(comparison: Comparison, scorer: str, ax: Axes | None = None) -> Axes:
    """Draw each model's score by one scorer, best first, and below it each pair's difference.

    On given axes only the scores are drawn. Hollow markers are pairs without a significant difference.

    Returns
    -------
    matplotlib.axes.Axes
        Axes of the scores; their figure holds the differences too.
    """
    scores, pairs = _score_rows(comparison, scorer), _difference_rows(comparison, scorer)
    title = f"Score by {scorer}"
    if not scores:
        return draw_message(ax, title, f"No response has a {scorer} score")
    format_value = report.score_formatter(report.score_unit(comparison, scorer))
    upper, lower = (ax, None) if ax is not None else _create_axes(scores, pairs)
    n_rows = max(row["rows"] for row in comparison.ranked(scorer))
    simulated = comparison.results is not None and is_simulated(comparison.results.schema)
    level = f"{comparison.design.settings.level:.0%}"
    theme = style_axes(
        upper, title, f"{n_rows:,} rows; lines are {level} confidence intervals", grid="x", simulated=simulated
    )
    _draw_rows(upper, scores, format_value, theme)
    if lower is not None:
        hidden = len(comparison.pairs_of(scorer)) - len(pairs)
        more = f"{hidden} more pairs in .pairs; " if hidden else ""
        theme = style_axes(lower, "Difference by pair", f"{more}hollow: not significant", grid="x")
        lower.axvline(0, color=theme.muted, linewidth=1, linestyle=(0, (3, 2)), zorder=1)
        _draw_rows(lower, pairs, report.signed_formatter(format_value), theme, (0.0,))
    return upper


def _style_by_model(comparison: Comparison) -> dict[str, SeriesStyle]:
    return {name: series_style(index) for index, name in enumerate(comparison.design.models)}


def _score_rows(comparison: Comparison, scorer: str) -> list[_ForestRow]:
    styles = _style_by_model(comparison)
    format_value = report.score_formatter(report.score_unit(comparison, scorer))
    return [
        _ForestRow(
            row["model"], row["value"], row["low"], row["high"], styles[row["model"]], format_value(row["value"])
        )
        for row in comparison.ranked(scorer)
        if row["value"] is not None
    ]


def _difference_rows(comparison: Comparison, scorer: str) -> list[_ForestRow]:
    styles = _style_by_model(comparison)
    names = _short_names(comparison.design.models)
    format_value = report.signed_formatter(report.score_formatter(report.score_unit(comparison, scorer)))
    rows = []
    for pair in map(report.with_simultaneous_interval, comparison.pairs_of(scorer)[:MAX_PAIRS_DRAWN]):
        if pair["difference"] is None:
            continue
        # The better model comes first, so that every difference is positive.
        better, worse, low, high = pair["left"], pair["right"], pair["low"], pair["high"]
        if pair["difference"] < 0:
            better, worse = worse, better
            low, high = (None if end is None else -end for end in (high, low))
        difference = abs(pair["difference"])
        name = f"{names[better]} {report.MINUS} {names[worse]}"
        annotation = f"{format_value(difference)}   p {report.format_p_value(pair['p_holm'])}"
        rows.append(_ForestRow(name, difference, low, high, styles[better], annotation, bool(pair["significant"])))
    return rows


def _short_names(models: Sequence[str]) -> dict[str, str]:
    """Shorten names: without the provider if that is unambiguous, and to half a row."""
    own = [name.rpartition("/")[2] for name in models]
    names = own if len(set(own)) == len(own) else models
    return {name: truncate_middle(short, (MAX_NAME_CHARS - 3) // 2) for name, short in zip(models, names, strict=True)}


def _create_axes(scores: Sequence[_ForestRow], pairs: Sequence[_ForestRow]) -> tuple[Axes, Axes | None]:
    """Create a figure with room for every row and its name."""
    from llmhub.plots.figure import PlotAxes, new_figure  # noqa: PLC0415 - matplotlib is loaded on plotting

    heights = [ROW_IN * (len(rows) + 0.4) for rows in (scores, pairs) if rows]
    figure_in = TOP_IN + sum(heights) + GAP_IN * (len(heights) - 1) + BOTTOM_IN
    left_in = 0.35 + CHAR_IN * max(len(truncate_middle(row.name, MAX_NAME_CHARS)) for row in (*scores, *pairs))
    figure = new_figure(WIDTH_IN, figure_in)
    width = 1 - (left_in + RIGHT_IN + 0.6) / WIDTH_IN
    axes = []
    top_in = TOP_IN
    for height in heights:
        bounds = (left_in / WIDTH_IN, 1 - (top_in + height) / figure_in, width, height / figure_in)
        axes.append(figure.add_axes(bounds, axes_class=PlotAxes))
        top_in += height + GAP_IN
    return axes[0], axes[1] if len(axes) > 1 else None


def _draw_rows(
    ax: Axes,
    rows: Sequence[_ForestRow],
    format_value: Callable[[float], str],
    theme: ThemeColors,
    visible: Sequence[float] = (),
) -> None:
    """Draw rows from top to bottom. The axis holds all intervals and the values in ``visible``."""
    values = [*visible] + [end for row in rows for end in (row.value, row.low, row.high) if end is not None]
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or 0.05
    for y, row in enumerate(rows):
        ends = (low - margin if row.low is None else row.low, high + margin if row.high is None else row.high)
        color = row.style.color
        ax.plot(ends, (y, y), color=color, linewidth=2.4, alpha=0.55, solid_capstyle="round", zorder=2)
        marker = ax.plot(row.value, y, row.style.marker, color=color, markersize=7.5, zorder=3)
        marker[0].set(markerfacecolor=color if row.is_filled else theme.background, markeredgewidth=1.8)
        annotation = ax.annotate(
            row.annotation, (1, y), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points"
        )
        annotation.set(va="center", fontsize=8.5, color=theme.text, annotation_clip=False, parse_math=False)
    ax.set(xlim=(low - margin, high + margin), ylim=(len(rows) - 0.5, -0.6))
    ax.set_yticks(range(len(rows)), [truncate_middle(row.name, MAX_NAME_CHARS) for row in rows])
    for label in ax.get_yticklabels():
        label.set(color=theme_colors(ax).text, fontsize=9, parse_math=False)
    ax.xaxis.set_major_formatter(lambda value, _: _strip_trailing_zeros(format_value(value)))


def _strip_trailing_zeros(text: str) -> str:
    """Remove trailing zeros from the number of a tick label.

    Examples
    --------
    >>> _strip_trailing_zeros("80.0 %"), _strip_trailing_zeros("0.500")
    ('80 %', '0.5')
    """
    number, space, unit = text.partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}{space}{unit}"

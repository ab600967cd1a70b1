"""A board of bars: a line for each model, its name and value above its bar, so that no name is too long.

What models cost and what they use: boards of bars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llmhub.plots.style import axes_height_pt, axes_width_pt, blend, ensure_axes, fit_text, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmhub.formatting.numbers import format_count, format_count_tick, format_usd, format_usd_tick
from llmhub.formatting.palette import SeriesStyle, series_style
from llmhub.plots.model_summary import DataFrameLike, ModelSummary, count_summary, no_data_message, summarize_models
from llmhub.plots.style import draw_message

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes


ROW_HEIGHT_IN: Final = 0.52
"""Height of a line in a figure of our own."""
MAX_FONT_PT: Final = 9.5
MIN_FONT_PT: Final = 4.0
BAR_HEIGHT: Final = 0.4
"""Thickness of a bar, in lines."""


@dataclass(frozen=True, slots=True)
class BarSegment:
    """A piece of a line's bar; ``fade`` mixes in the background, below zero the text's colour."""

    start: float
    width: float
    color: str
    fade: float = 0.0


@dataclass(frozen=True, slots=True)
class BarRow:
    """A model's line: its name, what is said at the right, and its bar's pieces, drawn in order."""

    name: str
    value: str
    segments: Sequence[BarSegment]


def draw_bars(lines: Sequence[BarRow], ax: Axes | None, *, title: str, subtitle: str, unit: str) -> Axes:
    """Draw the lines from top to bottom."""
    ax = ensure_axes(ax, ROW_HEIGHT_IN * len(lines) + 0.1)
    ax.set_ylim(len(lines) - 0.05, -0.12)
    ax.set_yticks([])
    longest = max((bar.start + bar.width for line in lines for bar in line.segments), default=0.0)
    ax.set_xlim(0, longest * 1.02 or 1.0)
    ink = style_axes(ax, title, subtitle, grid="x")
    ax.set_xlabel(unit, fontsize=9, color=ink.muted)
    size = min(MAX_FONT_PT, max(MIN_FONT_PT, axes_height_pt(ax) / len(lines) * 0.26))
    words: dict[str, Any] = {
        "transform": ax.get_yaxis_transform(),
        "va": "bottom",
        "fontsize": size,
        "parse_math": False,
    }
    patch = {"facecolor": ink.background, "edgecolor": "none", "pad": 1.0}
    for at, line in enumerate(lines):
        value = ax.text(1, at + 0.36, line.value, ha="right", color=ink.muted, bbox=patch, **words)
        taken = value.get_window_extent().width / ax.get_window_extent().width
        name = ax.text(0, at + 0.36, line.name, color=ink.text, bbox=patch, **words)
        fit_text(ax, name, max(0.97 - taken, 0.2))
        for bar in line.segments:
            colour = blend(bar.color, ink.background if bar.fade > 0 else ink.text, abs(bar.fade))
            ax.barh(at + 0.62, bar.width, BAR_HEIGHT, bar.start, color=colour, linewidth=0, label=line.name)
    if not longest:
        ax.set_xticks([])
    elif axes_width_pt(ax) < 260:  # noqa: PLR2004 - room for few numbers
        ax.locator_params(axis="x", nbins=3)
    return ax


LIST_PRICE_FADE: Final = 0.66
"""How far the bar of what the answers are worth fades behind that of what was paid."""
TOKEN_FADES: Final[Mapping[str, float]] = {"cached input": 0.8, "input": 0.55, "output": 0.0, "reasoning": -0.45}
"""The shade of each class of tokens: towards the background, or below zero towards the text's colour."""


def cost_by_model(table: pa.Table | DataFrameLike, ax: Axes | None = None) -> Axes:
    """Draw what each model cost: paid now, before what its answers are worth without the cache.

    A price that is not known is said, not drawn as nothing.

    Parameters
    ----------
    table
        Results, with the columns of the result schema.
    ax
        Where to draw; a new figure's axes where it is left out.

    Raises
    ------
    ValueError
        A column of the result schema is not there.
    """
    tallies = summarize_models(table)
    if want := no_data_message(tallies):
        return draw_message(ax, "Cost by model", want)
    order = sorted(enumerate(tallies), key=lambda item: (-item[1].list_usd, not item[1].priced, item[0]))
    lines = [BarRow(each.name, _cost_label(each), _cost_segments(each, series_style(place))) for place, each in order]
    paid, worth = sum(each.billed_usd for each in tallies), sum(each.list_usd for each in tallies)
    saved = worth > paid
    title = f"Cost by model: {format_usd(paid)} paid" + (f", {format_usd(worth)} worth" if saved else "")
    ax = draw_bars(
        lines,
        ax,
        title=title if any(each.priced for each in tallies) else "Cost by model: no price is known",
        subtitle=count_summary(tallies) + ("; light: what the cache saved" if saved else ""),
        unit="US dollars",
    )
    ax.xaxis.set_major_formatter(lambda value, _: format_usd_tick(value))
    return ax


def tokens_by_model(table: pa.Table | DataFrameLike, ax: Axes | None = None) -> Axes:
    """Draw the tokens of each model's answers: input and how much was cached, output and how much was reasoning.

    Parameters and errors are those of `cost_by_model`.
    """
    tallies = summarize_models(table)
    if want := no_data_message(tallies):
        return draw_message(ax, "Tokens by model", want)
    order = sorted(enumerate(tallies), key=lambda item: (-sum(_token_classes(item[1]).values()), item[0]))
    lines = [BarRow(each.name, _token_label(each), _token_segments(each, series_style(place))) for place, each in order]
    present = [name for name in TOKEN_FADES if any(_token_classes(each)[name] for each in tallies)]
    shades = f"; from light to dark: {', '.join(present)}" if len(present) > 1 else ""
    ax = draw_bars(lines, ax, title="Tokens by model", subtitle=count_summary(tallies) + shades, unit="tokens")
    ax.xaxis.set_major_formatter(lambda value, _: format_count_tick(value))
    return ax


def _cost_label(each: ModelSummary) -> str:
    """Say what a model cost, and of how many answers that is not known."""
    if not each.answered:
        return f"no answer, {each.failed:,} failed" if each.failed else "nothing sent"
    if not each.priced:
        return "price unknown"
    text = format_usd(each.billed_usd) + (
        f" paid, {format_usd(each.list_usd)} worth" if each.list_usd > each.billed_usd else ""
    )
    unknown = each.answered - each.priced
    return text + (f"; {unknown:,} of unknown price" if unknown else "")


def _cost_segments(each: ModelSummary, look: SeriesStyle) -> list[BarSegment]:
    """Put what was paid before what it is worth."""
    bars = [BarSegment(0, each.list_usd, look.color, LIST_PRICE_FADE), BarSegment(0, each.billed_usd, look.color)]
    return [bar for bar in bars if bar.width]


def _token_classes(each: ModelSummary) -> Mapping[str, int]:
    """Take the token counts apart into classes that do not overlap."""
    count = each.tokens
    return {
        "cached input": count["cached_input_tokens"],
        "input": max(count["input_tokens"] - count["cached_input_tokens"], 0),
        "output": max(count["output_tokens"] - count["reasoning_tokens"], 0),
        "reasoning": count["reasoning_tokens"],
    }


def _token_label(each: ModelSummary) -> str:
    """Say how many tokens went in and came out."""
    if not each.answered:
        return f"no answer, {each.failed:,} failed" if each.failed else "nothing sent"
    if not each.with_usage:
        return "not counted by the provider"
    unknown = each.answered - each.with_usage
    text = f"{format_count(each.tokens['input_tokens'])} in, {format_count(each.tokens['output_tokens'])} out"
    return text + (f"; {unknown:,} not counted" if unknown else "")


def _token_segments(each: ModelSummary, look: SeriesStyle) -> list[BarSegment]:
    """Put the classes side by side."""
    bars: list[BarSegment] = []
    start = 0
    for name, count in _token_classes(each).items():
        if count:
            bars.append(BarSegment(start, count, look.color, TOKEN_FADES[name]))
        start += count
    return bars

"""Bar charts by model: cost and tokens.

A model's name stands above its bar and not beside it, so that long names fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llmhub.formatting.numbers import format_count, format_count_tick, format_usd, format_usd_tick
from llmhub.formatting.palette import SeriesStyle, series_style
from llmhub.plots.model_summary import (
    DataFrameLike,
    ModelSummary,
    count_summary,
    is_simulated,
    list_price_hint,
    no_data_message,
    summarize_models,
)
from llmhub.plots.style import (
    axes_height_pt,
    axes_width_pt,
    blend,
    draw_hatch,
    draw_message,
    ensure_axes,
    fit_text,
    style_axes,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes

ROW_HEIGHT_IN: Final = 0.52
"""Height of a row in a new figure."""
MAX_FONT_PT: Final = 9.5
MIN_FONT_PT: Final = 4.0
BAR_HEIGHT: Final = 0.4
"""Height of a bar as a share of its row."""
NARROW_PT: Final = 260
"""Width below which the x axis gets fewer ticks."""
NO_PRICE_TITLE: Final = "Cost by model: no price is known"
ALL_CACHED: Final = "answered from the cache"
"""Cost of answers that cost nothing, and whose list price is not among the results."""
LIST_PRICE_FADE: Final = 0.66
"""Fade of the bar of list prices behind the bar of billed costs."""
TOKEN_FADES: Final[Mapping[str, float]] = {"cached input": 0.8, "input": 0.55, "output": 0.0, "reasoning": -0.45}
"""Fade of each class of tokens (see `BarSegment`)."""


@dataclass(frozen=True, slots=True)
class BarSegment:
    """Segment of a bar. ``fade`` is the share of the background mixed in; of the text colour if negative."""

    start: float
    width: float
    color: str
    fade: float = 0.0


@dataclass(frozen=True, slots=True)
class BarRow:
    """Row of one model: its name on the left, a value on the right, and segments drawn in order."""

    name: str
    value: str
    segments: Sequence[BarSegment]
    style: SeriesStyle


def cost_by_model(table: pa.Table | DataFrameLike, ax: Axes | None = None) -> Axes:
    """Plot the billed cost of each model, in front of its cost at list prices without the cache.

    An unknown price is written out, not drawn as zero.

    Parameters
    ----------
    table
        Results in any kind of frame, compact or with all columns.
    ax
        Axes to draw on; those of a new figure if omitted.

    Raises
    ------
    BadRequestError
        ``table`` is not a frame of results, or lacks a column that the plot needs.
    """
    summaries = summarize_models(table)
    if message := no_data_message(summaries):
        return draw_message(ax, "Cost by model", message)
    order = sorted(enumerate(summaries), key=lambda item: (-item[1].list_usd, not item[1].priced, item[0]))
    simulated = is_simulated(table)
    rows = [
        BarRow(
            model.name,
            _cost_label(model, simulated=simulated),
            _cost_segments(model, series_style(index)),
            series_style(index),
        )
        for index, model in order
    ]
    billed, list_price = sum(model.billed_usd for model in summaries), sum(model.list_usd for model in summaries)
    saved = list_price > billed
    # Nobody is billed for simulated calls.
    total = (
        f"{format_usd(list_price)} list price"
        if simulated
        else f"{format_usd(billed)} billed" + (f", {format_usd(list_price)} list price" if saved else "")
    )
    note = "light: saved by the cache" if saved else list_price_hint(summaries)
    if not any(model.priced for model in summaries):
        total = "no price is known" if all(model.unpriced == model.answered for model in summaries) else ALL_CACHED
    ax = draw_bars(
        rows,
        ax,
        title=f"Cost by model: {total}",
        subtitle="; ".join(filter(None, (count_summary(summaries), note))),
        unit="US dollars",
        simulated=simulated,
    )
    ax.xaxis.set_major_formatter(lambda value, _: format_usd_tick(value))
    return ax


def tokens_by_model(table: pa.Table | DataFrameLike, ax: Axes | None = None) -> Axes:
    """Plot the tokens of each model: cached and other input, output and reasoning.

    Parameters and errors are those of `cost_by_model`.
    """
    summaries = summarize_models(table)
    if message := no_data_message(summaries):
        return draw_message(ax, "Tokens by model", message)
    order = sorted(enumerate(summaries), key=lambda item: (-sum(_token_classes(item[1]).values()), item[0]))
    rows = [
        BarRow(model.name, _token_label(model), _token_segments(model, series_style(index)), series_style(index))
        for index, model in order
    ]
    present = [name for name in TOKEN_FADES if any(_token_classes(model)[name] for model in summaries)]
    legend = f"; from light to dark: {', '.join(present)}" if len(present) > 1 else ""
    ax = draw_bars(
        rows,
        ax,
        title="Tokens by model",
        subtitle=count_summary(summaries) + legend,
        unit="tokens",
        simulated=is_simulated(table),
    )
    ax.xaxis.set_major_formatter(lambda value, _: format_count_tick(value))
    return ax


def draw_bars(
    rows: Sequence[BarRow], ax: Axes | None, *, title: str, subtitle: str, unit: str, simulated: bool
) -> Axes:
    """Draw one bar per row, from top to bottom, and return the axes."""
    ax = ensure_axes(ax, ROW_HEIGHT_IN * len(rows) + 0.1)
    ax.set_ylim(len(rows) - 0.05, -0.12)
    ax.set_yticks([])
    longest = max((segment.start + segment.width for row in rows for segment in row.segments), default=0.0)
    ax.set_xlim(0, longest * 1.02 or 1.0)
    colors = style_axes(ax, title, subtitle, grid="x", simulated=simulated)
    ax.set_xlabel(unit, fontsize=9, color=colors.muted)
    text_style: dict[str, Any] = {
        "transform": ax.get_yaxis_transform(),
        "va": "bottom",
        "fontsize": min(MAX_FONT_PT, max(MIN_FONT_PT, axes_height_pt(ax) / len(rows) * 0.26)),
        "parse_math": False,
        "bbox": {"facecolor": colors.background, "edgecolor": "none", "pad": 1.0},
    }
    for index, row in enumerate(rows):
        value = ax.text(1, index + 0.36, row.value, ha="right", color=colors.muted, **text_style)
        value_share = value.get_window_extent().width / ax.get_window_extent().width
        name = ax.text(0, index + 0.36, row.name, color=colors.text, **text_style)
        fit_text(ax, name, max(0.97 - value_share, 0.2))
        for segment in row.segments:
            color = blend(segment.color, colors.background if segment.fade > 0 else colors.text, abs(segment.fade))
            bar = ax.barh(
                index + 0.62, segment.width, BAR_HEIGHT, segment.start, color=color, linewidth=0, label=row.name
            )
            draw_hatch(bar.patches[0], row.style, colors)
    if not longest:
        ax.set_xticks([])
    elif axes_width_pt(ax) < NARROW_PT:
        ax.locator_params(axis="x", nbins=3)
    return ax


def _cost_label(model: ModelSummary, *, simulated: bool) -> str:
    """Return the billed cost and list price, and the number of answers without a price."""
    if not model.answered:
        return _no_answer(model)
    if model.unpriced == model.answered:
        return "price unknown"
    if not model.priced:
        return ALL_CACHED
    cost = f"{format_usd(model.list_usd if simulated else model.billed_usd)}"
    if not simulated and model.list_usd > model.billed_usd:
        cost += f" billed, {format_usd(model.list_usd)} list price"
    return cost + (f"; {model.unpriced:,} of unknown price" if model.unpriced else "")


def _no_answer(model: ModelSummary) -> str:
    return f"no answer, {model.failed:,} failed" if model.failed else "nothing sent"


def _cost_segments(model: ModelSummary, style: SeriesStyle) -> list[BarSegment]:
    """Return the list price, and the billed cost in front of it."""
    segments = [
        BarSegment(0, model.list_usd, style.color, LIST_PRICE_FADE),
        BarSegment(0, model.billed_usd, style.color),
    ]
    return [segment for segment in segments if segment.width]


def _token_classes(model: ModelSummary) -> Mapping[str, int]:
    """Return token counts in disjoint classes: the columns count cached tokens as input and reasoning as output."""
    tokens = model.tokens
    return {
        "cached input": tokens["cached_input_tokens"],
        "input": max(tokens["input_tokens"] - tokens["cached_input_tokens"], 0),
        "output": max(tokens["output_tokens"] - tokens["reasoning_tokens"], 0),
        "reasoning": tokens["reasoning_tokens"],
    }


def _token_label(model: ModelSummary) -> str:
    if not model.answered:
        return _no_answer(model)
    if not model.with_usage:
        return "not reported by the provider"
    unreported = model.answered - model.with_usage
    text = f"{format_count(model.tokens['input_tokens'])} in, {format_count(model.tokens['output_tokens'])} out"
    return text + (f"; {unreported:,} not reported" if unreported else "")


def _token_segments(model: ModelSummary, style: SeriesStyle) -> list[BarSegment]:
    """Return one segment per class of tokens, side by side."""
    segments: list[BarSegment] = []
    start = 0
    for name, count in _token_classes(model).items():
        if count:
            segments.append(BarSegment(start, count, style.color, TOKEN_FADES[name]))
        start += count
    return segments

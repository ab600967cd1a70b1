"""Plots of a run over time: answers per second by model, and a timeline of each call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.engine.decision_log import Decision
from llmhub.formatting.numbers import format_quantity
from llmhub.formatting.palette import series_style
from llmhub.formatting.text import truncate_middle
from llmhub.plots.model_summary import (
    BoolArray,
    DataFrameLike,
    FloatArray,
    IntArray,
    extract_columns,
    factorize_models,
    no_data_message,
    summarize_models,
    to_floats,
)
from llmhub.plots.ridgeline import BASELINE, RIDGE_HEIGHT, Ridge, draw_ridges, ridge_axes
from llmhub.plots.style import (
    ThemeColors,
    axes_height_pt,
    axes_width_pt,
    blend,
    draw_message,
    ensure_axes,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS: Final = (
    "provider",
    "model",
    "status",
    "error_type",
    "cache_hit",
    "attempts",
    "started_at",
    "latency_s",
    "queue_s",
    "rate_wait_s",
    "total_s",
)
"""Columns of the result schema that these plots need."""
MINUTE_S: Final = 60.0
BINS: Final = 60
"""Approximate number of bins that a run is divided into."""
BIN_WIDTHS_S: Final = tuple(step * 10.0**power for power in range(-3, 6) for step in (1, 2, 5))
"""Possible widths of a bin."""
MAX_CALLS: Final = 400
"""Calls of a timeline; of more, every n-th is drawn."""
HEIGHT_IN: Final = 3.4
"""Height of the timeline in a new figure."""
LEGEND_PT: Final = 8.0
LEGEND_ROW_IN: Final = 0.19
MIN_NAME_CHARS: Final = 12
RATE_LIMITED: Final = "RateLimited"
"""Error type of an HTTP 429 response."""
RETRY_DECISION: Final = "retry"
"""Kind of the decision to send a failed call again."""
STAGES: Final = (("queue", 0.8), ("limit", 0.55), ("earlier tries", 0.3), ("provider", 0.0))
"""Stages of a call in order, with the share of the background mixed into their colour."""


@dataclass(frozen=True, slots=True)
class _CallTimes:
    """Calls in the order in which they were sent. Times are in seconds since the first of them was sent.

    ``times`` has five columns: planned, dequeued, first attempt sent, last attempt sent, answered.
    """

    names: Sequence[str]
    codes: IntArray
    times: Any
    failed: BoolArray
    rate_limited: BoolArray
    cache_hits: int
    epoch_s: float


def throughput(
    table: pa.Table | DataFrameLike,
    ax: Axes | None = None,
    *,
    limits_rpm: Mapping[str, float] | None = None,
    decisions: Iterable[Decision] = (),
) -> Axes:
    """Plot the answers per second of each model over the time of the run.

    Parameters
    ----------
    table
        Results, with the columns of the result schema.
    ax
        Axes to draw on; those of a new figure if omitted.
    limits_rpm
        Permitted requests per minute by model (``provider/model``), drawn as dashed lines.
    decisions
        Decisions of the engine (``hub.decisions()``), which add the 429 responses that were retried.

    Notes
    -----
    Models have separate ridges on one scale. Cache hits are not drawn but counted in the subtitle. Ticks below a ridge
    are calls that were rejected with HTTP 429.

    Raises
    ------
    ValueError
        A column of the result schema is missing.
    """
    calls = _call_times(table)
    if message := _no_calls_message(table, calls):
        return draw_message(ax, "Throughput", message)
    end_s = float(calls.times[:, 4].max())
    bin_s = _bin_width(end_s)
    edges = np.arange(0.0, end_s + bin_s, bin_s)
    rates = [_rate(calls, code, edges) for code in range(len(calls.names))]
    limits_per_s = [(limits_rpm or {}).get(name, 0.0) / MINUTE_S for name in calls.names]
    peak = max(*(float(rate.max(initial=0)) for rate in rates), *limits_per_s) or 1.0
    rejected = _rejection_times(calls, decisions)
    ax = ridge_axes(ax, len(calls.names))
    ax.set_xlim(0, edges[-1])
    colors = style_axes(ax, "Throughput", _subtitle(calls, peak, rejected), grid="x")
    ax.set_xlabel(f"time since the start of the run (s), in bins of {bin_s:g} s", fontsize=9, color=colors.muted)
    ridges = [
        Ridge(name, _rate_label(calls, code, len(rejected[code])), series_style(code), rates[code] / peak)
        for code, name in enumerate(calls.names)
    ]
    draw_ridges(ax, ridges, edges)
    for code, limit in enumerate(limits_per_s):
        _draw_limit(ax, code, limit / peak, limit * MINUTE_S)
        ax.plot(rejected[code], [code + BASELINE] * len(rejected[code]), "|", color=colors.text, label="_refused")
    return ax


def timeline(table: pa.Table | DataFrameLike, ax: Axes | None = None) -> Axes:
    """Plot each call as a horizontal line, divided into queue, rate limit, earlier attempts, and provider.

    Parameters and errors are those of `cost_by_model`.

    Notes
    -----
    Calls are in the order in which they were sent, the first at the top. Of more than 400 calls every n-th is drawn,
    which the subtitle says. A failed call ends in a cross. Cache hits are not drawn.
    """
    calls = _call_times(table)
    if message := _no_calls_message(table, calls):
        return draw_message(ax, "Timeline", message)
    count = len(calls.codes)
    step = -(-count // MAX_CALLS)
    ax = _make_room(ax, len(calls.names))
    colors = style_axes(ax, "Timeline", "", grid="x")
    drawn = np.arange(0, count, step)
    for code, name in enumerate(calls.names):
        _draw_calls(ax, calls, np.flatnonzero(calls.codes[drawn] == code), step, name, colors)
    failed = drawn[calls.failed[drawn]]
    ax.plot(calls.times[failed, 4], failed / step + 0.5, "x", color=colors.text, markersize=4, label="_failed")
    ax.set_xlim(min(0.0, float(calls.times[:, 0].min())), float(calls.times[:, 4].max()) * 1.01 or 1)
    ax.set_ylim(len(drawn), 0)
    ax.set_yticks([])
    ax.set_xlabel("time since the start of the run (s)", fontsize=9, color=colors.muted)
    sample = f"{len(drawn):,} of {count:,} calls, evenly chosen" if step > 1 else format_quantity(count, "call")
    crosses = "; cross: failed" if calls.failed.any() else ""
    style_axes(ax, "Timeline", f"{sample}; from light to dark: {_stages_present(calls)}{crosses}", grid="x")
    _draw_legend(ax, colors, calls.names)
    return ax


def _call_times(table: pa.Table | DataFrameLike) -> _CallTimes:
    """Return when each call was planned, dequeued, sent and answered."""
    columns = extract_columns(table, COLUMNS)
    codes, names = factorize_models(columns)
    sent_s = to_floats(pc.cast(pc.cast(columns["started_at"], pa.timestamp("us", tz="UTC")), pa.int64())) / 1e6
    cached = np.asarray(pc.fill_null(columns["cache_hit"].cast(pa.bool_()), False).to_numpy(zero_copy_only=False))
    latency_s = to_floats(columns["latency_s"])
    attempts = np.nan_to_num(to_floats(columns["attempts"]))
    called = ~cached & np.isfinite(sent_s) & (attempts > 0)
    queue_s, wait_s, total_s = (
        np.nan_to_num(to_floats(columns[name])) for name in ("queue_s", "rate_wait_s", "total_s")
    )
    last_attempt_s = np.nan_to_num(latency_s)
    answered_s = sent_s + np.maximum(last_attempt_s, total_s - queue_s - wait_s)
    dequeued_s = sent_s - wait_s
    columns_s = [dequeued_s - queue_s, dequeued_s, sent_s, answered_s - last_attempt_s, answered_s]
    times = np.stack(columns_s, axis=1)[called]
    order = np.argsort(times[:, 2], kind="stable")
    epoch_s = float(times[:, 2].min()) if len(times) else 0.0
    status, error_type = (
        columns[name].cast(pa.string()).to_numpy(zero_copy_only=False)[called] for name in ("status", "error_type")
    )
    return _CallTimes(
        names=names,
        codes=codes[called][order],
        times=(times - epoch_s)[order],
        failed=np.asarray(status == "error", np.bool_)[order],
        rate_limited=np.asarray(error_type == RATE_LIMITED, np.bool_)[order],
        cache_hits=int(cached.sum()),
        epoch_s=epoch_s,
    )


def _no_calls_message(table: pa.Table | DataFrameLike, calls: _CallTimes) -> str:
    """Return the reason why there are no calls to plot; empty if there are any."""
    if message := no_data_message(summarize_models(table)):
        return message
    return "" if len(calls.codes) else f"No calls: {calls.cache_hits:,} answers came from the cache"


def _bin_width(duration_s: float) -> float:
    """Return a round bin width, so that about `BINS` of them make the run."""
    return next((width for width in BIN_WIDTHS_S if width * BINS >= duration_s), BIN_WIDTHS_S[-1])


def _rate(calls: _CallTimes, code: int, edges: FloatArray) -> FloatArray:
    """Return a model's answers per second in each bin."""
    mask = (calls.codes == code) & ~calls.failed
    counts, _ = np.histogram(calls.times[mask, 4], edges)
    return np.asarray(counts / (edges[1] - edges[0]), np.float64)


def _rate_label(calls: _CallTimes, code: int, rejected: int) -> str:
    """Return a model's mean rate, and the number of rejected calls."""
    mask = (calls.codes == code) & ~calls.failed
    rejections = f", {rejected:,} rejected" if rejected else ""
    if not mask.any():
        return f"no answer{rejections}"
    duration_s = float(calls.times[mask, 4].max())
    rate = f"{mask.sum() / duration_s:,.3g} per second" if duration_s > 0 else f"{mask.sum():,} answers"
    return rate + rejections


def _draw_limit(ax: Axes, code: int, height: float, rpm: float) -> None:
    """Draw a rate limit across a model's ridge."""
    if not rpm:
        return
    level, color = code + BASELINE - height * RIDGE_HEIGHT, series_style(code).color
    ax.axhline(level, color=color, linewidth=1.2, linestyle=(0, (4, 3)), label="_limit")
    label = ax.text(1.004, level, f"{rpm:,.0f}\nrpm", transform=ax.get_yaxis_transform(), va="center", fontsize=6)
    label.set_color(color)


def _rejection_times(calls: _CallTimes, decisions: Iterable[Decision]) -> list[list[float]]:
    """Return the times of each model's 429 responses: final ones from the results, retried ones from the decisions."""
    times = [
        [float(calls.times[index, 4]) for index in np.flatnonzero(calls.rate_limited & (calls.codes == code))]
        for code in range(len(calls.names))
    ]
    for decision in decisions:
        is_rejection = decision.kind == RETRY_DECISION and decision.detail == RATE_LIMITED
        if is_rejection and decision.target in calls.names:
            times[calls.names.index(decision.target)].append(decision.timestamp - calls.epoch_s)
    return times


def _subtitle(calls: _CallTimes, peak: float, rejected: Sequence[Sequence[float]]) -> str:
    answered, duration_s = int((~calls.failed).sum()), float(calls.times[:, 4].max())
    facts = [
        f"{answered:,} answers in {duration_s:,.3g} s",
        f"highest: {peak:,.3g} per second",
        f"{calls.cache_hits:,} from the cache, not drawn" if calls.cache_hits else "",
        "ticks: rate limited (429)" if any(rejected) else "",
    ]
    return "; ".join(fact for fact in facts if fact)


def _draw_calls(ax: Axes, calls: _CallTimes, rows: IntArray, step: int, name: str, colors: ThemeColors) -> None:
    """Draw the calls of one model, stage by stage."""
    style = series_style(calls.names.index(name))
    for stage, (label, fade) in enumerate(STAGES):
        start, end = calls.times[rows * step, stage], calls.times[rows * step, stage + 1]
        durations = end - start
        visible = durations > 0
        if visible.any():
            color = blend(style.color, colors.background, fade)
            bars = ax.barh(rows[visible] + 0.5, durations[visible], 0.82, start[visible], color=color, linewidth=0)
            bars.set_label(name if label == STAGES[-1][0] else f"_{label}")


def _stages_present(calls: _CallTimes) -> str:
    """Return the names of stages that took any time."""
    longest_s = np.diff(calls.times, axis=1).max(axis=0)
    return ", ".join(name for (name, _), duration_s in zip(STAGES, longest_s, strict=True) if duration_s > 0)


def _make_room(ax: Axes | None, legend_rows: int) -> Axes:
    """Return axes with space for a legend below."""
    if ax is None:
        return ensure_axes(ax, HEIGHT_IN, left_in=0.8, bottom_in=0.75 + legend_rows * LEGEND_ROW_IN)
    box = ax.get_position()
    height = box.height * (1 - min(legend_rows * LEGEND_ROW_IN * 72 / axes_height_pt(ax), 0.5))
    ax.set_position((box.x0, box.y1 - height, box.width, height))
    return ax


def _draw_legend(ax: Axes, colors: ThemeColors, names: Sequence[str]) -> None:
    """List the models below the axes, each beside its colour."""
    from matplotlib.lines import Line2D  # noqa: PLC0415 - matplotlib is imported only to plot

    max_chars = max(int(axes_width_pt(ax) / (LEGEND_PT * 0.62)) - 6, MIN_NAME_CHARS)
    styles = [series_style(code) for code in range(len(names))]
    handles = [Line2D([], [], color=style.color, linewidth=2.5, linestyle=style.dash) for style in styles]
    legend = ax.legend(
        handles,
        [truncate_middle(name, max_chars) for name in names],
        loc="upper left",
        bbox_to_anchor=(-20 / axes_width_pt(ax), -34 / axes_height_pt(ax)),
        borderaxespad=0,
        frameon=False,
        prop={"size": LEGEND_PT},
    )
    for text in legend.get_texts():
        text.set(color=colors.text, parse_math=False)

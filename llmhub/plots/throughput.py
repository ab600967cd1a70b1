"""Plots of a run over time: answers per second by model, and a timeline of each call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.engine.decision_log import Decision
from llmhub.formatting.numbers import format_quantity, format_rate
from llmhub.formatting.palette import series_style
from llmhub.plots.model_summary import (
    BoolArray,
    DataFrameLike,
    FloatArray,
    IntArray,
    extract_columns,
    factorize_models,
    is_simulated,
    no_data_message,
    summarize_models,
    to_floats,
)
from llmhub.plots.ridgeline import BASELINE, RIDGE_HEIGHT, ROW_HEIGHT_IN, Ridge, draw_ridges, draw_row_text, ridge_axes
from llmhub.plots.style import (
    ThemeColors,
    axes_height_pt,
    blend,
    draw_message,
    style_axes,
    theme_colors,
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
NAME_PT: Final = 17.0
"""Height of a model's name above its band of the timeline."""
CALL_PT: Final = 1.7
"""Least height of a call in the timeline; of more calls than fit, every n-th is drawn."""
CALL_MAX_PT: Final = 9.0
CALL_FILL: Final = 0.82
"""Height of a call as a share of its row."""
THROUGHPUT_IN: Final = 1.5
"""Least height of the ridges in a new figure."""
TIMELINE_IN: Final = 4.0
"""Least height of the timeline in a new figure."""
BAND_IN: Final = 1.0
"""Height of a model's band in a new figure."""
RATE_TICK_PT: Final = 6.5
RATE_LIMITED: Final = "RateLimited"
"""Error type of an HTTP 429 response."""
RETRY_DECISION: Final = "retry"
"""Kind of the decision to send a failed call again."""
STAGES: Final = (("queue", 0.8), ("limit", 0.55), ("earlier tries", 0.3), ("provider", 0.0))
"""Stages of a call in order, with the share of the background mixed into their colour."""


@dataclass(frozen=True, slots=True)
class _CallTimes:
    """Calls in the order in which they were sent. Times are in seconds since the first of them was planned.

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
        Results in any kind of frame with the columns of the times of a call (``columns="all"``).
    ax
        Axes to draw on; those of a new figure if omitted.
    limits_rpm
        Permitted requests per minute by model (``provider/model``), drawn as dashed lines.
    decisions
        Decisions of the engine (``hub.decisions()``), which add the 429 responses that were retried.

    Notes
    -----
    Models have separate ridges on one scale, which the axis at their left shows. Limits are drawn in the same unit,
    answers per second; they hold for a minute, so that the answers of a short time may exceed them. Cache hits are not
    drawn but counted in the subtitle. Ticks below a ridge are calls that were rejected with HTTP 429.

    Raises
    ------
    BadRequestError
        ``table`` is not a frame of results, or lacks a column that the plot needs.
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
    ax = ridge_axes(ax, len(calls.names), height_in=max(THROUGHPUT_IN, ROW_HEIGHT_IN * len(calls.names)), left_in=0.75)
    ax.set_xlim(0, edges[-1])
    subtitle = _subtitle(calls, rejected, has_limit=any(limits_per_s))
    colors = style_axes(ax, "Throughput", subtitle, grid="x", simulated=is_simulated(table))
    ax.set_xlabel(f"time since the start of the run (s), in bins of {bin_s:g} s", fontsize=9, color=colors.muted)
    ridges = [
        Ridge(name, _rate_label(calls, code, len(rejected[code])), series_style(code), rates[code] / peak)
        for code, name in enumerate(calls.names)
    ]
    draw_ridges(ax, ridges, edges)
    for code, limit in enumerate(limits_per_s):
        _draw_limit(ax, code, limit / peak, limit)
        ax.plot(rejected[code], [code + BASELINE] * len(rejected[code]), "|", color=colors.text, label="_refused")
    _draw_rate_axis(ax, len(calls.names), peak, colors)
    return ax


def timeline(table: pa.Table | DataFrameLike, ax: Axes | None = None) -> Axes:
    """Plot each call as a horizontal line, divided into queue, rate limit, earlier attempts, and provider.

    Parameters and errors are those of `cost_by_model`.

    Notes
    -----
    Each model has a band of its own, with its calls in the order in which they were sent, the first at the top. Of more
    calls than can be told apart every n-th is drawn, which the subtitle says. A failed call ends in a cross. Cache hits
    are not drawn. The waits of a call that was sent several times are drawn before its first attempt, but not before
    the start of the run.
    """
    calls = _call_times(table)
    if message := _no_calls_message(table, calls):
        return draw_message(ax, "Timeline", message)
    bands = len(calls.names)
    ax = ridge_axes(ax, bands, height_in=max(TIMELINE_IN, BAND_IN * bands))
    colors = style_axes(ax, "Timeline", "", grid="x")
    band_pt = axes_height_pt(ax) / bands
    name_height = min(NAME_PT / band_pt, 0.4)
    rows_pt = band_pt * (BASELINE - name_height)
    drawn = [_evenly_chosen(np.flatnonzero(calls.codes == code), int(rows_pt / CALL_PT)) for code in range(bands)]
    for code, (name, rows) in enumerate(zip(calls.names, drawn, strict=True)):
        row_pt = min(rows_pt / max(len(rows), 1), CALL_MAX_PT)
        _draw_band(ax, calls, code, rows, name_height, row_pt / band_pt)
        n_calls = int((calls.codes == code).sum())
        value = format_quantity(n_calls, "call") if len(rows) == n_calls else f"{len(rows):,} of {n_calls:,} calls"
        draw_row_text(ax, code, name, value, rows=bands, bottom=name_height - 3 / band_pt)
    ax.set_xlim(0, float(calls.times[:, 4].max()) * 1.01 or 1)
    ax.set_xlabel("time since the start of the run (s)", fontsize=9, color=colors.muted)
    count, total = sum(map(len, drawn)), len(calls.codes)
    sample = f"{count:,} of {total:,} calls, evenly chosen" if count < total else format_quantity(total, "call")
    crosses = "; cross: failed" if calls.failed.any() else ""
    subtitle = f"{sample}; from light to dark: {_stages_present(calls)}{crosses}"
    style_axes(ax, "Timeline", subtitle, grid="x", simulated=is_simulated(table))
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
    planned_s = sent_s - wait_s - queue_s
    if called.any():
        # The waits are sums over all attempts, of which some came after the first was sent, so that they tell when the
        # run began only for calls that were sent once.
        start_s = min(sent_s[called].min(), planned_s[called & (attempts <= 1)].min(initial=np.inf))
        planned_s = np.maximum(planned_s, start_s)
    dequeued_s = np.minimum(planned_s + queue_s, sent_s)
    answered_s = np.maximum(sent_s + last_attempt_s, planned_s + total_s)
    columns_s = [planned_s, dequeued_s, sent_s, answered_s - last_attempt_s, answered_s]
    times = np.stack(columns_s, axis=1)[called]
    order = np.argsort(times[:, 2], kind="stable")
    epoch_s = float(times[:, 0].min()) if len(times) else 0.0
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


def _draw_limit(ax: Axes, code: int, height: float, per_second: float) -> None:
    """Draw a rate limit across a model's ridge."""
    if not per_second:
        return
    level, color = code + BASELINE - height * RIDGE_HEIGHT, series_style(code).color
    ax.axhline(level, color=color, linewidth=1.2, linestyle=(0, (4, 3)), label="_limit")
    text = f"limit\n{format_rate(per_second)}/s"
    label = ax.text(1.004, level, text, transform=ax.get_yaxis_transform(), va="center", fontsize=7)
    label.set_color(color)


def _draw_rate_axis(ax: Axes, rows: int, peak: float, colors: ThemeColors) -> None:
    """Draw the scale of the ridges at their left: zero at each baseline, and the highest rate."""
    ticks = [(index + BASELINE - height, text) for index in range(rows) for height, text in _rate_ticks(peak)]
    ax.set_yticks([position for position, _ in ticks], [text for _, text in ticks])
    ax.tick_params(axis="y", labelsize=RATE_TICK_PT, labelcolor=colors.muted)
    ax.set_ylabel("answers per second", fontsize=9, color=colors.muted)


def _rate_ticks(peak: float) -> list[tuple[float, str]]:
    return [(0.0, "0"), (RIDGE_HEIGHT, format_rate(peak))]


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


def _subtitle(calls: _CallTimes, rejected: Sequence[Sequence[float]], *, has_limit: bool) -> str:
    answered, duration_s = int((~calls.failed).sum()), float(calls.times[:, 4].max())
    facts = [
        f"{answered:,} answers in {duration_s:,.3g} s",
        f"{calls.cache_hits:,} from the cache, not drawn" if calls.cache_hits else "",
        "dashed: limit, as a mean over a minute" if has_limit else "",
        "ticks: rate limited (429)" if any(rejected) else "",
    ]
    return "; ".join(fact for fact in facts if fact)


def _evenly_chosen(rows: IntArray, most: int) -> IntArray:
    """Return at most ``most`` of some rows, evenly spaced, the first and the last included.

    Examples
    --------
    >>> _evenly_chosen(np.arange(9), 3).tolist(), _evenly_chosen(np.arange(2), 3).tolist()
    ([0, 4, 8], [0, 1])
    """
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, max(most, 1)).round().astype(np.int64)]


def _draw_band(ax: Axes, calls: _CallTimes, code: int, rows: IntArray, top: float, height: float) -> None:
    """Draw calls of one model below each other, stage by stage, and a cross at the end of failed ones."""
    colors, style = theme_colors(ax), series_style(code)
    centers = code + top + height * (np.arange(len(rows)) + 0.5)
    for stage, (label, fade) in enumerate(STAGES):
        start, end = calls.times[rows, stage], calls.times[rows, stage + 1]
        visible = end > start
        if visible.any():
            durations, color = (end - start)[visible], blend(style.color, colors.background, fade)
            bars = ax.barh(centers[visible], durations, height * CALL_FILL, start[visible], color=color, linewidth=0)
            bars.set_label(calls.names[code] if label == STAGES[-1][0] else f"_{label}")
    failed = calls.failed[rows]
    if failed.any():
        ax.plot(calls.times[rows, 4][failed], centers[failed], "x", color=colors.text, markersize=3.5, label="_failed")


def _stages_present(calls: _CallTimes) -> str:
    """Return the names of stages that took any time."""
    longest_s = np.diff(calls.times, axis=1).max(axis=0)
    return ", ".join(name for (name, _), duration_s in zip(STAGES, longest_s, strict=True) if duration_s > 0)

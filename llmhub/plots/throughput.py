"""How a run went in time: answers a second, and each call from being planned to being answered, like a trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.engine.decision_log import Decision
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
from llmhub.plots.style import ThemeColors, axes_height_pt, axes_width_pt, blend, draw_message, ensure_axes, style_axes

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
"""The columns of the result schema that say when things happened."""
MINUTE_S: Final = 60.0
BINS: Final = 60
"""Stretches of time that a run is divided into, about."""
BIN_WIDTHS_S: Final = tuple(step * 10.0**power for power in range(-3, 6) for step in (1, 2, 5))
"""Lengths that a stretch may have."""
MAX_CALLS: Final = 400
"""Calls of a drawn trace: of more, every n-th."""
HEIGHT_IN: Final = 3.4
LEGEND_PT: Final = 8.0
LEGEND_ROW_IN: Final = 0.19
RATE_LIMITED: Final = "RateLimited"
"""The kind of error that a 429 is."""
RETRY_DECISION: Final = "retry"
"""The kind of decision by which a refused call is sent again."""
STAGES: Final = (("queue", 0.8), ("limit", 0.55), ("earlier tries", 0.3), ("provider", 0.0))
"""What a call waits for, in order, and how far each fades into the background."""


@dataclass(frozen=True, slots=True)
class _CallTimes:
    """Calls that were made, in order of being sent; times are seconds since the first was planned.

    ``stages`` has five columns: planned, taken up, sent, last try sent, answered.
    """

    names: Sequence[str]
    places: IntArray
    stages: Any
    failed: BoolArray
    limited: BoolArray
    retried: BoolArray
    cached: int
    epoch_s: float


def throughput(
    table: pa.Table | DataFrameLike,
    ax: Axes | None = None,
    *,
    limits_rpm: Mapping[str, float] | None = None,
    decisions: Iterable[Decision] = (),
) -> Axes:
    """Draw how many calls of each model were answered a second, over the time of the run.

    Parameters
    ----------
    table
        Results, with the columns of the result schema.
    ax
        Where to draw; a new figure's axes where it is left out.
    limits_rpm
        Requests a minute that are permitted, by model (``provider/model``): drawn as a dashed line.
    decisions
        What the engine decided (``hub.decisions()``): each 429 that was tried again is marked, too.

    Notes
    -----
    Each model has a hill of its own, all to one scale. Rows answered from a cache made no call, and are counted apart.
    Marks below a hill are calls that were refused for their rate (429).

    Raises
    ------
    ValueError
        A column of the result schema is not there.
    """
    calls = _call_times(table)
    if want := _no_calls_message(table, calls):
        return draw_message(ax, "Throughput", want)
    last_s = float(calls.stages[:, 4].max())
    width_s = _bin_width(last_s)
    edges = np.arange(0.0, last_s + width_s, width_s)
    rates = [_rate(calls, place, edges) for place in range(len(calls.names))]
    permitted = [(limits_rpm or {}).get(name, 0.0) / MINUTE_S for name in calls.names]
    peak = max(*(float(rate.max(initial=0)) for rate in rates), *permitted) or 1.0
    refused = _refusal_times(calls, decisions)
    ax = ridge_axes(ax, len(calls.names))
    ax.set_xlim(0, edges[-1])
    ink = style_axes(ax, "Throughput", _summary(calls, peak, refused), grid="x")
    ax.set_xlabel(f"time since the run began (s), in steps of {width_s:g} s", fontsize=9, color=ink.muted)
    hills = [
        Ridge(name, _rate_label(calls, place, len(refused[place])), series_style(place), rates[place] / peak)
        for place, name in enumerate(calls.names)
    ]
    draw_ridges(ax, hills, edges)
    for place, permit in enumerate(permitted):
        _draw_limit(ax, place, permit / peak, permit * MINUTE_S)
        ax.plot(refused[place], [place + BASELINE] * len(refused[place]), "|", color=ink.text, label="_refused")
    return ax


def timeline(table: pa.Table | DataFrameLike, ax: Axes | None = None) -> Axes:
    """Draw each call as a line of a trace: in the queue, held by a limit, tried before, with the provider.

    Parameters and errors are those of `cost_by_model`.

    Notes
    -----
    Calls stand in the order in which they were sent, the first at the top; of more than 400, every n-th is drawn, and
    how many that are is said. A call that failed ends in a cross. Rows answered from a cache made no call.
    """
    calls = _call_times(table)
    if want := _no_calls_message(table, calls):
        return draw_message(ax, "Timeline", want)
    count = len(calls.places)
    step = -(-count // MAX_CALLS)
    ax = _make_room(ax, len(calls.names))
    ink = style_axes(ax, "Timeline", "", grid="x")
    drawn = np.arange(0, count, step)
    for place, name in enumerate(calls.names):
        _draw_calls(ax, calls, np.flatnonzero(calls.places[drawn] == place), step, name, ink)
    bad = drawn[calls.failed[drawn]]
    ax.plot(calls.stages[bad, 4], bad / step + 0.5, "x", color=ink.text, markersize=4, label="_failed")
    ax.set_xlim(min(0.0, float(calls.stages[:, 0].min())), float(calls.stages[:, 4].max()) * 1.01 or 1)
    ax.set_ylim(len(drawn), 0)
    ax.set_yticks([])
    ax.set_xlabel("time since the run began (s)", fontsize=9, color=ink.muted)
    every = f"{len(drawn):,} of {count:,} calls, evenly chosen" if step > 1 else f"{count:,} calls"
    crosses = "; cross: failed" if calls.failed.any() else ""
    style_axes(ax, "Timeline", f"{every}; from light to dark: {_stages_present(calls)}{crosses}", grid="x")
    _draw_legend(ax, ink, calls.names)
    return ax


def _call_times(table: pa.Table | DataFrameLike) -> _CallTimes:
    """Read when each call was planned, taken up, sent and answered."""
    columns = extract_columns(table, COLUMNS)
    places, names = factorize_models(columns)
    sent_s = to_floats(pc.cast(pc.cast(columns["started_at"], pa.timestamp("us", tz="UTC")), pa.int64())) / 1e6
    cached = np.asarray(pc.fill_null(columns["cache_hit"].cast(pa.bool_()), False).to_numpy(zero_copy_only=False))
    latency_s = to_floats(columns["latency_s"])
    attempts = np.nan_to_num(to_floats(columns["attempts"]))
    made = ~cached & np.isfinite(sent_s) & (attempts > 0)
    queue_s, wait_s, total_s = (
        np.nan_to_num(to_floats(columns[name])) for name in ("queue_s", "rate_wait_s", "total_s")
    )
    last_s = np.nan_to_num(latency_s)
    done_s = sent_s + np.maximum(last_s, total_s - queue_s - wait_s)
    stages = np.stack([sent_s - wait_s - queue_s, sent_s - wait_s, sent_s, done_s - last_s, done_s], axis=1)[made]
    kinds = columns["error_type"].cast(pa.string()).to_numpy(zero_copy_only=False)[made]
    order = np.argsort(stages[:, 2], kind="stable")
    epoch_s = float(stages[:, 2].min()) if len(stages) else 0.0
    status = columns["status"].cast(pa.string()).to_numpy(zero_copy_only=False)[made]
    return _CallTimes(
        names=names,
        places=places[made][order],
        stages=(stages - epoch_s)[order],
        failed=np.asarray(status == "error", np.bool_)[order],
        limited=np.asarray(kinds == RATE_LIMITED, np.bool_)[order],
        retried=(attempts[made] > 1)[order],
        cached=int(cached.sum()),
        epoch_s=epoch_s,
    )


def _no_calls_message(table: pa.Table | DataFrameLike, calls: _CallTimes) -> str:
    """Say what a plot of calls would want: nothing if there are any."""
    if want := no_data_message(summarize_models(table)):
        return want
    return "" if len(calls.places) else f"No calls: {calls.cached:,} answers came from the cache"


def _bin_width(span_s: float) -> float:
    """Choose how long a stretch of time is: about `BINS` of them make the run."""
    return next((width for width in BIN_WIDTHS_S if width * BINS >= span_s), BIN_WIDTHS_S[-1])


def _rate(calls: _CallTimes, place: int, edges: FloatArray) -> FloatArray:
    """Count a model's answers in each stretch of time, a second."""
    its = (calls.places == place) & ~calls.failed
    counts, _ = np.histogram(calls.stages[its, 4], edges)
    return np.asarray(counts / (edges[1] - edges[0]), np.float64)


def _rate_label(calls: _CallTimes, place: int, refused: int) -> str:
    """Say how many answers a model gave, how fast, and how often it refused."""
    its = (calls.places == place) & ~calls.failed
    if not its.any():
        return "no answer" + (f", {refused:,} refused" if refused else "")
    span_s = float(calls.stages[its, 4].max())
    rate = f"{its.sum() / span_s:,.3g} a second" if span_s > 0 else f"{its.sum():,} answers"
    return rate + (f", {refused:,} refused" if refused else "")


def _draw_limit(ax: Axes, place: int, height: float, rpm: float) -> None:
    """Draw what is permitted across a model's hill."""
    if not rpm:
        return
    level, colour = place + BASELINE - height * RIDGE_HEIGHT, series_style(place).color
    ax.axhline(level, color=colour, linewidth=1.2, linestyle=(0, (4, 3)), label="_limit")
    said_of = ax.text(1.004, level, f"{rpm:,.0f}\na min", transform=ax.get_yaxis_transform(), va="center", fontsize=6)
    said_of.set_color(colour)


def _refusal_times(calls: _CallTimes, decisions: Iterable[Decision]) -> list[list[float]]:
    """Say when each model's calls were refused for their rate."""
    found = [
        [float(calls.stages[at, 4]) for at in np.flatnonzero(calls.limited & (calls.places == place))]
        for place in range(len(calls.names))
    ]
    for each in decisions:
        if each.kind == RETRY_DECISION and each.detail == RATE_LIMITED and each.target in calls.names:
            found[calls.names.index(each.target)].append(each.timestamp - calls.epoch_s)
    return found


def _summary(calls: _CallTimes, peak: float, refused: Sequence[Sequence[float]]) -> str:
    answered, span_s = int((~calls.failed).sum()), float(calls.stages[:, 4].max())
    facts = [f"{answered:,} answers in {span_s:,.3g} s", f"highest: {peak:,.3g} a second"]
    facts += [f"{calls.cached:,} from the cache, not drawn" if calls.cached else ""]
    facts += ["ticks: refused for the rate (429)" if any(refused) else ""]
    return "; ".join(fact for fact in facts if fact)


def _draw_calls(ax: Axes, calls: _CallTimes, rows: IntArray, step: int, name: str, ink: ThemeColors) -> None:
    """Draw one model's calls, each on its own line, stage by stage."""
    look = series_style(calls.names.index(name))
    for stage, (label, fade) in enumerate(STAGES):
        begin, end = calls.stages[rows * step, stage], calls.stages[rows * step, stage + 1]
        spans = np.stack([begin, end - begin], axis=1)
        seen = spans[:, 1] > 0
        if seen.any():
            bars = ax.barh(
                rows[seen] + 0.5,
                spans[seen, 1],
                0.82,
                spans[seen, 0],
                color=blend(look.color, ink.background, fade),
                linewidth=0,
            )
            bars.set_label(name if label == STAGES[-1][0] else f"_{label}")


def _stages_present(calls: _CallTimes) -> str:
    """Name the stages that took any time."""
    spans = np.diff(calls.stages, axis=1).max(axis=0)
    return ", ".join(name for (name, _), longest in zip(STAGES, spans, strict=True) if longest > 0)


def _make_room(ax: Axes | None, lines: int) -> Axes:
    """Make room for the plot and so many lines of key below it."""
    if ax is None:
        return ensure_axes(ax, HEIGHT_IN, left_in=0.8, bottom_in=0.75 + lines * LEGEND_ROW_IN)
    place = ax.get_position()
    kept = 1 - min(lines * LEGEND_ROW_IN * 72 / axes_height_pt(ax), 0.5)
    ax.set_position((place.x0, place.y1 - place.height * kept, place.width, place.height * kept))
    return ax


def _draw_legend(ax: Axes, ink: ThemeColors, names: Sequence[str]) -> None:
    """List the models below the axes, each beside its colour."""
    from matplotlib.lines import Line2D  # noqa: PLC0415 - matplotlib is loaded by those who plot

    most = max(int(axes_width_pt(ax) / (LEGEND_PT * 0.62)) - 6, 12)
    signs = [Line2D([], [], color=series_style(place).color, linewidth=2.5) for place in range(len(names))]
    for place, sign in enumerate(signs):
        sign.set_linestyle(series_style(place).dash)
    legend = ax.legend(
        signs,
        [truncate_middle(name, most) for name in names],
        loc="upper left",
        bbox_to_anchor=(-20 / axes_width_pt(ax), -34 / axes_height_pt(ax)),
        borderaxespad=0,
        frameon=False,
        prop={"size": LEGEND_PT},
    )
    for text in legend.get_texts():
        text.set(color=ink.text, parse_math=False)

"""Plot of latency against throughput: one line per model through the medians of its loads, one through the p95."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmhub.formatting.numbers import format_quantity
from llmhub.formatting.palette import SeriesStyle, series_style
from llmhub.plots.point_labels import Point, place_labels
from llmhub.plots.style import draw_message, ensure_axes, set_axis_scale, style_axes
from llmhub.tables.schema import is_simulated

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes


def load_plot(summary: pa.Table, ax: Axes | None = None) -> Axes:
    """Draw each model's latency against its answered calls per second.

    A solid line connects the medians of a model's loads, a dotted one their 95th percentiles. Lower and further right
    is better. Loads without an answer are counted in the subtitle and not drawn.
    """
    rows = summary.to_pylist()
    answered = [row for row in rows if row["ok"]]
    if not answered:
        return draw_message(ax, "Latency under load", "No call was answered")
    ax = ensure_axes(ax, 4.2, left_in=0.9)
    unanswered = len(rows) - len(answered)
    note = f"{format_quantity(unanswered, 'load')} without an answer; " if unanswered else ""
    subtitle = f"{note}points: median of a load; dotted: p95"
    theme = style_axes(ax, "Latency under load", subtitle, simulated=is_simulated(summary.schema))
    # A model keeps its style when another one has no answers.
    styles = {name: series_style(index) for index, name in enumerate(dict.fromkeys(row["model"] for row in rows))}
    ends: list[Point] = []
    occupied: list[Point] = []
    drawn = list(dict.fromkeys(row["model"] for row in rows if row["ok"]))
    for name in drawn:
        points = _draw_model(ax, [row for row in answered if row["model"] == name], styles[name])
        ends.append(points[-1])
        occupied += points
    ax.set_xlabel("answers per second", fontsize=9, color=theme.muted)
    ax.set_ylabel("latency (s)", fontsize=9, color=theme.muted)
    set_axis_scale(ax, "x", [row["requests_per_s"] for row in answered], margin=0.18)
    latencies = [row[column] for row in answered for column in ("latency_s_p50", "latency_s_p95")]
    set_axis_scale(ax, "y", latencies, margin=0.18)
    place_labels(ax, ends, [(name, styles[name]) for name in drawn], occupied)
    return ax


def _draw_model(ax: Axes, rows: list[dict[str, Any]], style: SeriesStyle) -> list[Point]:
    """Draw a model's loads in their order; return all points, the last median at the end."""
    x, median, p95 = ([row[name] for row in rows] for name in ("requests_per_s", "latency_s_p50", "latency_s_p95"))
    ax.plot(x, p95, "_", color=style.color, markersize=9, label="_p95", linestyle=(0, (1, 2)), linewidth=1.2)
    line = ax.plot(x, median, style.marker, color=style.color, markersize=6, label=rows[0]["model"])
    line[0].set(linestyle=style.dash, linewidth=1.6)
    return [*zip(x, p95, strict=True), *zip(x, median, strict=True)]

"""How latency grows with load: a line a model through its medians, and one through its 95th percentiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmhub.formatting.palette import series_style
from llmhub.plots.point_labels import Point, place_labels
from llmhub.plots.style import draw_message, ensure_axes, set_axis_scale, style_axes

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes


def load_plot(summary: pa.Table, ax: Axes | None = None) -> Axes:
    """Draw each model's latency over what it answered a second.

    A line goes through the medians of a model's loads, a dotted one through their 95th percentiles. Down and to the
    right is better. Loads without an answer are counted, not drawn.
    """
    rows = summary.to_pylist()
    names = list(dict.fromkeys(row["model"] for row in rows))
    drawn = [row for row in rows if row["ok"]]
    if not drawn:
        return draw_message(ax, "Latency under load", "No call was answered")
    ax = ensure_axes(ax, 4.2, left_in=0.9)
    silent = len(rows) - len(drawn)
    left = f"{silent} load{'' if silent == 1 else 's'} without an answer; " if silent else ""
    ink = style_axes(ax, "Latency under load", f"{left}points: median of a load; dotted: p95")
    ends: list[Point] = []
    taken: list[Point] = []
    shown = [name for name in names if any(row["model"] == name for row in drawn)]
    for name in shown:
        its = [row for row in drawn if row["model"] == name]
        trace = _line(ax, its, names.index(name))
        ends.append(trace[-1])
        taken += trace
    ax.set_xlabel("answers a second", fontsize=9, color=ink.muted)
    ax.set_ylabel("time of a call (s)", fontsize=9, color=ink.muted)
    set_axis_scale(ax, "x", [row["requests_per_s"] for row in drawn], margin=0.18)
    set_axis_scale(ax, "y", [row[mark] for row in drawn for mark in ("latency_s_p50", "latency_s_p95")], margin=0.18)
    place_labels(ax, ends, [(name, series_style(names.index(name))) for name in shown], taken)
    return ax


def _line(ax: Axes, rows: list[dict[str, Any]], place: int) -> list[Point]:
    """Draw a model's loads in the order in which they were put; give a trace of all that is drawn, to its end."""
    look = series_style(place)
    x, y, top = ([row[name] for row in rows] for name in ("requests_per_s", "latency_s_p50", "latency_s_p95"))
    ax.plot(x, top, "_", color=look.color, markersize=9, label="_p95", linestyle=(0, (1, 2)), linewidth=1.2)
    line = ax.plot(x, y, look.marker, color=look.color, markersize=6, label=rows[0]["model"])
    line[0].set(linestyle=look.dash, linewidth=1.6)
    return [*zip(x, top, strict=True), *zip(x, y, strict=True)]

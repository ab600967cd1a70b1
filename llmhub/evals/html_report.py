"""Comparisons and evaluations as HTML for notebooks: tables with an interval plot beside each score.

The styles set no text or background colour, so that the report is legible in light and dark themes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

from llmhub.evals import report
from llmhub.formatting.numbers import format_percent
from llmhub.formatting.palette import series_style

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.evals.comparison import Comparison

STYLE: Final = """<style>
.llmhub-eval{font:13px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;color:inherit;max-width:100%;overflow-x:auto}
.llmhub-eval .headline{font-size:15px;font-weight:600;margin:2px 0 8px}
.llmhub-eval table{border-collapse:collapse;margin:0 0 12px;font-size:13px}
.llmhub-eval th,.llmhub-eval td{padding:5px 10px 5px 0;text-align:right;vertical-align:middle;border:0;
border-bottom:1px solid rgba(128,128,128,.25);white-space:nowrap;background:transparent}
.llmhub-eval th{font-weight:500;opacity:.65;border-bottom-color:rgba(128,128,128,.5);white-space:normal}
.llmhub-eval th:first-child,.llmhub-eval td:first-child,.llmhub-eval .left{text-align:left}
.llmhub-eval tr:hover td{background:rgba(128,128,128,.08)}
.llmhub-eval small{display:block;opacity:.6;font-size:11px}
.llmhub-eval .num{font-variant-numeric:tabular-nums}
.llmhub-eval .dot{display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:7px}
.llmhub-eval .muted{opacity:.65}
.llmhub-eval .better{font-weight:600}
.llmhub-eval .wrap{white-space:normal;min-width:9em}
.llmhub-eval ul{margin:0 0 12px;padding-left:18px;opacity:.75;font-size:12px}
.llmhub-eval svg{vertical-align:middle;overflow:visible;max-width:none}
</style>"""
SVG_WIDTH: Final = 110
SVG_HEIGHT: Final = 18
SVG_MARGIN: Final = 4
NOT_SIGNIFICANT_COLOR: Final = "#8a8a8a"


@dataclass(frozen=True, slots=True)
class AxisScale:
    """Ends of a horizontal axis, and the value of a reference line."""

    low: float
    high: float
    reference: float | None = None

    def position(self, value: float) -> float:
        """Return the x coordinate of a value, in pixels."""
        span = self.high - self.low
        return SVG_MARGIN + (SVG_WIDTH - 2 * SVG_MARGIN) * ((value - self.low) / span if span else 0.5)


def fit_scale(rows: Sequence[Any], reference: float | None = None) -> AxisScale:
    """Return the scale that holds the values of ``rows``, their intervals and the reference."""
    names = ("low", "high", "value", "difference")
    values = [row[name] for row in rows for name in names if row.get(name) is not None]
    values += [] if reference is None else [reference]
    return AxisScale(min(values), max(values), reference) if values else AxisScale(0.0, 1.0, reference)


def interval_svg(scale: AxisScale, value: float | None, row: Any, color: str) -> str:
    """Return a value and its interval as an inline SVG.

    Examples
    --------
    >>> interval_svg(AxisScale(0, 1), 0.5, {"low": 0.4, "high": 0.6}, "#000").count("<line")
    2
    """
    if value is None:
        return ""
    y = SVG_HEIGHT / 2
    low = scale.position(scale.low if row["low"] is None else row["low"])
    high = scale.position(scale.high if row["high"] is None else row["high"])
    reference = ""
    if scale.reference is not None:
        x = scale.position(scale.reference)
        reference = (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{SVG_HEIGHT}" stroke="currentColor" stroke-opacity=".5" '
            'stroke-dasharray="2 2"/>'
        )
    return (
        f'<svg width="{SVG_WIDTH}" height="{SVG_HEIGHT}" viewBox="0 0 {SVG_WIDTH} {SVG_HEIGHT}" role="img" '
        'aria-hidden="true">'
        f'<line x1="0" x2="{SVG_WIDTH}" y1="{y}" y2="{y}" stroke="currentColor" stroke-opacity=".15"/>{reference}'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{color}" '
        'stroke-width="3" stroke-linecap="round" stroke-opacity=".55"/>'
        f'<circle cx="{scale.position(value):.1f}" cy="{y}" r="4" fill="{color}"/></svg>'
    )


def comparison_html(comparison: Comparison) -> str:
    """Return a comparison as HTML."""
    parts = [STYLE, '<div class="llmhub-eval mathjax_ignore tex2jax_ignore">']
    if comparison.scorers:
        parts.append(f'<div class="headline">{escape(report.headline(comparison))}</div>')
    parts.append(_models_table(comparison))
    parts += [_pairs_table(comparison, scorer) for scorer in comparison.scorers]
    parts.append(f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in report.notes(comparison))}</ul></div>")
    return "".join(parts)


def model_colors(comparison: Comparison) -> dict[str, str]:
    """Return the colour of each model, the same as in plots."""
    return {name: series_style(index).color for index, name in enumerate(comparison.design.models)}


def _html_table(header_cells: Sequence[str], body: Sequence[str]) -> str:
    return f"<table><thead><tr>{''.join(header_cells)}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _models_table(comparison: Comparison) -> str:
    """Return the table of models, best first."""
    metrics, columns = report.metrics_by_model(comparison), report.report_columns(comparison)
    models, colors = report.report_order(comparison), model_colors(comparison)
    scales = {name: fit_scale([metrics[model, name] for model in models]) for name in comparison.scorers}
    body = []
    for model in models:
        cells = [_model_cell(model, colors)]
        for column in columns:
            row = metrics.get((model, column.metric))
            if column.metric in scales and row is not None:
                svg = interval_svg(scales[column.metric], row["value"], row, colors[model])
                cells.append(f'<td class="left">{svg}</td>')
            cells.append(_value_cell(row, column.format_value))
        body.append(f"<tr>{''.join(cells)}</tr>")
    header = ["<th>model</th>"]
    for column in columns:
        span = ' colspan="2"' if column.metric in scales else ""
        header.append(f"<th{span}>{escape(column.heading)}</th>")
    return _html_table(header, body)


def _model_cell(name: str, colors: Mapping[str, str]) -> str:
    return f'<td><span class="dot" style="background:{colors[name]}"></span>{escape(name)}</td>'


def _value_cell(row: Any, format_value: Callable[[float], str]) -> str:
    if row is None or row["value"] is None:
        return "<td></td>"
    interval = report.format_interval(row, format_value)
    below = f"<small>{escape(interval)}</small>" if interval else ""
    return f'<td class="num">{escape(format_value(row["value"]))}{below}</td>'


def _pairs_table(comparison: Comparison, scorer: str) -> str:
    """Return the table of paired differences."""
    pairs = comparison.pairs_of(scorer)
    if not pairs:
        return ""
    format_value = report.score_formatter(report.score_unit(comparison, scorer))
    shown = [report.with_simultaneous_interval(pair) for pair in pairs[: report.MAX_PAIRS_SHOWN]]
    colors = model_colors(comparison)
    scale = fit_scale(shown, 0.0)
    body = [_pair_row(pair, scale, colors, format_value) for pair in shown]
    hidden = len(pairs) - len(shown)
    if hidden:
        body.append(f'<tr><td colspan="6" class="muted">{hidden:,} more pairs are in .pairs</td></tr>')
    return _html_table(_pairs_header(scorer), body)


def _pairs_header(metric: str) -> list[str]:
    return [
        f'<th>{escape(metric)}: pair</th><th colspan="2">difference</th><th>p, corrected</th><th></th>',
        '<th title="Smallest true difference that these rows detect with the design\'s power">minimum detectable</th>',
    ]


def _pair_row(pair: Any, scale: AxisScale, colors: Mapping[str, str], format_value: Callable[[float], str]) -> str:
    better = pair["left"] if (pair["difference"] or 0) > 0 else pair["right"]
    color, emphasis = (colors[better], "better") if pair["significant"] else (NOT_SIGNIFICANT_COLOR, "muted")
    effect = pair["minimum_detectable_effect"]
    difference = {**pair, "value": pair["difference"]}
    return (
        f"<tr><td>{escape(pair['left'])} {report.MINUS} {escape(pair['right'])}</td>"
        f'<td class="left">{interval_svg(scale, pair["difference"], pair, color)}</td>'
        f"{_value_cell(difference, report.signed_formatter(format_value))}"
        f'<td class="num">{escape(report.format_p_value(pair["p_holm"]))}<small>{escape(pair["test"])}</small></td>'
        f'<td class="left wrap {emphasis}">{escape(report.pair_conclusion(pair))}</td>'
        f'<td class="num">{"" if effect is None else escape(format_value(effect))}</td></tr>'
    )


def samples_html(samples: pa.Table, comparison: Comparison, pairs: pa.Table) -> str:
    """Return pass@k and majority votes as HTML, with their pairs; empty without several samples per row."""
    rows, colors = samples.to_pylist(), model_colors(comparison)
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    tables = []
    for scorer in dict.fromkeys(row["scorer"] for row in rows):
        cells = {(row["model"], row["metric"]): row for row in rows if row["scorer"] == scorer}
        body = [
            f"<tr>{_model_cell(model, colors)}"
            f"{''.join(_value_cell(cells[model, metric], format_percent) for metric in metrics)}</tr>"
            for model in dict.fromkeys(model for model, _ in cells)
        ]
        tables.append(_html_table([f"<th>{escape(name)}</th>" for name in (f"{scorer}, samples", *metrics)], body))
        tables += [
            _pairs_of_metric(metric, own, colors)
            for metric in metrics
            if (own := [row for row in pairs.to_pylist() if (row["scorer"], row["metric"]) == (scorer, metric)])
        ]
    return f'<div class="llmhub-eval mathjax_ignore tex2jax_ignore">{"".join(tables)}</div>' if tables else ""


def _pairs_of_metric(metric: str, pairs: Sequence[Any], colors: Mapping[str, str]) -> str:
    shown = [report.with_simultaneous_interval(pair) for pair in pairs[: report.MAX_PAIRS_SHOWN]]
    scale = fit_scale(shown, 0.0)
    body = [_pair_row(pair, scale, colors, format_percent) for pair in shown]
    return _html_table(_pairs_header(metric), body)

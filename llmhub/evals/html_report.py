"""A comparison as a notebook shows it: tables with each interval drawn beside its figure, on light and on dark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

from llmhub.evals import report
from llmhub.formatting.palette import series_style

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.evals.comparison import Comparison


STYLE: Final = """<style>
.llmhub-eval{font:13px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;color:inherit;max-width:100%;overflow-x:auto}
.llmhub-eval .say{font-size:15px;font-weight:600;margin:2px 0 8px}
.llmhub-eval table{border-collapse:collapse;margin:0 0 12px;font-size:13px}
.llmhub-eval th,.llmhub-eval td{padding:5px 12px 5px 0;text-align:right;vertical-align:middle;border:0;
border-bottom:1px solid rgba(128,128,128,.25);white-space:nowrap;background:transparent}
.llmhub-eval th{font-weight:500;opacity:.65;border-bottom-color:rgba(128,128,128,.5)}
.llmhub-eval th:first-child,.llmhub-eval td:first-child,.llmhub-eval .left{text-align:left}
.llmhub-eval tr:hover td{background:rgba(128,128,128,.08)}
.llmhub-eval small{display:block;opacity:.6;font-size:11px}
.llmhub-eval .num{font-variant-numeric:tabular-nums}
.llmhub-eval .dot{display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:7px}
.llmhub-eval .tied{opacity:.65}
.llmhub-eval .better{font-weight:600}
.llmhub-eval ul{margin:0 0 12px;padding-left:18px;opacity:.75;font-size:12px}
.llmhub-eval svg{vertical-align:middle;overflow:visible}
</style>"""


SVG_WIDTH: Final = 150


SVG_HEIGHT: Final = 18


@dataclass(frozen=True, slots=True)
class AxisScale:
    """The ends of a drawn axis, and a line across it."""

    low: float
    high: float
    reference: float | None = None

    def position(self, value: float) -> float:
        """Say where a value lies, from 0 to the width."""
        span = self.high - self.low
        return 4 + (SVG_WIDTH - 8) * ((value - self.low) / span if span else 0.5)


def fit_scale(rows: Sequence[Any], mark: float | None = None) -> AxisScale:
    """Fit an axis around values and their intervals."""
    ends = [row[name] for row in rows for name in ("low", "high", "value") if row.get(name) is not None]
    ends += [row["difference"] for row in rows if row.get("difference") is not None]
    ends += [] if mark is None else [mark]
    return AxisScale(min(ends), max(ends), mark) if ends else AxisScale(0.0, 1.0, mark)


def interval_svg(scale: AxisScale, value: float | None, row: Any, colour: str) -> str:
    """Draw a value and its interval.

    Examples
    --------
    >>> interval_svg(AxisScale(0, 1), 0.5, {"low": 0.4, "high": 0.6}, "#000").count("<line")
    2
    """
    if value is None:
        return ""
    middle = SVG_HEIGHT / 2
    low = scale.low if row["low"] is None else row["low"]
    high = scale.high if row["high"] is None else row["high"]
    mark = ""
    if scale.reference is not None:
        x = scale.position(scale.reference)
        mark = (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{SVG_HEIGHT}" stroke="currentColor" stroke-opacity=".5" '
            'stroke-dasharray="2 2"/>'
        )
    return (
        f'<svg width="{SVG_WIDTH}" height="{SVG_HEIGHT}" viewBox="0 0 {SVG_WIDTH} {SVG_HEIGHT}" role="img" aria-hidden="true">'
        f'<line x1="0" x2="{SVG_WIDTH}" y1="{middle}" y2="{middle}" stroke="currentColor" stroke-opacity=".15"/>{mark}'
        f'<line x1="{scale.position(low):.1f}" x2="{scale.position(high):.1f}" y1="{middle}" y2="{middle}" stroke="{colour}" '
        f'stroke-width="3" stroke-linecap="round" stroke-opacity=".55"/>'
        f'<circle cx="{scale.position(value):.1f}" cy="{middle}" r="4" fill="{colour}"/></svg>'
    )


def comparison_html(comparison: Comparison) -> str:
    """Write a comparison as HTML."""
    parts = [STYLE, '<div class="llmhub-eval">']
    if comparison.scorers:
        parts.append(f'<div class="say">{escape(report.headline(comparison))}</div>')
    parts.append(_models(comparison))
    parts += [_pairs(comparison, scorer) for scorer in comparison.scorers]
    parts.append(f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in report.notes(comparison))}</ul></div>")
    return "".join(parts)


def model_colours(comparison: Comparison) -> dict[str, str]:
    """Give each model its colour: the same as in every plot."""
    return {name: series_style(at).color for at, name in enumerate(comparison.design.models)}


def _models(comparison: Comparison) -> str:
    """Write the models' table, the best first."""
    found, shown, colour = (
        report.metrics_by_model(comparison),
        report.report_columns(comparison),
        model_colours(comparison),
    )
    order = [row["model"] for row in comparison.ranked()] if comparison.scorers else list(comparison.design.models)
    scales = {name: fit_scale([found[model, name] for model in order]) for name in comparison.scorers}
    body = []
    for model in order:
        cells = [_model(model, colour)]
        for column in shown:
            row = found.get((model, column.metric))
            if column.metric in scales and row is not None:
                drawn = interval_svg(scales[column.metric], row["value"], row, colour[model])
                cells.append(f'<td class="left">{drawn}</td>')
            cells.append(_cell(row, column.format_value))
        body.append(f"<tr>{''.join(cells)}</tr>")
    heads = ["<th>model</th>"]
    for column in shown:
        wide = ' colspan="2"' if column.metric in scales else ""
        heads.append(f"<th{wide}>{escape(column.heading)}</th>")
    return f"<table><thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _cell(row: Any, write: Callable[[float], str]) -> str:
    if row is None or row["value"] is None:
        return "<td></td>"
    bounds = report.format_interval(row, write)
    below = f"<small>{escape(bounds)}</small>" if bounds else ""
    return f'<td class="num">{escape(write(row["value"]))}{below}</td>'


def _pairs(comparison: Comparison, scorer: str) -> str:
    """Write the pairs' table."""
    pairs = comparison.pairs_of(scorer)
    if not pairs:
        return ""
    write = report.score_formatter(report.score_unit(comparison, scorer))
    shown, colour = pairs[: report.MAX_PAIRS_SHOWN], model_colours(comparison)
    scale = fit_scale(shown, 0.0)
    body = []
    for pair in shown:
        better = pair["left"] if (pair["difference"] or 0) > 0 else pair["right"]
        paint = "#8a8a8a" if pair["tied"] in {None, True} else colour[better]
        verdict = escape(report.pair_conclusion(pair))
        detectable = "" if pair["detectable"] is None else write(pair["detectable"])
        name = "tied" if pair["tied"] in {None, True} else "better"
        body.append(
            f"<tr><td>{escape(pair['left'])} \u2212 {escape(pair['right'])}</td>"
            f'<td class="left">{interval_svg(scale, pair["difference"], pair, paint)}</td>'
            f"{_difference(pair, write)}"
            f'<td class="num">{report.format_p_value(pair["p_holm"])}<small>{escape(pair["test"])}</small></td>'
            f'<td class="left {name}">{verdict}</td><td class="num">{escape(detectable)}</td></tr>'
        )
    more = len(pairs) - len(shown)
    tail = f'<tr><td colspan="6" class="tied">{more:,} further pairs are in .pairs</td></tr>' if more else ""
    heads = (
        f'<th>{escape(scorer)}: pair</th><th colspan="2">difference</th><th>p, corrected</th><th></th>'
        '<th title="Smallest true difference that these rows would likely have shown">could have shown</th>'
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}{tail}</tbody></table>"


def _difference(pair: Any, write: Callable[[float], str]) -> str:
    return _cell({**pair, "value": pair["difference"]}, report.signed_formatter(write))


def samples_html(samples: pa.Table, comparison: Comparison) -> str:
    """Write what several answers a row are worth together; nothing where rows have one."""
    rows, colour = samples.to_pylist(), model_colours(comparison)
    heads = list(dict.fromkeys(row["metric"] for row in rows))
    parts = []
    for scorer in dict.fromkeys(row["scorer"] for row in rows):
        found = {(row["model"], row["metric"]): row for row in rows if row["scorer"] == scorer}
        body = "".join(
            f"<tr>{_model(model, colour)}{''.join(_cell(found[model, head], report.format_percent) for head in heads)}</tr>"
            for model in dict.fromkeys(model for model, _ in found)
        )
        head = "".join(f"<th>{escape(each)}</th>" for each in [f"{scorer}, several answers", *heads])
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    return f'<div class="llmhub-eval">{"".join(parts)}</div>' if parts else ""


def _model(name: str, colour: Mapping[str, str]) -> str:
    return f'<td><span class="dot" style="background:{colour[name]}"></span>{escape(name)}</td>'

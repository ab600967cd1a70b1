"""What a comparison found, in words and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llmhub.formatting.numbers import format_count, format_duration, format_usd

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.evals.comparison import Comparison

MAX_PAIRS_SHOWN: Final = 30
"""Pairs that are shown; the table has them all."""
FEW_CLUSTERS: Final = 20
"""Clusters below which intervals know little of themselves."""
MetricRow = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReportColumn:
    """A figure as it is shown: its heading, its metric, and how a value is written."""

    heading: str
    metric: str
    format_value: Callable[[float], str]


def format_percent(share: float) -> str:
    """Write a share as percent.

    Examples
    --------
    >>> format_percent(0.8123), format_percent(1.0)
    ('81.2 %', '100.0 %')
    """
    return f"{share * 100:.1f} %"


def format_score(score: float) -> str:
    """Write a score.

    Examples
    --------
    >>> format_score(3.14159)
    '3.142'
    """
    return f"{score:.3f}"


def _of_thousand(cost_usd: float) -> str:
    return format_usd(cost_usd * 1000)


def _tokens(count: float) -> str:
    return f"{count:.1f}" if count < 100 else format_count(count)  # noqa: PLR2004 - three digits


METRIC_COLUMNS: Final = (
    ReportColumn("failed", "error_rate", format_percent),
    ReportColumn("cost of 1,000", "cost_usd", _of_thousand),
    ReportColumn("latency p50", "latency_p50_s", format_duration),
    ReportColumn("p95", "latency_p95_s", format_duration),
    ReportColumn("p99", "latency_p99_s", format_duration),
    ReportColumn("first token p50", "ttft_p50_s", format_duration),
    ReportColumn("p95", "ttft_p95_s", format_duration),
    ReportColumn("tokens in", "input_tokens", _tokens),
    ReportColumn("tokens out", "output_tokens", _tokens),
)
"""What is shown beside scores; the table of models has more."""


def score_formatter(unit: str) -> Callable[[float], str]:
    """Give how scores of a unit are written."""
    return format_percent if unit == "share" else format_score


def metrics_by_model(comparison: Comparison) -> dict[tuple[str, str], MetricRow]:
    """Give each model's figures by model and metric; a score goes before a measure of the same name."""
    rows = comparison.models.to_pylist()
    return {(row["model"], row["metric"]): row for row in sorted(rows, key=lambda row: str(row["kind"] == "score"))}


def report_columns(comparison: Comparison) -> list[ReportColumn]:
    """Give the columns to show: all scores, and the measures of which something is known."""
    found = metrics_by_model(comparison)
    units = {row["metric"]: row["unit"] for row in found.values() if row["kind"] == "score"}
    known = {row["metric"] for row in found.values() if row["value"] is not None}
    scores = [ReportColumn(name, name, score_formatter(units.get(name, "score"))) for name in comparison.scorers]
    return scores + [column for column in METRIC_COLUMNS if column.metric in known and column.metric not in units]


def format_interval(row: MetricRow, write: Callable[[float], str]) -> str:
    """Write an interval; an end that the rows cannot bound stays open.

    Examples
    --------
    >>> format_interval({"low": 0.1, "high": None}, format_percent), format_interval({"low": 0.1, "high": 0.2}, format_percent)
    ('10.0 % to …', '10.0 to 20.0 %')
    """
    if row["low"] is None and row["high"] is None:
        return ""
    low, high = ("…" if end is None else write(end) for end in (row["low"], row["high"]))
    number, space, unit = low.partition(" ")
    return f"{number if high.endswith(space + unit) else low} to {high}"


def headline(comparison: Comparison) -> str:
    """Say who is ahead, and of whom that cannot be said."""
    if not comparison.scorers:
        return ""
    scorer = comparison.scorers[0]
    ranked = [row for row in comparison.ranked() if row["value"] is not None]
    if not ranked:
        return f"No answer has a score by {scorer}."
    first = ranked[0]
    said = f"{first['model']} has {score_formatter(first['unit'])(first['value'])} by {scorer}"
    if len(ranked) == 1:
        return f"{said}."
    others = comparison.leaders()[1:]
    if not others:
        return f"{said}, ahead of every other model."
    return f"{said}; these rows cannot tell it from {' and '.join(others)}."


def notes(comparison: Comparison) -> list[str]:
    """Say how figures are meant, and what was left out of them."""
    design, settings = comparison.design, comparison.design.settings
    rows = max((row["rows"] for row in comparison.ranked()), default=0)
    clusters = max((row["clusters"] for row in comparison.ranked()), default=0)
    each = f" of {design.n} answers" if design.n > 1 else ""
    by = f" in {clusters:,} groups of {design.group}" if design.group else ""
    paired = "; pairs are compared row by row, with Holm's correction for their number" if len(comparison.pairs) else ""
    said = [f"{rows:,} rows{each}{by}; intervals of {settings.level:.0%}{paired}.", *_lost(comparison)]
    if rows and clusters < FEW_CLUSTERS:
        said.append(
            f"With {clusters} {'groups' if design.group else 'rows'}, intervals and tests know little; {FEW_CLUSTERS} are few."
        )
    seen = [pair["detectable"] for pair in comparison.pairs_of() if pair["detectable"] is not None] if rows else []
    if seen:
        write = score_formatter(comparison.ranked()[0]["unit"])
        least = write(min(seen)) if min(seen) == max(seen) else f"{write(min(seen))} to {write(max(seen))}"
        said.append(
            f"Smallest true difference that these rows would have shown {settings.power:.0%} of the time: {least}."
        )
    return said + [_judge(row) for row in comparison.judges.to_pylist()]


def _lost(comparison: Comparison) -> list[str]:
    """Say what became of rows without an answer or a score."""
    totals = {name: sum(comparison.counts.column(name).to_pylist()) for name in comparison.counts.column_names[1:]}
    failed = "count as the worst score" if comparison.design.failures == "wrong" else "are left out of the scores"
    told = {
        "error": f"failed and {failed}",
        "skipped": "were not asked, since a value is missing, and are left out",
        "stopped": "were not asked, stopped or out of budget, and are left out",
        "unscored": "could not be scored and are left out",
        "cached": "came without a call of their own and are left out of the times",
    }
    return [f"{totals[name]:,} of {totals['asked']:,} {what}." for name, what in told.items() if totals[name]]


def _judge(row: MetricRow) -> str:
    cost = "unknown" if row["list_cost_usd"] is None else format_usd(float(row["list_cost_usd"]))
    said = f"Judge {row['judge']} ({row['model']}): {row['calls']:,} calls, worth {cost}"
    if row["failed"] or row["unreadable"]:
        said += f"; {row['failed']:,} failed, {row['unreadable']:,} gave nothing that could be read"
    if row["disagreement"] is not None:
        said += f"; disagreed with itself {format_percent(row['disagreement'])} of {row['compared']:,} times"
    return said + "."


def pair_conclusion(pair: MetricRow) -> str:
    """Say in a word what a pair's test found."""
    if pair["tied"] is None:
        return "no rows in common"
    if pair["tied"]:
        return "tied"
    return f"{pair['left'] if pair['difference'] > 0 else pair['right']} is better"


def signed_formatter(write: Callable[[float], str]) -> Callable[[float], str]:
    """Write a difference with its sign.

    Examples
    --------
    >>> signed_formatter(format_percent)(0.02), signed_formatter(format_percent)(-0.02)
    ('+2.0 %', '−2.0 %')
    """  # noqa: RUF002 - a minus
    return lambda value: ("+" if value > 0 else "\u2212" if value < 0 else "") + write(abs(value))


def format_p_value(p: float | None) -> str:
    """Write a p-value.

    Examples
    --------
    >>> format_p_value(0.04321), format_p_value(1e-9), format_p_value(1.0)
    ('0.043', '< 0.001', '1')
    """
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else "1" if p >= 0.9995 else f"{p:.3f}"  # noqa: PLR2004 - three places


def score_unit(comparison: Comparison, scorer: str) -> str:
    """Give the unit of a scorer's scores."""
    return next((str(row["unit"]) for row in comparison.ranked(scorer)), "score")


def comparison_markdown(comparison: Comparison) -> str:
    """Write a comparison as Markdown."""
    parts = [f"**{headline(comparison)}**"] if comparison.scorers else []
    parts += [_models(comparison)]
    parts += [table for scorer in comparison.scorers if (table := _pairs(comparison, scorer))]
    return "\n\n".join([*parts, "\n".join(f"- {each}" for each in notes(comparison))])


def _models(comparison: Comparison) -> str:
    found, shown = metrics_by_model(comparison), report_columns(comparison)
    order = [row["model"] for row in comparison.ranked()] if comparison.scorers else list(comparison.design.models)
    lines = []
    for model in order:
        cells = []
        for column in shown:
            row = found.get((model, column.metric))
            known = row is not None and row["value"] is not None
            bounds = format_interval(row, column.format_value) if row is not None and known else ""
            value = column.format_value(row["value"]) if row is not None and known else ""
            cells.append(f"{value} ({bounds})" if bounds else value)
        lines.append([model, *cells])
    return _table(["model", *(column.heading for column in shown)], lines)


def _pairs(comparison: Comparison, scorer: str) -> str:
    write = score_formatter(score_unit(comparison, scorer))
    pairs = comparison.pairs_of(scorer)
    lines = [
        [
            f"{pair['left']} \u2212 {pair['right']}",
            "" if pair["difference"] is None else signed_formatter(write)(pair["difference"]),
            format_interval(pair, signed_formatter(write)),
            f"{format_p_value(pair['p_holm'])} ({pair['test']})",
            pair_conclusion(pair),
            "" if pair["detectable"] is None else write(pair["detectable"]),
        ]
        for pair in pairs[:MAX_PAIRS_SHOWN]
    ]
    if not lines:
        return ""
    heads = [f"{scorer}: pair", "difference", "interval", "p, corrected", "", "could have shown"]
    more = (
        f"\n\n{len(pairs) - MAX_PAIRS_SHOWN:,} further pairs are in `.pairs`." if len(pairs) > MAX_PAIRS_SHOWN else ""
    )
    return _table(heads, lines) + more


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in heads[1:])]
    rows = [heads, rule, *([cell.replace("|", "\\|") for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def samples_markdown(samples: pa.Table) -> str:
    """Write what several answers a row are worth together; nothing where rows have one."""
    rows = samples.to_pylist()
    heads = list(dict.fromkeys(row["metric"] for row in rows))
    tables = []
    for scorer in dict.fromkeys(row["scorer"] for row in rows):
        found = {(row["model"], row["metric"]): row for row in rows if row["scorer"] == scorer}
        models = list(dict.fromkeys(model for model, _ in found))
        lines = [[model, *(_cell(found[model, head]) for head in heads)] for model in models]
        tables.append(_table([scorer, *heads], lines))
    return "\n\n".join(tables)


def _cell(row: MetricRow) -> str:
    return "" if row["value"] is None else f"{format_percent(row['value'])} ({format_interval(row, format_percent)})"

"""Comparisons and evaluations as Markdown; headline, notes and formatted cells are shared with the HTML report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llmhub.formatting.numbers import format_count, format_duration, format_percent, format_usd
from llmhub.formatting.text_tables import markdown_table
from llmhub.tables.schema import is_simulated

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.evals.comparison import Comparison

MAX_PAIRS_SHOWN: Final = 30
"""Pairs in a report; the table `Comparison.pairs` has all of them."""
FEW_CLUSTERS: Final = 20
"""Number of clusters below which a note warns that intervals and tests are unreliable."""
RARE_SHARE: Final = 0.05
"""Share of rows above which a note says that rarer values may be missing from the sample."""
MINUS: Final = "\u2212"
MetricRow = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReportColumn:
    """Column of a report: its heading, its metric, and the function that formats a value."""

    heading: str
    metric: str
    format_value: Callable[[float], str]


def format_score(score: float) -> str:
    """Format a graded score with three decimal places.

    Examples
    --------
    >>> format_score(3.14159)
    '3.142'
    """
    return f"{score:.3f}"


def _format_cost_of_thousand(cost_usd: float) -> str:
    return format_usd(cost_usd * 1000)


def _format_mean_tokens(tokens: float) -> str:
    return f"{tokens:.1f}" if tokens < 100 else format_count(tokens)  # noqa: PLR2004 - three digits


METRIC_COLUMNS: Final = (
    ReportColumn("failed", "error_rate", format_percent),
    ReportColumn("cost of 1,000", "cost_usd", _format_cost_of_thousand),
    ReportColumn("latency p50", "latency_p50_s", format_duration),
    ReportColumn("p95", "latency_p95_s", format_duration),
    ReportColumn("p99", "latency_p99_s", format_duration),
    ReportColumn("first token p50", "ttft_p50_s", format_duration),
    ReportColumn("p95", "ttft_p95_s", format_duration),
    ReportColumn("tokens in", "input_tokens", _format_mean_tokens),
    ReportColumn("tokens out", "output_tokens", _format_mean_tokens),
)
"""Metrics reported beside the scores; the table `Comparison.models` has more."""


def score_formatter(unit: str) -> Callable[[float], str]:
    """Return the function that formats scores of a unit."""
    return format_percent if unit == "share" else format_score


def metrics_by_model(comparison: Comparison) -> dict[tuple[str, str], MetricRow]:
    """Return the rows of `Comparison.models` by model and metric; a score takes precedence over a measure."""
    rows = comparison.models.to_pylist()
    return {(row["model"], row["metric"]): row for row in sorted(rows, key=lambda row: str(row["kind"] == "score"))}


def report_columns(comparison: Comparison) -> list[ReportColumn]:
    """Return the columns of the models table: all scores, and the metrics with at least one value."""
    metrics = metrics_by_model(comparison)
    units = {row["metric"]: row["unit"] for row in metrics.values() if row["kind"] == "score"}
    known = {row["metric"] for row in metrics.values() if row["value"] is not None}
    scores = [ReportColumn(name, name, score_formatter(units.get(name, "score"))) for name in comparison.scorers]
    return scores + [column for column in METRIC_COLUMNS if column.metric in known and column.metric not in units]


def report_order(comparison: Comparison) -> list[str]:
    """Return the models, best first; in the order of the design without scores."""
    return [row["model"] for row in comparison.ranked()] if comparison.scorers else list(comparison.design.models)


def format_interval(row: MetricRow, format_value: Callable[[float], str]) -> str:
    """Format an interval; an unbounded end is written as an ellipsis.

    Examples
    --------
    >>> format_interval({"low": 0.1, "high": None}, format_percent)
    '10.0 % to …'
    >>> format_interval({"low": 0.1, "high": 0.2}, format_percent)
    '10.0 to 20.0 %'
    """
    if row["low"] is None and row["high"] is None:
        return ""
    low, high = ("…" if end is None else format_value(end) for end in (row["low"], row["high"]))
    number, space, unit = low.partition(" ")
    return f"{number if high.endswith(space + unit) else low} to {high}"


def signed_formatter(format_value: Callable[[float], str]) -> Callable[[float], str]:
    """Return a function that formats a difference with its sign.

    Examples
    --------
    >>> signed_formatter(format_percent)(0.02), signed_formatter(format_percent)(-0.02)
    ('+2.0 %', '−2.0 %')
    """  # noqa: RUF002 - a minus
    return lambda value: ("+" if value > 0 else MINUS if value < 0 else "") + format_value(abs(value))


def format_p_value(p: float | None) -> str:
    """Format a p-value with three decimal places.

    Examples
    --------
    >>> format_p_value(0.04321), format_p_value(1e-9), format_p_value(1.0)
    ('0.043', '< 0.001', '1')
    """
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else "1" if p >= 0.9995 else f"{p:.3f}"  # noqa: PLR2004 - three places


def score_unit(comparison: Comparison, scorer: str) -> str:
    """Return the unit of a scorer's scores: ``share`` if they are binary, else ``score``."""
    return next((str(row["unit"]) for row in comparison.ranked(scorer)), "score")


def with_simultaneous_interval(pair: MetricRow) -> MetricRow:
    """Return a pair whose interval is that which holds for all pairs together, as its corrected p-value does."""
    return {**pair, "low": pair["simultaneous_low"], "high": pair["simultaneous_high"]}


def pair_conclusion(pair: MetricRow) -> str:
    """Return the result of a pair's test in words."""
    if pair["significant"] is None:
        return "no common rows"
    if not pair["significant"]:
        return "not significant"
    return f"{pair['left'] if pair['difference'] > 0 else pair['right']} is better"


def headline(comparison: Comparison) -> str:
    """Return a sentence on the best model and on those that do not differ significantly from it."""
    if not comparison.scorers:
        return ""
    scorer = comparison.scorers[0]
    ranked = [row for row in comparison.ranked() if row["value"] is not None]
    if not ranked:
        return f"No response has a {scorer} score."
    best = ranked[0]
    result = f"{best['model']} scores {score_formatter(best['unit'])(best['value'])} on {scorer}"
    if len(ranked) == 1:
        return f"{result}."
    if comparison.design.baseline is not None:
        return f"{result}. {_against_baseline(comparison, comparison.design.baseline)}"
    ties = comparison.leaders()[1:]
    if not ties:
        return f"{result}, significantly better than every other model."
    return f"{result}; the difference to {' and '.join(ties)} is not significant."


def _against_baseline(comparison: Comparison, baseline: str) -> str:
    """Return a sentence on the models that are significantly better and worse than the baseline."""
    significant = [pair for pair in comparison.pairs_of() if pair["significant"]]
    better = [pair["left"] for pair in significant if pair["difference"] > 0]
    worse = [pair["left"] for pair in significant if pair["difference"] < 0]
    parts = [f"{' and '.join(names)} {word}" for names, word in ((better, "better"), (worse, "worse")) if names]
    if not parts:
        return f"No model differs significantly from {baseline}."
    return f"Significantly different from {baseline}: {'; '.join(parts)}."


def notes(comparison: Comparison) -> list[str]:
    """Return notes on the design of the comparison, excluded rows, power and judges."""
    design, settings = comparison.design, comparison.design.settings
    ranked = comparison.ranked()
    rows = max((row["rows"] for row in ranked), default=0)
    clusters = max((row["clusters"] for row in ranked), default=0)
    samples = f" of {design.n} samples" if design.n > 1 else ""
    groups = f" in {clusters:,} groups of {design.group}" if design.group else ""
    tests = (
        "; paired tests with Holm's correction for the number of pairs, and intervals that hold for all of them"
        if len(comparison.pairs)
        else ""
    )
    lines = [f"{rows:,} rows{samples}{groups}; {settings.level:.0%} confidence intervals{tests}."]
    if comparison.results is not None and is_simulated(comparison.results.schema):
        lines.append("Simulated responses: scores and times are not those of the real models; costs are list prices.")
    lines += _status_notes(comparison)
    if rows and clusters < FEW_CLUSTERS:
        noun = "groups" if design.group else "rows"
        lines.append(f"With only {clusters} {noun}, intervals and tests are unreliable; use at least {FEW_CLUSTERS}.")
    lines += _unseen_notes(comparison)
    effects = [pair["minimum_detectable_effect"] for pair in comparison.pairs_of()] if rows else []
    effects = [effect for effect in effects if effect is not None]
    if effects:
        format_value = score_formatter(ranked[0]["unit"])
        low, high = format_value(min(effects)), format_value(max(effects))
        span = low if min(effects) == max(effects) else f"{low} to {high}"
        lines.append(f"Minimum detectable difference with {settings.power:.0%} power: {span}.")
    return lines + [_judge_note(row) for row in comparison.judges.to_pylist()]


def _unseen_notes(comparison: Comparison) -> list[str]:
    """Return a note on means of so few rows that a rare, very different value may be missing from them."""
    means = [row for row in comparison.models.to_pylist() if row["low"] is not None and row["unseen_share"] is not None]
    share = max((row["unseen_share"] for row in means), default=0.0)
    if share <= RARE_SHARE:
        return []
    names = ", ".join(dict.fromkeys(_spoken(row["metric"]) for row in means if row["unseen_share"] > RARE_SHARE))
    note = f"Means ({names}) are those of what the rows show: values rarer than {format_percent(share)} may be missing"
    return [f"{note}, such as a few very expensive responses."]


def _spoken(metric: str) -> str:
    return {"cost_usd": "cost", "input_tokens": "tokens in", "output_tokens": "tokens out"}.get(metric, metric)


def _status_notes(comparison: Comparison) -> list[str]:
    """Return a note for each status other than success that occurs."""
    totals = {name: sum(comparison.counts.column(name).to_pylist()) for name in comparison.counts.column_names[1:]}
    is_wrong = comparison.design.failures == "wrong"
    treatments = {
        "error": f"failed and {'count as the worst score' if is_wrong else 'are left out of the scores'}",
        "skipped": "were not sent, because a value is missing, and are left out",
        "stopped": "were not sent, because the run was cancelled or over budget, and are left out",
        "unscored": "could not be scored and are left out",
        "cached": "were answered without a call of their own and are left out of the latencies",
    }
    return [
        f"{totals[status]:,} of {totals['total']:,} {treatment}."
        for status, treatment in treatments.items()
        if totals[status]
    ]


def _judge_note(row: MetricRow) -> str:
    cost = "unknown" if row["list_cost_usd"] is None else format_usd(float(row["list_cost_usd"]))
    note = f"Judge {row['judge']} ({row['model']}): {row['calls']:,} calls, list price {cost}"
    if row["failed"] or row["unreadable"]:
        note += f"; {row['failed']:,} failed, {row['unreadable']:,} without a readable verdict"
    if row["disagreement"] is not None:
        note += f"; {format_percent(row['disagreement'])} of {row['compared']:,} repeated judgements disagree"
    if row["first_share"] is not None:
        interval = format_interval({"low": row["first_low"], "high": row["first_high"]}, format_percent)
        note += (
            f"; the response shown first won {format_percent(row['first_share'])} of {row['decided']:,} ({interval})"
        )
    return note + "."


def comparison_markdown(comparison: Comparison) -> str:
    """Return a comparison as Markdown."""
    parts = [f"**{headline(comparison)}**"] if comparison.scorers else []
    parts += [_models_table(comparison)]
    parts += [table for scorer in comparison.scorers if (table := _pairs_table(comparison, scorer))]
    parts += [table for table in (_head_to_head_table(comparison), _ratings_table(comparison)) if table]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes(comparison))])


def _models_table(comparison: Comparison) -> str:
    metrics, columns = metrics_by_model(comparison), report_columns(comparison)
    rows = [
        [model, *(_value_cell(metrics.get((model, column.metric)), column.format_value) for column in columns)]
        for model in report_order(comparison)
    ]
    return markdown_table(["model", *(column.heading for column in columns)], rows)


def _value_cell(row: MetricRow | None, format_value: Callable[[float], str]) -> str:
    """Format a value with its interval in parentheses."""
    if row is None or row["value"] is None:
        return ""
    interval = format_interval(row, format_value)
    return f"{format_value(row['value'])} ({interval})" if interval else format_value(row["value"])


def _pairs_table(comparison: Comparison, scorer: str) -> str:
    pairs = comparison.pairs_of(scorer)
    if not pairs:
        return ""
    format_value = score_formatter(score_unit(comparison, scorer))
    format_difference = signed_formatter(format_value)
    rows = [
        [
            f"{pair['left']} {MINUS} {pair['right']}",
            "" if pair["difference"] is None else format_difference(pair["difference"]),
            format_interval(pair, format_difference),
            f"{format_p_value(pair['p_holm'])} ({pair['test']})",
            pair_conclusion(pair),
            "" if (effect := pair["minimum_detectable_effect"]) is None else format_value(effect),
        ]
        for pair in map(with_simultaneous_interval, pairs[:MAX_PAIRS_SHOWN])
    ]
    header = [f"{scorer}: pair", "difference", "interval", "p, corrected", "", "minimum detectable"]
    hidden = len(pairs) - MAX_PAIRS_SHOWN
    more = f"\n\n{hidden:,} more pairs are in `.pairs`." if hidden > 0 else ""
    return markdown_table(header, rows) + more


def groups_table(groups: pa.Table) -> str:
    """Return the scores of each group of rows (`Comparison.by`) as Markdown, one table per scorer."""
    parts = []
    for scorer in dict.fromkeys(groups.column("scorer").to_pylist()):
        rows = [row for row in groups.to_pylist() if row["scorer"] == scorer]
        cells = {(row["group"], row["model"]): row for row in rows}
        models = list(dict.fromkeys(row["model"] for row in rows))
        format_value = score_formatter(rows[0]["unit"])
        lines = [
            [
                "mean of the groups" if group is None else group,
                *(_value_cell(cells[group, model], format_value) for model in models),
                f"{max(cells[group, model]['rows'] for model in models):,}",
            ]
            for group in dict.fromkeys(row["group"] for row in rows)
        ]
        parts.append(markdown_table([scorer, *models, "rows"], lines))
    return "\n\n".join(parts)


def _head_to_head_table(comparison: Comparison) -> str:
    """Return the direct comparisons of each pair by pairwise judges; empty without any."""
    rows = [
        [
            f"{row['left']} : {row['right']}",
            f"{row['left_wins']:,} : {row['right_wins']:,}",
            *(f"{row[name]:,}" for name in ("ties", "inconsistent", "failed")),
            format_percent(row["left_share"]),
        ]
        for row in comparison.head_to_head.to_pylist()[:MAX_PAIRS_SHOWN]
    ]
    header = ["head to head", "wins", "ties", "changed with the order", "with a failed response", "share of the first"]
    return markdown_table(header, rows) if rows else ""


def _ratings_table(comparison: Comparison) -> str:
    """Return the Bradley-Terry ratings, best first; empty without pairwise judges."""
    ratings = sorted(comparison.ratings.to_pylist(), key=lambda row: -row["rating"])
    rows = [
        [row["model"], f"{row['elo']:.0f}", _value_cell({**row, "value": row["rating"]}, _format_log_odds)]
        for row in ratings
    ]
    return markdown_table(["rating", "Elo", "Bradley-Terry strength"], rows) if rows else ""


def _format_log_odds(value: float) -> str:
    return f"{value:+.2f}".replace("-", MINUS)


def samples_markdown(samples: pa.Table, pairs: pa.Table, dataset_rows: int) -> str:
    """Return pass@k and majority votes as Markdown, one table per scorer; empty without several samples per row.

    Below them are the pairs of models, and how many rows a metric leaves out because they have too few responses.
    """
    rows = samples.to_pylist()
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    parts = []
    for scorer in dict.fromkeys(row["scorer"] for row in rows):
        cells = {(row["model"], row["metric"]): row for row in rows if row["scorer"] == scorer}
        models = dict.fromkeys(model for model, _ in cells)
        lines = [
            [model, *(_value_cell(cells[model, metric], format_percent) for metric in metrics)] for model in models
        ]
        parts.append(markdown_table([scorer, *metrics], lines))
        parts += _sample_pairs_table([pair for pair in pairs.to_pylist() if pair["scorer"] == scorer])
        missing = {
            f"{dataset_rows - row['rows']:,} of {dataset_rows:,} rows of {row['model']} for {row['metric']}"
            for row in cells.values()
            if row["rows"] < dataset_rows
        }
        if missing:
            parts.append(f"- Left out, because they have too few responses: {'; '.join(sorted(missing))}.")
    return "\n\n".join(parts)


def _sample_pairs_table(pairs: Sequence[MetricRow]) -> list[str]:
    """Return the table of paired differences of pass@k and majority votes, or nothing without pairs."""
    format_difference = signed_formatter(format_percent)
    lines = [
        [
            f"{pair['left']} {MINUS} {pair['right']}",
            pair["metric"],
            "" if pair["difference"] is None else format_difference(pair["difference"]),
            format_interval(pair, format_difference),
            f"{format_p_value(pair['p_holm'])} ({pair['test']})",
            pair_conclusion(pair),
        ]
        for pair in map(with_simultaneous_interval, pairs[:MAX_PAIRS_SHOWN])
    ]
    return [markdown_table(["pair", "", "difference", "interval", "p, corrected", ""], lines)] if lines else []

"""From scored answers to a comparison: every figure into its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.evals import statistics
from llmhub.evals.comparison import COUNTS, JUDGES, MODELS, PAIRS, Comparison, Design
from llmhub.evals.contrast import Difference, Mean, Quantity, contrast
from llmhub.evals.grading import ERROR, OK, Scored, scores_table
from llmhub.evals.judging import Judge, Judged
from llmhub.evals.layout import Layout
from llmhub.evals.measures import Setting, measures
from llmhub.evals.resample import Longs


@dataclass(frozen=True, slots=True)
class Graded:
    """Answers with their scores.

    Parameters
    ----------
    table
        The answers.
    layout
        Where they stand.
    scored
        What each scorer said.
    judged
        What each judge said besides.
    clusters
        Which group each row is of, if rows are grouped.
    """

    table: pa.Table
    layout: Layout
    scored: Sequence[Scored]
    judged: Sequence[tuple[Judge, Judged]] = ()
    clusters: Longs | None = None


def compared(graded: Graded, design: Design) -> Comparison:
    """Give every figure that scored answers allow."""
    setting = Setting(graded.layout, graded.clusters, design.settings)
    names = graded.layout.names
    figures: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for one in graded.scored:
        values, answers = graded.layout.spread(one.scores, one.counted)
        quantity = Quantity(values, answers, graded.clusters, right=one.right, single=graded.layout.single)
        means, differences = contrast(quantity, design.settings)
        unit = "share" if one.right else "score"
        figures += [_figure(names[at], "score", one.name, unit, mean) for at, mean in enumerate(means)]
        pairs += _pairs(one.name, names, differences, design)
    figures += [
        _figure(names[each.model], "measure", each.metric, each.unit, each.mean)
        for each in measures(graded.table, setting)
    ]
    return Comparison(
        results=graded.table,
        scores=scores_table(graded.table, graded.scored),
        models=pa.Table.from_pylist(figures, schema=MODELS),
        pairs=pa.Table.from_pylist(pairs, schema=PAIRS),
        counts=_counts(graded),
        judges=pa.Table.from_pylist([_judge(one, said, design) for one, said in graded.judged], schema=JUDGES),
        judgements={one.name: said.calls for one, said in graded.judged},
        design=design,
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _figure(model: str, kind: str, metric: str, unit: str, mean: Mean) -> dict[str, Any]:
    return {
        "model": model,
        "kind": kind,
        "metric": metric,
        "unit": unit,
        "value": _known(mean.value),
        "low": _known(mean.interval.low),
        "high": _known(mean.interval.high),
        "rows": mean.rows,
        "clusters": mean.clusters,
        "method": mean.method,
    }


def _pairs(
    scorer: str, names: Sequence[str], differences: Sequence[Difference], design: Design
) -> list[dict[str, Any]]:
    """Put each pair into a row, its p-value corrected for the others."""
    corrected = iter(statistics.holm([each.p for each in differences if not math.isnan(each.p)]))
    settings = design.settings
    found = []
    for each in differences:
        p_holm = None if math.isnan(each.p) else next(corrected)
        found.append(
            {
                "scorer": scorer,
                "left": names[each.left],
                "right": names[each.right],
                "left_score": _known(each.means[0]),
                "right_score": _known(each.means[1]),
                "difference": _known(each.value),
                "low": _known(each.interval.low),
                "high": _known(each.interval.high),
                "test": each.test,
                "p": _known(each.p),
                "p_holm": p_holm,
                "tied": None if p_holm is None else p_holm >= 1 - settings.level,
                "only_left": each.only_left,
                "only_right": each.only_right,
                "rows": each.rows,
                "clusters": each.clusters,
                "error": _known(each.error),
                "detectable": _known(statistics.detectable(each.error, each.clusters, settings.wish)),
            }
        )
    return found


def _counts(graded: Graded) -> pa.Table:
    """Say what became of each model's rows."""
    table, which, models = graded.table, graded.layout.which, len(graded.layout.models)
    there = table.column_names
    plain = np.full(len(table), OK, object)
    status = table.column("status").cast(pa.string()).to_numpy() if "status" in there else plain
    cached = pc.fill_null(table.column("cache_hit"), False).to_numpy() if "cache_hit" in there else plain == ""
    unscored = np.zeros(len(table), np.bool_)
    for one in graded.scored:
        unscored |= np.isnan(one.scores)
    kinds = {
        "asked": status == status,  # noqa: PLR0124 - all
        "ok": status == OK,
        "error": status == ERROR,
        "skipped": status == "skipped",
        "stopped": np.isin(status.astype(str), ("cancelled", "budget")),
        "cached": np.asarray(cached, np.bool_),
        "unscored": unscored & (status == OK),
    }
    columns = {name: np.bincount(which[np.asarray(flags, np.bool_)], minlength=models) for name, flags in kinds.items()}
    return pa.table({"model": list(graded.layout.names), **columns}, schema=COUNTS)


def _judge(one: Judge, said: Judged, design: Design) -> Mapping[str, Any]:
    """Say what a judge cost, and how often it was not at one with itself."""
    calls, level = said.calls, design.settings.level
    share = said.disagreed / said.compared if said.compared else math.nan
    bounds = statistics.wilson(share, said.compared, level) if said.compared else (None, None)
    return {
        "judge": one.name,
        "model": one.model,
        "calls": len(calls),
        "failed": sum(status != OK for status in calls.column("status").to_pylist()),
        "unreadable": said.unreadable,
        "cost_usd": _sum(calls, "cost_usd"),
        "list_cost_usd": _sum(calls, "list_cost_usd"),
        "compared": said.compared,
        "disagreed": said.disagreed,
        "disagreement": _known(share),
        "low": bounds[0],
        "high": bounds[1],
    }


def _sum(calls: pa.Table, name: str) -> Any:
    return pc.sum(calls.column(name).combine_chunks()).as_py()

"""What a table of answers says of each model besides scores: failures, cost, tokens, times, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.evals import statistics
from llmhub.evals.contrast import Mean, Quantity, Settings, contrast
from llmhub.evals.grading import ERROR, OK
from llmhub.evals.layout import Flags, Layout, numbers
from llmhub.evals.resample import Floats, Longs
from llmhub.evals.statistics import Interval
from llmhub.tables.money import to_nanos

USD: Final = 1e-9
AVERAGES: Final = (
    ("cost_usd", "list_cost_usd", "USD"),
    ("input_tokens", "input_tokens", "tokens"),
    ("output_tokens", "output_tokens", "tokens"),
)
"""Means over answers, by the column they are of. Cost is what an answer is worth, whether or not a cache had it."""
TIMES: Final = (("latency", "latency_s", (0.50, 0.95, 0.99)), ("ttft", "ttft_s", (0.50, 0.95, 0.99)))
"""Quantiles over calls that were made; answers from a cache say nothing of today."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of one model: ``model`` is its place."""

    model: int
    metric: str
    unit: str
    mean: Mean


@dataclass(frozen=True, slots=True)
class Setting:
    """Where answers stand, which rows go together, and how sure to be."""

    layout: Layout
    clusters: Longs | None
    settings: Settings

    @property
    def apart(self) -> bool:
        """Say whether answers know nothing of each other."""
        return self.clusters is None and self.layout.single


def measures(table: pa.Table, setting: Setting) -> list[Measure]:
    """Give every figure that the table's columns allow."""
    there = set(table.column_names)
    found: list[Measure] = []
    answered = np.ones(len(table), np.bool_)
    if "status" in there:
        status = np.asarray(table.column("status").cast(pa.string()).to_numpy(zero_copy_only=False))
        answered = status == OK
        found += _errors(status, setting)
    found += _averages(table, answered, setting)
    if "cost_usd" in there:
        found += _paid(table, setting)
    made = answered & ~_flags(table, "cache_hit") if "cache_hit" in there else answered
    for name, column, shares in TIMES:
        if column in there:
            found += _times(name, shares, numbers(table, column), made, setting)
    return found


def _flags(table: pa.Table, name: str) -> Flags:
    found: Flags = np.asarray(pc.fill_null(table.column(name), False).to_numpy(), np.bool_)
    return found


def _errors(status: np.ndarray[tuple[int], np.dtype[np.object_]], setting: Setting) -> Iterator[Measure]:
    """Give the share of failures among what was asked and came to an end."""
    asked: Flags = np.isin(status.astype(str), (OK, ERROR))
    values, answers = setting.layout.spread((status == ERROR).astype(np.float64), asked)
    quantity = Quantity(values, answers, setting.clusters, right=True, single=setting.layout.single)
    means, _ = contrast(quantity, setting.settings, pairs=False)
    return (Measure(at, "error_rate", "share", mean) for at, mean in enumerate(means))


def _averages(table: pa.Table, answered: Flags, setting: Setting) -> Iterator[Measure]:
    """Give means over answers, all from the same resamples."""
    wanted = [(name, column, unit) for name, column, unit in AVERAGES if column in table.column_names]
    spread = []
    for _, column, _ in wanted:
        values = to_nanos(table.column(column)) * USD if column.endswith("_usd") else numbers(table, column)
        known = np.asarray(table.column(column).is_valid().to_numpy(), np.bool_) & answered
        spread.append(setting.layout.spread(np.asarray(values, np.float64), known))
    if not spread:
        return
    values, answers = np.hstack([one for one, _ in spread]), np.concatenate([many for _, many in spread])
    means, _ = contrast(Quantity(values, answers, setting.clusters, single=False), setting.settings, pairs=False)
    models = len(setting.layout.models)
    for at, mean in enumerate(means):
        name, _, unit = wanted[at // models]
        yield Measure(at % models, name, unit, mean)


def _paid(table: pa.Table, setting: Setting) -> Iterator[Measure]:
    """Give what was paid in all, which is known and has no interval."""
    nanos = to_nanos(table.column("cost_usd"))
    models = len(setting.layout.models)
    totals = np.bincount(setting.layout.which, nanos, models)
    rows = np.bincount(setting.layout.which, minlength=models)
    for at in range(models):
        yield Measure(at, "paid_usd", "USD", _exact(float(totals[at]) * USD, int(rows[at])))


def _exact(value: float, rows: int) -> Mean:
    return Mean(value, Interval(math.nan, math.nan), rows, rows, "sum")


def _times(name: str, shares: tuple[float, ...], values: Floats, made: Flags, setting: Setting) -> Iterator[Measure]:
    """Give quantiles of a time over the calls that were made."""
    known = made & ~np.isnan(values)
    for at in range(len(setting.layout.models)):
        mine = known & (setting.layout.which == at)
        for share in shares:
            metric = f"{name}_p{share * 100:.0f}_s"
            yield Measure(at, metric, "s", _quantile(values[mine], share, setting.layout.row[mine], setting))


def _quantile(values: Floats, share: float, rows: Longs, setting: Setting) -> Mean:
    """Give a quantile; where answers come in clusters, their number counts for as much as it tells."""
    level = setting.settings.level
    if not len(values):
        return Mean(math.nan, Interval(math.nan, math.nan), 0, 0, "none")
    value = float(np.quantile(values, share, method="inverted_cdf"))
    if setting.apart:
        bounds = statistics.quantile_bounds(values, share, level)
        return Mean(value, bounds, len(values), len(values), "order statistics")
    cluster = rows if setting.clusters is None else setting.clusters[rows]
    counts: Floats = np.bincount(cluster, np.ones(len(cluster))).astype(np.float64)
    below: Floats = np.bincount(cluster, (values <= value).astype(np.float64)).astype(np.float64)
    kept = counts > 0
    many = int(kept.sum())
    reached = float(below.sum() / counts.sum())
    error = statistics.spread_of(below[kept], counts[kept])
    trials = statistics.effective(reached, error, many, len(values), level)
    bounds = statistics.quantile_bounds(values, share, level, trials)
    return Mean(value, bounds, len(values), many, "order statistics, clustered")

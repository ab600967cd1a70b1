"""A plan compared with the results of its run."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from llmhub.formatting.numbers import format_usd
from llmhub.formatting.text_tables import text_table
from llmhub.tables.forecast import (
    CostInterval,
    PredictionInterval,
    format_count_interval,
    format_usd_interval,
)
from llmhub.tables.plan import ModelPlan, Plan
from llmhub.tables.result_frames import require_result_columns, results_table
from llmhub.tables.schema import MICROSECONDS_PER_S

INTERVAL_LABELS: Final = {True: "within", False: "OUTSIDE", None: "unknown"}

COMPARED_COLUMNS: Final = (
    "provider",
    "model",
    "status",
    "cache_hit",
    "cost_usd",
    "input_tokens",
    "output_tokens",
)
"""Result columns that a plan is compared with."""
TIME_COLUMNS: Final = ("attempts", "started_at", "total_s")
"""Result columns that tell how long a run took; compact results do not have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCheck:
    """One forecast and its actual value.

    Parameters
    ----------
    model
        ``provider/model``; empty for the run as a whole.
    quantity
        ``calls``, ``input tokens``, ``output tokens``, ``USD`` or ``seconds``.
    forecast, actual
        ``None`` where unknown.
    """

    model: str
    quantity: str
    forecast: PredictionInterval | CostInterval | None
    actual: float | Decimal | None

    @property
    def within_interval(self) -> bool | None:
        """Whether the actual value is within the interval; ``None`` if one of them is unknown."""
        if self.forecast is None or self.actual is None:
            return None
        value: Any = self.actual
        # What is equal as it is printed is equal: 0 seconds are within 0.3 to 19, which is shown as 0..19.
        shown = {_format_actual(bound) for bound in (self.forecast.low, self.forecast.high)}
        return value in self.forecast or _format_actual(value) in shown


@dataclass(frozen=True, slots=True)
class PlanComparison:
    """Forecasts of a plan and the actual values of its run."""

    checks: tuple[PlanCheck, ...]

    @property
    def within_intervals(self) -> bool:
        """Whether all known values are within their intervals."""
        return all(check.within_interval is not False for check in self.checks)

    def __repr__(self) -> str:
        """Return the comparison as a table."""
        return str(self)

    def __str__(self) -> str:
        """Return the comparison as a table for a terminal."""
        rows = [
            (
                check.model,
                check.quantity,
                _format_forecast(check.forecast),
                _format_actual(check.actual),
                INTERVAL_LABELS[check.within_interval],
            )
            for check in self.checks
        ]
        return text_table(("model", "quantity", "forecast", "actual", "interval"), rows)


def _format_forecast(value: PredictionInterval | CostInterval | None) -> str:
    return format_count_interval(value) if isinstance(value, PredictionInterval) else format_usd_interval(value)


def _format_actual(value: float | Decimal | None) -> str:
    if value is None:
        return ""
    return format_usd(value, symbol="") if isinstance(value, Decimal) else f"{value:,.0f}"


def compare_plan(plan: Plan, table: Any) -> PlanComparison:
    """Compare a plan with the results of its run."""
    results = results_table(table, columns=(*COMPARED_COLUMNS, *TIME_COLUMNS))
    require_result_columns(results.column_names, COMPARED_COLUMNS, "Plan.compare", "table")
    names = pc.binary_join_element_wise(_string_column(results, "provider"), _string_column(results, "model"), "/")
    checks: list[PlanCheck] = []
    for model in plan.models:
        checks += _model_checks(model, results.filter(pc.equal(names, model.model)))
    checks.append(
        PlanCheck(model="", quantity="seconds", forecast=plan.minutes.scale(60), actual=_wall_time_s(results))
    )
    return PlanComparison(tuple(checks))


def _string_column(results: pa.Table, name: str) -> Any:
    return results.column(name).cast(pa.string())


def _model_checks(model: ModelPlan, rows: pa.Table) -> list[PlanCheck]:
    """Compare a model's forecasts with its calls in this run; cache hits are not calls."""
    sent = _sent_rows(rows.filter(pc.invert(rows.column("cache_hit"))))
    costs = sent.filter(pc.equal(_string_column(sent, "status"), "ok")).column("cost_usd")
    usd = None if costs.null_count else pc.sum(costs).as_py() or Decimal(0)
    calls = float(model.calls)
    numbers: tuple[tuple[str, PredictionInterval | CostInterval | None, float | Decimal | None], ...] = (
        ("calls", PredictionInterval(calls, calls, calls), float(len(sent))),
        ("input tokens", model.input_tokens, _column_sum(sent, "input_tokens")),
        ("output tokens", model.output_tokens, _column_sum(sent, "output_tokens")),
        ("USD", model.usd, usd),
    )
    return [
        PlanCheck(model=model.model, quantity=quantity, forecast=forecast, actual=actual)
        for quantity, forecast, actual in numbers
    ]


def _sent_rows(rows: pa.Table) -> pa.Table:
    """Return the rows of calls; compact results do not have the attempts, so a row with an outcome counts."""
    if "attempts" in rows.column_names:
        return rows.filter(pc.greater(rows.column("attempts"), 0))
    return rows.filter(pc.is_in(_string_column(rows, "status"), pa.array(["ok", "error"])))


def _column_sum(rows: pa.Table, name: str) -> float:
    return float(pc.sum(rows.column(name)).as_py() or 0)


def _wall_time_s(results: pa.Table) -> float | None:
    """Return the seconds from the start of the first call to the end of the last; ``None`` without calls or times."""
    if not {*TIME_COLUMNS} <= {*results.column_names}:
        return None
    sent = _sent_rows(results)
    started = sent.column("started_at").cast(pa.int64())
    if not len(sent) or started.null_count == len(sent):
        return None
    durations = pc.multiply(pc.fill_null(sent.column("total_s"), 0.0), float(MICROSECONDS_PER_S))
    ended = pc.add(started.cast(pa.float64()), durations)
    return float((pc.max(ended).as_py() - pc.min(started).as_py()) / MICROSECONDS_PER_S)

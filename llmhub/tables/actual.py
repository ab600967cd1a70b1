"""A forecast against what a run did: model by model, whether each number came to lie where it was expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from llmhub.tables.forecast import Interval, Money
from llmhub.tables.layout import amount, lined, money, span
from llmhub.tables.plan import ModelPlan, Plan

MICRO: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One number: what was expected of it, and what came of it."""

    model: str
    what: str
    forecast: Interval | Money | None
    actual: float | Decimal | None

    @property
    def held(self) -> bool | None:
        """Whether it lies within; ``None`` where the forecast or the number is not known."""
        if self.forecast is None or self.actual is None:
            return None
        value: Any = self.actual
        return value in self.forecast


@dataclass(frozen=True, slots=True)
class Actual:
    """What a run did beside what was forecast of it."""

    numbers: tuple[Held, ...]

    @property
    def held(self) -> bool:
        """Whether everything that is known lies where it was expected."""
        return all(number.held is not False for number in self.numbers)

    def __repr__(self) -> str:
        """Say it where it is shown."""
        return str(self)

    def __str__(self) -> str:
        """Write it as a table for a terminal."""
        rows = [
            (one.model, one.what, _forecast(one.forecast), _actual(one.actual), VERDICT[one.held])
            for one in self.numbers
        ]
        return lined((("model", "of", "forecast", "actual", ""), *rows))


VERDICT: Final = {True: "as expected", False: "OUTSIDE", None: "unknown"}


def _forecast(value: Interval | Money | None) -> str:
    return money(value) if isinstance(value, Money) or value is None else span(value)


def _actual(value: float | Decimal | None) -> str:
    return "" if value is None else amount(value) if isinstance(value, Decimal) else f"{value:,.0f}"


def actual_of(plan: Plan, table: Any) -> Actual:
    """Hold a plan against the results of its run."""
    results = table if isinstance(table, pa.Table) else pa.table(table)
    names = pc.binary_join_element_wise(_text(results, "provider"), _text(results, "model"), "/")
    numbers: list[Held] = []
    for model in plan.models:
        numbers += _numbers(model, results.filter(pc.equal(names, model.model)))
    numbers.append(Held(model="", what="seconds", forecast=plan.minutes.scaled(60), actual=_wall_s(results)))
    return Actual(tuple(numbers))


def _text(results: pa.Table, name: str) -> Any:
    return results.column(name).cast(pa.string())


def _numbers(model: ModelPlan, rows: pa.Table) -> Sequence[Held]:
    """Count what was sent and came back, paid by calls of this run."""
    sent = rows.filter(pc.and_(pc.invert(rows.column("cache_hit")), pc.greater(rows.column("attempts"), 0)))
    costs = sent.filter(pc.equal(_text(sent, "status"), "ok")).column("cost_usd")
    usd: Any = None if costs.null_count else pc.sum(costs).as_py() or Decimal(0)
    calls = float(model.calls)
    return [
        Held(model=model.model, what="calls", forecast=Interval(calls, calls, calls), actual=float(len(sent))),
        Held(model=model.model, what="input tokens", forecast=model.input_tokens, actual=_sum(sent, "input_tokens")),
        Held(model=model.model, what="output tokens", forecast=model.output_tokens, actual=_sum(sent, "output_tokens")),
        Held(model=model.model, what="USD", forecast=model.usd, actual=usd),
    ]


def _sum(rows: pa.Table, name: str) -> float:
    return float(pc.sum(rows.column(name)).as_py() or 0)


def _wall_s(results: pa.Table) -> float | None:
    """Give the seconds between the first call's beginning and the last one's end."""
    sent = results.filter(pc.greater(results.column("attempts"), 0))
    begun = sent.column("started_at").cast(pa.int64())
    if not len(sent) or begun.null_count == len(sent):
        return None
    took = pc.multiply(pc.fill_null(sent.column("total_s"), 0.0), MICRO)
    ended = pc.add(begun.cast(pa.float64()), took)
    return float((pc.max(ended).as_py() - pc.min(begun).as_py()) / MICRO)

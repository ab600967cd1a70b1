"""A plan as JSON: the fields of `llmhub.tables.plan.Plan`, which is not imported here because it imports Arrow."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from llmhub.server.run_status import Usd

if TYPE_CHECKING:
    from llmhub.tables.plan import Plan


class Interval(Struct):
    """Expected value and bounds of a 95 % prediction interval."""

    low: float
    expected: float
    high: float


class UsdInterval(Struct):
    """Expected cost and bounds of its 95 % prediction interval, in US dollars."""

    low: Usd
    expected: Usd
    high: Usd


class ModelPlanDocument(Struct, kw_only=True):
    """The plan for one model, as `llmhub.tables.plan.ModelPlan`."""

    model: str
    rows: int
    skipped: int
    duplicates: int
    cache_hits: int
    calls: int
    input_tokens: Interval
    output_tokens: Interval
    basis: str
    observations: int
    estimated: bool
    usd: UsdInterval | None
    price_id: str
    latency_s: Interval
    longest_s: float
    assumed_output_tokens: int
    requests: Interval
    max_turns: int
    open_conversations: int
    live_usd: UsdInterval | None


class PlanDocument(Struct, kw_only=True):
    """Response of ``POST /v1/plans``, as `llmhub.tables.plan.Plan`; ``usd`` is the cost of all calls."""

    models: list[ModelPlanDocument]
    minutes: Interval
    bottleneck: str
    pilot: int
    pilot_usd: Usd | None
    counted: int
    simulated: bool
    mode: Literal["live", "batch"]
    calls: int
    usd: UsdInterval | None


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return a plan as values for JSON, with its totals."""
    fields: dict[str, Any] = msgspec.to_builtins(plan, builtin_types=(Decimal,))
    usd = None if plan.usd is None else msgspec.to_builtins(plan.usd, builtin_types=(Decimal,))
    return {**fields, "calls": plan.calls, "usd": usd}

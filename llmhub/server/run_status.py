"""The state of a run as clients see it: counts by model, cost, pace, forecast, and what it waits for."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from llmhub.server.run_store import RunState

if TYPE_CHECKING:
    import pyarrow as pa

RATE_WINDOW_S: Final = 10.0
"""Time over which the pace is measured."""
Usd = Annotated[Decimal, Meta(extra_json_schema={"type": "number"})]


class ModelStatus(Struct, kw_only=True):
    """Results of a run for one model; costs are in US dollars, ``null`` where a price is unknown."""

    model: str
    total: int = 0
    ok: int = 0
    cached: int = 0
    failed: int = 0
    skipped: int = 0
    over_budget: int = 0
    cancelled: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    spent_usd: Usd | None = Decimal(0)
    forecast_usd: Usd | None = None


class RunForecast(Struct, kw_only=True):
    """The plan of a run, made when it was created: expected value and bounds of a 95 % prediction interval."""

    calls: int
    cache_hits: int
    expected_usd: Usd | None = None
    low_usd: Usd | None = None
    high_usd: Usd | None = None
    expected_s: float = 0.0
    low_s: float = 0.0
    high_s: float = 0.0
    bottleneck: str = ""


class RunStatus(Struct, kw_only=True):
    """A run: times in epoch seconds, results in rows of the table of results."""

    id: str
    name: str
    state: RunState
    now: float
    created_at: float
    started_at: float | None
    ended_at: float | None
    rows: int
    total: int
    done: int
    results: int
    spent_usd: Usd | None
    forecast_usd: Usd | None
    forecast: RunForecast | None
    rows_per_s: float
    remaining_s: float | None
    in_flight: int
    limited_by: str
    refused_by: str
    error: str
    simulated: bool
    mode: Literal["live", "batch"]
    key_id: str
    models: list[ModelStatus]


class RunList(Struct, kw_only=True):
    """Runs of a team, newest first."""

    data: list[RunStatus]
    has_more: bool


class RunTotals(Struct, kw_only=True):
    """Counts of a run that are kept when it has ended."""

    results: int = 0
    models: list[ModelStatus] = []


@dataclass(slots=True)
class RunCounter:
    """Counts the results of a run, and measures its pace.

    Parameters
    ----------
    models
        Names of the models, ``provider/model``.
    total
        Results of the whole run, for all models.
    """

    models: list[str]
    total: int
    counts: dict[str, ModelStatus] = field(default_factory=dict)
    results: int = 0
    _history: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        """Begin at zero."""
        share = self.total // max(1, len(self.models))
        self.counts = {model: ModelStatus(model=model, total=share) for model in self.models}

    def add(self, table: pa.Table) -> None:
        """Count a table of results."""
        import pyarrow as pa  # noqa: PLC0415 - imports Arrow
        import pyarrow.compute as pc  # noqa: PLC0415 - as above

        names = ["provider", "model", "status", "cache_hit", "cost_usd", "input_tokens", "output_tokens"]
        few = table.select(names)
        for index, name in enumerate(names[:3]):
            few = few.set_column(index, name, few.column(name).cast(pa.string()))
        few = few.append_column("unpriced", pc.cast(pc.is_null(few.column("cost_usd")), pa.int64()))
        sums = [(name, "sum") for name in ("cost_usd", "input_tokens", "output_tokens", "unpriced")]
        for group in few.group_by(names[:4]).aggregate([([], "count_all"), *sums]).to_pylist():
            self._add_group(group)
        self.results += len(table)

    def _add_group(self, group: dict[str, Any]) -> None:
        status, count = group["status"], group["count_all"]
        name = f"{group['provider']}/{group['model']}"
        model = self.counts.setdefault(name, ModelStatus(model=name))
        if status == "ok":
            model.ok += count
            if group["cache_hit"]:
                model.cached += count
            else:
                model.input_tokens += group["input_tokens_sum"] or 0
                model.output_tokens += group["output_tokens_sum"] or 0
                if group["unpriced_sum"]:
                    model.spent_usd = None
        elif status == "error":
            model.failed += count
        elif status == "skipped":
            model.skipped += count
        elif status == "budget":
            model.over_budget += count
        else:
            model.cancelled += count
        if model.spent_usd is not None:
            model.spent_usd += group["cost_usd_sum"] or Decimal(0)

    def note_time(self) -> None:
        """Note how many results there are now, for the pace."""
        now = time.monotonic()
        self._history.append((now, self.results))
        while len(self._history) > 1 and now - self._history[0][0] > RATE_WINDOW_S:
            self._history.popleft()

    @property
    def rows_per_s(self) -> float:
        """Results a second, lately."""
        if not self._history:
            return 0.0
        began, before = self._history[0]
        return (self.results - before) / max(time.monotonic() - began, 0.001)

    @property
    def spent_usd(self) -> Decimal | None:
        """Cost of all models; ``None`` if it is unknown for one."""
        return sum_if_known([model.spent_usd for model in self.counts.values()])

    def with_forecasts(self) -> list[ModelStatus]:
        """Return the counts by model, each with the expected cost of the whole run."""
        for model in self.counts.values():
            sent = model.ok + model.failed
            remaining = model.total - sent - model.skipped - model.over_budget - model.cancelled
            if model.spent_usd is not None and (sent or not remaining):
                model.forecast_usd = model.spent_usd + (model.spent_usd * remaining / sent if sent else 0)
        return list(self.counts.values())


def sum_if_known(amounts: list[Decimal | None]) -> Decimal | None:
    """Return the sum of amounts; ``None`` if one is unknown or there are none."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)) if amounts and len(known) == len(amounts) else None

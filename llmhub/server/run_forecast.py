"""The forecast of a run: its plan with the cache and the limits of the service, made from its first rows."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmhub.server.active_run import ActiveRun, input_blocks
from llmhub.server.run_status import RunForecast

if TYPE_CHECKING:
    import pyarrow as pa

FORECAST_ROWS: Final = 1 << 13
"""Rows that a run's forecast is made from; that of a longer one is scaled."""


def plan_of(active: ActiveRun, path: Path) -> RunForecast:
    """Return the plan of a run, made from its first rows."""
    import pyarrow as pa  # noqa: PLC0415 - imports Arrow

    from llmhub.api._plan import plan_run  # noqa: PLC0415 - as above

    blocks: list[pa.Table] = []
    for block in input_blocks(path):
        blocks.append(block)
        if sum(map(len, blocks)) >= FORECAST_ROWS:
            break
    sample = pa.concat_tables(blocks) if blocks else None
    if sample is None:
        return RunForecast(calls=0, cache_hits=0)
    work = active.work
    options = {name: value for name, value in work.options.items() if name != "budget_usd"}
    plan = plan_run(sample, work.request.prompt, work.models, work.service.hub, options, caller=work.caller)
    scale = active.record.rows / len(sample)
    usd = plan.usd
    low, expected, high = (None, None, None) if usd is None else (usd.low, usd.expected, usd.high)
    exact = Decimal(active.record.rows) / len(sample)
    return RunForecast(
        calls=round(plan.calls * scale),
        cache_hits=round(sum([model.cache_hits for model in plan.models]) * scale),
        low_usd=None if low is None else low * exact,
        expected_usd=None if expected is None else expected * exact,
        high_usd=None if high is None else high * exact,
        low_s=plan.minutes.low * 60 * scale,
        expected_s=plan.minutes.expected * 60 * scale,
        high_s=plan.minutes.high * 60 * scale,
        bottleneck=plan.bottleneck,
    )

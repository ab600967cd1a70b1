"""A plan as a frame: one row per model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from llmhub.tables.plan import BASIS_LABELS, ModelPlan


def plan_frame(models: Iterable[ModelPlan]) -> pd.DataFrame:
    """Return one row per model."""
    return pd.DataFrame([_record(model) for model in models])


def _record(model: ModelPlan) -> dict[str, Any]:
    """Return the plan of a model as a flat record."""
    usd = model.usd
    return {
        "model": model.model,
        "rows": model.rows,
        "skipped": model.skipped,
        "duplicates": model.duplicates,
        "cache_hits": model.cache_hits,
        "calls": model.calls,
        **{
            f"{name}{suffix}": round(value)
            for name, interval in (
                ("requests", model.requests),
                ("input_tokens", model.input_tokens),
                ("output_tokens", model.output_tokens),
            )
            for suffix, value in (("", interval.expected), ("_low", interval.low), ("_high", interval.high))
        },
        "cost_usd": None if usd is None else float(usd.expected),
        "cost_usd_low": None if usd is None else float(usd.low),
        "cost_usd_high": None if usd is None else float(usd.high),
        "basis": BASIS_LABELS[model.basis],
        "observations": model.observations,
        "price_id": model.price_id,
    }

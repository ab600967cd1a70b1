"""A table of the models that the price table lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from llmhub.providers.prices import listed_models

if TYPE_CHECKING:
    import pandas as pd

TOKENS_PER_PRICE = 1_000_000
"""Prices are shown per million tokens, as providers list them."""


def model_table(providers: Sequence[str], when: datetime) -> pd.DataFrame:
    """Return one row per model, with its context window and its prices in US dollars per million tokens."""
    import pandas as pd  # noqa: PLC0415 - only for this table

    columns = ("model", "provider", "context_window", "input_usd_per_mtok", "output_usd_per_mtok")
    rows = [
        (
            f"{row.provider}/{row.model}",
            row.provider,
            row.context_window,
            float(row.input_usd * TOKENS_PER_PRICE),
            float(row.output_usd * TOKENS_PER_PRICE),
        )
        for row in listed_models(providers, when)
    ]
    return pd.DataFrame(rows, columns=columns).astype({"context_window": "Int64"})

"""``llmhub models``: list the models with a known price."""

from __future__ import annotations

import argparse
from typing import Any

from llmhub.api import models
from llmhub.cli.console import print_json, print_result
from llmhub.formatting.numbers import format_usd
from llmhub.formatting.text_tables import text_table


def run(args: argparse.Namespace) -> int:
    """Print a table or JSON, and return the exit code."""
    rows = [_to_plain(row) for row in models(args.provider or None).to_dict("records")]
    if args.json:
        print_json(rows)
        return 0
    header = ("model", "context", "input $/M tokens", "output $/M tokens")
    cells = [
        (
            row["model"],
            "" if row["context_window"] is None else f"{row['context_window']:,.0f}",
            _price(row["input_usd_per_mtok"]),
            _price(row["output_usd_per_mtok"]),
        )
        for row in rows
    ]
    print_result(text_table(header, cells, rule=True))
    return 0


def _to_plain(row: dict[Any, Any]) -> dict[str, Any]:
    """Return a row with ``None`` for missing values, which JSON has no other word for."""
    return {str(name): None if value != value or value is None else _number(value) for name, value in row.items()}  # noqa: PLR0124 - only NaN differs from itself


def _number(value: Any) -> Any:
    return value if isinstance(value, str) else (int(value) if float(value).is_integer() else float(value))


def _price(usd: float | None) -> str:
    return "" if usd is None else format_usd(usd, symbol="")

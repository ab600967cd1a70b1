"""What a user calls, and the only place that raises: errors are values below it."""

from __future__ import annotations

from llmhub.api.answers import parse, schema_of
from llmhub.api.frames import (
    acomplete_table,
    complete_batches,
    complete_parallel,
    complete_series,
    complete_table,
    plan,
)
from llmhub.api.hubs import configure, current_hub, using
from llmhub.api.landing import stream_table
from llmhub.api.models import ahealth_check, health_check, metadata
from llmhub.api.options import Asking, Models, Options, Prompt, RowOptions, TableOptions
from llmhub.api.requests import acomplete, astream, complete, stream, try_complete

__all__ = [
    "Asking",
    "Models",
    "Options",
    "Prompt",
    "RowOptions",
    "TableOptions",
    "acomplete",
    "acomplete_table",
    "ahealth_check",
    "astream",
    "complete",
    "complete_batches",
    "complete_parallel",
    "complete_series",
    "complete_table",
    "configure",
    "current_hub",
    "health_check",
    "metadata",
    "parse",
    "plan",
    "schema_of",
    "stream",
    "stream_table",
    "try_complete",
    "using",
]

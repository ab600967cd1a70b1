"""What a user calls, and the only place that raises: errors are values below it."""

from __future__ import annotations

from llmhub.api._plan import plan
from llmhub.api._rehearsal import Rehearsal, rehearsal
from llmhub.api.completions import acomplete, astream, complete, parse, schema_of, stream, try_complete
from llmhub.api.default_hub import configure, current_hub, using
from llmhub.api.info import ahealth_check, health_check, metadata
from llmhub.api.jobs import Job, submit
from llmhub.api.map import map_rows
from llmhub.api.options import (
    CompletionOptions,
    MapOptions,
    Models,
    Prompt,
    RowOptions,
    TableOptions,
    TablePrompt,
    TypedTableOptions,
    unwrap_or_raise,
)
from llmhub.api.table_stream import stream_table
from llmhub.api.tables import (
    acomplete_table,
    complete_parallel,
    complete_record_batches,
    complete_series,
    complete_table,
)

__all__ = [
    "TablePrompt",
    "TypedTableOptions",
    "Job",
    "MapOptions",
    "Models",
    "CompletionOptions",
    "Prompt",
    "Rehearsal",
    "RowOptions",
    "TableOptions",
    "acomplete",
    "acomplete_table",
    "ahealth_check",
    "astream",
    "complete",
    "complete_record_batches",
    "complete_parallel",
    "complete_series",
    "complete_table",
    "configure",
    "current_hub",
    "unwrap_or_raise",
    "health_check",
    "map_rows",
    "metadata",
    "parse",
    "plan",
    "rehearsal",
    "schema_of",
    "stream",
    "stream_table",
    "submit",
    "try_complete",
    "using",
]

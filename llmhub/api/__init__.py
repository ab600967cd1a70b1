"""What a user calls, and the only place that raises: errors are values below it."""

from __future__ import annotations

from llmhub.api.answers import parse, schema_of
from llmhub.api.frames import (
    acomplete_table,
    complete_batches,
    complete_parallel,
    complete_series,
    complete_table,
)
from llmhub.api.hubs import configure, current_hub, using
from llmhub.api.jobs import Job, submit
from llmhub.api.landing import stream_table
from llmhub.api.mapping import map_rows
from llmhub.api.models import ahealth_check, health_check, metadata
from llmhub.api.options import Asking, FormOptions, MapOptions, Models, Options, Prompt, RowOptions, TableOptions, found
from llmhub.api.plans import plan
from llmhub.api.requests import acomplete, astream, complete, stream, try_complete
from llmhub.api.stage import Rehearsal, rehearsal

__all__ = [
    "Asking",
    "FormOptions",
    "Job",
    "MapOptions",
    "Models",
    "Options",
    "Prompt",
    "Rehearsal",
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
    "found",
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

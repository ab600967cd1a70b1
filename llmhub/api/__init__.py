"""The public functions, and how errors leave the library.

- A wrong argument raises `BadRequestError` at once, before anything is sent. Constructors (`Hub`, `Limit`, caches) and
  validation below this layer raise it as well, with `llmhub.core.errors.invalid`.
- A failed call is a ``Result`` with an `LLMError` in all layers below. Calls for a single prompt raise its exception, a
  subclass of `ConnectorError`; `try_complete` returns the ``Result``.
- A run over many rows records failures in the ``status``, ``error_type`` and ``error`` columns. With
  ``on_error="raise"`` it raises the first one when the run is done.
- No exception loses responses: whatever is raised once they have arrived has them in its ``table``.
- A failing cache is a warning, or a `CacheError` with ``CacheMode(strict=True)``.
"""

from __future__ import annotations

from llmhub.api._completion import Completion
from llmhub.api._plan import plan
from llmhub.api._rehearsal import Rehearsal, rehearsal
from llmhub.api._simulation import Simulation, simulate
from llmhub.api._tool_loop import turn_columns
from llmhub.api.completions import acomplete, astream, complete, parse, schema_of, stream, try_complete
from llmhub.api.default_hub import configure, current_hub, using
from llmhub.api.embeddings import aembed, aembed_table, embed, embed_series, embed_table, plan_embeddings
from llmhub.api.info import ahealth_check, count_tokens, health_check, metadata, models
from llmhub.api.jobs import Job, submit
from llmhub.api.map import map_rows
from llmhub.api.options import (
    ChatOptions,
    CompletionOptions,
    EmbeddingOptions,
    MapOptions,
    MessageOptions,
    Models,
    Prompt,
    RerankOptions,
    RowOptions,
    TableOptions,
    TablePrompt,
    TypedTableOptions,
    mode_columns,
)
from llmhub.api.parallel import complete_parallel
from llmhub.api.raising import unwrap_or_raise
from llmhub.api.record_batches import complete_record_batches
from llmhub.api.reranking import RankedText, rerank, rerank_table
from llmhub.api.table_stream import stream_table
from llmhub.api.tables import (
    acomplete_table,
    complete_series,
    complete_table,
)

__all__ = [
    "ChatOptions",
    "Completion",
    "CompletionOptions",
    "EmbeddingOptions",
    "Job",
    "MapOptions",
    "MessageOptions",
    "Models",
    "Prompt",
    "RankedText",
    "Rehearsal",
    "RerankOptions",
    "RowOptions",
    "Simulation",
    "TableOptions",
    "TablePrompt",
    "TypedTableOptions",
    "acomplete",
    "acomplete_table",
    "aembed",
    "aembed_table",
    "ahealth_check",
    "astream",
    "complete",
    "complete_parallel",
    "complete_record_batches",
    "complete_series",
    "complete_table",
    "configure",
    "count_tokens",
    "current_hub",
    "embed",
    "embed_series",
    "embed_table",
    "health_check",
    "map_rows",
    "metadata",
    "mode_columns",
    "models",
    "parse",
    "plan",
    "plan_embeddings",
    "rehearsal",
    "rerank",
    "rerank_table",
    "schema_of",
    "simulate",
    "stream",
    "stream_table",
    "submit",
    "try_complete",
    "turn_columns",
    "unwrap_or_raise",
    "using",
]

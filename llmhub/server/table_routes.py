"""Routes of tables: results as they complete, and plans, of a table that the client sends with the request."""

from __future__ import annotations

import asyncio
import io
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from llmhub.engine.event_loop import StopSignal, run_in_thread
from llmhub.server.app import json_response, open_stream, write
from llmhub.server.context import RequestContext
from llmhub.server.plan_document import PlanDocument, plan_document
from llmhub.server.routes import HttpRoute, Parameter, RouteGroup
from llmhub.server.service import Service
from llmhub.server.table_request import ARROW_STREAM, REQUEST_TYPES, TableRequest
from llmhub.server.table_upload import Upload, iter_batches, read_schema, receive, used_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.server.table_work import TableWork

RUN_ID_HEADER: Final = "x-llmhub-run-id"
FIELDS: Final = (
    Parameter(name="model", description="provider/model; may be repeated", schema={"type": "string"}),
    Parameter(name="prompt", description="Template over columns, such as 'Summarise: {text}'"),
    Parameter(
        name="request",
        description="Further fields, as a JSON object; in a form they are its part 'request'",
        schema={"type": "string", "contentMediaType": "application/json"},
    ),
)
"""Fields in the query, for bodies that are the table itself. Every field of `TableRequest` may stand there."""


async def complete_rows(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Send a prompt for every row of a table, and stream the results as they complete, as an Arrow stream."""
    from llmhub.server.table_work import TableWork  # noqa: PLC0415 - a service without tables is smaller

    async with receive(service, request, None, service.settings.runs.max_table_bytes) as upload:
        work = TableWork(service, context, upload.request)
        table = await run_in_thread(read_upload, work, upload)
    run_id = uuid.uuid4()
    empty = work.empty_results(await run_in_thread(work.check, table.schema), run_id.hex)
    stream = _ArrowStream(empty.schema)
    response = await open_stream(request, context, ARROW_STREAM, {RUN_ID_HEADER: run_id.hex})
    await write(service, request, response, stream.take())
    writing = asyncio.Lock()

    async def on_table(results: pa.Table) -> None:
        async with writing:
            await run_in_thread(stream.add, results)
            await write(service, request, response, stream.take())

    await work.send(_blocks(table), on_table, StopSignal(), run_id)
    await write(service, request, response, stream.finish())
    await response.write_eof()
    return response


class _Pieces(io.RawIOBase):
    """A file whose content is taken away as it is written."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._size = 0

    def write(self, piece: Any) -> int:
        """Keep a piece until it is taken."""
        content = bytes(piece)
        self.pieces.append(content)
        self._size += len(content)
        return len(content)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._size

    def writable(self) -> bool:
        """Return true."""
        return True


class _ArrowStream:
    """An Arrow stream that is written piece by piece."""

    def __init__(self, schema: pa.Schema) -> None:
        import pyarrow as pa  # noqa: PLC0415 - imports Arrow

        self._file = _Pieces()
        self._writer = pa.ipc.new_stream(self._file, schema)

    def add(self, table: pa.Table) -> None:
        """Add results."""
        self._writer.write_table(table)

    def take(self) -> bytes:
        """Return what was not taken yet."""
        piece = b"".join(self._file.pieces)
        self._file.pieces.clear()
        return piece

    def finish(self) -> bytes:
        """Return the end of the stream."""
        self._writer.close()
        return self.take()


def read_upload(work: TableWork, upload: Upload) -> pa.Table:
    """Return an uploaded table, validated with its request.

    Raises
    ------
    ConnectorError
        It lacks a column, an option is wrong, or it is larger than permitted.
    """
    import pyarrow as pa  # noqa: PLC0415 - imports Arrow

    schema = read_schema(upload)
    work.check(schema)
    names = used_columns(upload.request, schema.names)
    kept = pa.schema([schema.field(name) for name in names])
    return pa.Table.from_batches(work.checked(iter_batches(upload, names)), kept)


def _blocks(table: pa.Table) -> Iterator[pa.Table]:
    from llmhub.tables.streaming_io import BLOCK_ROWS, iter_blocks  # noqa: PLC0415 - imports Arrow

    return iter_blocks(table, BLOCK_ROWS)


async def plan(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Estimate calls, cache hits, tokens, cost and duration of a table, with the cache and the limits of the team."""
    from llmhub.api._plan import plan_run  # noqa: PLC0415 - a service without tables is smaller
    from llmhub.server.table_work import TableWork  # noqa: PLC0415 - as above

    async with receive(service, request, None, service.settings.runs.max_table_bytes) as upload:
        work = TableWork(service, context, upload.request, waits=True)
        table = await run_in_thread(read_upload, work, upload)
    asked = upload.request
    estimate = await run_in_thread(
        lambda: plan_run(
            table,
            asked.prompt,
            work.models,
            service.hub,
            dict(work.options),
            pilot=asked.pilot,
            count_tokens=asked.count_tokens,
            caller=work.caller,
        )
    )
    return json_response(plan_document(estimate))


GROUP: Final = RouteGroup(
    name="tables",
    routes=(
        HttpRoute(
            "POST",
            "/v1/tables",
            complete_rows,
            scope="tables",
            summary="Send a prompt for every row of a table, and stream the results as they complete",
            request=TableRequest,
            request_types=REQUEST_TYPES,
            response_types=(ARROW_STREAM,),
            parameters=FIELDS,
            lane="bulk",
            timeout_s=0.0,
        ),
        HttpRoute(
            "POST",
            "/v1/plans",
            plan,
            scope="tables",
            summary="Estimate calls, cache hits, tokens, cost and duration of a table",
            request=TableRequest,
            response=PlanDocument,
            request_types=REQUEST_TYPES,
            parameters=FIELDS,
            lane="bulk",
        ),
    ),
)

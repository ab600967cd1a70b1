"""Routes of runs: jobs over a table that outlive their client and the process of the service.

A run is visible to the keys of its team; to others there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from llmhub.core.errors import invalid
from llmhub.engine.event_loop import run_in_thread
from llmhub.server.app import json_response
from llmhub.server.context import RequestContext
from llmhub.server.result_log import MAX_ROWS
from llmhub.server.routes import HttpRoute, Parameter, RouteGroup
from llmhub.server.run_status import RunList, RunStatus
from llmhub.server.runs import Runs, lifespan
from llmhub.server.service import Service
from llmhub.server.table_request import ARROW_STREAM, REQUEST_TYPES, TableRequest
from llmhub.server.table_routes import FIELDS
from llmhub.server.table_upload import receive

if TYPE_CHECKING:
    import pyarrow as pa

MAX_WAIT_S: Final = 60.0
MAX_LISTED: Final = 100
NEXT_HEADER: Final = "x-llmhub-next"
COMPLETE_HEADER: Final = "x-llmhub-complete"
RUN_ID: Final = Parameter(name="id", place="path", description="Id of the run", required=True)


async def create_run(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Begin a run over a table. An equal run of the team that has not ended is returned instead, with status 200."""
    runs: Runs = service.resources[Runs]
    async with receive(service, request, runs.store.folder, service.settings.runs.max_input_bytes) as upload:
        record, is_new = await runs.create(context, upload)
    headers = {"location": f"/v1/runs/{record.id}"}
    return json_response(runs.status(record), status=201 if is_new else 200, headers=headers)


async def list_runs(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """List the runs of the caller's team, newest first."""
    runs: Runs = service.resources[Runs]
    limit = int(_number(request, "limit", 20, 1, MAX_LISTED))
    before = request.query.get("before", "")
    records = await run_in_thread(runs.store.latest, context.team, limit + 1, before)
    statuses = [runs.status(record) for record in records[:limit]]
    return json_response(RunList(data=statuses, has_more=len(records) > limit))


async def read_run(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Return the state of a run."""
    runs: Runs = service.resources[Runs]
    record = await runs.find(request.match_info["id"], context.team)
    return json_response(runs.status(record))


async def read_rows(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Return results of a run from a position on, in the order in which they arrived."""
    runs: Runs = service.resources[Runs]
    after = int(_number(request, "after", 0, 0, 1 << 53))
    limit = int(_number(request, "limit", MAX_ROWS, 1, MAX_ROWS))
    wait_s = _number(request, "wait_s", 0.0, 0.0, MAX_WAIT_S)
    record = await runs.find(request.match_info["id"], context.team)
    table, is_complete = await runs.rows(record, after, limit, wait_s)
    body = await run_in_thread(_encode, table)
    return web.Response(
        body=body,
        content_type=ARROW_STREAM,
        headers={
            NEXT_HEADER: str(after + len(table)),
            COMPLETE_HEADER: "true" if is_complete else "false",
            "cache-control": "no-store",
        },
    )


async def stop_run(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Send nothing more for a run, and let calls in flight end; a second request cancels those."""
    runs: Runs = service.resources[Runs]
    record = await runs.find(request.match_info["id"], context.team)
    await runs.stop(record)
    return json_response(runs.status(await runs.find(record.id, context.team)))


def _number(request: web.Request, name: str, default: float, low: float, high: float) -> float:
    """Return a number of the query."""
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text) if isinstance(default, float) else int(text)
    except ValueError:
        raise invalid(name, f"must be a number, not {text!r:.80}") from None
    if not low <= value <= high:
        raise invalid(name, f"must be between {low:g} and {high:g}, not {text!r:.80}")
    return value


def _encode(table: pa.Table) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - imports Arrow

    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def _integer(name: str, description: str, low: int, high: int) -> Parameter:
    schema: dict[str, Any] = {"type": "integer", "minimum": low, "maximum": high}
    return Parameter(name=name, description=description, schema=schema)


GROUP: Final = RouteGroup(
    name="runs",
    lifespan=lifespan,
    routes=(
        HttpRoute(
            "POST",
            "/v1/runs",
            create_run,
            scope="runs",
            summary="Begin a run over a table, which goes on without its client",
            request=TableRequest,
            response=RunStatus,
            request_types=REQUEST_TYPES,
            statuses={201: "The run was created", 200: "An equal run has not ended; it is this one"},
            parameters=FIELDS,
            lane="bulk",
            timeout_s=0.0,
        ),
        HttpRoute(
            "GET",
            "/v1/runs",
            list_runs,
            scope="runs",
            summary="List the runs of the team, newest first",
            response=RunList,
            parameters=(
                _integer("limit", "Number of runs", 1, MAX_LISTED),
                Parameter(name="before", description="Id of the last run of the page before"),
            ),
        ),
        HttpRoute(
            "GET",
            "/v1/runs/{id}",
            read_run,
            scope="runs",
            summary="Return the state of a run: counts, cost, forecast, and what holds it back",
            response=RunStatus,
            parameters=(RUN_ID,),
        ),
        HttpRoute(
            "GET",
            "/v1/runs/{id}/rows",
            read_rows,
            scope="runs",
            summary="Return results of a run from a position on, in the order in which they arrived",
            response_types=(ARROW_STREAM,),
            parameters=(
                RUN_ID,
                _integer("after", "Number of results that the client has", 0, 1 << 53),
                _integer("limit", "Largest number of results to return", 1, MAX_ROWS),
                Parameter(
                    name="wait_s",
                    description="How long to wait for a result, in seconds",
                    schema={"type": "number", "minimum": 0, "maximum": MAX_WAIT_S},
                ),
            ),
        ),
        HttpRoute(
            "DELETE",
            "/v1/runs/{id}",
            stop_run,
            scope="runs",
            summary="Stop a run; a second request cancels the calls in flight too",
            response=RunStatus,
            parameters=(RUN_ID,),
        ),
    ),
)

"""Routes of OpenAI's Files and Batch, for any model: upload lines, create a batch, and fetch output and errors."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, TypeVar

import msgspec
from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from llmhub.cache.modes import CacheMode, resolve_mode
from llmhub.core.errors import ConnectorError, InvalidRequest, NotFound, invalid, to_exception
from llmhub.engine.event_loop import run_in_thread
from llmhub.server.app import SLOWEST_BYTES_PER_S, json_response, open_stream, read_json, write
from llmhub.server.batch_jobs import DAY_S, BatchJobs, lifespan
from llmhub.server.batch_storage import BatchOwner
from llmhub.server.completion_routes import CACHE_HEADER, OPTIONS, UNSUPPORTED_HEADER
from llmhub.server.context import RequestContext
from llmhub.server.dialects.openai_batches import (
    BATCH_PURPOSE,
    ENDPOINTS,
    LIVE_MODE,
    MODE_KEY,
    MODES,
    OUTPUT_PURPOSE,
    PROVIDER_MODE,
    BatchList,
    BatchObject,
    CreateBatchRequest,
    FileDeleted,
    FileList,
    FileObject,
    window_s,
)
from llmhub.server.dialects.openai_error_body import encode_openai_error
from llmhub.server.dialects.reading import read_as
from llmhub.server.key_access import SIGNATURE_HEADER
from llmhub.server.routes import HttpRoute, Parameter, RouteGroup
from llmhub.server.service import Service

T = TypeVar("T")

MODE_HEADER: Final = "x-llmhub-batch"
PIECE_BYTES: Final = 1 << 18
MAX_FIELD_BYTES: Final = 1024
MAX_FORM_PARTS: Final = 20
MAX_PAGE: Final = 1000
FORM: Final = "multipart/form-data"
LINES: Final = "application/jsonl"
CURSOR: Final = (
    Parameter(name="limit", description="How many are returned.", schema={"type": "integer", "minimum": 1}),
    Parameter(name="after", description="Id of the last one that was seen."),
)


class UploadForm(msgspec.Struct, kw_only=True):
    """Form of ``POST /v1/files``."""

    file: str
    purpose: str = BATCH_PURPOSE


def _jobs(service: Service) -> BatchJobs:
    jobs: BatchJobs = service.resources[BatchJobs]
    return jobs


def _no_such(kind: str, identifier: str) -> Any:
    return to_exception(NotFound(path="id", message=f"there is no {kind} {identifier!r:.80}"))


# Files


async def upload_file(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Store the file of a form."""
    store = _jobs(service).store
    settings = service.settings.batches
    path = store.upload_path()
    try:
        form = await _receive(service, request, path)
        if form.purpose != BATCH_PURPOSE:
            raise invalid("purpose", f"must be {BATCH_PURPOSE}, not {form.purpose!r:.40}")
        if form.size is None:
            raise invalid("file", "is missing; send the lines as a part of this name")
        used = await run_in_thread(store.bytes_of_team, context.team)
        if used + form.size > settings.max_team_bytes:
            message = f"the team's files have {used} bytes, and may have {settings.max_team_bytes}; delete some"
            raise to_exception(InvalidRequest(path="file", message=message, status=413))
        now = time.time()
        keep_s = min(form.keep_s or settings.keep_days * DAY_S, settings.keep_days * DAY_S)
        file = FileObject(
            id=f"file-{secrets.token_hex(12)}",
            bytes=form.size,
            created_at=int(now),
            filename=form.filename,
            purpose=form.purpose,
            expires_at=int(now + keep_s),
        )
        await run_in_thread(store.add_file, context.team, file, path)
        return json_response(file)
    finally:
        await asyncio.shield(run_in_thread(lambda: path.unlink(missing_ok=True)))


class _Form(NamedTuple):
    """A received form; ``size`` is ``None`` if it had no file."""

    filename: str
    purpose: str
    keep_s: float | None
    size: int | None


class _Arrival:
    """Reads pieces of a body within limits of size and time: a large body may take longer, but not byte by byte."""

    def __init__(self, service: Service) -> None:
        loop = asyncio.get_running_loop()
        self.limit = service.settings.batches.max_file_bytes
        self._clock = loop.time
        self._deadline = loop.time() + service.settings.body_timeout_s
        self.size = 0

    async def read(self, awaitable: Awaitable[T]) -> T:
        """Return the next piece."""
        seconds = self._deadline + self.size / SLOWEST_BYTES_PER_S - self._clock()
        try:
            async with asyncio.timeout(seconds):
                return await awaitable
        except TimeoutError:
            raise to_exception(InvalidRequest(message="the body did not arrive in time", status=408)) from None

    def count(self, piece: bytes) -> None:
        """Count a piece of the file."""
        self.size += len(piece)
        if self.size > self.limit:
            raise self.too_long()

    def too_long(self) -> Exception:
        """Return the error of a file that is too long."""
        return to_exception(InvalidRequest(path="file", message=f"is longer than {self.limit} bytes", status=413))


async def _receive(service: Service, request: web.Request, path: Path) -> _Form:
    """Receive a form, its file to a path.

    Raises
    ------
    ConnectorError
        It is no form, too long, or arrives too slowly.
    """
    arrival = _Arrival(service)
    if (request.content_length or 0) > arrival.limit + (1 << 20):
        raise arrival.too_long()
    fields: dict[str, str] = {}
    filename, size = "", None
    try:
        reader = await _open_form(request)
        for _ in range(MAX_FORM_PARTS):
            part = await arrival.read(reader.next())
            if part is None:
                break
            if not isinstance(part, BodyPartReader):
                raise invalid("body", "a part of the form is a form itself")
            if part.name == "file":
                filename, size = part.filename or "file.jsonl", await _write_part(arrival, part, path)
            else:
                fields[part.name or ""] = await _read_field(arrival, part)
    except ConnectorError:
        raise
    except (ValueError, AssertionError, RuntimeError, HttpProcessingError) as error:
        raise invalid("body", f"is no form: {error or 'it is malformed'}") from None
    seconds = fields.get("expires_after[seconds]", "")
    if seconds and not re.fullmatch(r"[1-9]\d{0,8}", seconds):
        raise invalid("expires_after[seconds]", f"must be a number of seconds, not {seconds!r:.20}")
    return _Form(filename[:255], fields.get("purpose", ""), float(seconds) if seconds else None, size)


async def _open_form(request: web.Request) -> MultipartReader:
    """Return the parts of a form; the body of a signed request was read already, to check its signature."""
    if SIGNATURE_HEADER not in request.headers:
        return await request.multipart()
    stream = StreamReader(request.protocol, PIECE_BYTES, loop=asyncio.get_running_loop())
    stream.feed_data(await request.read())
    stream.feed_eof()
    return MultipartReader(request.headers, stream)


async def _write_part(arrival: _Arrival, part: BodyPartReader, path: Path) -> int:
    file: IO[bytes] = await run_in_thread(lambda: path.open("wb"))
    try:
        while piece := await arrival.read(part.read_chunk(PIECE_BYTES)):
            arrival.count(piece)
            await run_in_thread(file.write, piece)
    finally:
        await asyncio.shield(run_in_thread(file.close))
    return arrival.size


async def _read_field(arrival: _Arrival, part: BodyPartReader) -> str:
    text = b""
    while piece := await arrival.read(part.read_chunk(MAX_FIELD_BYTES)):
        text += piece
        if len(text) > MAX_FIELD_BYTES:
            raise invalid((part.name or "")[:40], f"is longer than {MAX_FIELD_BYTES} bytes")
    return text.decode("utf-8", "replace")


async def list_files(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """List the files of the caller's team, the newest first."""
    order = request.query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise invalid("order", f"must be asc or desc, not {order!r:.20}")
    limit = _limit(request, MAX_PAGE)
    found = await run_in_thread(
        lambda: _jobs(service).store.list_files(
            context.team,
            limit + 1,
            after=request.query.get("after", ""),
            purpose=request.query.get("purpose", ""),
            oldest_first=order == "asc",
        )
    )
    page = found[:limit]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return json_response(FileList(data=page, first_id=first, last_id=last, has_more=len(found) > limit))


def _limit(request: web.Request, default: int) -> int:
    text = request.query.get("limit", str(default))
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise invalid("limit", f"must be a number from 1, not {text!r:.20}")
    return min(int(text), MAX_PAGE)


async def _find_file(service: Service, request: web.Request, context: RequestContext) -> FileObject:
    identifier = request.match_info["id"]
    found = await run_in_thread(_jobs(service).store.find_file, identifier, context.team)
    if found is None:
        raise _no_such("file", identifier)
    return found


async def read_file(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Describe a file."""
    return json_response(await _find_file(service, request, context))


async def read_content(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Stream the content of a file."""
    found = await _find_file(service, request, context)
    try:
        file = await run_in_thread(_jobs(service).store.open_content, found.id)
    except FileNotFoundError:
        raise _no_such("file", found.id) from None
    try:
        response = await open_stream(request, context, LINES, {"content-length": str(found.bytes)})
        while piece := await run_in_thread(file.read, PIECE_BYTES):
            await write(service, request, response, piece)
        await response.write_eof()
    finally:
        await asyncio.shield(run_in_thread(file.close))
    return response


async def delete_file(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Delete a file. A batch that was made of it goes on."""
    identifier = request.match_info["id"]
    if not await run_in_thread(_jobs(service).store.delete_file, identifier, context.team):
        raise _no_such("file", identifier)
    return json_response(FileDeleted(id=identifier))


# Batches


async def create_batch(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Begin a batch of the lines of a file."""
    payload = await read_json(service, request)
    body = read_as(payload, CreateBatchRequest)
    if body.endpoint not in ENDPOINTS:
        raise invalid("$.endpoint", f"must be one of {', '.join(ENDPOINTS)}, not {body.endpoint!r:.80}")
    seconds, jobs = window_s(body.completion_window), _jobs(service)
    owner = _owner(service, request, context, body)
    jobs.check_room()
    if await run_in_thread(jobs.store.find_file, body.input_file_id, context.team) is None:
        raise _no_such("file", body.input_file_id)
    now = int(time.time())
    batch = BatchObject(
        id=f"batch_{secrets.token_hex(12)}",
        endpoint=body.endpoint,
        input_file_id=body.input_file_id,
        completion_window=body.completion_window,
        status="validating",
        created_at=now,
        expires_at=now + seconds,
        metadata=body.metadata,
    )
    if await jobs.create(context, batch, owner) is None:
        raise _no_such("file", body.input_file_id)
    return json_response(batch)


def _owner(service: Service, request: web.Request, context: RequestContext, body: CreateBatchRequest) -> BatchOwner:
    """Return whose batch it is, and the options of its lines.

    Raises
    ------
    BadRequestError
        An option has an unknown value.
    """
    mode = request.headers.get(MODE_HEADER) or (body.metadata or {}).get(MODE_KEY) or LIVE_MODE
    if mode not in MODES:
        raise invalid(f"$.metadata.{MODE_KEY}", f"must be {' or '.join(MODES)}, not {mode!r:.40}")
    if mode == PROVIDER_MODE:
        from llmhub.server.batch_provider import require_provider_batches  # noqa: PLC0415 - few services need it

        require_provider_batches(service)
    unsupported = request.headers.get(UNSUPPORTED_HEADER, "error")
    if unsupported not in {"error", "drop"}:
        raise invalid(UNSUPPORTED_HEADER, f"must be error or drop, not {unsupported!r:.80}")
    cache_mode = request.headers.get(CACHE_HEADER)
    if cache_mode is not None:
        resolve_mode(cache_mode, CacheMode())
    caller = context.caller
    return BatchOwner(
        key_id=caller.key_id,
        team=caller.team,
        scopes=tuple(sorted(caller.scopes)),
        models=caller.models,
        weight=caller.weight,
        cache_scope=caller.cache_scope,
        mode=mode,
        cache_mode=cache_mode,
        unsupported=unsupported,
        simulated=service.hub.simulator is not None,
    )


async def list_batches(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """List the batches of the caller's team, the newest first."""
    jobs, limit = _jobs(service), _limit(request, 20)
    rows = await run_in_thread(jobs.store.list_batches, context.team, limit + 1, request.query.get("after", ""))
    page = [jobs.present(row) for row in rows[:limit]]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return json_response(BatchList(data=page, first_id=first, last_id=last, has_more=len(rows) > limit))


async def read_batch(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Return the state of a batch."""
    return json_response(await _find_batch(service, request, context))


async def cancel_batch(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Send no further line of a batch; what was answered becomes its output."""
    await _find_batch(service, request, context)
    await _jobs(service).cancel(request.match_info["id"], context.team)
    return json_response(await _find_batch(service, request, context))


async def _find_batch(service: Service, request: web.Request, context: RequestContext) -> BatchObject:
    identifier = request.match_info["id"]
    found = await _jobs(service).find(identifier, context.team)
    if found is None:
        raise _no_such("batch", identifier)
    return found


def _route(
    method: str, path: str, handler: Callable[..., Awaitable[web.StreamResponse]], summary: str, **more: Any
) -> HttpRoute:
    parameters = more.pop("parameters", ())
    if "{id}" in path:
        parameters = (Parameter(name="id", place="path", required=True), *parameters)
    return HttpRoute(
        method,
        path,
        handler,
        scope="batches",
        summary=summary,
        lane="bulk",
        encode_error=encode_openai_error,
        parameters=parameters,
        **more,
    )


GROUP: Final = RouteGroup(
    name="batches",
    routes=(
        _route(
            "POST",
            "/v1/files",
            upload_file,
            "Upload lines for a batch",
            request=UploadForm,
            request_types=(FORM,),
            response=FileObject,
            timeout_s=0,
        ),
        _route(
            "GET",
            "/v1/files",
            list_files,
            "List the files of the team",
            response=FileList,
            parameters=(
                *CURSOR,
                Parameter(name="order", schema={"enum": ["asc", "desc"]}),
                Parameter(name="purpose", schema={"enum": [BATCH_PURPOSE, OUTPUT_PURPOSE]}),
            ),
        ),
        _route("GET", "/v1/files/{id}", read_file, "Describe a file", response=FileObject),
        _route(
            "GET",
            "/v1/files/{id}/content",
            read_content,
            "Download a file",
            response_types=(LINES,),
            timeout_s=0,
        ),
        _route("DELETE", "/v1/files/{id}", delete_file, "Delete a file", response=FileDeleted),
        _route(
            "POST",
            "/v1/batches",
            create_batch,
            "Run the lines of a file, by any model, after interactive calls",
            request=CreateBatchRequest,
            request_types=("application/json",),
            response=BatchObject,
            parameters=(
                *OPTIONS,
                Parameter(
                    name=MODE_HEADER,
                    place="header",
                    description="Whether the lines are sent one by one, or by the Batch API of their provider.",
                    schema={"enum": list(MODES)},
                ),
            ),
        ),
        _route(
            "GET", "/v1/batches", list_batches, "List the batches of the team", response=BatchList, parameters=CURSOR
        ),
        _route("GET", "/v1/batches/{id}", read_batch, "State of a batch", response=BatchObject),
        _route(
            "POST", "/v1/batches/{id}/cancel", cancel_batch, "Send no further line of a batch", response=BatchObject
        ),
    ),
    lifespan=lifespan,
)

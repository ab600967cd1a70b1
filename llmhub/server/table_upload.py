"""Receive the table of a request: its body is written to a file as it arrives, and checked before a run sees it.

Tables come from other machines, so that every batch is validated in full, rows and bytes are bounded while they are
decoded, and only the columns that the request uses are kept. Arrow is imported at the first table, since a service
without tables is smaller by half.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkstemp
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from llmhub.core.errors import BadRequestError, InvalidRequest, invalid, to_exception
from llmhub.engine.event_loop import run_in_thread
from llmhub.server.app import SLOWEST_BYTES_PER_S
from llmhub.server.key_access import SIGNATURE_HEADER
from llmhub.server.service import Service
from llmhub.server.table_request import (
    ARROW_FILE,
    ARROW_STREAM,
    MULTIPART,
    PARQUET,
    TABLE_TYPES,
    TableRequest,
    request_from_json,
    request_from_query,
)

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
MAX_REQUEST_BYTES: Final = 8 << 20
"""Largest part ``request``: it may hold examples and a schema."""
WRITE_BYTES: Final = 1 << 20
"""Bytes of a body that are written at a time."""
READ_ROWS: Final = 4096
EXPANSION: Final = 16
"""How much larger than its limit a table may be once it is decompressed."""
FORMATS: Final = {b"ARROW1": ARROW_FILE, b"PAR1": PARQUET}
"""First bytes of files, for parts of a form without a media type of their own."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A received table: the request, the file with the body, and its media type."""

    request: TableRequest
    path: Path
    media_type: str
    max_bytes: int


@asynccontextmanager
async def receive(service: Service, request: web.Request, folder: Path | None, max_bytes: int) -> AsyncIterator[Upload]:
    """Receive the body of a request into a file of ``folder`` (the system's if ``None``), which is removed at the end.

    Raises
    ------
    ConnectorError
        The body is too long, arrives too slowly, or is no table with a request.
    """
    handle, name = await run_in_thread(lambda: mkstemp(".upload", dir=folder))
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            body = _Body(service, max_bytes, file.write)
            try:
                if (request.content_length or 0) > max_bytes + MAX_REQUEST_BYTES:
                    raise to_exception(_too_large(max_bytes))
                if request.content_type == MULTIPART and SIGNATURE_HEADER in request.headers:
                    message = "is no form in a signed request; send the table alone, with the request in the query"
                    raise to_exception(InvalidRequest(path="content-type", message=message, status=415))
                if request.content_type == MULTIPART:
                    given, media_type = await _read_form(request, body)
                else:
                    media_type = request.content_type
                    query = {key: request.query.getall(key) for key in request.query}
                    given = request_from_query(query)
                    await body.write(_reader(request))
            except TimeoutError:
                raise to_exception(InvalidRequest(message="the body did not arrive in time", status=408)) from None
        yield Upload(given, path, media_type or _sniff(path), max_bytes)
    finally:
        await asyncio.shield(run_in_thread(lambda: path.unlink(missing_ok=True)))


def _reader(request: web.Request) -> Callable[[], Awaitable[bytes]]:
    """Return a function that returns the body piece by piece; that of a signed request was read to verify it."""
    if not request.content.at_eof():
        return request.content.readany
    is_returned = False

    async def read() -> bytes:
        nonlocal is_returned
        body = b"" if is_returned else await request.read()
        is_returned = True
        return body

    return read


class _Body:
    """The bytes of a table as they arrive, within limits of size and time."""

    def __init__(self, service: Service, max_bytes: int, write: Callable[[bytes], object]) -> None:
        loop = asyncio.get_running_loop()
        self._max_bytes = max_bytes
        self._write = write
        self._clock = loop.time
        self._deadline = loop.time() + service.settings.body_timeout_s
        self.size = 0

    async def write(self, read: Callable[[], Awaitable[bytes]]) -> None:
        """Write all pieces that ``read`` returns, up to an empty one."""
        pieces: list[bytes] = []
        pending = 0
        while piece := await self.read(read):
            self.size += len(piece)
            if self.size > self._max_bytes:
                raise to_exception(_too_large(self._max_bytes))
            pieces.append(piece)
            pending += len(piece)
            if pending >= WRITE_BYTES:
                await run_in_thread(self._write, b"".join(pieces))
                pieces.clear()
                pending = 0
        await run_in_thread(self._write, b"".join(pieces))

    async def read(self, read: Callable[[], Awaitable[T]]) -> T:
        """Return the next piece; a large body may take longer, but not arrive byte by byte."""
        seconds = self._deadline + self.size / SLOWEST_BYTES_PER_S - self._clock()
        async with asyncio.timeout(seconds):
            return await read()


def _too_large(limit: int) -> InvalidRequest:
    return InvalidRequest(path="table", message=f"is longer than {limit:,} bytes", status=413)


async def _read_form(request: web.Request, body: _Body) -> tuple[TableRequest, str]:
    """Return the request in a form, and the media type of its table, which is written to ``body``."""
    given: TableRequest | None = None
    media_type: str | None = None
    try:
        form = await request.multipart()
        while (part := await body.read(form.next)) is not None:
            if not isinstance(part, BodyPartReader):
                raise invalid("body", "a form within a form is not read")
            if part.name == "request" and given is None:
                given = request_from_json(await _read_part(part, body))
            elif part.name == "table" and media_type is None:
                media_type = part.headers.get("content-type", "").partition(";")[0].strip().lower()
                await body.write(part.read_chunk)
            else:
                raise invalid("body", f"the form has a part {part.name!r:.80}; its parts are one request and one table")
    except (ValueError, AssertionError, RuntimeError, HttpProcessingError) as error:
        if isinstance(error, BadRequestError):
            raise
        raise invalid("body", f"is no form of the type {MULTIPART}: {error}") from None
    if given is None or media_type is None:
        raise invalid("body", f"the form has no part {'request' if given is None else 'table'!r}")
    if media_type not in TABLE_TYPES:
        media_type = ""
    return given, media_type


async def _read_part(part: BodyPartReader, body: _Body) -> bytes:
    content = bytearray()
    while piece := await body.read(part.read_chunk):
        content += piece
        if len(content) > MAX_REQUEST_BYTES:
            message = f"is longer than {MAX_REQUEST_BYTES:,} bytes"
            raise to_exception(InvalidRequest(path="request", message=message, status=413))
    return bytes(content)


def _sniff(path: Path) -> str:
    """Return the media type of a file by its first bytes."""
    with path.open("rb") as file:
        head = file.read(8)
    return next((kind for start, kind in FORMATS.items() if head.startswith(start)), ARROW_STREAM)


# Reading


def read_schema(upload: Upload) -> pa.Schema:
    """Return the schema of an uploaded table.

    Raises
    ------
    BadRequestError
        It is no table of its media type.
    """
    with _open(upload) as opened:
        schema = opened.schema
        for field in schema:
            _read_names(field)
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise invalid("table", f"has two columns {twice!r:.80}; rename one")
    return schema


def _read_names(field: pa.Field) -> None:
    """Read the name of a field and of all fields in it; one that is no text is an error."""
    _ = field.name
    data_type: Any = field.type
    for index in range(data_type.num_fields):
        _read_names(data_type.field(index))


def used_columns(request: TableRequest, names: Sequence[str]) -> list[str]:
    """Return the columns of a table that a request uses; one at least, which has the number of rows."""
    from llmhub.tables.templates import parse_template  # noqa: PLC0415 - imports Arrow

    used = {request.messages, request.images}
    for template in (request.prompt, request.system):
        if template is not None:
            used |= {template} if template in names else set(parse_template(template).fields)
    return [name for name in names if name in used] or list(names[:1])


def iter_batches(upload: Upload, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the validated batches of an uploaded table, with these columns only.

    Raises
    ------
    BadRequestError
        It is no table of its media type, or larger than permitted once it is decompressed.
    """
    limit, size = upload.max_bytes * EXPANSION, 0
    import pyarrow as pa  # noqa: PLC0415 - see the module

    with _open(upload) as opened:
        names = opened.schema.names if columns is None else columns
        schema = pa.schema([opened.schema.field(name) for name in names])
        for unchecked in opened.batches(columns):
            unchecked.validate(full=True)
            batch = unchecked if unchecked.schema.equals(schema) else unchecked.cast(schema)
            size += batch.nbytes
            if size > limit:
                message = f"is longer than {limit:,} bytes once it is decompressed"
                raise to_exception(InvalidRequest(path="table", message=message, status=413))
            yield batch


@dataclass(frozen=True, slots=True)
class _OpenTable:
    """An open table: its schema and its batches, all columns or some."""

    schema: pa.Schema
    batches: Callable[[Sequence[str] | None], Iterable[pa.RecordBatch]]


@contextmanager
def _open(upload: Upload) -> Iterator[_OpenTable]:
    """Open an uploaded table; exceptions of Arrow become those of the request."""
    import pyarrow as pa  # noqa: PLC0415 - see the module
    from pyarrow import ipc, parquet  # noqa: PLC0415 - as above

    try:
        with pa.OSFile(str(upload.path), "rb") as file:
            if upload.media_type == PARQUET:
                opened = parquet.ParquetFile(file)
                yield _OpenTable(opened.schema_arrow, partial(_parquet_batches, opened))
            elif upload.media_type == ARROW_FILE:
                reader = ipc.open_file(file)
                many = map(reader.get_batch, range(reader.num_record_batches))
                yield _OpenTable(reader.schema, partial(_select, many))
            else:
                stream = ipc.open_stream(file)
                yield _OpenTable(stream.schema, partial(_select, stream))
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, MemoryError) as error:
        text = str(error).partition("\n")[0][:300]
        raise invalid("table", f"cannot be read as {upload.media_type}: {text}") from None


def _select(batches: Iterable[pa.RecordBatch], names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    return (batch if names is None else batch.select(names) for batch in batches)


def _parquet_batches(file: Any, names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    # A dot in a name would be read as a path into a struct.
    columns = None if names is None or any("." in name for name in names) else names
    return _select(file.iter_batches(READ_ROWS, columns=columns), names)

"""The Batch API of one target: its requests with credentials, retries and uploads from disk.

Nothing here decides what to send. A request that creates a batch is sent once, because it may cost something; all
others are repeated after transient errors.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.batch import Batch, BatchApi, BatchLimits, BatchRow, BatchStatus, BatchStep, BatchWire
from llmhub.core.errors import NOT_CONNECTED, TRANSIENT, Cancelled, LLMError
from llmhub.core.protocol import error_from_reply
from llmhub.core.provider import Endpoint, HttpReply, HttpRequest, append_query
from llmhub.engine.call import Target
from llmhub.engine.credential_manager import CredentialManager
from llmhub.engine.event_loop import run_in_thread
from llmhub.engine.transport import Transport, redact_error

PIECE_BYTES: Final = 1 << 20
"""Bytes of rows that are read, or decoded, at a time."""
MAX_ATTEMPTS: Final = 6
"""Attempts at a request that costs nothing."""
FIRST_BACKOFF_S: Final = 1.0
MAX_BACKOFF_S: Final = 60.0
LIST_SLACK_S: Final = 3600.0
"""How far the clocks of a provider and of this computer may differ."""
UNDECIDED_STATUSES: Final = frozenset({408, 409})
"""Statuses of errors of the caller after which a batch may have been created nevertheless."""

T = TypeVar("T")


class RowFile:
    """The encoded rows of one batch, in a temporary file."""

    def __init__(self, separator: bytes) -> None:
        self._file = tempfile.TemporaryFile(prefix="llmhub-batch-")  # noqa: SIM115 - closed by `close`
        self._separator = separator
        self.rows = 0
        self.size = 0

    def add(self, encoded: Sequence[bytes]) -> None:
        """Append rows."""
        if not encoded:
            return
        data = (self._separator if self.rows else b"") + self._separator.join(encoded)
        self._file.write(data)
        self.rows += len(encoded)
        self.size += len(data)

    def read(self) -> Iterator[bytes]:
        """Yield the content in pieces, from the beginning."""
        self._file.seek(0)
        while piece := self._file.read(PIECE_BYTES):
            yield piece

    def close(self) -> None:
        """Delete the file."""
        self._file.close()


@dataclass(slots=True)
class BatchClient:
    """The Batch API of one target.

    Parameters
    ----------
    transport
        The connections.
    credentials
        The credentials of the target.
    target
        The target.
    pause
        Waits for some seconds; returns false if the run is being stopped.
    embeds
        Whether the rows are texts to be embedded.
    """

    transport: Transport
    credentials: CredentialManager
    target: Target
    pause: Callable[[float], Awaitable[bool]]
    embeds: bool = False
    api: BatchApi = field(init=False)
    wire: BatchWire = field(init=False)

    def __post_init__(self) -> None:
        """Take the API from the provider."""
        assert self.target.provider.batch is not None  # noqa: S101 - checked before a run begins
        self.api = self.target.provider.batch
        self.wire = self.api.embed_wire if self.embeds and self.api.embed_wire is not None else self.api.wire

    @property
    def limits(self) -> BatchLimits:
        """Limits of one batch."""
        return self.wire.limits if self.embeds else self.api.batch_limits

    @property
    def base_url(self) -> str:
        """Address of the API."""
        return self.api.base_url(self.target.endpoint)

    async def send_step(self, step: BatchStep, batch: Batch, rows: RowFile) -> Result[Mapping[str, str], LLMError]:
        """Send one step of a submission once; return what its reply returned."""
        encoded = step.encode(batch)
        if encoded.has_rows:
            size = len(encoded.head) + rows.size + len(encoded.tail)

            def upload(endpoint: Endpoint) -> Awaitable[Result[HttpReply, LLMError]]:
                body = _body(encoded.head, rows, encoded.tail)
                request = self._authorized(encoded.http, endpoint)
                return self.transport.upload(self._pool, request, endpoint, body, size)

            sent = await self.credentials.send(self.target, upload)
        else:
            sent = await self._send(encoded.http)
        return sent.bind(self._checked).bind(step.decode)

    async def repeat_step(self, step: BatchStep, batch: Batch, rows: RowFile) -> Result[Mapping[str, str], LLMError]:
        """Send one step of a submission until it succeeds or fails for good."""
        return await self._repeat(lambda: self.send_step(step, batch, rows))

    async def status(self, batch: Batch) -> Result[BatchStatus, LLMError]:
        """Return the state of a batch, asked once."""
        sent = await self._send(self.wire.poll(batch))
        return sent.bind(self._checked).bind(self.wire.decode_status)

    async def cancel(self, batch: Batch) -> Result[HttpReply, LLMError]:
        """Cancel a batch at the provider."""

        async def send() -> Result[HttpReply, LLMError]:
            return (await self._send(self.wire.cancel(batch))).bind(self._checked)

        return await self._repeat(send)

    async def listed(self, batch: Batch, since: float) -> Result[list[BatchStatus], LLMError]:
        """Return the batches created at ``since`` (epoch seconds) or later, and some earlier ones, newest first."""
        found: list[BatchStatus] = []
        cursor = ""
        while True:
            request = self.wire.list_batches(batch, cursor)

            async def send(request: HttpRequest = request) -> Result[HttpReply, LLMError]:
                return (await self._send(request)).bind(self._checked)

            page = (await self._repeat(send)).bind(self.wire.decode_list)
            if not is_successful(page):
                return Failure(page.failure())
            found += page.unwrap().batches
            oldest = min((status.created_at for status in page.unwrap().batches if status.created_at), default=0.0)
            cursor = page.unwrap().cursor
            if not cursor or (oldest and oldest < since - LIST_SLACK_S):
                return Success(found)

    async def read_rows(
        self, batch: Batch, files: Sequence[str], on_rows: Callable[[Callable[[], list[BatchRow]]], Awaitable[None]]
    ) -> Result[None, LLMError]:
        """Read all results. ``on_rows`` gets functions that decode some rows, to be called in a thread.

        A file whose download breaks off is read again: rows may come twice.
        """
        if self.wire.list_results is not None:
            listed = await self._result_files(batch, files)
            if not is_successful(listed):
                return Failure(listed.failure())
            files = listed.unwrap()
        for file in files:
            read = self._read_lines if self.wire.decode_line is not None else self._read_documents

            async def send(file: str = file, read: object = read) -> Result[HttpReply, LLMError]:
                return await read(batch, file, on_rows)  # type: ignore[operator,no-any-return]

            done = await self._repeat(send)
            if not is_successful(done):
                return Failure(done.failure())
        return Success(None)

    async def _result_files(self, batch: Batch, folders: Sequence[str]) -> Result[list[str], LLMError]:
        """Return the names of the files in folders of results."""
        wire, found = self.wire, list[str]()
        assert wire.list_results is not None  # noqa: S101 - checked by the caller
        assert wire.decode_results is not None  # noqa: S101 - a format has both
        for folder in folders:
            cursor = ""
            while True:
                request = wire.list_results(batch, folder, cursor)

                async def send(request: HttpRequest = request) -> Result[HttpReply, LLMError]:
                    return (await self._send(request)).bind(self._checked)

                page = (await self._repeat(send)).bind(wire.decode_results)
                if not is_successful(page):
                    return Failure(page.failure())
                found += page.unwrap().files
                cursor = page.unwrap().cursor
                if not cursor:
                    break
        return Success(found)

    async def _read_lines(
        self, batch: Batch, file: str, on_rows: Callable[[Callable[[], list[BatchRow]]], Awaitable[None]]
    ) -> Result[HttpReply, LLMError]:
        rest = bytearray()

        async def on_piece(piece: bytes) -> None:
            rest.extend(piece)
            while len(rest) >= PIECE_BYTES:
                end = (rest.rfind(b"\n", 0, PIECE_BYTES) + 1) or (rest.find(b"\n", PIECE_BYTES) + 1)
                if not end:
                    break
                await on_rows(partial(self._decode_lines, bytes(rest[:end])))
                del rest[:end]

        sent = await self._download(self.wire.results(batch, file, ""), on_piece)
        checked = sent.bind(self._checked)
        if is_successful(checked) and rest:
            last = bytes(rest)
            await on_rows(lambda: self._decode_lines(last))
        return checked

    def _decode_lines(self, lines: bytes) -> list[BatchRow]:
        """Decode lines; one that is none of a batch is left out, so that its row counts as missing."""
        decode = self.wire.decode_line
        assert decode is not None  # noqa: S101 - checked by the caller
        decoded = (decode(line) for line in lines.splitlines() if line.strip())
        return [row.unwrap() for row in decoded if is_successful(row)]

    async def _read_documents(
        self, batch: Batch, file: str, on_rows: Callable[[Callable[[], list[BatchRow]]], Awaitable[None]]
    ) -> Result[HttpReply, LLMError]:
        decode = self.wire.decode_rows
        assert decode is not None  # noqa: S101 - a format has one of both
        cursor = ""
        while True:
            pieces: list[bytes] = []

            async def on_piece(piece: bytes, pieces: list[bytes] = pieces) -> None:
                pieces.append(piece)

            sent = await self._download(self.wire.results(batch, file, cursor), on_piece)
            checked = sent.bind(self._checked)
            if not is_successful(checked):
                return checked
            page = await run_in_thread(decode, b"".join(pieces))
            if not is_successful(page):
                return Failure(page.failure())
            rows = list(page.unwrap().rows)
            for start in range(0, len(rows), ROWS_AT_ONCE):
                part = rows[start : start + ROWS_AT_ONCE]
                await on_rows(lambda part=part: part)  # type: ignore[misc]
            cursor = page.unwrap().cursor
            if not cursor:
                return checked

    @property
    def _pool(self) -> str:
        return f"{self.target.provider.name} batches"

    def _authorized(self, request: HttpRequest, endpoint: Endpoint) -> HttpRequest:
        authorize = self.api.authorize or self.target.provider.authorize
        query = endpoint.base_url.partition("?")[2]
        if query and request.url.startswith(endpoint.base_url):
            request = replace(request, url=append_query(request.url.replace(f"?{query}", "", 1), query))
        return authorize(endpoint, request, time.time())

    async def _send(self, request: HttpRequest) -> Result[HttpReply, LLMError]:
        def fetch(endpoint: Endpoint) -> Awaitable[Result[HttpReply, LLMError]]:
            return self.transport.fetch(self._pool, self._authorized(request, endpoint), endpoint)

        return await self.credentials.send(self.target, fetch)

    async def _download(
        self, request: HttpRequest, on_piece: Callable[[bytes], Awaitable[None]]
    ) -> Result[HttpReply, LLMError]:
        def download(endpoint: Endpoint) -> Awaitable[Result[HttpReply, LLMError]]:
            return self.transport.download(self._pool, self._authorized(request, endpoint), endpoint, on_piece)

        return await self.credentials.send(self.target, download)

    def _checked(self, reply: HttpReply) -> Result[HttpReply, LLMError]:
        if 200 <= reply.status < 300:  # noqa: PLR2004 - HTTP success
            return Success(reply)
        return Failure(redact_error(error_from_reply(self.target.provider, reply), self.target.endpoint))

    async def _repeat(self, send: Callable[[], Awaitable[Result[T, LLMError]]]) -> Result[T, LLMError]:
        """Send until it succeeds, fails for good or the run is stopped."""
        backoff_s = FIRST_BACKOFF_S
        for attempt in range(1, MAX_ATTEMPTS + 1):
            sent = await send()
            if is_successful(sent):
                return sent
            error = sent.failure()
            if type(error) not in TRANSIENT or error.should_retry is False or attempt == MAX_ATTEMPTS:
                return sent
            if not await self.pause(max(error.retry_after_s or 0.0, backoff_s)):
                return Failure(Cancelled(message="the run was stopped"))
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
        raise AssertionError  # the loop returns


ROWS_AT_ONCE: Final = 2_000
"""Rows that are stored in one transaction."""


def is_refusal(error: LLMError) -> bool:
    """Return whether an error of a request that creates a batch means that there is none.

    Examples
    --------
    >>> from llmhub.core.errors import InvalidRequest, TimedOut
    >>> is_refusal(InvalidRequest(status=400)), is_refusal(TimedOut())
    (True, False)
    """
    status = error.status
    return error.code == NOT_CONNECTED or (
        status is not None and 400 <= status < 500 and status not in UNDECIDED_STATUSES  # noqa: PLR2004 - HTTP errors of the caller
    )


async def _body(head: bytes, rows: RowFile, tail: bytes) -> AsyncIterator[bytes]:
    if head:
        yield head
    pieces = rows.read()
    while piece := await asyncio.to_thread(next, pieces, b""):
        yield piece
    if tail:
        yield tail

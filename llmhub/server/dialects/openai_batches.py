"""OpenAI Files and Batch, the server's half: the objects, and the lines of input, output and error files.

What differs here:

- ``endpoint`` may be any of `ENDPOINTS`, and a line any model behind it; OpenAI wants one model a batch.
- ``completion_window`` is a number of minutes, hours or days; OpenAI has ``24h`` only.
- A batch has ``cost_usd``; an output line has ``llmhub`` with the cost of its call and whether the cache answered.

Source: https://platform.openai.com/docs/api-reference/batch, .../files and the types of openai 3.57.0
(read 2026-11-30).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from llmhub.core.errors import LLMError, invalid, is_transient
from llmhub.core.types import Payload
from llmhub.server.dialects.openai_error_body import encode_openai_error

ENDPOINTS: Final = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")
BATCH_PURPOSE: Final = "batch"
OUTPUT_PURPOSE: Final = "batch_output"
MODE_KEY: Final = "llmhub_mode"
"""Key of a batch's metadata that says how it is run: ``live`` or ``provider``."""
LIVE_MODE: Final = "live"
PROVIDER_MODE: Final = "provider"
MODES: Final = (LIVE_MODE, PROVIDER_MODE)
"""How a batch is run: its lines one by one through the engine, or by the Batch APIs of the providers."""
WINDOW: Final = re.compile(r"([1-9]\d{0,4})(m|h|d)")
UNIT_S: Final = {"m": 60, "h": 3600, "d": 86_400}
MAX_WINDOW_S: Final = 30 * 86_400
MAX_CUSTOM_ID: Final = 512
MAX_METADATA: Final = 16

BatchState: TypeAlias = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
ENDED: Final[tuple[BatchState, ...]] = ("failed", "completed", "expired", "cancelled")
Metadata: TypeAlias = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=MAX_METADATA)
]


class FileObject(Struct, kw_only=True):
    """A file."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    object: str = "file"
    status: str = "processed"
    expires_at: int | None = None


class FileList(Struct, kw_only=True):
    """Files of the key's team."""

    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class FileDeleted(Struct, kw_only=True):
    """A file that was deleted."""

    id: str
    object: str = "file"
    deleted: bool = True


class CreateBatchRequest(Struct, kw_only=True):
    """Body of ``POST /v1/batches``."""

    input_file_id: Annotated[str, Meta(min_length=1, max_length=64)]
    endpoint: str
    completion_window: str = "24h"
    metadata: Metadata | None = None


class BatchProblem(Struct, kw_only=True):
    """A line of the input file that is wrong."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchProblems(Struct, kw_only=True):
    """Why a batch failed as a whole."""

    data: list[BatchProblem]
    object: str = "list"


class RequestCounts(Struct, kw_only=True):
    """Lines in all, answered and failed."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchObject(Struct, kw_only=True):
    """A batch; ``cost_usd`` is what its calls were billed (``None`` if unknown), ``models`` are those that answered."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: BatchState
    created_at: int
    expires_at: int
    object: str = "batch"
    errors: BatchProblems | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = msgspec.field(default_factory=RequestCounts)
    metadata: dict[str, str] | None = None
    cost_usd: Decimal | None = None
    models: list[str] = []


class BatchList(Struct, kw_only=True):
    """Batches of the key's team, the newest first."""

    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class InputLine(Struct, kw_only=True):
    """A line of an input file."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=MAX_CUSTOM_ID)]
    url: str
    body: dict[str, Any]
    method: Literal["POST"] = "POST"


_decode: Final = msgspec.json.Decoder(InputLine).decode
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode


def window_s(window: str) -> int:
    """Return a completion window in seconds.

    Examples
    --------
    >>> window_s("24h"), window_s("90m")
    (86400, 5400)
    """
    found = WINDOW.fullmatch(window)
    seconds = int(found[1]) * UNIT_S[found[2]] if found else 0
    if not 0 < seconds <= MAX_WINDOW_S:
        raise invalid("$.completion_window", f"must be a time such as 24h, at most 30d, not {window!r:.40}")
    return seconds


def parse_line(line: bytes, endpoint: str, number: int) -> InputLine | BatchProblem:
    r"""Return a line of an input file, or what is wrong with it.

    Examples
    --------
    >>> parse_line(b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {}}', "/v1/embeddings", 1)
    InputLine(custom_id='a', url='/v1/embeddings', body={}, method='POST')
    >>> parse_line(b'{"custom_id": "a", "url": "/v1/embeddings"}', "/v1/embeddings", 1).param
    'body'
    """
    try:
        parsed = _decode(line)
    except (msgspec.ValidationError, RecursionError) as error:
        message, _, place = str(error).partition(" - at `")
        missing = re.search(r"missing required field `([^`]*)`", message)
        param = missing[1] if missing else place.strip("`").removeprefix("$").removeprefix(".")
        return BatchProblem(code="invalid_line", message=message, line=number, param=param or None)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return BatchProblem(code="invalid_json_line", message=f"the line is not JSON: {error}", line=number)
    if parsed.url != endpoint:
        message = f"is {parsed.url[:80]!r}, but the batch is for {endpoint}"
        return BatchProblem(code="mismatched_endpoint", message=message, line=number, param="url")
    return parsed


def encode_output(
    request_id: str, custom_id: str, body: Payload, *, cost_usd: Decimal | None = None, cache_hit: bool = False
) -> bytes:
    """Encode a line of an output file.

    Examples
    --------
    >>> encode_output("r1", "a", {"object": "list"}).startswith(b'{"id":"batch_req_r1","custom_id":"a","response":')
    True
    """
    return _line(request_id, custom_id, 200, body, {"cost_usd": cost_usd, "cache_hit": cache_hit})


def encode_failure(request_id: str, custom_id: str, error: LLMError, status: int) -> bytes:
    """Encode a line of an error file: a request that was answered by an error."""
    body = encode_openai_error(error, status, request_id)
    return _line(request_id, custom_id, status, body, {"retryable": is_transient(error)})


def encode_unsent(request_id: str, custom_id: str, code: str, message: str) -> bytes:
    """Encode a line of an error file: a request that was not sent in time."""
    return _encode({
        "id": f"batch_req_{request_id}", "custom_id": custom_id, "response": None,
        "error": {"code": code, "message": message},
    }) + b"\n"  # fmt: skip


def _line(request_id: str, custom_id: str, status: int, body: Payload, note: dict[str, Any]) -> bytes:
    response = {"status_code": status, "request_id": request_id, "body": body}
    return _encode({
        "id": f"batch_req_{request_id}", "custom_id": custom_id, "response": response, "error": None, "llmhub": note,
    }) + b"\n"  # fmt: skip


class _WrittenLine(Struct):
    custom_id: str
    llmhub: dict[str, Any] = {}


_decode_written: Final = msgspec.json.Decoder(_WrittenLine, float_hook=Decimal).decode


def read_written(line: bytes) -> tuple[str, Decimal | None]:
    """Return the id and the cost of a line that was written; ``None`` for an unknown cost, 0 for a failure.

    Examples
    --------
    >>> read_written(encode_output("r1", "a", {}, cost_usd=Decimal("0.25")))
    ('a', Decimal('0.25'))
    """
    written = _decode_written(line)
    if "cost_usd" not in written.llmhub:
        return written.custom_id, Decimal(0)
    cost = written.llmhub["cost_usd"]
    return written.custom_id, None if cost is None else Decimal(cost)

"""Anthropic's Message Batches: all requests in the body that creates the batch.

What differs here: there is no field for a name of ours, so a batch is recognized by the ids of its rows, which can be
read once it has ended. Rows are validated later, each by itself; counts other than ``processing`` are 0 until the end.

Source: https://platform.claude.com/docs/en/build-with-claude/batch-processing (read 2026-11-29).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import msgspec
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.batch import (
    Batch,
    BatchLimits,
    BatchPage,
    BatchRow,
    BatchStatus,
    BatchStep,
    BatchWire,
    LateReason,
    StepRequest,
    id_required,
    json_request,
    returned_field,
)
from llmhub.core.errors import LLMError, Malformed
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, HttpRequest
from llmhub.wire.readers import as_count, as_epoch, as_mapping, as_text, iter_objects

PATH: Final = "/v1/messages/batches"
PAGE_ROWS: Final = 100
LIMITS: Final = BatchLimits(rows=100_000, size=243_000_000)
"""95 % of the maximum size of a request, 256 MB."""
LATE_TYPES: Final[Mapping[str, LateReason]] = {"expired": "expired", "canceled": "cancelled"}
ERROR_STATUSES: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Status of a single reply with the same error; 500 for others."""
JSON_HEADERS: Final = {"content-type": "application/json"}


def encode_row(custom_id: str, request: HttpRequest, _batch: Batch) -> bytes:
    """Return one request of the batch."""
    return f'{{"custom_id":"{custom_id}","params":'.encode() + request.body + b"}"


def encode_create(batch: Batch) -> StepRequest:
    """Return the request that creates the batch."""
    request = json_request("POST", batch.base_url + PATH, {})
    return StepRequest(request, has_rows=True, head=b'{"requests":[', tail=b"]}")


def list_batches(batch: Batch, cursor: str) -> HttpRequest:
    """Return the request of a page of the list, after the batch ``cursor``."""
    after = f"&after_id={quote(cursor, safe='')}" if cursor else ""
    return json_request("GET", f"{batch.base_url}{PATH}?limit={PAGE_ROWS}{after}")


def decode_list(reply: HttpReply) -> Result[BatchPage, LLMError]:
    """Decode a page of the list of batches."""
    return parse_json_object(reply.body).map(_page)


def _page(payload: Mapping[str, object]) -> BatchPage:
    batches = tuple(_status(item) for item in iter_objects(payload.get("data")))
    return BatchPage(batches, as_text(payload.get("last_id")) if payload.get("has_more") is True else "")


def poll(batch: Batch) -> HttpRequest:
    """Return the request of a batch's state."""
    return json_request("GET", f"{batch.base_url}{PATH}/{quote(batch.id, safe='')}")


def decode_status(reply: HttpReply) -> Result[BatchStatus, LLMError]:
    """Decode the state of a batch."""
    return parse_json_object(reply.body).map(_status).bind(id_required("$.id", "not a batch"))


def cancel(batch: Batch) -> HttpRequest:
    """Return the request that cancels a batch."""
    return json_request("POST", f"{batch.base_url}{PATH}/{quote(batch.id, safe='')}/cancel")


def results(batch: Batch, _file: str, _cursor: str) -> HttpRequest:
    """Return the request of the results."""
    return json_request("GET", f"{batch.base_url}{PATH}/{quote(batch.id, safe='')}/results")


class _Result(msgspec.Struct):
    type: str
    message: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


class _Row(msgspec.Struct):
    custom_id: str
    result: _Result


_decode_row: Final = msgspec.json.Decoder(_Row).decode


def decode_line(line: bytes) -> Result[BatchRow, LLMError]:
    """Decode one line of the results.

    Examples
    --------
    >>> decode_line(b'{"custom_id": "a", "result": {"type": "expired"}}').unwrap().late
    'expired'
    """
    try:
        row = _decode_row(line)
    except (msgspec.DecodeError, RecursionError) as error:
        return Failure(Malformed(path="$", message=f"not a row of a batch: {error}"))
    result = row.result
    if result.type in LATE_TYPES:
        return Success(BatchRow(row.custom_id, None, LATE_TYPES[result.type]))
    if result.type == "succeeded":
        return Success(BatchRow(row.custom_id, HttpReply(200, JSON_HEADERS, bytes(result.message))))
    body = bytes(result.error)
    return Success(BatchRow(row.custom_id, HttpReply(_error_status(body), JSON_HEADERS, body)))


def _error_status(body: bytes) -> int:
    parsed = parse_json_object(body)
    payload = parsed.unwrap() if is_successful(parsed) else {}
    inner = as_mapping(payload.get("error")) or payload
    return ERROR_STATUSES.get(as_text(inner.get("type")), 500)


def _status(payload: Mapping[str, object]) -> BatchStatus:
    counts = as_mapping(payload.get("request_counts"))
    count = {name: as_count(counts.get(name)) or 0 for name in ("processing", "succeeded", "errored")}
    others = sum(as_count(counts.get(name)) or 0 for name in ("canceled", "expired"))
    label = as_text(payload.get("processing_status"))
    return BatchStatus(
        id=as_text(payload.get("id")),
        ended=label == "ended",
        label=label,
        total=sum(count.values()) + others,
        succeeded=count["succeeded"],
        failed=count["errored"] + others,
        created_at=as_epoch(payload.get("created_at")),
        files=("results",) if label == "ended" else (),
    )


WIRE: Final = BatchWire(
    name="anthropic-batch",
    limits=LIMITS,
    separator=b",\n",
    encode_row=encode_row,
    steps=(BatchStep(encode_create, returned_field("id")),),
    list_batches=list_batches,
    decode_list=decode_list,
    poll=poll,
    decode_status=decode_status,
    cancel=cancel,
    results=results,
    decode_line=decode_line,
    returns_token=False,
)

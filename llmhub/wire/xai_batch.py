"""xAI's batches: a file of rows, then a batch of that file under a name of ours.

What differs here: a batch has counters instead of a state; results are read in pages, before the end too. Errors of
rows are bare strings. Answers are Chat Completions whose ``completion_tokens`` leave reasoning out, and say what they
cost.

Source: https://docs.x.ai/developers/advanced-api-usage/batch-api, xai-sdk 1.21.0 (read 2026-11-29).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.batch import (
    TOKEN_PREFIX,
    Batch,
    BatchLimits,
    BatchPage,
    BatchRow,
    BatchStatus,
    BatchStep,
    BatchWire,
    RowsPage,
    StepRequest,
    id_required,
    json_request,
    multipart,
    returned_field,
)
from llmhub.core.errors import LLMError, Malformed
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, HttpRequest
from llmhub.wire.readers import as_count, as_mapping, as_text, iter_objects

PAGE_ROWS: Final = 100
RESULT_ROWS: Final = 1_000
"""Rows of a page of results, at most."""
LIMITS: Final = BatchLimits(rows=50_000, size=190_000_000)
"""95 % of the maximum size of a file, 200 MB."""
TRANSIENT_WORDS: Final = re.compile(r"rate.?limit|too many|overloaded|internal|server|timed? ?out", re.IGNORECASE)
"""Matches the text of an error that may not occur again; it has neither code nor status."""
JSON_HEADERS: Final = {"content-type": "application/json"}


def encode_row(custom_id: str, request: HttpRequest, batch: Batch) -> bytes:
    """Return the line of one request."""
    head = f'{{"custom_id":"{custom_id}","method":"POST","url":"{batch.row_path}","body":'
    return head.encode() + request.body + b"}"


def encode_upload(batch: Batch) -> StepRequest:
    """Return the upload of the file of rows."""
    return multipart(batch, f"{batch.base_url}/files", {"purpose": "batch"})


def encode_create(batch: Batch) -> StepRequest:
    """Return the request that creates the batch of an uploaded file."""
    payload = {"name": batch.name, "input_file_id": batch.values.get("file", "")}
    return StepRequest(json_request("POST", f"{batch.base_url}/batches", payload))


def list_batches(batch: Batch, cursor: str) -> HttpRequest:
    """Return the request of a page of the list."""
    after = f"&pagination_token={quote(cursor, safe='')}" if cursor else ""
    return json_request("GET", f"{batch.base_url}/batches?limit={PAGE_ROWS}{after}")


def decode_list(reply: HttpReply) -> Result[BatchPage, LLMError]:
    """Decode a page of the list of batches."""
    return parse_json_object(reply.body).map(_page)


def _page(payload: Mapping[str, object]) -> BatchPage:
    batches = tuple(_status(item) for item in iter_objects(payload.get("batches")))
    return BatchPage(batches, as_text(payload.get("pagination_token")))


def poll(batch: Batch) -> HttpRequest:
    """Return the request of a batch's counters."""
    return json_request("GET", f"{batch.base_url}/batches/{quote(batch.id, safe='')}")


def decode_status(reply: HttpReply) -> Result[BatchStatus, LLMError]:
    """Decode the counters of a batch."""
    return parse_json_object(reply.body).map(_status).bind(id_required("$.batch_id", "not a batch"))


def cancel(batch: Batch) -> HttpRequest:
    """Return the request that cancels a batch."""
    return json_request("POST", f"{batch.base_url}/batches/{quote(batch.id, safe='')}:cancel", {})


def results(batch: Batch, _file: str, cursor: str) -> HttpRequest:
    """Return the request of a page of the results."""
    after = f"&pagination_token={quote(cursor, safe='')}" if cursor else ""
    return json_request(
        "GET", f"{batch.base_url}/batches/{quote(batch.id, safe='')}/results?limit={RESULT_ROWS}{after}"
    )


class _Result(msgspec.Struct):
    response: dict[str, Any] | None = None
    error: str | None = None


class _Row(msgspec.Struct):
    batch_request_id: str
    batch_result: _Result | None = None
    error_message: str | None = None


class _Page(msgspec.Struct):
    results: list[_Row] = []
    pagination_token: str | None = None


_decode_page: Final = msgspec.json.Decoder(_Page).decode


def decode_rows(document: bytes) -> Result[RowsPage, LLMError]:
    """Decode a page of results."""
    try:
        page = _decode_page(document)
    except (msgspec.DecodeError, RecursionError) as error:
        return Failure(Malformed(path="$", message=f"not a page of results: {error}"))
    return Success(RowsPage(tuple(map(_to_row, page.results)), page.pagination_token or ""))


def _to_row(row: _Row) -> BatchRow:
    result = row.batch_result or _Result()
    reply = next(iter((result.response or {}).values()), None)
    if isinstance(reply, dict):
        body = msgspec.json.encode(with_reasoning_counted(reply))
        return BatchRow(row.batch_request_id, HttpReply(200, JSON_HEADERS, body))
    message = result.error or row.error_message or ""
    if "cancel" in message.lower():
        return BatchRow(row.batch_request_id, None, "cancelled")
    body = msgspec.json.encode({"error": {"message": message or "the row failed without a reason"}})
    status = 500 if not message or TRANSIENT_WORDS.search(message) else 400
    return BatchRow(row.batch_request_id, HttpReply(status, JSON_HEADERS, body))


def with_reasoning_counted(reply: dict[str, Any]) -> dict[str, Any]:
    """Return a completion whose output tokens include its reasoning, as elsewhere.

    Examples
    --------
    >>> usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 8,
    ...          "completion_tokens_details": {"reasoning_tokens": 2}}
    >>> with_reasoning_counted({"usage": usage})["usage"]["completion_tokens"]
    3
    """
    usage = as_mapping(reply.get("usage"))
    prompt, output, total = (as_count(usage.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    reasoning = as_count(as_mapping(usage.get("completion_tokens_details")).get("reasoning_tokens"))
    if None in {prompt, output, total, reasoning} or not reasoning:
        return reply
    if (prompt or 0) + (output or 0) + reasoning != total:
        return reply
    return {**reply, "usage": {**usage, "completion_tokens": (output or 0) + reasoning}}


def _status(payload: Mapping[str, object]) -> BatchStatus:
    state = as_mapping(payload.get("state"))
    total, pending, succeeded, failed, cancelled = (
        as_count(state.get(f"num_{name}")) or 0 for name in ("requests", "pending", "success", "error", "cancelled")
    )
    is_cancelled = bool(payload.get("cancel_time"))
    ended = pending == 0 and (total > 0 or is_cancelled)
    return BatchStatus(
        id=as_text(payload.get("batch_id")),
        ended=ended,
        label="cancelled" if is_cancelled else "ended" if ended else "in progress",
        token=as_text(payload.get("name")).removeprefix(TOKEN_PREFIX),
        total=total,
        succeeded=succeeded,
        failed=failed + cancelled,
        created_at=_epoch(as_text(payload.get("create_time"))),
        files=("results",),
    )


def _epoch(text: str) -> float:
    """Return a time, which may be a day alone, in UTC: then its end, since the list is searched back to a time."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    if len(text) <= len("2026-08-10"):
        return parsed.replace(hour=23, minute=59, second=59, tzinfo=UTC).timestamp()
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


WIRE: Final = BatchWire(
    name="xai-batch",
    limits=LIMITS,
    separator=b"\n",
    encode_row=encode_row,
    steps=(
        BatchStep(encode_upload, returned_field("id", "file")),
        BatchStep(encode_create, returned_field("batch_id", "id")),
    ),
    list_batches=list_batches,
    decode_list=decode_list,
    poll=poll,
    decode_status=decode_status,
    cancel=cancel,
    results=results,
    decode_rows=decode_rows,
)

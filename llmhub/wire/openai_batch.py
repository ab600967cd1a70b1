"""The Batch API of OpenAI, which Azure, Groq and Together copy: a file of rows, then a batch of that file.

What differs here: one model a file; results are in two files, of which either may be absent even of a batch that
completed; their rows come in any order. A file with a fault is refused as a whole, after the batch was created, with
the lines at fault. Together writes states in capitals.

Sources: https://developers.openai.com/api/docs/guides/batch, https://console.groq.com/docs/batch,
https://docs.together.ai/docs/inference/batch/overview, the MicrosoftDocs page global-batch-limits (read 2026-11-29).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from returns.result import Result

from llmhub.core.batch import (
    TOKEN_FIELD,
    Batch,
    BatchLimits,
    BatchPage,
    BatchStatus,
    BatchStep,
    BatchWire,
    StepRequest,
    id_required,
    json_request,
    multipart,
    returned_field,
)
from llmhub.core.errors import InvalidRequest, LLMError, QuotaExhausted, RateLimited
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, HttpRequest
from llmhub.wire.batch_rows import decode_line
from llmhub.wire.readers import as_count, as_mapping, as_text, iter_objects

ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
TOKEN_LIMIT_CODE: Final = "token_limit_exceeded"  # noqa: S105 - not a credential
"""Code of a batch that was refused because too many tokens are enqueued already."""
PAGE_ROWS: Final = 100
LIMITS: Final = BatchLimits(rows=50_000, size=190_000_000)
"""95 % of the maximum size of a file, 200 MB."""


def encode_row(custom_id: str, request: HttpRequest, batch: Batch) -> bytes:
    """Return the line of one request."""
    head = f'{{"custom_id":"{custom_id}","method":"POST","url":"{batch.row_path}","body":'
    return head.encode() + request.body + b"}"


def encode_upload(batch: Batch, purpose: str = "batch") -> StepRequest:
    """Return the upload of the file of rows."""
    return multipart(batch, f"{batch.base_url}/files", {"purpose": purpose})


def encode_create(batch: Batch) -> StepRequest:
    """Return the request that creates the batch of an uploaded file."""
    payload = {
        "input_file_id": batch.values.get("file", ""),
        "endpoint": batch.row_path,
        "completion_window": "24h",
        "metadata": {TOKEN_FIELD: batch.token},
    }
    return StepRequest(json_request("POST", f"{batch.base_url}/batches", payload))


def list_batches(batch: Batch, cursor: str) -> HttpRequest:
    """Return the request of a page of the list, after the batch ``cursor``."""
    after = f"&after={quote(cursor, safe='')}" if cursor else ""
    return json_request("GET", f"{batch.base_url}/batches?limit={PAGE_ROWS}{after}")


def decode_list(reply: HttpReply) -> Result[BatchPage, LLMError]:
    """Decode a page of the list of batches."""
    return parse_json_object(reply.body).map(_page)


def _page(payload: Mapping[str, object]) -> BatchPage:
    batches = tuple(_status(item) for item in iter_objects(payload.get("data")))
    cursor = as_text(payload.get("last_id")) or (batches[-1].id if batches else "")
    return BatchPage(batches, cursor if payload.get("has_more") is True else "")


def poll(batch: Batch) -> HttpRequest:
    """Return the request of a batch's state."""
    return json_request("GET", f"{batch.base_url}/batches/{quote(batch.id, safe='')}")


def decode_status(reply: HttpReply) -> Result[BatchStatus, LLMError]:
    """Decode the state of a batch."""
    return parse_json_object(reply.body).map(_status).bind(id_required("$.id", "not a batch"))


def cancel(batch: Batch) -> HttpRequest:
    """Return the request that cancels a batch."""
    return json_request("POST", f"{batch.base_url}/batches/{quote(batch.id, safe='')}/cancel")


def results(batch: Batch, file: str, _cursor: str) -> HttpRequest:
    """Return the request of the content of a result file."""
    return json_request("GET", f"{batch.base_url}/files/{quote(file, safe='')}/content")


def _status(payload: Mapping[str, object]) -> BatchStatus:
    label = as_text(payload.get("status")).lower()
    counts = as_mapping(payload.get("request_counts"))
    errors = list(iter_objects(as_mapping(payload.get("errors")).get("data")))
    files = (as_text(payload.get(name)) for name in ("output_file_id", "error_file_id"))
    bad_rows = {
        line: as_text(error.get("message")) for error in errors if (line := as_count(error.get("line"))) is not None
    }
    return BatchStatus(
        id=as_text(payload.get("id")),
        ended=label in ENDED,
        label=label,
        token=as_text(as_mapping(payload.get("metadata")).get(TOKEN_FIELD)),
        total=as_count(counts.get("total")) or 0,
        succeeded=as_count(counts.get("completed")) or 0,
        failed=as_count(counts.get("failed")) or 0,
        created_at=float(as_count(payload.get("created_at")) or 0),
        files=tuple(file for file in files if file),
        error=_refusal(errors) if label == "failed" else None,
        bad_rows=bad_rows,
    )


def _refusal(errors: list[Mapping[str, object]]) -> LLMError:
    """Return why a batch was refused as a whole."""
    first = errors[0] if errors else {}
    code, message = as_text(first.get("code")), as_text(first.get("message")) or "the batch failed without a reason"
    if code == TOKEN_LIMIT_CODE:
        return RateLimited(code=code, message=message)
    if code in {"billing_hard_limit_reached", "insufficient_quota"}:
        return QuotaExhausted(code=code, message=message)
    return InvalidRequest(code=code, message=message)


WIRE: Final = BatchWire(
    name="openai-batch",
    limits=LIMITS,
    separator=b"\n",
    encode_row=encode_row,
    steps=(
        BatchStep(encode_upload, returned_field("id", "file")),
        BatchStep(encode_create, returned_field("id")),
    ),
    list_batches=list_batches,
    decode_list=decode_list,
    poll=poll,
    decode_status=decode_status,
    cancel=cancel,
    results=results,
    decode_line=decode_line,
)

"""Mistral's batch jobs: a file of rows without model and path, then a job of that file.

What differs here: model and path are the job's. Results are files, or within the job if it was created with its
requests. They are kept for 24 hours after the job.

Source: https://docs.mistral.ai/capabilities/batch, mistralai 3.7.0 (read 2026-11-29).
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
from llmhub.core.errors import InvalidRequest, LLMError
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, HttpRequest
from llmhub.wire.batch_rows import decode_line
from llmhub.wire.readers import as_count, as_mapping, as_text, iter_objects

ENDED: Final = frozenset({"SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED"})
PAGE_ROWS: Final = 100
LIMITS: Final = BatchLimits(rows=100_000, size=486_000_000)
"""The lower of two documented numbers of rows, and 95 % of the maximum size of a file, 512 MB."""


def encode_row(custom_id: str, request: HttpRequest, _batch: Batch) -> bytes:
    """Return the line of one request."""
    return f'{{"custom_id":"{custom_id}","body":'.encode() + request.body + b"}"


def encode_upload(batch: Batch) -> StepRequest:
    """Return the upload of the file of rows."""
    return multipart(batch, f"{batch.base_url}/files", {"purpose": "batch"})


def encode_create(batch: Batch) -> StepRequest:
    """Return the request that creates the job of an uploaded file."""
    payload = {
        "input_files": [batch.values.get("file", "")],
        "model": batch.model,
        "endpoint": batch.row_path,
        "metadata": {TOKEN_FIELD: batch.token},
        "timeout_hours": 24,
    }
    return StepRequest(json_request("POST", f"{batch.base_url}/batch/jobs", payload))


def list_batches(batch: Batch, cursor: str) -> HttpRequest:
    """Return the request of a page of the list, whose number is the cursor."""
    return json_request("GET", f"{batch.base_url}/batch/jobs?page_size={PAGE_ROWS}&page={cursor or '0'}")


def decode_list(reply: HttpReply) -> Result[BatchPage, LLMError]:
    """Decode the first page of the list of jobs, the newest ones first."""
    return parse_json_object(reply.body).map(_page)


def _page(payload: Mapping[str, object]) -> BatchPage:
    batches = tuple(_status(item) for item in iter_objects(payload.get("data")))
    return BatchPage(tuple(sorted(batches, key=lambda status: -status.created_at)))


def poll(batch: Batch) -> HttpRequest:
    """Return the request of a job's state."""
    return json_request("GET", f"{batch.base_url}/batch/jobs/{quote(batch.id, safe='')}")


def decode_status(reply: HttpReply) -> Result[BatchStatus, LLMError]:
    """Decode the state of a job."""
    return parse_json_object(reply.body).map(_status).bind(id_required("$.id", "not a batch job"))


def cancel(batch: Batch) -> HttpRequest:
    """Return the request that cancels a job."""
    return json_request("POST", f"{batch.base_url}/batch/jobs/{quote(batch.id, safe='')}/cancel")


def results(batch: Batch, file: str, _cursor: str) -> HttpRequest:
    """Return the request of a result file."""
    return json_request("GET", f"{batch.base_url}/files/{quote(file, safe='')}/content")


def _status(payload: Mapping[str, object]) -> BatchStatus:
    label = as_text(payload.get("status"))
    files = (as_text(payload.get(name)) for name in ("output_file", "error_file"))
    errors = list(iter_objects(payload.get("errors")))
    message = as_text(errors[0].get("message")) if errors else ""
    return BatchStatus(
        id=as_text(payload.get("id")),
        ended=label in ENDED,
        label=label.lower(),
        token=as_text(as_mapping(payload.get("metadata")).get(TOKEN_FIELD)),
        total=as_count(payload.get("total_requests")) or 0,
        succeeded=as_count(payload.get("succeeded_requests")) or 0,
        failed=as_count(payload.get("failed_requests")) or 0,
        created_at=float(as_count(payload.get("created_at")) or 0),
        files=tuple(file for file in files if file),
        error=InvalidRequest(message=message or "the job failed without a reason") if label == "FAILED" else None,
    )


WIRE: Final = BatchWire(
    name="mistral-batch",
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

"""Vertex AI's batches: a file of rows in Cloud Storage, a job that reads it, and files of results in Cloud Storage.

What differs here: rows and results are objects of a bucket of the caller's project. Rows of Gemini have no field for an
id, but requests come back with their labels, which take lower-case letters: the key is there in base32. Rows of Claude
have ``custom_id``. The status of a row is empty, or the text of its error. Rows that were done when a job ended early
are exported.

Sources: https://docs.cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-from-cloud-storage,
https://docs.cloud.google.com/vertex-ai/generative-ai/docs/partner-models/claude/batch,
https://docs.cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.batchPredictionJobs,
https://docs.cloud.google.com/storage/docs/json_api/v1/objects (read 2026-11-30).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import msgspec
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.batch import (
    TOKEN_FIELD,
    TOKEN_PREFIX,
    Batch,
    BatchLimits,
    BatchPage,
    BatchRow,
    BatchStatus,
    BatchStep,
    BatchWire,
    FilesPage,
    StepRequest,
    custom_id,
    id_required,
    json_request,
    key_from_custom_id,
    returned_field,
)
from llmhub.core.errors import InvalidRequest, LLMError, Malformed, RateLimited
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, HttpRequest
from llmhub.wire.readers import as_epoch, as_int64, as_mapping, as_text, iter_objects

ENDED: Final = frozenset({"SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})
PAGE_ROWS: Final = 100
RESULT_SUFFIX: Final = ".jsonl"
JSON_HEADERS: Final = {"content-type": "application/json"}
RESOURCE_EXHAUSTED: Final = 8
"""Code of a job that failed because of a quota."""
KEY_DIGITS: Final = 52
"""Length of a key in base32 without padding."""
LIMITS: Final = BatchLimits(rows=200_000, size=950_000_000)
"""Maximum number of rows, and 95 % of the maximum size of a file, 1 GB."""
LABELS: Final = "labels"


def encode_row(row_id: str, request: HttpRequest, _batch: Batch) -> bytes:
    """Return the line of one request to Gemini, with its id among the labels."""
    label = _label(row_id)
    body = request.body
    if f'"{LABELS}"'.encode() in body:
        payload: Any = msgspec.json.decode(body)
        if isinstance(payload, dict) and isinstance(payload.get(LABELS), dict):
            body = msgspec.json.encode({**payload, LABELS: {**payload[LABELS], TOKEN_FIELD: label}})
            return b'{"request":' + body + b"}"
    return b'{"request":' + body[:-1] + f',"{LABELS}":{{"{TOKEN_FIELD}":"{label}"}}}}}}'.encode()


def encode_claude_row(row_id: str, request: HttpRequest, _batch: Batch) -> bytes:
    """Return the line of one request to Claude."""
    return f'{{"custom_id":"{row_id}","request":'.encode() + request.body + b"}"


def _label(row_id: str) -> str:
    """Return an id as the value of a label."""
    key = key_from_custom_id(row_id) or row_id.encode()
    return base64.b32encode(key).decode().rstrip("=").lower()


def _id_of_label(label: str) -> str:
    """Return the id of a label; empty for one that is none of ours."""
    if len(label) != KEY_DIGITS:
        return ""
    try:
        return custom_id(base64.b32decode(label.upper() + "===="))
    except (binascii.Error, ValueError):
        return ""


def encode_upload(batch: Batch) -> StepRequest:
    """Return the upload of the rows as one object."""
    name = quote(batch.object_name, safe="")
    url = f"{batch.storage_url}/upload/storage/v1/b/{quote(batch.bucket, safe='')}/o?uploadType=media&name={name}"
    return StepRequest(HttpRequest("POST", url, {"content-type": "application/jsonl"}), has_rows=True)


def encode_create(publisher: str, batch: Batch) -> StepRequest:
    """Return the request that creates the job."""
    model = batch.model if "/" in batch.model else f"publishers/{publisher}/models/{batch.model}"
    payload = {
        "displayName": batch.name,
        "model": model,
        "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [f"{batch.storage_uri}.jsonl"]}},
        "outputConfig": {
            "predictionsFormat": "jsonl",
            "gcsDestination": {"outputUriPrefix": batch.storage_uri},
        },
    }
    return StepRequest(json_request("POST", f"{batch.base_url}/batchPredictionJobs", payload))


def list_batches(batch: Batch, cursor: str) -> HttpRequest:
    """Return the request of a page of the list of jobs."""
    after = f"&pageToken={quote(cursor, safe='')}" if cursor else ""
    return json_request("GET", f"{batch.base_url}/batchPredictionJobs?pageSize={PAGE_ROWS}{after}")


def decode_list(reply: HttpReply) -> Result[BatchPage, LLMError]:
    """Decode a page of the list of jobs."""
    return parse_json_object(reply.body).map(_page)


def _page(payload: Mapping[str, object]) -> BatchPage:
    jobs = tuple(_status(item) for item in iter_objects(payload.get("batchPredictionJobs")))
    return BatchPage(jobs, as_text(payload.get("nextPageToken")))


def poll(batch: Batch) -> HttpRequest:
    """Return the request of a job's state."""
    return json_request("GET", _job_url(batch))


def decode_status(reply: HttpReply) -> Result[BatchStatus, LLMError]:
    """Decode the state of a job."""
    return parse_json_object(reply.body).map(_status).bind(id_required("$.name", "not a job"))


def cancel(batch: Batch) -> HttpRequest:
    """Return the request that cancels a job."""
    return json_request("POST", f"{_job_url(batch)}:cancel", {})


def list_results(batch: Batch, folder: str, cursor: str) -> HttpRequest:
    """Return the request of the objects in a folder."""
    after = f"&pageToken={quote(cursor, safe='')}" if cursor else ""
    return json_request("GET", f"{_objects_url(batch)}?prefix={quote(folder, safe='')}{after}")


def decode_results(reply: HttpReply) -> Result[FilesPage, LLMError]:
    """Decode a page of the list of objects."""
    parsed = parse_json_object(reply.body)
    if not is_successful(parsed):
        return Failure(parsed.failure())
    payload = parsed.unwrap()
    names = (as_text(item.get("name")) for item in iter_objects(payload.get("items")))
    found = tuple(name for name in names if name.endswith(RESULT_SUFFIX))
    return Success(FilesPage(found, as_text(payload.get("nextPageToken"))))


def results(batch: Batch, file: str, _cursor: str) -> HttpRequest:
    """Return the request of a result file."""
    return HttpRequest("GET", f"{_objects_url(batch)}/{quote(file, safe='')}?alt=media", {})


class _Request(msgspec.Struct):
    labels: dict[str, str] = {}


class _Row(msgspec.Struct):
    request: _Request | None = None
    custom_id: str = ""
    response: msgspec.Raw = msgspec.Raw(b"null")
    status: str = ""


_decode_row: Final = msgspec.json.Decoder(_Row).decode


def decode_line(line: bytes) -> Result[BatchRow, LLMError]:
    """Decode one line of a result file.

    Examples
    --------
    >>> decode_line(b'{"custom_id": "a", "status": "", "response": {"content": []}}').unwrap().reply.body
    b'{"content": []}'
    """
    try:
        row = _decode_row(line)
    except (msgspec.DecodeError, RecursionError) as error:
        return Failure(Malformed(path="$", message=f"not a row of a batch: {error}"))
    name = row.custom_id or _id_of_label(row.request.labels.get(TOKEN_FIELD, "") if row.request is not None else "")
    response = bytes(row.response)
    if not row.status and response not in {b"null", b"{}"}:
        return Success(BatchRow(name, HttpReply(200, JSON_HEADERS, response)))
    return Success(BatchRow(name, _error_reply(row.status)))


def _error_reply(status: str) -> HttpReply:
    """Return the reply of a failed row, whose status is a text with the error as JSON (``Bad Request: {...}``)."""
    parsed = parse_json_object(status[max(status.find("{"), 0) :].encode())
    error = as_mapping(parsed.unwrap().get("error")) if is_successful(parsed) else {}
    code = error.get("code")
    http_status = code if isinstance(code, int) and 400 <= code < 600 else 500  # noqa: PLR2004 - HTTP errors
    payload = {"error": error or {"code": http_status, "message": status or "the row has no response"}}
    return HttpReply(http_status, JSON_HEADERS, msgspec.json.encode(payload))


def _job_url(batch: Batch) -> str:
    return f"{batch.base_url}/batchPredictionJobs/{quote(batch.id.rpartition('/')[2], safe='')}"


def _objects_url(batch: Batch) -> str:
    return f"{batch.storage_url}/storage/v1/b/{quote(batch.bucket, safe='')}/o"


def _status(payload: Mapping[str, object]) -> BatchStatus:
    label = as_text(payload.get("state")).removeprefix("JOB_STATE_")
    stats = as_mapping(payload.get("completionStats"))
    counts = {name: as_int64(stats.get(name)) for name in ("successfulCount", "failedCount", "incompleteCount")}
    folder = as_text(as_mapping(payload.get("outputInfo")).get("gcsOutputDirectory"))
    path = folder.partition("://")[2].partition("/")[2].rstrip("/")
    return BatchStatus(
        id=as_text(payload.get("name")),
        ended=label in ENDED,
        label=label.lower(),
        token=as_text(payload.get("displayName")).removeprefix(TOKEN_PREFIX),
        total=sum(counts.values()),
        succeeded=counts["successfulCount"],
        failed=counts["failedCount"],
        created_at=as_epoch(payload.get("createTime")),
        files=(f"{path}/",) if path else (),
        error=_refusal(as_mapping(payload.get("error"))) if label == "FAILED" and not path else None,
    )


def _refusal(error: Mapping[str, object]) -> LLMError:
    """Return why a job failed as a whole."""
    message = as_text(error.get("message")) or "the job failed without a reason"
    return RateLimited(message=message) if error.get("code") == RESOURCE_EXHAUSTED else InvalidRequest(message=message)


WIRE: Final = BatchWire(
    name="vertex-batch",
    limits=LIMITS,
    separator=b"\n",
    encode_row=encode_row,
    steps=(
        BatchStep(encode_upload, returned_field("name", "object")),
        BatchStep(partial(encode_create, "google"), returned_field("name")),
    ),
    list_batches=list_batches,
    decode_list=decode_list,
    poll=poll,
    decode_status=decode_status,
    cancel=cancel,
    results=results,
    list_results=list_results,
    decode_results=decode_results,
    decode_line=decode_line,
)
CLAUDE_WIRE: Final = BatchWire(
    name="vertex-claude-batch",
    limits=LIMITS,
    separator=b"\n",
    encode_row=encode_claude_row,
    steps=(
        BatchStep(encode_upload, returned_field("name", "object")),
        BatchStep(partial(encode_create, "anthropic"), returned_field("name")),
    ),
    list_batches=list_batches,
    decode_list=decode_list,
    poll=poll,
    decode_status=decode_status,
    cancel=cancel,
    results=results,
    list_results=list_results,
    decode_results=decode_results,
    decode_line=decode_line,
)

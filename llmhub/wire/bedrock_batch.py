"""Bedrock's batches: a file of rows in S3, a job that reads it, and files of results in S3.

What differs here: rows and results are objects of a bucket of the caller, which a role of the caller may read and
write. The token makes creating a job idempotent. A job has a minimum number of rows. Rows of ``Converse`` cannot have
tools or a schema. A job that ended early may have no file of results, so the folder is listed.

Sources: https://docs.aws.amazon.com/bedrock/latest/userguide/batch-inference-data.html, batch-inference-results.html
beside it, https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html (read 2026-11-30), and the service
model ``bedrock`` of botocore 1.44.8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape
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
    FilesPage,
    StepRequest,
    id_required,
    json_request,
    returned_field,
)
from llmhub.core.errors import InvalidRequest, LLMError, Malformed, Unsupported
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, HttpRequest
from llmhub.core.types import CompletionRequest, ToolCall, ToolResult
from llmhub.wire.readers import as_count, as_epoch, as_mapping, as_text, iter_objects

ENDED: Final = frozenset({"Completed", "PartiallyCompleted", "Failed", "Stopped", "Expired"})
PAGE_ROWS: Final = 100
RESULT_SUFFIX: Final = ".jsonl.out"
"""End of the names of result files; the manifest beside them has another."""
JSON_HEADERS: Final = {"content-type": "application/json"}
UNSIGNED_PAYLOAD: Final = {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
"""Header of requests to S3 whose body is not signed, since it is read from disk while it is sent."""
LIMITS: Final = BatchLimits(rows=50_000, size=1_000_000_000, min_rows=100)
"""Quotas of most models: 100 to 50,000 rows in a file of 1 GB at most."""
LIST_KEY: Final = re.compile(r"<Key>([^<]*)</Key>")
LIST_TOKEN: Final = re.compile(r"<NextContinuationToken>([^<]*)</NextContinuationToken>")


def encode_row(custom_id: str, request: HttpRequest, _batch: Batch) -> bytes:
    """Return the line of one request."""
    return f'{{"recordId":"{custom_id}","modelInput":'.encode() + request.body + b"}"


def check_request(request: CompletionRequest) -> LLMError | None:
    """Return what a request has that rows of batches cannot have: tools, their calls, or a schema."""
    if request.response_schema is not None:
        return _unsupported("$.response_schema", "a schema")
    if request.tools:
        return _unsupported("$.tools", "tools")
    if any(isinstance(part, ToolCall | ToolResult) for message in request.messages for part in message.parts):
        return _unsupported("$.messages", "calls of tools")
    return None


def _unsupported(path: str, name: str) -> LLMError:
    message = f"rows of batches cannot have {name}; late='live' sends such rows by themselves"
    return Unsupported(path=path, provider="bedrock", message=message)


def encode_upload(batch: Batch) -> StepRequest:
    """Return the upload of the rows as one object."""
    headers = {"content-type": "application/jsonl", **UNSIGNED_PAYLOAD}
    return StepRequest(HttpRequest("PUT", _object_url(batch, batch.object_name), headers), has_rows=True)


def decode_upload(_reply: HttpReply) -> Result[Mapping[str, str], LLMError]:
    """Return nothing: the object's name is known."""
    return Success({})


def encode_create(batch: Batch) -> StepRequest:
    """Return the request that creates the job."""
    payload = {
        "jobName": batch.name,
        "clientRequestToken": batch.token,
        "roleArn": batch.role,
        "modelId": batch.model,
        "modelInvocationType": "Converse",
        "inputDataConfig": {"s3InputDataConfig": {"s3InputFormat": "JSONL", "s3Uri": f"{batch.storage_uri}.jsonl"}},
        "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": f"{batch.storage_uri}/"}},
        "timeoutDurationInHours": 24,
    }
    return StepRequest(json_request("POST", f"{batch.base_url}/model-invocation-job", payload))


def list_batches(batch: Batch, cursor: str) -> HttpRequest:
    """Return the request of a page of the list of jobs, the newest ones first."""
    order = "sortBy=CreationTime&sortOrder=Descending"
    after = f"&nextToken={quote(cursor, safe='')}" if cursor else ""
    return json_request("GET", f"{batch.base_url}/model-invocation-jobs?maxResults={PAGE_ROWS}{after}&{order}")


def decode_list(reply: HttpReply) -> Result[BatchPage, LLMError]:
    """Decode a page of the list of jobs."""
    return parse_json_object(reply.body).map(_page)


def _page(payload: Mapping[str, object]) -> BatchPage:
    jobs = tuple(_status(item) for item in iter_objects(payload.get("invocationJobSummaries")))
    return BatchPage(jobs, as_text(payload.get("nextToken")))


def poll(batch: Batch) -> HttpRequest:
    """Return the request of a job's state."""
    return json_request("GET", f"{batch.base_url}/model-invocation-job/{quote(batch.id, safe='')}")


def decode_status(reply: HttpReply) -> Result[BatchStatus, LLMError]:
    """Decode the state of a job."""
    return parse_json_object(reply.body).map(_status).bind(id_required("$.jobArn", "not a job"))


def cancel(batch: Batch) -> HttpRequest:
    """Return the request that stops a job."""
    return json_request("POST", f"{batch.base_url}/model-invocation-job/{quote(batch.id, safe='')}/stop")


def list_results(batch: Batch, folder: str, cursor: str) -> HttpRequest:
    """Return the request of the objects in the folder of a job's results."""
    after = f"continuation-token={quote(cursor, safe='')}&" if cursor else ""
    url = f"{batch.storage_url}/{batch.bucket}?{after}list-type=2&prefix={quote(folder, safe='')}"
    return HttpRequest("GET", url, UNSIGNED_PAYLOAD)


def decode_results(reply: HttpReply) -> Result[FilesPage, LLMError]:
    """Decode a page of the list of objects."""
    text = reply.body.decode(errors="replace")
    names = (unescape(name) for name in LIST_KEY.findall(text))
    token = LIST_TOKEN.search(text)
    return Success(
        FilesPage(tuple(name for name in names if name.endswith(RESULT_SUFFIX)), unescape(token[1]) if token else "")
    )


def results(batch: Batch, file: str, _cursor: str) -> HttpRequest:
    """Return the request of a result file."""
    return HttpRequest("GET", _object_url(batch, file), UNSIGNED_PAYLOAD)


class _Row(msgspec.Struct, rename="camel"):
    record_id: str
    model_output: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


_decode_row: Final = msgspec.json.Decoder(_Row).decode


def decode_line(line: bytes) -> Result[BatchRow, LLMError]:
    """Decode one line of a result file.

    Examples
    --------
    >>> decode_line(b'{"recordId": "a", "modelInput": {}, "modelOutput": {"output": {}}}').unwrap().reply.body
    b'{"output": {}}'
    """
    try:
        row = _decode_row(line)
    except (msgspec.DecodeError, RecursionError) as error:
        return Failure(Malformed(path="$", message=f"not a row of a batch: {error}"))
    output = bytes(row.model_output)
    if output != b"null":
        return Success(BatchRow(row.record_id, HttpReply(200, JSON_HEADERS, output)))
    parsed = parse_json_object(bytes(row.error))
    error_fields = parsed.unwrap() if is_successful(parsed) else {}
    if error_fields.get("expired") is True:
        return Success(BatchRow(row.record_id, None, "expired"))
    code = as_count(error_fields.get("errorCode")) or 500
    body = msgspec.json.encode({"message": as_text(error_fields.get("errorMessage"))})
    return Success(BatchRow(row.record_id, HttpReply(code if code >= 400 else 500, JSON_HEADERS, body)))  # noqa: PLR2004 - HTTP errors


def _object_url(batch: Batch, name: str) -> str:
    return f"{batch.storage_url}/{batch.bucket}/{quote(name, safe='/')}"


def _status(payload: Mapping[str, object]) -> BatchStatus:
    label = as_text(payload.get("status"))
    job = as_text(payload.get("jobArn")).rpartition("/")[2]
    output = as_text(as_mapping(as_mapping(payload.get("outputDataConfig")).get("s3OutputDataConfig")).get("s3Uri"))
    folder = output.partition("://")[2].partition("/")[2].rstrip("/")
    message = as_text(payload.get("message")) or "the job failed without a reason"
    return BatchStatus(
        id=job,
        ended=label in ENDED,
        label=label.lower(),
        token=as_text(payload.get("clientRequestToken")),
        total=as_count(payload.get("totalRecordCount")) or 0,
        succeeded=as_count(payload.get("successRecordCount")) or 0,
        failed=as_count(payload.get("errorRecordCount")) or 0,
        created_at=as_epoch(payload.get("submitTime")),
        files=(f"{folder}/{job}/",) if label in ENDED and label != "Failed" and folder else (),
        error=InvalidRequest(message=message) if label == "Failed" else None,
    )


WIRE: Final = BatchWire(
    name="bedrock-batch",
    limits=LIMITS,
    separator=b"\n",
    encode_row=encode_row,
    steps=(BatchStep(encode_upload, decode_upload), BatchStep(encode_create, returned_field("jobArn"))),
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

"""Gemini's batches: requests within the body that creates the batch, answers within the batch.

What differs here: the batch is named by us (``displayName``). Rows are matched by their metadata alone, since their
order is not kept whatever the documentation says. After 48 hours a batch expires without results, so batches are kept
small. ``responseJsonSchema`` is ignored by batches and answers are degenerate JSON; ``responseSchema`` is obeyed.

Sources: https://ai.google.dev/gemini-api/docs/batch-api, https://ai.google.dev/api/batch-api,
https://github.com/googleapis/python-genai/issues/1909 (order), https://github.com/crmne/ruby_llm/issues/894 (schemas),
read 2026-11-29.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

import msgspec
from returns.pipeline import is_successful
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
    returned_field,
)
from llmhub.core.errors import InvalidRequest, LLMError, Malformed
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, HttpRequest
from llmhub.wire.readers import as_epoch, as_int64, as_mapping, as_text, iter_objects

ENDED: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})
PAGE_ROWS: Final = 100
KEY: Final = "key"
"""Name of a row's id in its metadata."""
LIMITS: Final = BatchLimits(rows=10_000, size=19_000_000, window_s=172_800.0)
"""95 % of the maximum size of a request, 20 MB; fewer rows than permitted, since an expired batch loses them all."""
JSON_HEADERS: Final = {"content-type": "application/json"}
RPC_STATUSES: Final[Mapping[int, int]] = {
    1: 499,
    3: 400,
    4: 504,
    5: 404,
    7: 403,
    8: 429,
    9: 400,
    13: 500,
    14: 503,
    16: 401,
}
"""HTTP status of an error's code, which is one of gRPC in a row."""
SCHEMA_FIELD: Final = "responseJsonSchema"
UNSUPPORTED_KEYWORDS: Final = frozenset({"$schema", "$id", "$defs", "definitions", "additionalProperties", "title"})
"""Keywords of JSON Schema that ``responseSchema`` does not have."""
MAX_DEPTH: Final = 32
"""References within references that are replaced."""


def encode_row(custom_id: str, request: HttpRequest, _batch: Batch) -> bytes:
    """Return one request of the batch."""
    body = with_response_schema(request.body) if SCHEMA_FIELD.encode() in request.body else request.body
    return b'{"request":' + body + f',"metadata":{{"{KEY}":"{custom_id}"}}}}'.encode()


def with_response_schema(body: bytes) -> bytes:
    """Return a request with its JSON schema as ``responseSchema``.

    Examples
    --------
    >>> with_response_schema(b'{"generationConfig":{"responseJsonSchema":{"type":"object","title":"A"}}}')
    b'{"generationConfig":{"responseSchema":{"type":"OBJECT"}}}'
    """
    payload: Any = msgspec.json.decode(body)
    config = payload.get("generationConfig") if isinstance(payload, dict) else None
    if not isinstance(config, dict) or SCHEMA_FIELD not in config:
        return body
    schema = config.pop(SCHEMA_FIELD)
    config["responseSchema"] = _open_api_schema(schema, schema, 0)
    return msgspec.json.encode(payload)


def _open_api_schema(schema: Any, root: Any, depth: int) -> Any:  # noqa: C901 - one case for each keyword
    """Return a JSON schema in the form of OpenAPI 3.0: types in capitals, references replaced by what they name."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        found: Any = root
        for name in reference[2:].split("/"):
            found = found.get(name, {}) if isinstance(found, dict) else {}
        return _open_api_schema({**found, **{k: v for k, v in schema.items() if k != "$ref"}}, root, depth + 1)
    result: dict[str, Any] = {}
    for name, value in schema.items():
        if name in UNSUPPORTED_KEYWORDS:
            continue
        if name == "type":
            result |= _open_api_type(value)
        elif name == "const":
            result["enum"] = [value]
        elif name == "properties" and isinstance(value, dict):
            result[name] = {key: _open_api_schema(each, root, depth + 1) for key, each in value.items()}
            result.setdefault("propertyOrdering", list(value))
        elif name in {"anyOf", "oneOf"} and isinstance(value, list):
            result["anyOf"] = [_open_api_schema(each, root, depth + 1) for each in value]
        elif name == "items":
            result[name] = _open_api_schema(value, root, depth + 1)
        else:
            result[name] = value
    return result


def _open_api_type(value: Any) -> dict[str, Any]:
    """Return the fields for a type, or for a list of a type and null."""
    if isinstance(value, str):
        return {"type": value.upper()}
    names = [name for name in value if name != "null"] if isinstance(value, list) else []
    if len(names) == 1:
        return {"type": str(names[0]).upper(), "nullable": "null" in value}
    return {"anyOf": [{"type": str(name).upper()} for name in names]} if names else {}


def encode_create(batch: Batch) -> StepRequest:
    """Return the request that creates the batch."""
    model = batch.model if "/" in batch.model else f"models/{batch.model}"
    request = json_request("POST", f"{batch.base_url}/{quote(model, safe='/')}:batchGenerateContent", {})
    head = f'{{"batch":{{"displayName":"{batch.name}","inputConfig":{{"requests":{{"requests":['
    return StepRequest(request, has_rows=True, head=head.encode(), tail=b"]}}}}")


def encode_embed_row(custom_id: str, request: HttpRequest, _batch: Batch) -> bytes:
    """Return one text of the batch, given the request for its vector alone."""
    (text,) = _decode_embed_request(request.body).requests
    return b'{"request":' + bytes(text) + f',"metadata":{{"{KEY}":"{custom_id}"}}}}'.encode()


def encode_create_embed(batch: Batch) -> StepRequest:
    """Return the request that creates the batch of texts."""
    step = encode_create(batch)
    url = step.http.url.removesuffix(":batchGenerateContent") + ":asyncBatchEmbedContent"
    return replace(step, http=replace(step.http, url=url))


class _EmbedRequest(msgspec.Struct):
    requests: list[msgspec.Raw]


_decode_embed_request: Final = msgspec.json.Decoder(_EmbedRequest).decode


def list_batches(batch: Batch, cursor: str) -> HttpRequest:
    """Return the request of a page of the list."""
    after = f"&pageToken={quote(cursor, safe='')}" if cursor else ""
    return json_request("GET", f"{batch.base_url}/batches?pageSize={PAGE_ROWS}{after}")


def decode_list(reply: HttpReply) -> Result[BatchPage, LLMError]:
    """Decode a page of the list of batches."""
    return parse_json_object(reply.body).map(_page)


def _page(payload: Mapping[str, object]) -> BatchPage:
    batches = tuple(_status(item) for item in iter_objects(payload.get("operations")))
    return BatchPage(batches, as_text(payload.get("nextPageToken")))


def poll(batch: Batch) -> HttpRequest:
    """Return the request of a batch's state; once it has ended, its results are in the reply."""
    return json_request("GET", f"{batch.base_url}/{quote(batch.id, safe='/')}")


def decode_status(reply: HttpReply) -> Result[BatchStatus, LLMError]:
    """Decode the state of a batch."""
    return parse_json_object(reply.body).map(_status).bind(id_required("$.name", "not a batch"))


def cancel(batch: Batch) -> HttpRequest:
    """Return the request that cancels a batch."""
    return json_request("POST", f"{batch.base_url}/{quote(batch.id, safe='/')}:cancel", {})


def results(batch: Batch, _file: str, _cursor: str) -> HttpRequest:
    """Return the request of the results, which are in the batch."""
    return poll(batch)


class _Row(msgspec.Struct):
    metadata: dict[str, Any] | None = None
    response: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


class _Rows(msgspec.Struct, rename="camel"):
    inlined_responses: list[_Row] = []


class _Output(msgspec.Struct, rename="camel"):
    inlined_responses: _Rows | None = None


class _Metadata(msgspec.Struct):
    output: _Output | None = None


class _Operation(msgspec.Struct):
    metadata: _Metadata | None = None
    response: _Output | None = None


_decode_operation: Final = msgspec.json.Decoder(_Operation).decode


def decode_rows(document: bytes) -> Result[RowsPage, LLMError]:
    """Decode the results within a batch."""
    try:
        operation = _decode_operation(document)
    except (msgspec.DecodeError, RecursionError) as error:
        return Failure(Malformed(path="$", message=f"not a batch: {error}"))
    output = operation.response or (operation.metadata.output if operation.metadata is not None else None)
    rows = output.inlined_responses.inlined_responses if output is not None and output.inlined_responses else []
    return Success(RowsPage(tuple(map(_to_row, rows))))


def _to_row(row: _Row) -> BatchRow:
    metadata = row.metadata or {}
    name = as_text(metadata.get(KEY)) or as_text(metadata.get("custom_id"))
    response, error = bytes(row.response), bytes(row.error)
    if response != b"null":
        return BatchRow(name, HttpReply(200, JSON_HEADERS, response))
    parsed = parse_json_object(error)
    payload = parsed.unwrap() if is_successful(parsed) else {}
    code = payload.get("code")
    if code == 1:  # cancelled
        return BatchRow(name, None, "cancelled")
    status = RPC_STATUSES.get(code, code if code >= 400 else 500) if isinstance(code, int) else 500  # noqa: PLR2004 - HTTP errors
    return BatchRow(name, HttpReply(status, JSON_HEADERS, b'{"error":' + error + b"}"))


def _status(payload: Mapping[str, object]) -> BatchStatus:
    metadata = as_mapping(payload.get("metadata")) or payload
    stats = as_mapping(metadata.get("batchStats"))
    label = as_text(metadata.get("state")).rpartition("STATE_")[2]
    ended = label in ENDED
    counts = {
        name: as_int64(stats.get(name)) for name in ("requestCount", "successfulRequestCount", "failedRequestCount")
    }
    error = as_mapping(payload.get("error"))
    return BatchStatus(
        id=as_text(payload.get("name")),
        ended=ended,
        label=label.lower(),
        token=as_text(metadata.get("displayName")).removeprefix(TOKEN_PREFIX),
        total=counts["requestCount"],
        succeeded=counts["successfulRequestCount"],
        failed=counts["failedRequestCount"],
        created_at=as_epoch(metadata.get("createTime")),
        files=("responses",) if label in {"SUCCEEDED", "CANCELLED"} else (),
        error=InvalidRequest(message=as_text(error.get("message")) or "the batch failed without a reason")
        if label == "FAILED"
        else None,
    )


WIRE: Final = BatchWire(
    name="gemini-batch",
    limits=LIMITS,
    separator=b",\n",
    encode_row=encode_row,
    steps=(BatchStep(encode_create, returned_field("name")),),
    list_batches=list_batches,
    decode_list=decode_list,
    poll=poll,
    decode_status=decode_status,
    cancel=cancel,
    results=results,
    decode_rows=decode_rows,
    keeps_results_of_expired=False,
)
EMBED_WIRE: Final = replace(
    WIRE,
    name="gemini-embed-batch",
    encode_row=encode_embed_row,
    steps=(BatchStep(encode_create_embed, returned_field("name")),),
)

"""The batch endpoints of each simulated provider, written from their documentation and recorded exchanges."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import msgspec

from llmhub.core.provider import HttpReply
from llmhub.sim.batch_store import BatchView, SimBatch, SimBatchStore, SimResult, SimRow
from llmhub.sim.servers.batch_replies import (
    anthropic_error,
    file_content,
    file_info,
    google_error,
    json_body,
    json_reply,
    openai_error,
    page_of,
    parse_rows,
    store_upload,
    timestamp,
)
from llmhub.sim.servers.fake_provider import encode_json
from llmhub.sim.servers.storage_batches import serve_bedrock, serve_vertex
from llmhub.sim.types import SimHttpRequest

BatchServer: TypeAlias = Callable[[SimBatchStore, str, SimHttpRequest, float], HttpReply | None]
"""Answers a request to batch endpoints of a provider (its name) at a time; ``None`` for a request to other paths."""
DAY_S: Final = 86_400
MAX_PAGE_ROWS: Final = 1_000


def serve_openai(  # noqa: C901, PLR0911 - one case each
    store: SimBatchStore, provider: str, request: SimHttpRequest, now: float
) -> HttpReply | None:
    """Serve files and batches as OpenAI, Azure, Groq and Together do."""
    path = request.subpath.removeprefix("/openai").removeprefix("/v1")
    upper = provider == "together"
    match [request.method, *path.strip("/").split("/")]:
        case ["POST", "files"]:
            return store_upload(store, request, now)
        case ["GET", "files", file_id]:
            return file_info(store, file_id, now)
        case ["GET", "files", file_id, "content"]:
            return file_content(store, file_id)
        case ["POST", "batches"]:
            body = json_body(request)
            file_id = str(body.get("input_file_id"))
            if file_id not in store.files or not isinstance(body.get("endpoint"), str):
                return openai_error(400, "input_file_id or endpoint is missing or unknown")
            rows = parse_rows(
                store.files[file_id][1], "custom_id", lambda row: (row.get("url", ""), row.get("body") or {})
            )
            if rows is None or not rows:
                return openai_error(400, "the file is not one of requests")
            model = str(rows[0].payload.get("model", ""))
            info = {"metadata": body.get("metadata"), "endpoint": body["endpoint"], "input_file_id": file_id}
            batch = store.create(f"batch_{store.new_id()}", provider, model, rows, info, now)
            return json_reply(_openai_batch(store, batch, now, upper=upper))
        case ["GET", "batches"]:
            query = request.query_parameters
            data, more = page_of(store.newest_first(provider), query.get("after", ""), int(query.get("limit") or 20))
            listed = [_openai_batch(store, batch, now, upper=upper) for batch in data]
            ids = {"first_id": data[0].id if data else None, "last_id": data[-1].id if data else None}
            return json_reply({"object": "list", "data": listed, **ids, "has_more": more})
        case ["GET", "batches", batch_id] if batch_id in store.batches:
            return json_reply(_openai_batch(store, store.batches[batch_id], now, upper=upper))
        case ["POST", "batches", batch_id, "cancel"] if batch_id in store.batches:
            store.cancel(store.batches[batch_id], now)
            return json_reply(_openai_batch(store, store.batches[batch_id], now, upper=upper))
        case [_, "batches", *_]:
            return openai_error(404, "No batch found")
        case _:
            return None


def _openai_batch(store: SimBatchStore, batch: SimBatch, now: float, *, upper: bool = False) -> dict[str, Any]:
    view = store.view(batch, now)
    label = view.outcome if view.phase == "ended" else view.phase
    files = _result_files(store, batch, view)
    errors = None
    if batch.refusal:
        line = 2 if batch.refusal == "invalid_json_line" and len(batch.rows) > 1 else None
        message = f"The batch was refused: {batch.refusal}"
        errors = {"object": "list", "data": [{"code": batch.refusal, "message": message, "param": None, "line": line}]}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.info["endpoint"],
        "model": batch.model,
        "errors": errors,
        "input_file_id": batch.info["input_file_id"],
        "completion_window": "24h",
        "status": label.upper() if upper else label,
        "output_file_id": files.get("output"),
        "error_file_id": files.get("error"),
        "created_at": int(batch.created),
        "expires_at": int(batch.created) + DAY_S,
        "request_counts": {"total": len(batch.rows), "completed": view.succeeded, "failed": view.failed},
        "metadata": batch.info["metadata"],
    }


def _result_files(store: SimBatchStore, batch: SimBatch, view: BatchView) -> dict[str, str]:
    """Store the output and the error file of a batch that has ended, and return their ids; empty ones do not exist."""
    if view.phase != "ended":
        return {}
    files: dict[str, str] = {}
    for name, wanted in (("output", True), ("error", False)):
        results = [result for result in view.results if result.succeeded is wanted]
        file_id = f"file-{name}-{batch.id}"
        if results:
            if file_id not in store.files:
                store.files[file_id] = f"{batch.id}_{name}.jsonl", b"\n".join(map(_openai_row, results)) + b"\n"
            files[name] = file_id
    return files


def _openai_row(result: SimResult) -> bytes:
    row_id = f"batch_req_{result.custom_id[:24]}"
    if result.reply is None:
        error = {"code": f"batch_{result.reason}", "message": f"This request was not processed: {result.reason}."}
        return encode_json({"id": row_id, "custom_id": result.custom_id, "response": None, "error": error})
    body = msgspec.Raw(result.reply.body)
    response = {"status_code": result.reply.status, "request_id": row_id, "body": body}
    return encode_json({"id": row_id, "custom_id": result.custom_id, "response": response, "error": None})


def serve_anthropic(  # noqa: PLR0911 - one case each
    store: SimBatchStore, provider: str, request: SimHttpRequest, now: float
) -> HttpReply | None:
    """Serve Message Batches."""
    if not request.subpath.startswith("/v1/messages/batches"):
        return None
    rest = request.subpath.removeprefix("/v1/messages/batches").strip("/").split("/")
    url = f"http://{request.headers.get('host', '')}{request.path}"
    match [request.method, *rest]:
        case ["POST", ""]:
            given = json_body(request).get("requests")
            if not isinstance(given, list) or not given:
                return anthropic_error(400, "invalid_request_error", "requests: Field required")
            rows = [SimRow(str(row.get("custom_id")), "/v1/messages", row.get("params") or {}) for row in given]
            if len({row.custom_id for row in rows}) < len(rows):
                return anthropic_error(400, "invalid_request_error", "requests: custom_id must be unique")
            batch = store.create(f"msgbatch_{store.new_id()}", provider, "", rows, {}, now)
            return json_reply(_anthropic_batch(store, batch, now, url))
        case ["GET", ""]:
            query = request.query_parameters
            data, more = page_of(store.newest_first(provider), query.get("after_id", ""), int(query.get("limit") or 20))
            listed = [_anthropic_batch(store, batch, now, url) for batch in data]
            ids = {"first_id": data[0].id if data else None, "last_id": data[-1].id if data else None}
            return json_reply({"data": listed, "has_more": more, **ids})
        case ["GET", batch_id] if batch_id in store.batches:
            return json_reply(_anthropic_batch(store, store.batches[batch_id], now, url))
        case ["POST", batch_id, "cancel"] if batch_id in store.batches:
            store.cancel(store.batches[batch_id], now)
            return json_reply(_anthropic_batch(store, store.batches[batch_id], now, url))
        case ["GET", batch_id, "results"] if batch_id in store.batches:
            view = store.view(store.batches[batch_id], now)
            lines = b"".join(_anthropic_row(result) + b"\n" for result in view.results)
            return HttpReply(200, {"content-type": "application/x-jsonl"}, lines)
    return anthropic_error(404, "not_found_error", "Not found")


def _anthropic_batch(store: SimBatchStore, batch: SimBatch, now: float, url: str) -> dict[str, Any]:
    view = store.view(batch, now)
    ended = view.phase == "ended"
    late = [result.reason for result in view.results if result.reply is None] if ended else []
    errored = sum(result.reply is not None and not result.succeeded for result in view.results) if ended else 0
    root = url.partition("/v1/messages/batches")[0] + "/v1/messages/batches"
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress",
        "request_counts": {
            "processing": 0 if ended else len(batch.rows),
            "succeeded": view.succeeded if ended else 0,
            "errored": errored,
            "canceled": late.count("cancelled"),
            "expired": late.count("expired"),
        },
        "created_at": timestamp(batch.created),
        "expires_at": timestamp(batch.created + DAY_S),
        "ended_at": timestamp(now + store.offset_s) if ended else None,
        "cancel_initiated_at": None if batch.cancelled is None else timestamp(batch.cancelled),
        "archived_at": None,
        "results_url": f"{root}/{batch.id}/results" if ended else None,
    }


def _anthropic_row(result: SimResult) -> bytes:
    if result.reply is None:
        kind = "canceled" if result.reason == "cancelled" else "expired"
        return encode_json({"custom_id": result.custom_id, "result": {"type": kind}})
    if not result.succeeded:
        error = msgspec.Raw(result.reply.body)
        return encode_json({"custom_id": result.custom_id, "result": {"type": "errored", "error": error}})
    message = msgspec.json.decode(result.reply.body)
    message["usage"]["service_tier"] = "batch"
    return encode_json({"custom_id": result.custom_id, "result": {"type": "succeeded", "message": message}})


GEMINI_CREATE: Final = re.compile(r"/[^/]+/(models/.+)(:batchGenerateContent|:asyncBatchEmbedContent)")
GEMINI_BATCH: Final = re.compile(r"/[^/]+/(batches/[^/:]+)(:cancel)?")
GEMINI_LIST: Final = re.compile(r"/[^/]+/batches")
GEMINI_PHASES: Final[Mapping[str, str]] = {
    "validating": "PENDING",
    "in_progress": "RUNNING",
    "finalizing": "RUNNING",
    "completed": "SUCCEEDED",
    "failed": "FAILED",
    "expired": "EXPIRED",
    "cancelled": "CANCELLED",
}


def serve_gemini(  # noqa: PLR0911 - one case each
    store: SimBatchStore, provider: str, request: SimHttpRequest, now: float
) -> HttpReply | None:
    """Serve batches with inline requests."""
    path = unquote(request.subpath)
    if request.method == "POST" and (match := GEMINI_CREATE.fullmatch(path)):
        given = json_body(request).get("batch") or {}
        inline = (((given.get("inputConfig") or {}).get("requests") or {}).get("requests")) or []
        if not isinstance(inline, list) or not inline:
            return google_error(400, "INVALID_ARGUMENT", "batch.inputConfig.requests is required")
        rows = [SimRow(encode_json(row.get("metadata")).decode(), match[2], row.get("request") or {}) for row in inline]
        info = {"displayName": given.get("displayName", "")}
        batch = store.create(f"batches/{store.new_id()}", provider, match[1], rows, info, now)
        return json_reply(_gemini_batch(store, batch, now))
    if request.method == "GET" and GEMINI_LIST.fullmatch(path):
        query = request.query_parameters
        token, size = query.get("pageToken", ""), int(query.get("pageSize") or 20)
        data, more = page_of(store.newest_first(provider), token, size)
        listed = [_gemini_batch(store, batch, now, with_results=False) for batch in data]
        return json_reply({"operations": listed, **({"nextPageToken": data[-1].id} if more else {})})
    if match := GEMINI_BATCH.fullmatch(path):
        batch_or_none = store.batches.get(match[1])
        if batch_or_none is None:
            return google_error(404, "NOT_FOUND", "Requested entity was not found.")
        if request.method == "POST" and match[2]:
            store.cancel(batch_or_none, now)
            return json_reply({})
        if request.method == "DELETE":
            del store.batches[match[1]]
            return json_reply({})
        return json_reply(_gemini_batch(store, batch_or_none, now))
    return None


def _gemini_batch(store: SimBatchStore, batch: SimBatch, now: float, *, with_results: bool = True) -> dict[str, Any]:
    view = store.view(batch, now)
    ended = view.phase == "ended"
    label = GEMINI_PHASES[view.outcome if ended else view.phase]
    stats = {"requestCount": str(len(batch.rows))}
    if ended:
        stats |= {"successfulRequestCount": str(view.succeeded)}
        stats |= {"failedRequestCount": str(view.failed)} if view.failed else {}
    else:
        stats |= {"pendingRequestCount": str(len(batch.rows))}
    type_name = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"
    metadata = {
        "@type": type_name,
        "model": batch.model,
        "displayName": batch.info["displayName"],
        "createTime": timestamp(batch.created),
        "updateTime": timestamp(now + store.offset_s),
        "batchStats": stats,
        "state": f"BATCH_STATE_{label}",
        "name": batch.id,
    }
    operation: dict[str, Any] = {"name": batch.id, "metadata": metadata}
    if ended:
        operation["done"] = True
    if label in {"FAILED", "EXPIRED"}:
        operation["error"] = {"code": 8 if batch.refusal else 4, "message": batch.refusal or "The batch expired."}
    elif ended and with_results:
        rows = [_gemini_row(result) for result in view.results]
        output = {"inlinedResponses": {"inlinedResponses": rows}}
        metadata["output"] = output  # both places are recorded
        operation["response"] = {"@type": f"{type_name}Output", **output}
    return operation


def _gemini_row(result: SimResult) -> dict[str, Any]:
    metadata = {"metadata": msgspec.Raw(result.custom_id.encode())}
    if result.reply is None:
        return {**metadata, "error": {"code": 1 if result.reason == "cancelled" else 4, "message": result.reason}}
    body = msgspec.json.decode(result.reply.body)
    if result.succeeded:
        body["usageMetadata"] = {**body.get("usageMetadata", {}), "serviceTier": "standard"}
        return {**metadata, "response": body}
    error = body.get("error", {})
    codes = {400: 3, 401: 16, 403: 7, 404: 5, 429: 8, 503: 14}
    return {**metadata, "error": {**error, "code": codes.get(result.reply.status, 13)}}


MISTRAL_PHASES: Final[Mapping[str, str]] = {
    "validating": "QUEUED",
    "in_progress": "RUNNING",
    "finalizing": "RUNNING",
    "completed": "SUCCESS",
    "failed": "FAILED",
    "expired": "TIMEOUT_EXCEEDED",
    "cancelled": "CANCELLED",
}


def serve_mistral(  # noqa: PLR0911 - one case each
    store: SimBatchStore, provider: str, request: SimHttpRequest, now: float
) -> HttpReply | None:
    """Serve files and batch jobs."""
    match [request.method, *request.subpath.strip("/").split("/")]:
        case ["POST", "files"]:
            return store_upload(store, request, now)
        case ["GET", "files", file_id, "content"]:
            return file_content(store, file_id)
        case ["POST", "batch", "jobs"]:
            body = json_body(request)
            path = str(body.get("endpoint"))
            content = b"".join(store.files.get(name, ("", b""))[1] for name in body.get("input_files") or ())
            inline = body.get("requests")
            if isinstance(inline, list):
                content = b"\n".join(map(encode_json, inline))
            rows = parse_rows(content, "custom_id", lambda row: (path, row.get("body") or {}))
            if not rows:
                return openai_error(422, "no requests")
            info = {"metadata": body.get("metadata"), "endpoint": path, "input_files": body.get("input_files") or []}
            batch = store.create(store.new_id(), provider, str(body.get("model")), rows, info, now)
            return json_reply(_mistral_job(store, batch, now))
        case ["GET", "batch", "jobs"]:
            query = request.query_parameters
            size, page = int(query.get("page_size") or 100), int(query.get("page") or 0)
            data = store.newest_first(provider)[page * size : (page + 1) * size]
            return json_reply(
                {"object": "list", "total": len(data), "data": [_mistral_job(store, each, now) for each in data]}
            )
        case ["GET", "batch", "jobs", batch_id] if batch_id in store.batches:
            return json_reply(_mistral_job(store, store.batches[batch_id], now))
        case ["POST", "batch", "jobs", batch_id, "cancel"] if batch_id in store.batches:
            store.cancel(store.batches[batch_id], now)
            return json_reply(_mistral_job(store, store.batches[batch_id], now))
        case [_, "batch", *_]:
            return openai_error(404, "No such job")
        case _:
            return None


def _mistral_job(store: SimBatchStore, batch: SimBatch, now: float) -> dict[str, Any]:
    view = store.view(batch, now)
    files = _result_files(store, batch, view)
    return {
        "id": batch.id,
        "object": "batch",
        "input_files": batch.info["input_files"],
        "metadata": batch.info["metadata"],
        "endpoint": batch.info["endpoint"],
        "model": batch.model,
        "output_file": files.get("output"),
        "error_file": files.get("error"),
        "errors": [{"message": batch.refusal, "count": 1}] if batch.refusal else [],
        "outputs": None,
        "status": MISTRAL_PHASES[view.outcome if view.phase == "ended" else view.phase],
        "created_at": int(batch.created),
        "total_requests": len(batch.rows),
        "completed_requests": view.succeeded + view.failed,
        "succeeded_requests": view.succeeded,
        "failed_requests": view.failed,
    }


def serve_xai(  # noqa: PLR0911 - one case each
    store: SimBatchStore, provider: str, request: SimHttpRequest, now: float
) -> HttpReply | None:
    """Serve files and batches with counters."""
    match [request.method, *request.subpath.strip("/").split("/")]:
        case ["POST", "files"]:
            return store_upload(store, request, now)
        case ["POST", "batches"]:
            body = json_body(request)
            content = store.files.get(str(body.get("input_file_id")), ("", b""))[1]
            rows = parse_rows(content, "custom_id", lambda row: (row.get("url", ""), row.get("body") or {}))
            if not rows:
                return openai_error(400, "the file is not one of requests")
            model = str(rows[0].payload.get("model", ""))
            batch = store.create(f"batch_{store.new_id()}", provider, model, rows, {"name": body.get("name")}, now)
            return json_reply(_xai_batch(store, batch, now))
        case ["GET", "batches"]:
            query = request.query_parameters
            after, size = query.get("pagination_token", ""), int(query.get("limit") or 100)
            data, more = page_of(store.newest_first(provider), after, size)
            listed = [_xai_batch(store, each, now) for each in data]
            return json_reply({"batches": listed, "pagination_token": data[-1].id if more else None})
        case ["GET", "batches", batch_id] if batch_id in store.batches:
            return json_reply(_xai_batch(store, store.batches[batch_id], now))
        case ["GET", "batches", batch_id, "results"] if batch_id in store.batches:
            query = request.query_parameters
            size, start = min(int(query.get("limit") or 100), MAX_PAGE_ROWS), int(query.get("pagination_token") or 0)
            results = sorted(store.view(store.batches[batch_id], now).results, key=lambda result: result.custom_id)
            token = str(start + size) if start + size < len(results) else None
            rows_page = [_xai_row(result) for result in results[start : start + size]]
            return json_reply({"results": rows_page, "pagination_token": token})
        case ["POST", "batches", name] if name.endswith(":cancel") and name.removesuffix(":cancel") in store.batches:
            batch = store.batches[name.removesuffix(":cancel")]
            store.cancel(batch, now)
            return json_reply(_xai_batch(store, batch, now))
        case [_, "batches", *_]:
            return openai_error(404, "No such batch")
        case _:
            return None


def _xai_batch(store: SimBatchStore, batch: SimBatch, now: float) -> dict[str, Any]:
    view = store.view(batch, now)
    ended = view.phase == "ended"
    late = sum(result.reply is None for result in view.results)
    return {
        "batch_id": batch.id,
        "name": batch.info["name"],
        "create_time": timestamp(batch.created),
        "expire_time": timestamp(batch.created + 30 * DAY_S),
        "cancel_time": None if batch.cancelled is None else timestamp(batch.cancelled),
        "state": {
            "num_requests": len(batch.rows),
            "num_pending": 0 if ended else len(batch.rows) - view.processed,
            "num_success": view.succeeded,
            "num_error": view.failed - late if ended else 0,
            "num_cancelled": late,
        },
    }


def _xai_row(result: SimResult) -> dict[str, Any]:
    if result.reply is None:
        return {"batch_request_id": result.custom_id, "batch_result": {"error": f"request {result.reason}"}}
    if not result.succeeded:
        error = msgspec.json.decode(result.reply.body).get("error") or {}
        return {"batch_request_id": result.custom_id, "batch_result": {"error": str(error.get("message"))}}
    body = msgspec.json.decode(result.reply.body)
    usage = body.get("usage", {})
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    usage["completion_tokens"] = usage.get("completion_tokens", 0) - reasoning  # reasoning is not included here
    response = {"chat_get_completion": body}
    return {"batch_request_id": result.custom_id, "batch_result": {"response": response}}


BATCH_SERVERS: Final[Mapping[str, BatchServer]] = {
    "openai": serve_openai,
    "azure": serve_openai,
    "groq": serve_openai,
    "together": serve_openai,
    "anthropic": serve_anthropic,
    "google": serve_gemini,
    "mistral": serve_mistral,
    "xai": serve_xai,
    "bedrock": serve_bedrock,
    "vertex": serve_vertex,
    "vertex-anthropic": serve_vertex,
}
"""The batch endpoints of each provider by name."""

"""Batch endpoints of simulated providers whose batches are objects in storage: Bedrock with S3, Vertex AI with GCS.

Objects are files of the batch store under their URI. Sources: the service models ``bedrock`` and ``s3`` of botocore
1.44.8, the types of google-genai 3.6.1, and the pages named in `llmhub.wire` (read 2026-11-30).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from llmhub.core.provider import HttpReply
from llmhub.sim.batch_store import BatchView, SimBatch, SimBatchStore, SimResult, SimRow
from llmhub.sim.servers.batch_replies import google_error, json_body, json_reply, page_of, parse_rows, timestamp
from llmhub.sim.servers.fake_provider import JSON_HEADERS, encode_json
from llmhub.sim.types import SimHttpRequest

MIN_RECORDS: Final = 100
"""Fewest records of a job of Bedrock."""
XML_HEADERS: Final = {"content-type": "application/xml"}
OBJECT_HEADERS: Final = {"content-type": "application/octet-stream"}
BEDROCK_ARN: Final = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/"
BEDROCK_LABELS: Final[Mapping[str, str]] = {
    "validating": "Validating",
    "in_progress": "InProgress",
    "finalizing": "InProgress",
    "completed": "Completed",
    "failed": "Failed",
    "expired": "Expired",
    "cancelled": "Stopped",
}


def serve_bedrock(  # noqa: PLR0911 - one case each
    store: SimBatchStore, provider: str, request: SimHttpRequest, now: float
) -> HttpReply | None:
    """Serve jobs, and the objects of S3 below ``/s3``."""
    match [request.method, *request.subpath.strip("/").split("/")]:
        case [method, "s3", bucket, *key]:
            return _serve_s3(store, method, bucket, unquote("/".join(key)), request, now)
        case ["POST", "model-invocation-job"]:
            return _create_bedrock_job(store, provider, json_body(request), now)
        case ["GET", "model-invocation-jobs"]:
            query = request.query_parameters
            listed = store.newest_first(provider)
            jobs, more = page_of(listed, query.get("nextToken", ""), int(query.get("maxResults") or 100))
            summaries = [_bedrock_job(store, job, now) for job in jobs]
            return json_reply({"invocationJobSummaries": summaries, **({"nextToken": jobs[-1].id} if more else {})})
        case [method, "model-invocation-job", name, *action]:
            batch = store.batches.get(unquote(name).rpartition("/")[2])
            if batch is None:
                body = {"message": "The provided job identifier is invalid"}
                return HttpReply(
                    404, {**JSON_HEADERS, "x-amzn-errortype": "ResourceNotFoundException"}, encode_json(body)
                )
            if (method, action) == ("POST", ["stop"]):
                store.cancel(batch, now)
                return json_reply({})
            return json_reply(_bedrock_job(store, batch, now))
        case _:
            return None


def _create_bedrock_job(store: SimBatchStore, provider: str, body: dict[str, Any], now: float) -> HttpReply:
    token = body.get("clientRequestToken")
    for batch in store.newest_first(provider):
        if token and batch.info["clientRequestToken"] == token:
            return json_reply({"jobArn": BEDROCK_ARN + batch.id})
    source = (body.get("inputDataConfig") or {}).get("s3InputDataConfig") or {}
    content = store.files.get(str(source.get("s3Uri")), ("", b""))[1]
    rows = parse_rows(content, "recordId", lambda row: ("", row.get("modelInput") or {}))
    if not rows or not body.get("roleArn") or not body.get("outputDataConfig"):
        error = {"message": "The job has no role, no output or no readable input."}
        return HttpReply(400, {**JSON_HEADERS, "x-amzn-errortype": "ValidationException"}, encode_json(error))
    batch = store.create(store.new_id()[:12], provider, str(body.get("modelId")), rows, body, now)
    if len(rows) < MIN_RECORDS:
        batch.refusal = f"The job has {len(rows)} records, and the minimum is {MIN_RECORDS}."
    return json_reply({"jobArn": BEDROCK_ARN + batch.id})


def _bedrock_job(store: SimBatchStore, batch: SimBatch, now: float) -> dict[str, Any]:
    view = store.view(batch, now)
    if view.phase == "ended" and not batch.refusal:
        source = batch.info["inputDataConfig"]["s3InputDataConfig"]["s3Uri"].rpartition("/")[2]
        folder = f"{batch.info['outputDataConfig']['s3OutputDataConfig']['s3Uri'].rstrip('/')}/{batch.id}"
        lines = [_bedrock_row(batch, result) for result in view.results if result.reason != "cancelled"]
        _put_once(store, f"{folder}/{source}.out", lines)
        _put_once(store, f"{folder}/manifest.json.out", [encode_json({"totalRecordCount": len(batch.rows)})])
    fields = ("jobName", "modelId", "clientRequestToken", "roleArn", "inputDataConfig", "outputDataConfig")
    return {
        **{name: batch.info[name] for name in fields if name in batch.info},
        "jobArn": BEDROCK_ARN + batch.id,
        "status": BEDROCK_LABELS[view.outcome if view.phase == "ended" else view.phase],
        "submitTime": timestamp(batch.created),
        "modelInvocationType": batch.info.get("modelInvocationType", "InvokeModel"),
        "totalRecordCount": len(batch.rows),
        "successRecordCount": view.succeeded,
        "errorRecordCount": view.failed,
        **({"message": batch.refusal} if batch.refusal else {}),
    }


def _bedrock_row(batch: SimBatch, result: SimResult) -> bytes:
    row: dict[str, Any] = {"recordId": result.custom_id, "modelInput": _payload(batch, result.custom_id)}
    if result.reply is None:
        error = {"errorCode": 408, "errorMessage": "The record expired.", "expired": True, "retryable": True}
        return encode_json({**row, "error": error})
    body = msgspec.json.decode(result.reply.body)
    if result.succeeded:
        return encode_json({**row, "modelOutput": body})
    message = str(body.get("message") or body.get("Message"))
    error = {"errorCode": result.reply.status, "errorMessage": message, "expired": False, "retryable": False}
    return encode_json({**row, "error": error})


def _serve_s3(
    store: SimBatchStore, method: str, bucket: str, key: str, request: SimHttpRequest, now: float
) -> HttpReply:
    uri = f"s3://{bucket}/{key}"
    if method == "PUT":
        store.files[uri] = key, request.body
        return HttpReply(200, XML_HEADERS, b"")
    for batch in store.newest_first("bedrock"):
        _bedrock_job(store, batch, now)
    if not key:
        query = request.query_parameters
        names = sorted(name for name in store.files if name.startswith(f"{uri}{query.get('prefix', '')}"))
        start, size = int(query.get("continuation-token") or 0), int(query.get("max-keys") or 1000)
        items = "".join(
            f"<Contents><Key>{escape(name.removeprefix(uri))}</Key></Contents>" for name in names[start : start + size]
        )
        more = start + size < len(names)
        token = f"<NextContinuationToken>{start + size}</NextContinuationToken>" if more else ""
        flag = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
        return HttpReply(200, XML_HEADERS, f"<ListBucketResult>{flag}{token}{items}</ListBucketResult>".encode())
    if uri not in store.files:
        return HttpReply(404, XML_HEADERS, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>")
    return HttpReply(200, OBJECT_HEADERS, store.files[uri][1])


# Vertex AI

JOBS_PATH: Final = re.compile(
    r"(?:/v1(?:beta1)?)?/(projects/[^/]+/locations/[^/]+)/batchPredictionJobs(?:/([^/:]+))?(:cancel)?"
)
UPLOAD_PATH: Final = re.compile(r"/upload/storage/v1/b/([^/]+)/o")
OBJECT_PATH: Final = re.compile(r"/storage/v1/b/([^/]+)/o(?:/([^/]+))?")
VERTEX_LABELS: Final[Mapping[str, str]] = {
    "validating": "PENDING",
    "in_progress": "RUNNING",
    "finalizing": "RUNNING",
    "completed": "SUCCEEDED",
    "failed": "FAILED",
    "expired": "EXPIRED",
    "cancelled": "CANCELLED",
}


def serve_vertex(  # noqa: PLR0911 - one case each
    store: SimBatchStore, provider: str, request: SimHttpRequest, now: float
) -> HttpReply | None:
    """Serve jobs, and the objects of Cloud Storage."""
    if match := UPLOAD_PATH.fullmatch(request.subpath):
        name = request.query_parameters.get("name", "")
        store.files[f"gs://{match[1]}/{name}"] = name, request.body
        return json_reply({"kind": "storage#object", "bucket": match[1], "name": name, "size": str(len(request.body))})
    if match := OBJECT_PATH.fullmatch(request.subpath):
        return _serve_gcs(store, match[1], unquote(match[2] or ""), request)
    match = JOBS_PATH.fullmatch(request.subpath)
    if match is None:
        return None
    if match[2] is None:
        if request.method == "POST":
            return _create_vertex_job(store, provider, match[1], json_body(request), now)
        query = request.query_parameters
        listed = store.newest_first(provider)
        jobs, more = page_of(listed, query.get("pageToken", ""), int(query.get("pageSize") or 100))
        found = [_vertex_job(store, job, now) for job in jobs]
        return json_reply({"batchPredictionJobs": found, **({"nextPageToken": jobs[-1].id} if more else {})})
    batch = store.batches.get(f"{match[1]}/batchPredictionJobs/{match[2]}")
    if batch is None:
        return google_error(404, "NOT_FOUND", "The job was not found.")
    if match[3]:
        store.cancel(batch, now)
        return json_reply({})
    return json_reply(_vertex_job(store, batch, now))


def _create_vertex_job(store: SimBatchStore, provider: str, parent: str, body: dict[str, Any], now: float) -> HttpReply:
    uris = ((body.get("inputConfig") or {}).get("gcsSource") or {}).get("uris") or [""]
    content = store.files.get(str(uris[0]), ("", b""))[1]
    rows = parse_rows(content, "custom_id", lambda row: ("", row.get("request") or {}))
    if not rows or not (body.get("outputConfig") or {}).get("gcsDestination"):
        return google_error(400, "INVALID_ARGUMENT", "The job has no readable input, or no output.")
    rows = [
        row if row.custom_id != "None" else SimRow(encode_json(row.payload).decode(), "", row.payload) for row in rows
    ]
    model = str(body.get("model")).rpartition("/")[2]
    name = f"{parent}/batchPredictionJobs/{int(store.new_id()[:12], 16)}"
    return json_reply(_vertex_job(store, store.create(name, provider, model, rows, body, now), now))


def _vertex_job(store: SimBatchStore, batch: SimBatch, now: float) -> dict[str, Any]:
    view = store.view(batch, now)
    job = {
        "name": batch.id,
        "displayName": batch.info.get("displayName", ""),
        "model": batch.info.get("model"),
        "inputConfig": batch.info.get("inputConfig"),
        "outputConfig": batch.info.get("outputConfig"),
        "state": f"JOB_STATE_{VERTEX_LABELS[view.outcome if view.phase == 'ended' else view.phase]}",
        "createTime": timestamp(batch.created),
        "updateTime": timestamp(now + store.offset_s),
    }
    if batch.refusal:
        job["error"] = {"code": 8 if batch.refusal == "token_limit_exceeded" else 3, "message": batch.refusal}
    elif view.phase == "ended":
        job |= _vertex_output(store, batch, view)
    return job


def _vertex_output(store: SimBatchStore, batch: SimBatch, view: BatchView) -> dict[str, Any]:
    prefix = str(batch.info["outputConfig"]["gcsDestination"].get("outputUriPrefix")).rstrip("/")
    folder = f"{prefix}/prediction-model-{timestamp(batch.created)}"
    done = [result for result in view.results if result.reply is not None]
    _put_once(store, f"{folder}/predictions.jsonl", [_vertex_row(batch, result) for result in done])
    counts = {"successfulCount": view.succeeded, "failedCount": len(done) - view.succeeded}
    counts["incompleteCount"] = len(view.results) - len(done)
    return {
        "outputInfo": {"gcsOutputDirectory": folder},
        "completionStats": {name: str(count) for name, count in counts.items() if count},
    }


def _vertex_row(batch: SimBatch, result: SimResult) -> bytes:
    payload = _payload(batch, result.custom_id)
    row: dict[str, Any] = {"status": "", "processed_time": timestamp(batch.created), "request": payload}
    if not result.custom_id.startswith("{"):
        row["custom_id"] = result.custom_id
    body = result.reply.body if result.reply is not None else b"{}"
    if result.succeeded:
        return encode_json({**row, "response": msgspec.Raw(body)})
    return encode_json({**row, "status": f"Bad Request: {body.decode()}", "response": {}})


def _serve_gcs(store: SimBatchStore, bucket: str, name: str, request: SimHttpRequest) -> HttpReply:
    uri = f"gs://{bucket}/"
    if not name:
        wanted = f"{uri}{request.query_parameters.get('prefix', '')}"
        found = sorted(known for known in store.files if known.startswith(wanted))
        return json_reply({"kind": "storage#objects", "items": [{"name": each.removeprefix(uri)} for each in found]})
    if uri + name not in store.files:
        return google_error(404, "NOT_FOUND", f"No such object: {bucket}/{name}")
    return HttpReply(200, OBJECT_HEADERS, store.files[uri + name][1])


def _payload(batch: SimBatch, custom_id: str) -> Mapping[str, Any]:
    payloads = batch.info.get("payloads")
    if payloads is None:
        payloads = {row.custom_id: row.payload for row in batch.rows}
        batch.info = {**batch.info, "payloads": payloads}
    found: Mapping[str, Any] = payloads[custom_id]
    return found


def _put_once(store: SimBatchStore, uri: str, lines: list[bytes]) -> None:
    if uri not in store.files:
        store.files[uri] = uri, b"".join(line + b"\n" for line in lines)

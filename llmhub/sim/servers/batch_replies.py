"""Replies, pages and files that the simulated batch endpoints of several providers share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from llmhub.core.provider import HttpReply
from llmhub.sim.batch_store import SimBatch, SimBatchStore, SimRow
from llmhub.sim.servers.fake_provider import JSON_HEADERS, encode_json
from llmhub.sim.types import SimHttpRequest


def json_reply(value: object) -> HttpReply:
    """Return a reply with a value as JSON."""
    return HttpReply(200, JSON_HEADERS, encode_json(value))


def json_body(request: SimHttpRequest) -> dict[str, Any]:
    """Return the body of a request; empty if it is no JSON object."""
    try:
        value = msgspec.json.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def parse_rows(
    content: bytes, id_field: str, read: Callable[[dict[str, Any]], tuple[str, Mapping[str, Any]]]
) -> list[SimRow] | None:
    """Return the rows of a file of JSON lines; ``None`` if it is none."""
    try:
        rows = [msgspec.json.decode(line, type=dict[str, Any]) for line in content.splitlines() if line.strip()]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return [SimRow(str(row.get(id_field)), *read(row)) for row in rows]


def page_of(batches: list[SimBatch], after: str, size: int) -> tuple[list[SimBatch], bool]:
    """Return the batches after one of them, and whether there are more."""
    names = [batch.id for batch in batches]
    start = names.index(after) + 1 if after in names else 0
    return batches[start : start + size], start + size < len(batches)


def store_upload(store: SimBatchStore, request: SimHttpRequest, now: float) -> HttpReply:
    """Store the file of a multipart form."""
    match = re.search(r'boundary="?([^";]+)', request.headers.get("content-type", ""))
    parts = request.body.split(b"--" + match[1].encode()) if match else []
    for part in parts:
        head, _, content = part.partition(b"\r\n\r\n")
        if b'name="file"' in head:
            name = re.search(rb'filename="([^"]*)"', head)
            text = name[1].decode() if name else ""
            file_id = store.add_file(text, content.removesuffix(b"\r\n"))
            return file_info(store, file_id, now)
    return openai_error(400, "the form has no file")


def file_info(store: SimBatchStore, file_id: str, now: float) -> HttpReply:
    """Return what a file is."""
    if file_id not in store.files:
        return openai_error(404, "No such file")
    name, content = store.files[file_id]
    return json_reply(
        {
            "id": file_id,
            "object": "file",
            "purpose": "batch",
            "filename": name,
            "bytes": len(content),
            "created_at": int(now),
            "status": "processed",
        }
    )


def file_content(store: SimBatchStore, file_id: str) -> HttpReply:
    """Return the content of a file."""
    if file_id not in store.files:
        return openai_error(404, "No such file")
    return HttpReply(200, {"content-type": "application/octet-stream"}, store.files[file_id][1])


def openai_error(status: int, message: str) -> HttpReply:
    """Return an error as OpenAI writes it."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return HttpReply(status, JSON_HEADERS, encode_json({"error": error}))


def anthropic_error(status: int, kind: str, message: str) -> HttpReply:
    """Return an error as Anthropic writes it."""
    return HttpReply(status, JSON_HEADERS, encode_json({"type": "error", "error": {"type": kind, "message": message}}))


def google_error(status: int, name: str, message: str) -> HttpReply:
    """Return an error as Google writes it."""
    error = {"code": status, "message": message, "status": name}
    return HttpReply(status, JSON_HEADERS, encode_json({"error": error}))


def timestamp(seconds: float) -> str:
    """Return epoch seconds in ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")

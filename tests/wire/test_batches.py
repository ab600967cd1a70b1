"""Batch wires: recorded exchanges decode, ids are request keys, and no bytes raise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful

from llmhub.core import errors
from llmhub.core.batch import Batch, BatchRow, BatchWire, custom_id, key_from_custom_id
from llmhub.core.embedding import EmbedRequest
from llmhub.core.protocol import interpret, interpret_embedding
from llmhub.core.provider import Endpoint, HttpReply, HttpRequest, Provider
from llmhub.core.types import CompletionResponse
from llmhub.providers.registry import PROVIDERS
from llmhub.wire import bedrock_batch, gemini_batch, openai_batch, vertex_batch, xai_batch
from llmhub.wire.batch_rows import decode_line

FIXTURES = Path(__file__).parents[1] / "fixtures" / "batches"
PROVIDER_OF_FILE = {
    "curator-anthropic": "anthropic",
    "curator-openai": "openai",
    "ruby_llm-batch_with_anthropic": "anthropic",
    "ruby_llm-batch_with_gemini": "google",
    "ruby_llm-batch_with_mistral": "mistral",
    "ruby_llm-batch_with_openai_gpt": "openai-responses",
    "ruby_llm-batch_with_openai_text": "openai",
    "ruby_llm-batch_with_xai": "xai",
}
BATCH_WIRES = {provider.batch.wire.name: provider.batch.wire for provider in PROVIDERS.values() if provider.batch}


def exchanges() -> Iterator[tuple[str, Provider, dict[str, Any]]]:
    for path in sorted(FIXTURES.glob("*.jsonl")):
        name = next((own for prefix, own in PROVIDER_OF_FILE.items() if path.name.startswith(prefix)), None)
        for line in path.read_text(encoding="utf-8").splitlines():
            exchange = json.loads(line)
            if name is not None and "request" in exchange:
                yield path.name, PROVIDERS[name], exchange


def body_of(exchange: dict[str, Any]) -> bytes:
    body = exchange["response"]["body"]
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def recorded_rows(wire: BatchWire, body: bytes) -> list[BatchRow]:
    if wire.decode_line is not None:
        return [wire.decode_line(line).unwrap() for line in body.splitlines() if line.strip()]
    assert wire.decode_rows is not None
    return list(wire.decode_rows(body).unwrap().rows)


def test_recorded_states_decode() -> None:
    seen: dict[str, set[tuple[str, bool]]] = {}
    for _, provider, exchange in exchanges():
        url, body = exchange["request"]["url"], body_of(exchange)
        if "/files" in url or "/results" in url or body in {b"null", b'""'}:
            continue
        assert provider.batch is not None
        status = provider.batch.wire.decode_status(HttpReply(200, {}, body)).unwrap()
        assert status.id
        assert status.error is None
        seen.setdefault(provider.batch.wire.name, set()).add((status.label, status.ended))
    assert seen["openai-batch"] == {
        ("validating", False), ("in_progress", False), ("finalizing", False), ("completed", True), ("cancelling", False)
    }  # fmt: skip
    assert seen["anthropic-batch"] == {("in_progress", False), ("canceling", False), ("ended", True)}
    assert seen["gemini-batch"] == {("pending", False), ("running", False), ("succeeded", True)}
    assert seen["mistral-batch"] == {("queued", False), ("running", False), ("success", True)}
    assert seen["xai-batch"] == {("in progress", False), ("ended", True)}


def test_recorded_results_decode_by_the_ordinary_decoders() -> None:
    answers: dict[str, list[CompletionResponse]] = {}
    for file, provider, exchange in exchanges():
        url = exchange["request"]["url"]
        is_result = url.endswith(("/content", "/results")) or "/results?" in url
        is_ended_gemini = provider.name == "google" and b'"done": true' in body_of(exchange)
        if not (is_result or is_ended_gemini) or "embedding" in file:
            continue
        assert provider.batch is not None
        for row in recorded_rows(provider.batch.wire, body_of(exchange)):
            assert row.reply is not None
            answers.setdefault(provider.name, []).append(interpret(provider, row.reply).unwrap())
    assert {name: len(found) for name, found in answers.items()} == {
        "anthropic": 11, "openai": 6, "google": 4, "openai-responses": 2, "xai": 2
    }  # fmt: skip
    assert all(answer.text and answer.usage.output_tokens for found in answers.values() for answer in found)
    assert {answer.text for answer in answers["google"]} == {"4", "Jupiter"}


def test_recorded_rows_of_mistral_decode() -> None:
    *_, (_, provider, exchange) = [found for found in exchanges() if found[1].name == "mistral"]
    rows = [decode_line(msgspec.json.encode(row)).unwrap() for row in exchange["response"]["body"]["outputs"]]
    assert [interpret(provider, row.reply).unwrap().text for row in rows if row.reply] == ["4", "Jupiter"]


def test_xai_output_tokens_include_reasoning_and_cost_is_reported() -> None:
    *_, (_, provider, exchange) = [found for found in exchanges() if found[1].name == "xai"]
    first = recorded_rows(xai_batch.WIRE, body_of(exchange))[0]
    assert first.reply is not None
    usage = interpret(provider, first.reply).unwrap().usage
    assert (usage.output_tokens, usage.reasoning_tokens) == (83, 82)
    assert str(usage.reported_cost_usd) == "0.00020872"


def test_recorded_rows_of_embeddings_decode() -> None:
    provider, found = PROVIDERS["openai"], []
    for name, _, exchange in exchanges():
        if "text_embedding" not in name or not exchange["request"]["url"].endswith("/content"):
            continue
        for row in recorded_rows(openai_batch.WIRE, body_of(exchange)):
            assert row.reply is not None
            request = EmbedRequest("text-embedding-3-small", ("",))
            found.append(interpret_embedding(provider, request, row.reply).unwrap())
    assert len(found) >= 2
    assert {vector.dimensions for vector in found} <= {8, 256, 512, 1536}
    assert all(vector.usage.input_tokens for vector in found)


@given(st.binary(min_size=32, max_size=32))
def test_an_id_of_43_characters_is_the_request_key(key: bytes) -> None:
    text = custom_id(key)
    assert len(text) == 43
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert key_from_custom_id(text) == key


@given(st.text(max_size=44))
def test_other_ids_are_no_keys(text: str) -> None:
    key = key_from_custom_id(text)
    assert key is None or len(key) == 32


JUNK = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "id",
                        "name",
                        "status",
                        "state",
                        "metadata",
                        "data",
                        "errors",
                        "error",
                        "response",
                        "results",
                        "custom_id",
                        "result",
                        "type",
                        "message",
                        "request_counts",
                        "batchStats",
                        "operations",
                        "inlinedResponses",
                        "batch_result",
                        "body",
                        "status_code",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(msgspec.json.encode),
)


@pytest.mark.parametrize("name", sorted(BATCH_WIRES))
@given(body=JUNK)
def test_arbitrary_bytes_return(name: str, body: bytes) -> None:
    wire = BATCH_WIRES[name]
    reply = HttpReply(200, {}, body)
    for decoded in (wire.decode_status(reply), wire.decode_list(reply), *(step.decode(reply) for step in wire.steps)):
        is_successful(decoded)
    for decode in (wire.decode_line, wire.decode_rows):
        if decode is not None:
            is_successful(decode(body))


@pytest.mark.parametrize("name", sorted(BATCH_WIRES))
def test_the_token_and_the_key_are_in_what_creates_a_batch(name: str) -> None:
    """Apart from Anthropic, whose batches are recognized by the ids of their rows."""
    wire = BATCH_WIRES[name]
    batch = Batch(token="tokenoftests", base_url="http://h", model="m", row_url="http://h/v1/chat/completions", rows=1)
    step = wire.steps[-1].encode(batch)
    row = wire.encode_row("k" * 43, HttpRequest("POST", batch.row_url, {}, b'{"model":"m"}'), batch)
    assert ("tokenoftests" in (step.head + step.http.body).decode()) is wire.returns_token
    assert (b"k" * 43 in row) is (name != "vertex-batch")
    assert b'{"model":"m"' in row
    msgspec.json.decode(row)


@pytest.mark.parametrize(
    "body", [b'{"contents":[]}', b'{"labels":{"team":"a"},"contents":[]}', b'{"contents":["labels"]}']
)
def test_rows_of_gemini_at_vertex_are_recognized_by_a_label(body: bytes) -> None:
    name, batch = custom_id(bytes(range(32))), Batch(token="t", base_url="")
    row = msgspec.json.decode(vertex_batch.encode_row(name, HttpRequest("POST", "u", {}, body), batch))
    assert {**msgspec.json.decode(body), "labels": row["request"]["labels"]} == row["request"]
    label = row["request"]["labels"]["llmhub"]
    assert len(label) <= 63
    assert label == label.lower()
    line = msgspec.json.encode({**row, "status": "", "response": {"candidates": []}})
    assert vertex_batch.decode_line(line).unwrap().custom_id == name


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ('Bad Request: {"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}', 429),
        ("Internal error", 500),
        ("", 500),
    ],
)
def test_rows_of_vertex_fail_with_the_status_in_their_text(status: str, expected: int) -> None:
    line = msgspec.json.encode({"custom_id": "a", "status": status, "response": {}})
    reply = vertex_batch.decode_line(line).unwrap().reply
    assert reply is not None
    assert reply.status == expected
    assert is_successful(interpret(PROVIDERS["vertex"], reply)) is False


def test_rows_of_bedrock_expire_and_fail() -> None:
    error = {"errorCode": 400, "errorMessage": "bad", "expired": False, "retryable": False}
    for expired in (True, False):
        line = msgspec.json.encode({"recordId": "a", "modelInput": {}, "error": {**error, "expired": expired}})
        row = bedrock_batch.decode_line(line).unwrap()
        assert row.late == ("expired" if expired else None)
    assert row.reply is not None
    assert row.reply.status == 400
    assert interpret(PROVIDERS["bedrock"], row.reply).failure().message == "bad"


def test_documented_rows_of_bedrock() -> None:
    """https://docs.aws.amazon.com/bedrock/latest/userguide/batch-inference-results.html (read 2026-11-30)."""
    failed = {"recordId": "1223213ABCD", "modelInput": {}, "error": {"errorCode": 400, "errorMessage": "bad request"}}
    row = bedrock_batch.decode_line(msgspec.json.encode(failed)).unwrap()
    assert row.reply is not None
    error = interpret(PROVIDERS["bedrock"], row.reply).failure()
    assert (type(error), error.message) == (errors.InvalidRequest, "bad request")
    output = {"output": {"message": {"role": "assistant", "content": [{"text": "blue"}]}}, "stopReason": "end_turn"}
    done = {"recordId": "3223593EFGH", "modelInput": {}, "modelOutput": output}
    row = bedrock_batch.decode_line(msgspec.json.encode(done)).unwrap()
    assert row.reply is not None
    assert interpret(PROVIDERS["bedrock"], row.reply).unwrap().text == "blue"


def test_storage_of_bedrock_and_vertex_is_beside_an_address_of_somebody_else() -> None:
    bedrock, vertex = PROVIDERS["bedrock"].batch, PROVIDERS["vertex"].batch
    assert bedrock is not None
    assert vertex is not None
    assert bedrock.storage_url is not None
    assert vertex.storage_url is not None
    assert bedrock.storage_url(Endpoint(region="eu-west-1")) == "https://s3.eu-west-1.amazonaws.com"
    own = Endpoint(base_url="https://bedrock-runtime.us-east-1.amazonaws.com")
    assert bedrock.storage_url(own) == "https://s3.us-east-1.amazonaws.com"
    assert bedrock.base_url(own) == "https://bedrock.us-east-1.amazonaws.com"
    assert bedrock.storage_url(Endpoint(base_url="http://localhost:1/bedrock")) == "http://localhost:1/bedrock/s3"
    assert vertex.storage_url(Endpoint()) == "https://storage.googleapis.com"
    assert (
        vertex.storage_url(Endpoint(base_url="http://localhost:1/vertex/v1/projects/p")) == "http://localhost:1/vertex"
    )
    assert bedrock.check(Endpoint(api_key="k")) is not None


def test_a_refused_file_names_its_lines() -> None:
    errors = {"data": [{"code": "invalid_json_line", "message": "bad", "line": 2}]}
    payload = {"id": "b", "status": "failed", "errors": errors}
    status = openai_batch.decode_status(HttpReply(200, {}, msgspec.json.encode(payload))).unwrap()
    assert (status.ended, dict(status.bad_rows)) == (True, {2: "bad"})
    payload["errors"] = {"data": [{"code": "token_limit_exceeded", "message": "too many"}]}
    status = openai_batch.decode_status(HttpReply(200, {}, msgspec.json.encode(payload))).unwrap()
    assert type(status.error).__name__ == "RateLimited"


@pytest.mark.parametrize(
    ("code", "late"), [("batch_expired", "expired"), ("batch_cancelled", "cancelled"), ("server_error", None)]
)
def test_rows_without_a_response_say_why(code: str, late: str | None) -> None:
    line = msgspec.json.encode({"custom_id": "a", "response": None, "error": {"code": code, "message": "m"}})
    row = decode_line(line).unwrap()
    assert row.late == late
    assert (row.reply is None) is (late is not None)


def test_batches_of_gemini_get_a_schema_that_they_obey() -> None:
    schema = {
        "type": "object",
        "title": "Answer",
        "additionalProperties": False,
        "$defs": {"Kind": {"enum": ["a", "b"], "type": "string"}},
        "properties": {"kind": {"$ref": "#/$defs/Kind"}, "count": {"type": ["integer", "null"]}},
        "required": ["kind"],
    }
    body = msgspec.json.encode({"contents": [], "generationConfig": {"responseJsonSchema": schema}})
    batch = Batch(token="t", base_url="")
    row = msgspec.json.decode(gemini_batch.encode_row("id", HttpRequest("POST", "u", {}, body), batch))
    config = row["request"]["generationConfig"]
    assert "responseJsonSchema" not in config
    assert config["responseSchema"] == {
        "type": "OBJECT",
        "properties": {"kind": {"enum": ["a", "b"], "type": "STRING"}, "count": {"type": "INTEGER", "nullable": True}},
        "propertyOrdering": ["kind", "count"],
        "required": ["kind"],
    }
    assert row["metadata"] == {"key": "id"}


def test_azure_batches_use_the_v1_api() -> None:
    api = PROVIDERS["azure"].batch
    assert api is not None
    for base in (
        "https://x.openai.azure.com",
        "https://x.openai.azure.com/openai",
        "https://x.openai.azure.com/openai/v1",
    ):
        assert api.base_url(Endpoint(base_url=base)) == "https://x.openai.azure.com/openai/v1"

"""Vertex AI: recorded exchanges through its rows, and its addresses as the official client has them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from anthropic.lib.vertex import AnthropicVertex
from returns.pipeline import is_successful

from llmhub.core import errors
from llmhub.core.protocol import interpret, interpret_stream
from llmhub.core.provider import Endpoint, HttpReply
from llmhub.core.types import CompletionRequest, Message
from llmhub.providers.registry import PROVIDERS

CORPUS = Path(__file__).parents[1] / "fixtures/conformance"
RECORDED = {
    "vertex-generate_content": ("vertex", 12, 4),
    "vertex-stream_generate_content": ("vertex", 7, 0),
    "vertex_anthropic-messages": ("vertex-anthropic", 4, 0),
}
"""Recorded exchanges: the row that speaks for them, answers, and errors."""


def recorded(name: str) -> list[dict[str, Any]]:
    path = CORPUS / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip("the recorded exchanges are not here")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def body_of(response: dict[str, Any]) -> bytes:
    if "body_b64" in response:
        return base64.b64decode(response["body_b64"])
    return response["body_text"].encode() if "body_text" in response else json.dumps(response["body"]).encode()


@pytest.mark.corpus
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_exchanges_are_read_through_the_row(name: str) -> None:
    row, answers, failures = RECORDED[name]
    found = []
    for exchange in recorded(name):
        response = exchange["response"]
        head = HttpReply(response["status"], response["headers"] or {})
        body = body_of(response)
        result = (
            interpret_stream(PROVIDERS[row], head, [body])
            if exchange["streaming"]
            else interpret(PROVIDERS[row], HttpReply(head.status, head.headers, body))
        )
        found.append(is_successful(result))
        if is_successful(result):
            answer = result.unwrap()
            assert answer.parts or answer.finish_reason != "stop", exchange["id"]
            assert answer.usage.input_tokens, exchange["id"]
        else:
            error = result.failure()
            assert error.provider == row
            assert not isinstance(error, errors.Malformed | errors.Disconnected), exchange["id"]
    assert (found.count(True), found.count(False)) == (answers, failures)


@pytest.mark.parametrize("region", ["global", "us", "eu", "us-east5", "europe-west4"])
def test_regions_are_where_the_official_client_has_them(region: str) -> None:
    with AnthropicVertex(region=region, project_id="p", access_token="t") as client:
        public = str(client.base_url)
    ask = CompletionRequest(model="m", messages=(Message("user", "hi"),))
    url = PROVIDERS["vertex-anthropic"].locate(Endpoint(region=region, project="p"), ask, False)
    assert url == f"{public}projects/p/locations/{region}/publishers/anthropic/models/m:rawPredict"


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (401, "UNAUTHENTICATED", errors.AuthFailed),
        (403, "PERMISSION_DENIED", errors.PermissionDenied),
        (404, "NOT_FOUND", errors.NotFound),
        (429, "RESOURCE_EXHAUSTED", errors.RateLimited),
        (503, "UNAVAILABLE", errors.Overloaded),
    ],
)
@pytest.mark.parametrize("row", ["vertex", "vertex-anthropic"])
@pytest.mark.parametrize("listed", [False, True])
def test_what_the_cloud_refuses_before_the_model_sees_it(
    row: str, status: int, said: str, kind: type[errors.LLMError], listed: bool
) -> None:
    failed = {"error": {"code": status, "message": "no", "status": said}}
    body = json.dumps([failed] if listed else failed).encode()
    assert type(interpret(PROVIDERS[row], HttpReply(status, body=body)).failure()) is kind

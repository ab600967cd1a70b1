"""Vertex AI: recorded exchanges, and URLs as the official client builds them."""

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
"""Recorded exchanges: their provider, and the number of answer_count and errors."""


def recorded(name: str) -> list[dict[str, Any]]:
    lines = (CORPUS / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def response_body(response: dict[str, Any]) -> bytes:
    if "body_b64" in response:
        return base64.b64decode(response["body_b64"])
    return response["body_text"].encode() if "body_text" in response else json.dumps(response["body"]).encode()


@pytest.mark.corpus
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_exchanges_are_interpreted(name: str) -> None:
    provider, answer_count, error_count = RECORDED[name]
    successes = []
    for exchange in recorded(name):
        response = exchange["response"]
        head = HttpReply(response["status"], response["headers"] or {})
        body = response_body(response)
        result = (
            interpret_stream(PROVIDERS[provider], head, [body])
            if exchange["streaming"]
            else interpret(PROVIDERS[provider], HttpReply(head.status, head.headers, body))
        )
        successes.append(is_successful(result))
        if is_successful(result):
            answer = result.unwrap()
            assert answer.parts or answer.finish_reason != "stop", exchange["id"]
            assert answer.usage.input_tokens, exchange["id"]
        else:
            error = result.failure()
            assert error.provider == provider
            assert not isinstance(error, errors.Malformed | errors.Disconnected), exchange["id"]
    assert (successes.count(True), successes.count(False)) == (answer_count, error_count)


@pytest.mark.parametrize("region", ["global", "us", "eu", "us-east5", "europe-west4"])
def test_region_urls_equal_the_official_client(region: str) -> None:
    with AnthropicVertex(region=region, project_id="p", access_token="t") as client:
        public = str(client.base_url)
    request = CompletionRequest(model="m", messages=(Message("user", "hi"),))
    url = PROVIDERS["vertex-anthropic"].locate(Endpoint(region=region, project="p"), request, False)
    assert url == f"{public}projects/p/locations/{region}/publishers/anthropic/models/m:rawPredict"


@pytest.mark.parametrize(
    ("status", "google_status", "error_type"),
    [
        (401, "UNAUTHENTICATED", errors.AuthFailed),
        (403, "PERMISSION_DENIED", errors.PermissionDenied),
        (404, "NOT_FOUND", errors.NotFound),
        (429, "RESOURCE_EXHAUSTED", errors.RateLimited),
        (503, "UNAVAILABLE", errors.Overloaded),
    ],
)
@pytest.mark.parametrize("provider", ["vertex", "vertex-anthropic"])
@pytest.mark.parametrize("as_list", [False, True])
def test_errors_of_the_cloud_itself(
    provider: str, status: int, google_status: str, error_type: type[errors.LLMError], as_list: bool
) -> None:
    error = {"error": {"code": status, "message": "no", "status": google_status}}
    body = json.dumps([error] if as_list else error).encode()
    assert type(interpret(PROVIDERS[provider], HttpReply(status, body=body)).failure()) is error_type

"""Plans whose input tokens the providers count: the recorded exchanges, and what the counts change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.protocol import interpret_token_count, prepare_token_count
from llmhub.core.provider import Endpoint, HttpReply
from llmhub.core.types import CompletionRequest, Message, Tool
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import SimulatorThread

CORPUS = Path(__file__).parents[2] / "tests/fixtures/conformance"
PROVIDER_OF_FILE = {"anthropic": "anthropic", "gemini": "google", "vertex": "vertex", "bedrock": "bedrock"}
MODELS = {
    "anthropic": "claude-haiku-4-5",
    "google": "gemini-2.5-flash",
    "vertex": "gemini-2.5-flash",
    "bedrock": "amazon.nova-lite-v1:0",
}


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as hub:
        yield hub


@pytest.mark.corpus
@pytest.mark.parametrize("file", PROVIDER_OF_FILE)
def test_recorded_counts_decode(file: str) -> None:
    provider = PROVIDERS[PROVIDER_OF_FILE[file]]
    for exchange in map(json.loads, (CORPUS / f"{file}-count_tokens.jsonl").read_text(encoding="utf-8").splitlines()):
        recorded = exchange["response"]
        body = json.dumps(recorded["body"]).encode()
        outcome = interpret_token_count(provider, HttpReply(recorded["status"], recorded["headers"], body))
        if recorded["status"] == 200:
            assert provider.token_counts is not None
            assert outcome.unwrap() == recorded["body"][provider.token_counts.field]
        else:
            assert outcome.failure().status == recorded["status"]


@pytest.mark.parametrize(
    ("name", "url", "expected"),
    [
        (
            "anthropic",
            "https://api.anthropic.com/v1/messages/count_tokens",
            {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
        ),
        (
            "google",
            "https://generativelanguage.googleapis.com/v1beta/models/m:countTokens",
            {
                "generateContentRequest": {
                    "model": "models/m",
                    "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
                    "generationConfig": {"temperature": 0.5, "maxOutputTokens": 9},
                }
            },
        ),
        (
            "bedrock",
            "https://bedrock-runtime.us-east-1.amazonaws.com/model/m/count-tokens",
            {"input": {"converse": {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}}},
        ),
    ],
)
def test_requests_are_those_of_completions(name: str, url: str, expected: dict[str, Any]) -> None:
    request = CompletionRequest(model="m", messages=(Message("user", "hi"),), max_tokens=9, temperature=0.5)
    sent = prepare_token_count(PROVIDERS[name], Endpoint(api_key="k"), request, 0.0).unwrap()
    body = json.loads(sent.body)
    if name == "anthropic":
        content = body["messages"][0]["content"]
        body["messages"][0]["content"] = content if isinstance(content, str) else content[0]["text"]
    assert (sent.url, body) == (url, expected)


@pytest.mark.parametrize("provider", MODELS)
def test_counts_narrow_the_input_of_a_plan(provider: str, hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    frame = {"t": [f"Summarise the text number {index} " + "word " * index for index in range(40)]}
    options: dict[str, Any] = {"model": f"{provider}/{MODELS[provider]}", "hub": hub, "system": "Be brief."}
    rough = llmhub.plan(frame, "{t}", **options).models[0].input_tokens
    plan = llmhub.plan(frame, "{t}", count_tokens=10, **options)
    counted = plan.models[0].input_tokens
    assert plan.counted == 10
    assert "10 requests" in str(plan)
    assert simulator.counts()["requests"] == 10
    assert counted.high - counted.low < rough.high - rough.low
    table = llmhub.complete_table(frame, "{t}", progress=False, **options)
    used = sum(table.column("input_tokens").to_pylist())
    assert counted.low <= used <= counted.high


def test_providers_that_count_nothing_are_named(hub: llmhub.Hub) -> None:
    with pytest.raises(llmhub.BadRequestError, match="groq has no endpoint that counts tokens; those of anthropic"):
        llmhub.plan({"t": ["a"]}, "{t}", model="groq/x", hub=hub, count_tokens=5)
    with pytest.raises(llmhub.BadRequestError, match="count_tokens"):
        llmhub.plan({"t": ["a"]}, "{t}", model="groq/x", hub=hub, count_tokens=-1)


def test_a_count_that_fails_everywhere_raises(hub: llmhub.Hub) -> None:
    with pytest.raises(llmhub.NotFoundError):
        llmhub.plan({"t": ["a"]}, "{t}", model="anthropic/does-not-exist", hub=hub, count_tokens=5)


def test_the_sdk_reads_the_simulated_count(simulator: SimulatorThread) -> None:
    with anthropic.Anthropic(base_url=simulator.base_url("anthropic"), api_key="k", max_retries=0) as client:
        counted = client.messages.count_tokens(model="claude-haiku-4-5", messages=[{"role": "user", "content": "four"}])
    assert counted.input_tokens == 1


@pytest.mark.parametrize("body", [b"", b"[]", b'{"input_tokens": -1}', b'{"input_tokens": "7"}', b"\xff"])
def test_replies_without_a_count_are_malformed(body: bytes) -> None:
    assert interpret_token_count(PROVIDERS["anthropic"], HttpReply(200, {}, body)).failure().path == "$.input_tokens"


def test_tools_are_counted() -> None:
    request = CompletionRequest(model="m", messages=(Message("user", "hi"),), tools=(Tool("look"),))
    sent = prepare_token_count(PROVIDERS["anthropic"], Endpoint(api_key="k"), request, 0.0).unwrap()
    assert json.loads(sent.body)["tools"][0]["name"] == "look"

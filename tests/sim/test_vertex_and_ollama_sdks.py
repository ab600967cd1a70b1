"""The SDKs of Google and Anthropic parse the simulated Vertex AI; a plain client parses Ollama's lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import anthropic
import pytest
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

from llmhub.sim import SimLimit, SimulatorThread

LITE = "gemini-2.5-flash-lite"
CLAUDE: dict[str, Any] = {
    "model": "claude-haiku-4-5@20251001",
    "max_tokens": 300,
    "messages": [{"role": "user", "content": "Say hi to the harbour."}],
}


@pytest.fixture(scope="module")
def gemini(simulator: SimulatorThread) -> Iterator[genai.Client]:
    with genai.Client(
        vertexai=True,
        project="simulated",
        location="us-central1",
        credentials=Credentials(token="k"),
        http_options=types.HttpOptions(base_url=simulator.base_url("vertex")),
    ) as client:
        yield client


@pytest.fixture(scope="module")
def claude(simulator: SimulatorThread) -> Iterator[anthropic.AnthropicVertex]:
    with claude_at(simulator) as client:
        yield client


def claude_at(served: SimulatorThread) -> anthropic.AnthropicVertex:
    return anthropic.AnthropicVertex(
        base_url=f"{served.base_url('vertex-anthropic')}/v1",
        access_token="k",
        project_id="simulated",
        region="global",
        max_retries=0,
    )


def test_gemini(gemini: genai.Client) -> None:
    completion = gemini.models.generate_content(model=LITE, contents="Say hi to the harbour.")
    assert completion.text
    assert completion.usage_metadata.prompt_token_count == 6
    chunks = list(gemini.models.generate_content_stream(model=LITE, contents="Say hi to the harbour."))
    assert len(chunks) > 1
    assert "".join(chunk.text or "" for chunk in chunks) == completion.text
    assert chunks[-1].usage_metadata == completion.usage_metadata


def test_claude(claude: anthropic.AnthropicVertex) -> None:
    completion = claude.messages.create(**CLAUDE)
    assert completion.content[0].text
    assert completion.usage.input_tokens == 6
    with claude.messages.stream(**CLAUDE) as stream:
        assert "".join(stream.text_stream) == completion.content[0].text
        assert stream.get_final_message().usage.output_tokens == completion.usage.output_tokens


def test_wrong_token_and_unknown_model(simulate: Callable[..., SimulatorThread]) -> None:
    served = simulate(api_key="right")
    with claude_at(served) as client, pytest.raises(anthropic.AuthenticationError):
        client.messages.create(**CLAUDE)
    with claude_at(simulate()) as client, pytest.raises(anthropic.NotFoundError):
        client.messages.create(**{**CLAUDE, "model": "does-not-exist"})


def test_rate_limit_errors_are_googles(simulate: Callable[..., SimulatorThread]) -> None:
    served = simulate(limit=SimLimit(rpm=1))
    with claude_at(served) as client:
        assert client.messages.create(**CLAUDE).content
        with pytest.raises(anthropic.RateLimitError):
            client.messages.create(**CLAUDE)
    with genai.Client(
        vertexai=True,
        project="p",
        location="global",
        credentials=Credentials(token="k"),
        http_options=types.HttpOptions(base_url=served.base_url("vertex")),
    ) as client:
        assert client.models.generate_content(model=LITE, contents="hi").text
        with pytest.raises(errors.ClientError) as caught:
            client.models.generate_content(model=LITE, contents="hi")
    assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]},
        {"anthropic_version": "vertex-2023-10-16", "model": "m", "max_tokens": 5, "messages": []},
    ],
)
async def test_invalid_claude_requests_are_rejected(
    simulator: SimulatorThread, http: aiohttp.ClientSession, body: Any
) -> None:
    place = f"{simulator.base_url('vertex-anthropic')}/v1/projects/p/locations/global/publishers/anthropic/models/c"
    async with http.post(f"{place}:rawPredict", json=body) as reply:
        assert reply.status == 400


async def test_ollama_lines(simulator: SimulatorThread, http: aiohttp.ClientSession) -> None:
    request = {"model": "qwen3", "messages": [{"role": "user", "content": "Say hi to the harbour."}]}
    address = f"{simulator.base_url('ollama-native')}/api/chat"
    async with http.post(address, json={**request, "stream": False}) as reply:
        completion = await reply.json()
    async with http.post(address, json=request) as reply:
        assert reply.content_type == "application/x-ndjson"
        lines = [json.loads(line) for line in (await reply.read()).splitlines()]
    for name in ("content", "thinking"):
        assert "".join(line["message"].get(name, "") for line in lines) == completion["message"][name]
    assert [line["done"] for line in lines] == [*[False] * (len(lines) - 1), True]
    assert (lines[-1]["prompt_eval_count"], lines[-1]["eval_count"]) == (6, completion["eval_count"])
    async with http.post(address, json={**request, "stream": False, "think": False}) as reply:
        assert "thinking" not in (await reply.json())["message"]
    async with http.post(address, json={**request, "options": {"temperature": "hot"}}) as reply:
        assert (reply.status, "ChatRequest.temperature" in (await reply.json())["error"]) == (400, True)

"""What the simulator's tests share: simulators, and how each provider is asked without an SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from llmhub.sim import Simulator, SimulatorThread, serving


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to one provider, as a path below the simulator's address, headers and a body."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def _openai(prefix: str, model: str) -> Callable[[str, bool, int | None], Ask]:
    def ask(prompt: str, stream: bool, most: int | None) -> Ask:
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        if most is not None:
            body["max_tokens"] = most
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return Ask(f"{prefix}/chat/completions", body)

    return ask


def _anthropic(prompt: str, stream: bool, most: int | None) -> Ask:
    body: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 512 if most is None else most}
    body["messages"] = [{"role": "user", "content": prompt}]
    if stream:
        body["stream"] = True
    return Ask("/anthropic/v1/messages", body, {"anthropic-version": "2023-06-01"})


def _google(prompt: str, stream: bool, most: int | None) -> Ask:
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": prompt}]}]}
    if most is not None:
        body["generationConfig"] = {"maxOutputTokens": most}
    return Ask(f"/google/v1beta/models/gemini-2.5-flash-lite:{method}", body)


def _bedrock(prompt: str, stream: bool, most: int | None) -> Ask:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": [{"text": prompt}]}]}
    if most is not None:
        body["inferenceConfig"] = {"maxTokens": most}
    return Ask(f"/bedrock/model/amazon.nova-lite-v1%3A0/{'converse-stream' if stream else 'converse'}", body)


def _responses(prefix: str) -> Callable[[str, bool, int | None], Ask]:
    def ask(prompt: str, stream: bool, most: int | None) -> Ask:
        body: dict[str, Any] = {"model": "gpt-4o-mini", "input": prompt, "stream": stream}
        return Ask(f"{prefix}/responses", body if most is None else {**body, "max_output_tokens": max(most, 16)})

    return ask


def _ollama(prompt: str, stream: bool, most: int | None) -> Ask:
    body: dict[str, Any] = {"model": "llama3.2", "messages": [{"role": "user", "content": prompt}], "stream": stream}
    return Ask("/ollama/api/chat", body if most is None else {**body, "options": {"num_predict": most}})


def _vertex(prompt: str, stream: bool, most: int | None) -> Ask:
    asked = _google(prompt, stream, most)
    place = "/v1/projects/simulated/locations/global/publishers/google/models"
    return Ask(asked.path.replace("/google/v1beta/models", f"/vertex{place}"), asked.body)


def _claude(prompt: str, stream: bool, most: int | None) -> Ask:
    body = {name: value for name, value in _anthropic(prompt, stream, most).body.items() if name != "model"}
    place = "/v1/projects/simulated/locations/global/publishers/anthropic/models/claude-haiku-4-5@20251001"
    method = "streamRawPredict" if stream else "rawPredict"
    return Ask(f"/vertex-anthropic{place}:{method}", {**body, "anthropic_version": "vertex-2023-10-16"})


ASKS = {
    "openai-responses": _responses("/openai/v1"),
    "azure-responses": _responses("/azure/openai/v1"),
    "ollama-native": _ollama,
    "vertex": _vertex,
    "vertex-anthropic": _claude,
    "openai": _openai("/openai/v1", "gpt-4o-mini"),
    "anthropic": _anthropic,
    "google": _google,
    "bedrock": _bedrock,
    "azure": _openai("/azure/openai/v1", "gpt-4o-mini"),
    "compatible": _openai("/compatible/v1", "llama-3.3-70b-instruct"),
}


@pytest.fixture(params=sorted(ASKS))
def provider(request: pytest.FixtureRequest) -> str:
    """Each provider in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def ask() -> Callable[..., Ask]:
    """Make a request: ``ask(provider, prompt, stream=..., most=...)``."""

    def make(provider: str, prompt: str = "Say hi.", *, stream: bool = False, most: int | None = None) -> Ask:
        return ASKS[provider](prompt, stream, most)

    return make


@pytest.fixture(scope="session")
def simulator() -> Iterator[SimulatorThread]:
    """Give one simulator that never fails, for tests that do not look at its counts."""
    with serving(Simulator(seed=7)) as served:
        yield served


@pytest.fixture
def simulate() -> Iterator[Callable[..., SimulatorThread]]:
    """Start simulators of one's own: ``simulate(seed=..., faults=...)``."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(serving(Simulator(**settings)))


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Give a plain HTTP client."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session

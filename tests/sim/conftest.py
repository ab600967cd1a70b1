"""Fixtures of the simulator's tests: simulators, and requests to each provider without an SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from llmhub.sim import Simulator, SimulatorThread, serving


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """One request to one provider: path on the simulator, headers and body."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def _openai(prefix: str, model: str) -> Callable[[str, bool, int | None], ProviderRequest]:
    def ask(prompt: str, stream: bool, max_tokens: int | None) -> ProviderRequest:
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return ProviderRequest(f"{prefix}/chat/completions", body)

    return ask


def _anthropic(prompt: str, stream: bool, max_tokens: int | None) -> ProviderRequest:
    body: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 512 if max_tokens is None else max_tokens}
    body["messages"] = [{"role": "user", "content": prompt}]
    if stream:
        body["stream"] = True
    return ProviderRequest("/anthropic/v1/messages", body, {"anthropic-version": "2023-06-01"})


def _google(prompt: str, stream: bool, max_tokens: int | None) -> ProviderRequest:
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": prompt}]}]}
    if max_tokens is not None:
        body["generationConfig"] = {"maxOutputTokens": max_tokens}
    return ProviderRequest(f"/google/v1beta/models/gemini-2.5-flash-lite:{method}", body)


def _bedrock(prompt: str, stream: bool, max_tokens: int | None) -> ProviderRequest:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": [{"text": prompt}]}]}
    if max_tokens is not None:
        body["inferenceConfig"] = {"maxTokens": max_tokens}
    return ProviderRequest(
        f"/bedrock/model/amazon.nova-lite-v1%3A0/{'converse-stream' if stream else 'converse'}", body
    )


def _responses(prefix: str) -> Callable[[str, bool, int | None], ProviderRequest]:
    def ask(prompt: str, stream: bool, max_tokens: int | None) -> ProviderRequest:
        body: dict[str, Any] = {"model": "gpt-4o-mini", "input": prompt, "stream": stream}
        return ProviderRequest(
            f"{prefix}/responses", body if max_tokens is None else {**body, "max_output_tokens": max(max_tokens, 16)}
        )

    return ask


def _ollama(prompt: str, stream: bool, max_tokens: int | None) -> ProviderRequest:
    body: dict[str, Any] = {"model": "llama3.2", "messages": [{"role": "user", "content": prompt}], "stream": stream}
    return ProviderRequest(
        "/ollama/api/chat", body if max_tokens is None else {**body, "options": {"num_predict": max_tokens}}
    )


def _cohere(prompt: str, stream: bool, max_tokens: int | None) -> ProviderRequest:
    body: dict[str, Any] = {"model": "command-a-03-2025", "messages": [{"role": "user", "content": prompt}]}
    body |= {"stream": stream, **({} if max_tokens is None else {"max_tokens": max_tokens})}
    return ProviderRequest("/cohere-native/v2/chat", body)


def _vertex(prompt: str, stream: bool, max_tokens: int | None) -> ProviderRequest:
    request = _google(prompt, stream, max_tokens)
    path = "/v1/projects/simulated/locations/global/publishers/google/models"
    return ProviderRequest(request.path.replace("/google/v1beta/models", f"/vertex{path}"), request.body)


def _claude(prompt: str, stream: bool, max_tokens: int | None) -> ProviderRequest:
    body = {name: value for name, value in _anthropic(prompt, stream, max_tokens).body.items() if name != "model"}
    path = "/v1/projects/simulated/locations/global/publishers/anthropic/models/claude-haiku-4-5@20251001"
    method = "streamRawPredict" if stream else "rawPredict"
    return ProviderRequest(f"/vertex-anthropic{path}:{method}", {**body, "anthropic_version": "vertex-2023-10-16"})


ASKS = {
    "openai-responses": _responses("/openai/v1"),
    "azure-responses": _responses("/azure/openai/v1"),
    "ollama-native": _ollama,
    "cohere-native": _cohere,
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
def ask() -> Callable[..., ProviderRequest]:
    """Return a factory of requests: ``ask(provider, prompt, stream=..., max_tokens=...)``."""

    def make(
        provider: str, prompt: str = "Say hi.", *, stream: bool = False, max_tokens: int | None = None
    ) -> ProviderRequest:
        return ASKS[provider](prompt, stream, max_tokens)

    return make


@pytest.fixture(scope="session")
def simulator() -> Iterator[SimulatorThread]:
    """Return a simulator without faults, for tests that do not read its counters."""
    with serving(Simulator(seed=7)) as served:
        yield served


@pytest.fixture
def simulate() -> Iterator[Callable[..., SimulatorThread]]:
    """Return a function that starts a simulator: ``simulate(seed=..., faults=...)``."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(serving(Simulator(**settings)))


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Return a plain HTTP client."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session

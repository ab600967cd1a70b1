"""Counters, model lists, authorization and latency of the simulator."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from llmhub.providers.endpoint_validation import validate_endpoint
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import FAKE_PROVIDERS, Latency, SimLimit, Simulator, SimulatorThread, aserving, serving

ProviderRequest = Callable[..., Any]


async def test_counts(
    simulate: Callable[..., SimulatorThread], ask: ProviderRequest, http: aiohttp.ClientSession
) -> None:
    served = simulate()
    for provider, prompt in (("openai", "a" * 40), ("openai", "a" * 40), ("openai", "b" * 40), ("google", "a" * 40)):
        request = ask(provider, prompt, max_tokens=1)
        async with http.post(served.url + request.path, json=request.body) as reply:
            assert reply.status == 200
    async with http.post(f"{served.base_url('openai')}/chat/completions", data=b"{") as reply:
        assert reply.status == 400
    expected = {
        "requests": 5,
        "by_provider": {"openai": 4, "google": 1},
        "by_model": {"openai/gpt-4o-mini": 3, "google/gemini-2.5-flash-lite": 1},
        "by_status": {"200": 4, "400": 1},
        "by_fault": {},
        "tokens": {"input": 40, "output": 4},
        "unique_prompts": 3,
        "in_flight": 0,
        "max_in_flight": 1,
        "max_identical": 1,
    }
    assert served.counts() == expected
    async with http.get(f"{served.url}/sim/counts") as reply:
        assert await reply.json() == expected
    async with http.post(f"{served.url}/sim/reset") as reply:
        assert reply.status == 200
    counts = served.counts()
    assert (counts["requests"], counts["unique_prompts"], counts["tokens"]["input"]) == (0, 0, 0)
    async with http.post(served.url + request.path, json=request.body) as reply:
        assert reply.status == 200
    served.reset()
    assert served.counts()["requests"] == 0


async def test_requests_in_flight(ask: ProviderRequest, http: aiohttp.ClientSession) -> None:
    async with aserving(Simulator()) as simulator:
        request = ask("openai", "Say hi. [[sim:hang]]")
        hanging = [
            asyncio.create_task(http.post(simulator.url + request.path, json={**request.body, "user": str(index // 2)}))
            for index in range(5)
        ]
        async with asyncio.timeout(5):
            while simulator.counts()["in_flight"] < 5:  # noqa: ASYNC110 - the simulator has no event to wait for
                await asyncio.sleep(0)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        async with asyncio.timeout(5):
            while simulator.counts()["in_flight"]:  # noqa: ASYNC110 - the simulator has no event to wait for
                await asyncio.sleep(0)
        counts = simulator.counts()
    assert (counts["max_in_flight"], counts["max_identical"]) == (5, 2)
    assert counts["by_status"] == {"none": 5}


async def test_control_routes(simulator: SimulatorThread, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{simulator.url}/sim/health") as reply:
        assert await reply.json() == {"status": "ok"}
    for path in ("/", "/openai", "/openai/v1", "/nowhere", "/openai/v1beta/models"):
        async with http.get(simulator.url + path) as reply:
            assert reply.status == 404
            assert (await reply.json())["error"] == f"no route for GET {path}"


async def test_unknown_routes_of_a_provider(
    simulator: SimulatorThread, http: aiohttp.ClientSession, provider: str
) -> None:
    async with http.post(f"{simulator.base_url(provider)}/nowhere", json={}) as reply:
        assert reply.status == 404
        body = await reply.json()
    assert body["message" if provider in MESSAGE_ERRORS else "error"] is not None


MESSAGE_ERRORS = ("bedrock", "cohere-native")
"""Providers whose errors are a bare message."""
LISTS = {
    "openai-responses": ("/models", "data", "id"),
    "azure-responses": ("/openai/v1/models", "data", "id"),
    "vertex": ("/v1beta1/publishers/google/models", "publisherModels", "name"),
    "vertex-anthropic": ("/v1beta1/publishers/anthropic/models", "publisherModels", "name"),
    "ollama-native": ("/api/tags", "models", "name"),
    "cohere-native": ("/v1/models", "models", "name"),
    "openai": ("/models", "data", "id"),
    "compatible": ("/models", "data", "id"),
    "azure": ("/openai/v1/models", "data", "id"),
    "anthropic": ("/v1/models", "data", "id"),
    "google": ("/v1beta/models", "models", "name"),
    "bedrock": ("/foundation-models", "modelSummaries", "modelId"),
}


async def test_listed_models_respond(simulator: SimulatorThread, http: aiohttp.ClientSession, provider: str) -> None:
    path, rows, name = LISTS[provider]
    async with http.get(simulator.base_url(provider) + path) as reply:
        assert reply.status == 200
        listed = [row[name] for row in (await reply.json())[rows]]
    assert len(listed) == len(set(listed)) >= 3


BEARERS = (
    "openai", "compatible", "openai-responses", "vertex", "vertex-anthropic", "ollama-native", "cohere-native",
)  # fmt: skip
KEYS = {
    **dict.fromkeys(BEARERS, ("authorization", "Bearer {}")),
    **dict.fromkeys(("azure", "azure-responses"), ("api-key", "{}")),
    "anthropic": ("x-api-key", "{}"),
    "google": ("x-goog-api-key", "{}"),
    "bedrock": ("authorization", "Bearer {}"),
}
REFUSED = {"google": 400, "bedrock": 403}
REASONS = {
    **dict.fromkeys(("openai", "openai-responses", "compatible"), ("error", "code", "invalid_api_key")),
    **dict.fromkeys(("azure", "azure-responses"), ("error", "code", "401")),
    **dict.fromkeys(("vertex", "vertex-anthropic"), ("error", "status", "UNAUTHENTICATED")),
    "ollama-native": ("error", None, "unauthorized"),
    "cohere-native": ("message", None, "invalid api token"),
    "anthropic": ("error", "type", "authentication_error"),
    "google": ("error", "status", "INVALID_ARGUMENT"),
    "bedrock": ("message", None, "Authentication failed: Please make sure your API Key is valid."),
}


async def test_api_keys(
    simulate: Callable[..., SimulatorThread], ask: ProviderRequest, http: aiohttp.ClientSession, provider: str
) -> None:
    served = simulate(api_key="right")
    name, form = KEYS[provider]
    request = ask(provider)

    async def send(headers: dict[str, str]) -> tuple[int, dict]:
        async with http.post(
            served.url + request.path, json=request.body, headers={**request.headers, **headers}
        ) as reply:
            return reply.status, await reply.json()

    assert (await send({name: form.format("right")}))[0] == 200
    status, body = await send({name: form.format("wrong")})
    assert status == REFUSED.get(provider, 401)
    place, inner, reason = REASONS[provider]
    assert (body[place] if inner is None else body[place][inner]) == reason
    status, body = await send({})
    assert status == {"google": 403, "bedrock": 403}.get(provider, 401)
    assert "right" not in json.dumps(body)
    assert served.counts()["tokens"]["input"] == 2
    assert "right" not in repr(served.settings)


async def test_anthropic_api_key_takes_precedence_over_bearer_token(
    simulate: Callable[..., SimulatorThread], ask: ProviderRequest, http: aiohttp.ClientSession
) -> None:
    served = simulate(api_key="right")
    request = ask("anthropic")
    for headers, expected in (
        ({"authorization": "Bearer right"}, 200),
        ({"authorization": "Bearer right", "x-api-key": "wrong"}, 401),
        ({"authorization": "Bearer wrong", "x-api-key": "right"}, 200),
    ):
        async with http.post(
            served.url + request.path, json=request.body, headers={**request.headers, **headers}
        ) as reply:
            assert reply.status == expected


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"hi"', b"\xff", b"[" * 100_000, b'{"a":"\\ud800"}'])
async def test_malformed_bodies_are_rejected(
    simulator: SimulatorThread, ask: ProviderRequest, http: aiohttp.ClientSession, provider: str, body: bytes
) -> None:
    request = ask(provider)
    async with http.post(simulator.url + request.path, data=body, headers=request.headers) as reply:
        assert reply.status == 400
        error_body = await reply.json()
    assert error_body["message"] if provider in MESSAGE_ERRORS else error_body["error"]


async def test_too_large_body_is_rejected(
    simulator: SimulatorThread, ask: ProviderRequest, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmhub.sim.server.MAX_BODY_BYTES", 100_000)
    request = ask("anthropic")
    async with http.post(simulator.url + request.path, data=b" " * 200_000, headers=request.headers) as reply:
        assert reply.status == 413
        assert (await reply.json())["error"]["type"] == "request_too_large"


async def test_large_prompts_are_accepted(
    simulator: SimulatorThread, ask: ProviderRequest, http: aiohttp.ClientSession, provider: str
) -> None:
    request = ask(provider, "word " * 400_000, max_tokens=5)
    body = io.BytesIO(json.dumps(request.body).encode())
    async with http.post(simulator.url + request.path, data=body, headers=request.headers) as reply:
        assert reply.status == 200


async def test_latency_is_applied(
    ask: ProviderRequest, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    async with aserving(Simulator(latency=Latency(30.0, first=0.5))) as simulator:
        monkeypatch.setattr("llmhub.sim.server.asyncio.sleep", noted)
        request = ask(provider)
        async with http.post(simulator.url + request.path, json=request.body, headers=request.headers) as reply:
            await reply.read()
        assert slept == [30.0]
        request = ask(provider, stream=True)
        slept.clear()
        async with http.post(simulator.url + request.path, json=request.body, headers=request.headers) as reply:
            await reply.read()
        monkeypatch.undo()
    # Each waits for its own due time from the beginning, of which next to nothing passed here.
    assert slept[0] == pytest.approx(15.0, abs=5)
    assert slept[-1] == pytest.approx(30.0, abs=5)
    assert len(slept) >= 2


async def test_without_latency_nothing_sleeps(
    ask: ProviderRequest, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    async def never(_seconds: float) -> None:
        pytest.fail("slept")

    async with aserving(Simulator(limit=SimLimit(rpm=1000))) as simulator:
        monkeypatch.setattr("llmhub.sim.server.asyncio.sleep", never)
        statuses = []
        for stream in (False, True):
            request = ask(provider, stream=stream)
            async with http.post(simulator.url + request.path, json=request.body, headers=request.headers) as reply:
                statuses.append((reply.status, bool(await reply.read())))
        monkeypatch.undo()
    assert statuses == [(200, True), (200, True)]


def test_endpoints(simulate: Callable[..., SimulatorThread]) -> None:
    served = simulate(api_key="right")
    endpoints = served.endpoints()
    assert endpoints["openai"].base_url == f"{served.url}/openai/v1"
    assert FAKE_PROVIDERS.keys() <= endpoints.keys() == PROVIDERS.keys()
    assert {endpoint.api_key.reveal() for name, endpoint in endpoints.items() if name != "bedrock"} == {"right"}
    assert not any(validate_endpoint(PROVIDERS[name], endpoint) for name, endpoint in endpoints.items())
    bedrock = endpoints["bedrock"]
    assert (bedrock.api_key, bedrock.region, bedrock.secret_access_key) == ("", "us-east-1", "right")
    assert bedrock.access_key_id
    assert served.url.startswith("http://127.0.0.1:")
    assert served.settings.port == int(served.url.rpartition(":")[2])


def test_used_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match="address already in use"), serving(Simulator(port=port)):
            pass


def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        with serving(Simulator(host="::1")) as served:
            assert served.url.startswith("http://[::1]:")
    except OSError as refused:
        pytest.skip(f"no IPv6 loopback here: {refused}")


def test_importing_llmhub_does_not_import_the_simulator() -> None:
    code = "import sys, llmhub; sys.exit(any(name.startswith('llmhub.sim') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

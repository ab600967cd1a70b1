from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from llmhub.core.errors import AuthFailed, Disconnected, RateLimited, TimedOut
from llmhub.core.provider import Endpoint
from llmhub.engine.health import DEFAULT_TIMEOUT, health_check
from llmhub.engine.transport import Timeout, TransportConfig
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import FAKE_PROVIDERS, Simulator, SimulatorThread, serving

Script: TypeAlias = Callable[..., Any]
KEY = "s3cr3t-k3y"
QUICK = TransportConfig(timeout=Timeout(connect_s=0.3, total_s=0.3))
PLAIN = TransportConfig(timeout=DEFAULT_TIMEOUT)


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorThread]:
    with serving(Simulator(seed=1, api_key=KEY)) as served:
        yield served


@pytest.mark.parametrize("name", sorted(FAKE_PROVIDERS))
async def test_accepted_key(name: str, simulator: SimulatorThread) -> None:
    health = await health_check(PROVIDERS[name], simulator.endpoints()[name], PLAIN)
    assert (health.provider, health.ok, health.reachable, health.key_accepted) == (name, True, True, True)
    assert (health.status, health.error) == (200, None)
    assert health.latency_s > 0


@pytest.mark.parametrize("name", sorted(FAKE_PROVIDERS))
async def test_rejected_key(name: str, simulator: SimulatorThread) -> None:
    valid = simulator.endpoints()[name]
    invalid = {"secret_access_key": "other"} if valid.access_key_id else {"api_key": "other"}
    health = await health_check(PROVIDERS[name], replace(valid, **invalid), PLAIN)
    assert (health.ok, health.reachable, health.key_accepted) == (False, True, False)
    assert isinstance(health.error, AuthFailed)
    assert health.error.provider == name


async def test_health_check_sends_no_completion(simulator: SimulatorThread) -> None:
    simulator.reset()
    await health_check(PROVIDERS["openai"], simulator.endpoints()["openai"], PLAIN)
    counts = simulator.counts()
    assert (counts["requests"], counts["tokens"]) == (1, {"input": 0, "output": 0})


async def test_incomplete_endpoint_sends_nothing(scripted: Script, replies: Any) -> None:
    server = scripted([replies.reply(b"{}")])
    health = await health_check(PROVIDERS["openai"], Endpoint(base_url=server.url), PLAIN)
    assert isinstance(health.error, AuthFailed)
    assert (health.reachable, health.key_accepted, health.status) == (False, None, None)
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "key_accepted", "ok"),
    [(200, True, True), (401, False, False), (404, None, True), (405, None, True), (429, None, False)],
)
async def test_status_determines_key_accepted(
    status: int, key_accepted: bool | None, ok: bool, scripted: Script, replies: Any
) -> None:
    server = scripted([replies.reply(b'{"error":{"message":"no"}}', status=status)])
    health = await health_check(PROVIDERS["openai"], Endpoint(base_url=server.url, api_key="k"), PLAIN)
    assert (health.status, health.reachable, health.key_accepted, health.ok) == (status, True, key_accepted, ok)
    assert isinstance(health.error, RateLimited) is (status == 429)
    (request,) = server.requests
    assert request.startswith(b"GET /models HTTP/1.1")
    assert b"bearer k" in request.lower()


async def test_key_is_not_sent_where_it_cannot_be_checked(scripted: Script, replies: Any) -> None:
    server = scripted([replies.reply(b"", status=404)])
    health = await health_check(PROVIDERS["perplexity"], Endpoint(base_url=server.url, api_key=KEY), PLAIN)
    assert (health.reachable, health.key_accepted, health.ok) == (True, None, True)
    assert KEY.encode() not in b"".join(server.requests)


async def test_key_echoed_in_an_error_is_redacted(scripted: Script, replies: Any) -> None:
    server = scripted([replies.reply(f'{{"error":{{"message":"Incorrect API key: {KEY}"}}}}'.encode(), status=401)])
    health = await health_check(PROVIDERS["openai"], Endpoint(base_url=server.url, api_key=KEY), PLAIN)
    assert "Incorrect API key" in str(health.error)
    assert KEY not in str(health)


async def test_unresponsive_provider_times_out(scripted: Script) -> None:
    hangs = await health_check(PROVIDERS["openai"], Endpoint(base_url=scripted(["hang"]).url, api_key="k"), QUICK)
    assert isinstance(hangs.error, TimedOut)
    refuses = await health_check(PROVIDERS["openai"], Endpoint(base_url="http://127.0.0.1:1", api_key="k"), QUICK)
    assert isinstance(refuses.error, Disconnected)
    for health in (hangs, refuses):
        assert (health.reachable, health.key_accepted, health.status, health.ok) == (False, None, None, False)


@pytest.mark.parametrize(
    ("name", "endpoint", "url"),
    [
        ("openai", Endpoint(), "https://api.openai.com/v1/models"),
        ("anthropic", Endpoint(), "https://api.anthropic.com/v1/models"),
        ("google", Endpoint(), "https://generativelanguage.googleapis.com/v1beta/models"),
        ("bedrock", Endpoint(region="eu-west-1"), "https://bedrock.eu-west-1.amazonaws.com/foundation-models"),
        (
            "bedrock",
            Endpoint(base_url="https://bedrock-runtime.us-west-2.amazonaws.com"),
            "https://bedrock.us-west-2.amazonaws.com/foundation-models",
        ),
        ("azure", Endpoint(base_url="https://r"), "https://r/openai/models?api-version=2024-10-21"),
        ("azure", Endpoint(base_url="https://r/openai/v1"), "https://r/openai/v1/models"),
        ("azure-responses", Endpoint(base_url="https://r", api_version="v1"), "https://r/openai/v1/models"),
        ("openrouter", Endpoint(), "https://openrouter.ai/api/v1/key"),
    ],
)
def test_health_url_of_each_provider(name: str, endpoint: Endpoint, url: str) -> None:
    check = PROVIDERS[name].health_url
    assert check is not None
    assert check(endpoint) == url


async def test_html_page_is_no_accepted_key(scripted: Script, replies: Any) -> None:
    page = b"<!doctype html><title>Sign in</title>"
    server = scripted([replies.reply(page, headers={"content-type": "text/html"})])
    health = await health_check(PROVIDERS["openai"], Endpoint(base_url=server.url, api_key=KEY), PLAIN)
    assert (health.reachable, health.key_accepted, health.ok) == (True, None, False)
    assert "an HTML page (Sign in)" in str(health.error)


async def test_redirect_is_named(scripted: Script, replies: Any) -> None:
    server = scripted([replies.reply(b"", status=302, headers={"location": "https://elsewhere/"})])
    health = await health_check(PROVIDERS["openai"], Endpoint(base_url=server.url, api_key=KEY), PLAIN)
    assert "redirected to https://elsewhere/" in str(health.error)

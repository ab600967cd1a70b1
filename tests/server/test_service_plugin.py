"""A host process starts, observes and stops the service through the plugin of its hub."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from returns.result import Result, Success

from llmhub.cache.memory import MemoryCache
from llmhub.core.budget import parse_budget
from llmhub.core.errors import BadRequestError, LLMError
from llmhub.engine.spending import Budgets, SharedBudget
from llmhub.hub import Hub
from llmhub.plugins import ConnectorPlugin, Plugins
from llmhub.server.access import Caller
from llmhub.server.routes import HttpRoute
from llmhub.server.server_settings import ServerSettings
from llmhub.server.service_plugin import ServicePlugin, ServiceStatus
from llmhub.sim import Latency, Simulator, SimulatorThread, serving

ASK = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "Say hi"}]}


def post(url: str) -> tuple[dict[str, Any], str]:
    """Send a completion; return the body and whether the cache answered."""
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(ASK).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.load(reply), reply.headers["x-llmhub-cache-hit"]


def plugins(plugin: ServicePlugin) -> Plugins:
    return Plugins(connectors={plugin.id: plugin}, strict=True)


@pytest.fixture
def settings() -> ServerSettings:
    return ServerSettings(port=0)


@pytest.fixture
def hosted(simulator: SimulatorThread, settings: ServerSettings) -> Iterator[tuple[Hub, ServicePlugin]]:
    plugin = ServicePlugin(settings)
    with Hub(simulator=simulator.url, cache=MemoryCache(), local_files=False, plugins=plugins(plugin)) as hub:
        yield hub, plugin


def test_it_is_a_connector_plugin() -> None:
    assert isinstance(ServicePlugin(), ConnectorPlugin)
    assert ServicePlugin().status() == ServiceStatus(state="stopped")


def test_service_shares_the_cache_of_the_host(hosted: tuple[Hub, ServicePlugin]) -> None:
    import llmhub  # noqa: PLC0415 - the host's own calls

    hub, plugin = hosted
    own = llmhub.complete("Say hi", model="openai/gpt-4o-mini", hub=hub)
    body, cache_hit = post(plugin.status().url)
    assert body["choices"][0]["message"]["content"] == own.text
    assert cache_hit == "true"


def test_keys_with_budgets_spend_from_the_budget_of_the_hub_too(
    simulator: SimulatorThread, settings: ServerSettings
) -> None:
    own = Budgets((SharedBudget(parse_budget(1)),))
    plugin = ServicePlugin(settings, access=OneCaller(Caller(key_id="k", team="t", budgets=own)))
    with Hub(simulator=simulator.url, local_files=False, plugins=plugins(plugin), budget_usd=0.5) as hub:
        body, _ = post(plugin.status().url)
        spent = hub.spending()
    assert spent is not None
    assert spent.spent == own.shared[0].budget.spent > 0
    assert body["usage"]["total_tokens"] > 0


class OneCaller:
    """Access of one caller, whatever the key."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def authenticate(self, _request: web.Request, _route: HttpRoute) -> Result[Caller, LLMError]:
        return Success(self._caller)


def test_closing_the_hub_completes_requests_in_progress(settings: ServerSettings) -> None:
    states: list[ServiceStatus] = []
    plugin = ServicePlugin(settings, on_state=states.append)
    with serving(Simulator(latency=Latency(0.3))) as slow:
        hub = Hub(simulator=slow.url, local_files=False, plugins=plugins(plugin))
        answers: list[dict[str, Any]] = []
        url = plugin.status().url
        client = threading.Thread(target=lambda: answers.append(post(url)[0]))
        client.start()
        while not slow.counts()["in_flight"]:
            pass
        status = plugin.status()
        hub.close()
        client.join()
    assert (status.active_requests, status.in_flight) == (1, {"openai": 1})
    assert answers
    assert [each.state for each in states] == ["ready", "draining", "stopped"]
    with pytest.raises(urllib.error.URLError):
        post(url)


class TestRefusals:
    def test_a_hub_that_reads_files(self, settings: ServerSettings) -> None:
        with pytest.raises(BadRequestError, match=r"hub\.local_files"):
            Hub(plugins=plugins(ServicePlugin(settings)))

    def test_an_address_in_use(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            plugin = ServicePlugin(ServerSettings(port=taken.getsockname()[1]))
            with pytest.raises(BadRequestError, match="cannot listen"):
                Hub(local_files=False, plugins=plugins(plugin))

    def test_other_machines_without_keys(self) -> None:
        with pytest.raises(BadRequestError, match="keys"):
            Hub(local_files=False, plugins=plugins(ServicePlugin(ServerSettings(host="0.0.0.0", port=0))))

    def test_a_second_hub(self, hosted: tuple[Hub, ServicePlugin]) -> None:
        with pytest.raises(BadRequestError, match="serves a hub already"):
            Hub(local_files=False, plugins=plugins(hosted[1]))


def test_host_that_ends_without_closing_the_hub_ends_cleanly() -> None:
    code = """
from llmhub.hub import Hub
from llmhub.plugins import Plugins
from llmhub.server.access import Caller
from llmhub.server.routes import HttpRoute
from llmhub.server.server_settings import ServerSettings
from llmhub.server.service_plugin import ServicePlugin
plugin = ServicePlugin(ServerSettings(port=0), on_state=lambda status: print(status.state, flush=True))
hub = Hub(plugins=Plugins(connectors={plugin.id: plugin}), local_files=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.split(), done.stderr, done.returncode) == (["ready", "draining", "stopped"], "", 0)

"""Injected faults, seen by a plain HTTP client."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

import aiohttp
import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from llmhub.sim import Faults, Simulator, SimulatorThread, serving
from llmhub.sim.faults import FAULT_NAMES, choose_fault, scripted_fault

ProviderRequest = Callable[..., Any]


async def send(
    http: aiohttp.ClientSession, served: SimulatorThread, request: Any, fault: str = ""
) -> tuple[int, bytes]:
    headers = {**request.headers, **({"x-sim-fault": fault} if fault else {})}
    async with http.post(served.url + request.path, json=request.body, headers=headers) as reply:
        return reply.status, await reply.read()


async def collect(reply: aiohttp.ClientResponse, into: bytearray) -> None:
    async for chunk in reply.content.iter_any():
        into += chunk


STATUSES = {"429": 429, "500": 500, "529": 503}


@pytest.mark.parametrize("fault", STATUSES)
@pytest.mark.parametrize("stream", [False, True])
async def test_error_faults(
    simulator: SimulatorThread,
    ask: ProviderRequest,
    http: aiohttp.ClientSession,
    provider: str,
    fault: str,
    stream: bool,
) -> None:
    status, body = await send(http, simulator, ask(provider, stream=stream), fault)
    assert status == (529 if "anthropic" in provider and fault == "529" else STATUSES[fault])
    error = json.loads(body)
    assert error["message"] if provider in {"bedrock", "cohere-native"} else error["error"]


@pytest.mark.parametrize("stream", [False, True])
async def test_reset(
    simulator: SimulatorThread, ask: ProviderRequest, http: aiohttp.ClientSession, provider: str, stream: bool
) -> None:
    with pytest.raises(aiohttp.ClientOSError) as caught:
        await send(http, simulator, ask(provider, stream=stream), "reset")
    assert caught.value.errno == errno.ECONNRESET


@pytest.mark.parametrize("stream", [False, True])
async def test_truncate(
    simulator: SimulatorThread, ask: ProviderRequest, http: aiohttp.ClientSession, provider: str, stream: bool
) -> None:
    request = ask(provider, stream=stream)
    _, complete = await send(http, simulator, request)
    got = bytearray()
    async with http.post(
        simulator.url + request.path, json=request.body, headers={**request.headers, "x-sim-fault": "truncate"}
    ) as reply:
        assert reply.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await collect(reply, got)
    assert 0 < len(got) < len(complete)
    assert len(got) > len(complete) // 4


async def test_cut(
    simulator: SimulatorThread, ask: ProviderRequest, http: aiohttp.ClientSession, provider: str
) -> None:
    request = ask(provider, stream=True)
    _, complete = await send(http, simulator, request)
    status, body = await send(http, simulator, request, "cut")
    assert status == 200
    assert 0 < len(body) < len(complete)
    assert b"[DONE]" not in body
    assert b"message_stop" not in body
    with pytest.raises(aiohttp.ClientPayloadError):
        await send(http, simulator, ask(provider), "cut")


async def test_drip_sends_everything(
    simulate: Callable[..., SimulatorThread], ask: ProviderRequest, http: aiohttp.ClientSession, provider: str
) -> None:
    served = simulate(faults=Faults(drip_s=0.001))
    for stream in (False, True):
        request = ask(provider, stream=stream)
        async with http.post(
            served.url + request.path, json=request.body, headers={**request.headers, "x-sim-fault": "drip"}
        ) as reply:
            pieces = [piece async for piece in reply.content.iter_any()]
        assert len(pieces) > 3
        _, complete = await send(http, served, request)
        assert len(b"".join(pieces)) == len(complete)


async def test_malformed_json(
    simulator: SimulatorThread, ask: ProviderRequest, http: aiohttp.ClientSession, provider: str
) -> None:
    status, body = await send(http, simulator, ask(provider), "malformed")
    assert status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


async def test_malformed_event(
    simulator: SimulatorThread, ask: ProviderRequest, http: aiohttp.ClientSession, provider: str
) -> None:
    status, body = await send(http, simulator, ask(provider, stream=True), "malformed")
    assert status == 200
    if provider == "bedrock":
        buffer = EventStreamBuffer()  # checks both CRCs
        buffer.add_data(body)
        events = [event.payload for event in buffer]
    elif provider == "ollama-native":
        events = body.splitlines()
    else:
        lines = body.replace(b"\r\n", b"\n").split(b"\n")
        events = [line[6:] for line in lines if line.startswith(b"data: ") and line != b"data: [DONE]"]
    readable = [is_json(event) for event in events]
    assert readable.count(False) == 1
    assert readable[0]
    assert readable[-1]


def is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


async def test_hang(
    simulate: Callable[..., SimulatorThread], ask: ProviderRequest, http: aiohttp.ClientSession, provider: str
) -> None:
    served = simulate()
    request = ask(provider, "Say hi. [[sim:hang once]]")
    with pytest.raises(TimeoutError):
        async with http.post(
            served.url + request.path,
            json=request.body,
            headers=request.headers,
            timeout=aiohttp.ClientTimeout(total=0.05),
        ):
            pass
    assert (await send(http, served, request))[0] == 200


def test_stop_while_a_response_hangs(ask: ProviderRequest) -> None:
    request = ask("openai", "Say hi. [[sim:hang]]")
    with serving(Simulator()) as served:
        connection = HTTPConnection(served.url.removeprefix("http://"), timeout=10)
        connection.request("POST", request.path, json.dumps(request.body))
        deadline = time.monotonic() + 5
        while not served.counts()["in_flight"]:
            assert time.monotonic() < deadline
    with pytest.raises(ConnectionError):
        connection.getresponse()
    connection.close()


async def test_scripted_faults(
    simulate: Callable[..., SimulatorThread], ask: ProviderRequest, http: aiohttp.ClientSession, provider: str
) -> None:
    served = simulate()
    seen = {}
    for often in ("always", "once", "twice", "3"):
        request = ask(provider, f"Say hi. [[sim:500 {often}]]")
        seen[often] = [(await send(http, served, request))[0] for _ in range(4)]
    assert seen == {
        "always": [500] * 4,
        "once": [500, 200, 200, 200],
        "twice": [500, 500, 200, 200],
        "3": [500, 500, 500, 200],
    }
    assert served.counts()["by_fault"] == {"500": 4 + 1 + 2 + 3}


async def test_fault_rates_are_met_and_repeatable(
    simulate: Callable[..., SimulatorThread], ask: ProviderRequest, http: aiohttp.ClientSession
) -> None:
    async def statuses(seed: int) -> list[int]:
        served = simulate(seed=seed, faults=Faults(rate_500=0.3, rate_429=0.2))
        return [(await send(http, served, ask("openai", f"Question {index}")))[0] for index in range(150)]

    first = await statuses(1)
    assert first == await statuses(1)
    assert first != await statuses(2)
    assert first.count(500) == pytest.approx(45, abs=20)
    assert first.count(429) == pytest.approx(30, abs=18)


async def test_faults_are_drawn_per_attempt(
    simulate: Callable[..., SimulatorThread], ask: ProviderRequest, http: aiohttp.ClientSession
) -> None:
    served = simulate(faults=Faults(rate_500=0.5))
    request = ask("openai")
    seen = {(await send(http, served, request))[0] for _ in range(30)}
    assert seen == {200, 500}


async def test_faults_can_be_replaced(
    simulate: Callable[..., SimulatorThread], ask: ProviderRequest, http: aiohttp.ClientSession
) -> None:
    served = simulate()
    request = ask("openai")
    assert (await send(http, served, request))[0] == 200
    async with http.post(f"{served.url}/sim/faults", json={"rate_500": 1.0}) as reply:
        assert reply.status == 200
    assert (await send(http, served, request))[0] == 500
    served.set_faults(Faults(rate_429=1.0))
    assert (await send(http, served, request))[0] == 429
    for faults in ({"rate_500": 2}, {"rate_600": 0.5}, {"rate_500": "much"}, [1]):
        async with http.post(f"{served.url}/sim/faults", json=faults) as reply:
            assert reply.status == 400
            assert (await reply.json())["error"].startswith("invalid faults")
    assert (await send(http, served, request))[0] == 429
    async with http.post(f"{served.url}/sim/faults") as reply:
        assert reply.status == 200
    assert (await send(http, served, request))[0] == 200


@given(
    st.floats(0, 1, exclude_max=True),
    st.lists(st.floats(0, 0.09), min_size=len(FAULT_NAMES), max_size=len(FAULT_NAMES)),
)
def test_quantiles_select_faults_by_rate(drawn: float, shares: list[float]) -> None:
    faults = Faults(
        **dict(zip([name for name in Faults.__dataclass_fields__ if name[-2:] != "_s"], shares, strict=True))
    )
    fault = choose_fault(faults, drawn)
    reached = dict(zip(FAULT_NAMES, (sum(shares[: index + 1]) for index in range(len(shares))), strict=True))
    if fault:
        assert drawn < reached[fault]
        assert all(
            drawn >= below for name, below in reached.items() if FAULT_NAMES.index(name) < FAULT_NAMES.index(fault)
        )
    else:
        assert drawn >= sum(shares) - 1e-12


@pytest.mark.parametrize("text", ["", "500 sometimes", "600", "reset reset", "[[sim:]]", "[[sim:500 never]]", "50"])
def test_invalid_scripts_are_ignored(text: str) -> None:
    assert scripted_fault(text, text, 0) == ""


@pytest.mark.parametrize("faults", [{"reset": -0.1}, {"reset": 1.1}, {"drip": True}, {"reset": 0.6, "drip": 0.6}])
def test_invalid_rates_are_rejected(faults: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"outside|add up"):
        Faults(**faults)

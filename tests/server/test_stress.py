"""Clients that leave, are slow, or are too many: the provider's request is cancelled, limits hold, streams finish."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from llmhub.cache.memory import MemoryCache
from llmhub.core.budget import Budget
from llmhub.server.running import RunningService
from llmhub.sim import Latency, Simulator, SimulatorThread
from llmhub.sim import serving as simulating

Serving = Callable[..., RunningService]
ServeOn = Callable[..., AbstractContextManager[RunningService]]
PATIENCE_S = 20.0

ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "PROMPT"}]}),
    "responses": ("/v1/responses", {"input": "PROMPT"}),
    "messages": ("/v1/messages", {"max_tokens": 64, "messages": [{"role": "user", "content": "PROMPT"}]}),
    "completions": ("/v1/completions", {"prompt": "PROMPT"}),
    "gemini": (
        "/v1beta/models/openai/gpt-4o-mini:generateContent",
        {"contents": [{"parts": [{"text": "PROMPT"}]}]},
    ),
}


@pytest.fixture
def slow() -> Iterator[SimulatorThread]:
    """Run a simulator whose streams begin at once and last for seconds."""
    with simulating(Simulator(seed=7, latency=Latency(8.0, first=0.001))) as served:
        yield served


def until(condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE_S)


def post(url: str, path: str, payload: object, headers: str = "") -> socket.socket:
    """Send a request and return its connection."""
    body = json.dumps(payload).encode()
    connection = connect(url)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    connection.sendall(f"{head}{headers}\r\n".encode() + body)
    return connection


def request_of(route: str, prompt: str, *, stream: bool) -> tuple[str, dict[str, Any]]:
    path, payload = ROUTES[route]
    body = json.loads(json.dumps(payload).replace("PROMPT", prompt))
    if route == "gemini":
        return (path.replace(":generate", ":streamGenerate") + "?alt=sse" if stream else path), body
    return path, {**body, "model": "openai/gpt-4o-mini", "stream": stream}


def status_of(connection: socket.socket) -> int:
    return int(connection.recv(4096).split()[1])


class TestClientsThatLeave:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("route", ROUTES)
    def test_before_the_first_token(
        self,
        serving: Serving,
        simulator: SimulatorThread,
        route: str,
        stream: bool,
    ) -> None:
        running = serving()
        path, body = request_of(route, "[[sim:hang]]", stream=stream)
        with closing(post(running.url, path, body)):
            assert until(lambda: simulator.counts()["in_flight"] == 1)
        assert until(lambda: simulator.counts()["in_flight"] == 0)
        assert until(lambda: running.service.active_requests == 0)
        assert running.service.lanes.in_use == {"interactive": 0, "bulk": 0}

    def test_before_the_vectors(self, serving: Serving, simulator: SimulatorThread) -> None:
        running = serving(hub={"budget_usd": 5.0})
        body = {"model": "openai/text-embedding-3-small", "input": ["[[sim:hang]]", "b"]}
        with closing(post(running.url, "/v1/embeddings", body)):
            assert until(lambda: simulator.counts()["in_flight"] >= 1)
        assert until(lambda: simulator.counts()["in_flight"] == 0)
        assert until(lambda: running.service.active_requests == 0)
        assert running.service.lanes.in_use == {"interactive": 0, "bulk": 0}
        budget = running.service.hub.spending()
        assert isinstance(budget, Budget)
        assert budget.reserved == 0

    @pytest.mark.parametrize("route", ROUTES)
    def test_after_the_first_token_with_the_cost_entered(
        self, serve_on: ServeOn, slow: SimulatorThread, route: str
    ) -> None:
        with serve_on(slow.url, hub={"budget_usd": 5.0}) as running:
            path, body = request_of(route, "Tell a story", stream=True)
            with closing(post(running.url, path, body)) as connection:
                received = connection.recv(4096)
                while b"data: " not in received:
                    received += connection.recv(4096)
                assert slow.counts()["in_flight"] == 1
            assert until(lambda: slow.counts()["in_flight"] == 0)
            assert until(lambda: running.service.active_requests == 0)
            budget = running.service.hub.spending()
            assert isinstance(budget, Budget)
            assert (budget.reserved, budget.spent > 0) == (0, True)

    def test_an_equal_call_of_somebody_else_goes_on(self, serving: Serving, simulator: SimulatorThread) -> None:
        running = serving(hub={"cache": MemoryCache()})
        path, body = request_of("chat", "[[sim:hang once]]", stream=False)
        first = post(running.url, path, body)
        assert until(lambda: simulator.counts()["in_flight"] == 1)
        with closing(post(running.url, path, body)) as second:
            first.close()
            assert status_of(second) == 200


class TestSlowClients:
    def test_head_that_does_not_arrive_ends_the_connection(self, serving: Serving) -> None:
        with closing(connect(serving(header_timeout_s=0.2).url)) as connection:
            connection.sendall(b"POST /v1/chat")
            assert connection.recv(10) == b""

    def test_body_that_does_not_arrive_is_refused(self, serving: Serving) -> None:
        with closing(connect(serving(body_timeout_s=0.2).url)) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: 100\r\n\r\n{"
            )
            assert status_of(connection) == 408

    def test_reader_that_does_not_read_is_disconnected(self, serve_on: ServeOn) -> None:
        text = "word " * 200_000
        with (
            simulating(Simulator(seed=7, respond=lambda _: text)) as large,
            serve_on(large.url, write_timeout_s=0.2) as running,
        ):
            path, body = request_of("chat", "x", stream=True)
            with closing(post(running.url, path, body)):
                assert until(lambda: large.counts()["requests"] == 1)
                assert until(lambda: running.service.active_requests == 0)

    @pytest.mark.parametrize("head", ["x-long: " + "a" * 20_000, "\r\n".join(f"x-{n}: 1" for n in range(2000))])
    def test_long_head_is_refused(self, serving: Serving, head: str) -> None:
        with closing(connect(serving().url)) as connection:
            connection.sendall(f"GET /healthz HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n".encode())
            assert 400 <= status_of(connection) < 500


class TestDeadlines:
    def test_stream_that_does_not_end_in_time_ends_with_an_error(
        self, serve_on: ServeOn, slow: SimulatorThread
    ) -> None:
        with serve_on(slow.url, request_timeout_s=1.2) as running:
            path, body = request_of("chat", "Tell a story", stream=True)
            with closing(post(running.url, path, body, "connection: close\r\n")) as connection:
                received = b""
                while piece := connection.recv(65_536):
                    received += piece
            assert b"200 OK" in received
            assert b"did not end in time" in received
            assert received.count(b"HTTP/1.1") == 1
            assert until(lambda: slow.counts()["in_flight"] == 0)


class TestQueue:
    def test_calls_beyond_the_queue_are_refused_with_retry_after(
        self, serving: Serving, simulator: SimulatorThread
    ) -> None:
        running = serving(concurrency=1, max_queue=1)
        path, body = request_of("chat", "[[sim:hang]]", stream=False)
        with closing(post(running.url, path, body)):
            assert until(lambda: simulator.counts()["in_flight"] == 1)
            with closing(post(running.url, path, body)):
                assert until(lambda: running.service.lanes.waiting == 1)
                with closing(post(running.url, path, body)) as refused:
                    reply = refused.recv(4096).lower()
        assert reply.startswith(b"http/1.1 503")
        assert b"retry-after: 1" in reply
        assert until(lambda: running.service.active_requests == 0)
        assert running.service.lanes.waiting == 0


class TestSigterm:
    def test_stream_in_progress_is_completed(self, serving_process: Callable[..., Any]) -> None:
        with simulating(Simulator(seed=7, latency=Latency(1.0, first=0.05))) as paced:
            served = serving_process("--simulator", paced.url)
            path, body = request_of("chat", "Tell a story", stream=True)
            with closing(post(served.url, path, body)) as connection:
                received = connection.recv(4096)
                while b"data: " not in received:
                    received += connection.recv(4096)
                served.process.send_signal(signal.SIGTERM)
                while piece := connection.recv(65_536):
                    received += piece
                assert b"data: [DONE]" in received
            assert served.process.wait(PATIENCE_S) == 0

    def test_second_signal_cuts_it_off(self, serving_process: Callable[..., Any], simulator: SimulatorThread) -> None:
        served = serving_process()
        path, body = request_of("chat", "[[sim:hang]]", stream=False)
        with closing(post(served.url, path, body)):
            assert until(lambda: simulator.counts()["in_flight"] == 1)
            served.process.send_signal(signal.SIGTERM)
            assert until(lambda: _refuses(served.url))
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(PATIENCE_S) == 1
        assert until(lambda: simulator.counts()["in_flight"] == 0)


def _refuses(url: str) -> bool:
    try:
        connect(url).close()
    except OSError:
        return True
    return False

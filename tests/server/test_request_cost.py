"""What a request leaves behind, the forms of requests that recur, and the deadlines that all requests share."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from llmhub.core.cache_key import request_key
from llmhub.core.protocol import prepare
from llmhub.core.types import CompletionRequest, Image, Message, Schema, Tool
from llmhub.engine.gc_tuning import RELAXED_GC_THRESHOLD
from llmhub.hub import Hub
from llmhub.server.deadlines import Deadlines
from llmhub.server.prepared_requests import MAX_FORMS, PreparedRequests
from llmhub.server.running import RunningService, serving, tune_gc
from llmhub.server.server_settings import ServerSettings
from llmhub.server.service import open_service
from llmhub.sim import Simulator
from llmhub.sim import serving as simulating

REQUESTS = 40


@pytest.fixture
def running() -> Iterator[RunningService]:
    with simulating(Simulator()) as simulator:
        settings = ServerSettings(port=0, cache="none", simulator=simulator.url)
        with serving(open_service(settings)) as service:
            yield service


def test_a_request_leaves_no_cyclic_garbage(running: RunningService) -> None:
    """It would keep requests in memory until the garbage collector runs, which then takes a tenth of the CPU time."""
    connection = http.client.HTTPConnection(urlsplit(running.url).netloc)

    def ask(count: int) -> None:
        for number in range(count):
            message = {"role": "user", "content": f"Say {number}"}
            body = json.dumps({"model": "openai/gpt-4o-mini", "messages": [message]})
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            reply = connection.getresponse()
            assert reply.status == 200, reply.read()
            reply.read()

    ask(3)
    gc.collect()
    gc.disable()
    try:
        gc.set_debug(gc.DEBUG_SAVEALL)
        ask(REQUESTS)
        gc.collect()
        kinds = Counter(type(each).__qualname__ for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    connection.close()
    assert [name for name in ("Task", "coroutine", "Context", "ReplyParser") if kinds[name] >= REQUESTS] == []


@pytest.mark.parametrize(("threshold", "expected"), [(700, RELAXED_GC_THRESHOLD), (123, 123)])
def test_a_process_of_the_service_collects_less_often_unless_it_was_told(threshold: int, expected: int) -> None:
    before = gc.get_threshold()
    try:
        gc.set_threshold(threshold, 10, 10)
        tune_gc()
        assert gc.get_threshold() == (expected, 10, 10)
        assert (gc.get_freeze_count() > 0) is (threshold != expected)
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


class TestPreparedRequests:
    @pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash"])
    def test_the_shortcut_changes_neither_request_nor_key(self, model: str) -> None:
        with Hub(simulator="http://127.0.0.1:9") as hub:
            target, forms = hub.target(model), PreparedRequests()
            provider, endpoint = target.provider, target.endpoint
            for temperature in (None, 0.0, 0.5):
                for earlier in (
                    (),
                    (Message("system", "Be brief."),),
                    (Message("user", "a"), Message("assistant", "b")),
                ):
                    for text in ("Say hi", "", "\x00llmhub\x00", 'with "quotes" and \u00fc', "half \ud800"):
                        messages = (*earlier, Message("user", text))
                        request = CompletionRequest(
                            model=target.model, messages=messages, temperature=temperature, max_tokens=9
                        )
                        found = forms.find(target, request)
                        assert found is not None
                        assert found.request is request
                        expected = prepare(provider, endpoint, request, 1.0)
                        assert str(found.http(found.text, 1.0)) == str(expected)
                        if "\ud800" in text:  # is refused, whatever its key
                            continue
                        key = request_key(provider, endpoint, request, 2)
                        assert found.for_target(target).key(found.text, 2) == key

    def test_other_requests_have_none_and_few_forms_are_kept(self) -> None:
        with Hub(simulator="http://127.0.0.1:9") as hub:
            target, forms = hub.target("openai/gpt-4o-mini"), PreparedRequests()
            plain = CompletionRequest(model="gpt-4o-mini", messages=(Message("user", "hi"),))
            picture = Message("user", Image(url="https://example.org/a.png"))
            for changes in (
                {"tools": (Tool("f"),)},
                {"extra": {"a": 1}},
                {"response_schema": Schema({"type": "object"})},
                {"messages": (picture,)},
                {"messages": (picture, *plain.messages)},
                {"messages": (Message("assistant", "hi"),)},
                {"messages": (Message("user", "x" * 9000), *plain.messages)},
            ):
                assert forms.find(target, replace(plain, **changes)) is None  # type: ignore[arg-type]
            for seed in range(MAX_FORMS + 9):
                assert forms.find(target, replace(plain, seed=seed)) is not None
            assert len(forms) == MAX_FORMS


class TestDeadlines:
    async def test_only_the_block_whose_time_is_over_is_cancelled(self) -> None:
        deadlines, loop = Deadlines(), asyncio.get_running_loop()
        now = loop.time()

        async def hold(at: float) -> str:
            try:
                with deadlines.limit(at):
                    await asyncio.Event().wait()
            except TimeoutError:
                return "over"
            raise AssertionError

        late = asyncio.create_task(hold(now + 60))
        early = [asyncio.create_task(hold(now + 0.01)) for _ in range(2)]
        assert await asyncio.gather(*early) == ["over"] * 2
        assert not late.done()
        assert [task.cancelling() for task in early] == [0, 0]
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late

    async def test_what_ends_in_time_is_left_alone(self) -> None:
        deadlines = Deadlines()
        with deadlines.limit(asyncio.get_running_loop().time() + 0.01):
            pass
        await asyncio.sleep(0.02)

    async def test_a_cancellation_of_another_passes_through(self) -> None:
        deadlines, entered = Deadlines(), asyncio.Event()

        async def hold() -> None:
            with deadlines.limit(0.0):  # over at once
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(hold())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


IDLE = """
import json, sys
from llmhub.cli import main
from llmhub.server import running

def report(service, on_start):
    started = running.submit(running.start(service)).result()
    print(json.dumps(sorted(sys.modules)), flush=True)
    running.submit(started.stop(drain=False)).result()
    service.hub.close()

running.serve = report
main(["serve", "--port", "0", "--cache", "none"])
"""


def test_an_idle_service_has_not_imported_what_other_requests_need() -> None:
    """Arrow alone would nearly double its memory."""
    completed = subprocess.run([sys.executable, "-c", IDLE], capture_output=True, text=True, check=True)
    modules = json.loads(completed.stdout)
    assert "llmhub.server.completion_routes" in modules
    later = (
        *("pyarrow", "numpy", "pandas", "redis", "grpc", "prometheus_client", "opentelemetry.sdk"),
        *("llmhub.api", "llmhub.tables", "llmhub.evals", "llmhub.sim", "llmhub.plots"),
        *("llmhub.engine.batch_run", "llmhub.engine.embedding", "llmhub.server.batch_provider", "difflib"),
        *("llmhub.server.table_work", "llmhub.server.page_html", "llmhub.server.openapi", "llmhub.server.openapi_html"),
        *("llmhub.server.redis_run_store", "llmhub.server.rpc.grpc_server", "llmhub.server.rpc.flight_server"),
    )
    assert [name for name in modules if name in later] == []


class TestWrittenResponses:
    """Responses that are written without aiohttp's own way are those that it would have written."""

    BODY = json.dumps({"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "Say 1"}]})

    def ask(self, running: RunningService, version: str, *headers: str) -> tuple[str, dict[str, str], dict[str, Any]]:
        """Send a request in a version of HTTP, twice if the connection stays open; return the last reply."""
        with socket.create_connection(("127.0.0.1", urlsplit(running.url).port or 0)) as connection:
            lines = ("host: x", "content-type: application/json", f"content-length: {len(self.BODY)}", *headers)
            request = "\r\n".join([f"POST /v1/chat/completions HTTP/{version}", *lines, "", self.BODY])
            file = connection.makefile("rb")
            for _ in range(1 if headers or version == "1.0" else 2):
                connection.sendall(request.encode())
                status = file.readline().decode().strip()
                fields = dict(line.decode().strip().lower().split(": ", 1) for line in iter(file.readline, b"\r\n"))
                body = json.loads(file.read(int(fields["content-length"])))
            if headers or version == "1.0":
                assert file.read() == b""
        return status, fields, body

    def test_the_connection_stays_open_unless_the_client_says_otherwise(self, running: RunningService) -> None:
        replies = [
            self.ask(running, "1.1"),
            self.ask(running, "1.1", "connection: close"),
            self.ask(running, "1.0"),
        ]
        assert [status.partition(" ")[2] for status, _, _ in replies] == ["200 OK"] * 3
        texts = [body["choices"][0]["message"]["content"] for _, _, body in replies]
        assert texts[0] == texts[1] == texts[2] != ""
        of_aiohttp = {"server", "connection"}
        names = [{*fields} - of_aiohttp for _, fields, _ in replies]
        assert names[0] == names[1] == names[2] >= {"date", "content-type", "x-request-id", "x-llmhub-cost-usd"}

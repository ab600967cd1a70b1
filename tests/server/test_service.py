"""The service starts, refuses to start, reports its health, answers what it cannot route, and stops."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from returns.result import Failure, Result

from llmhub.core.errors import AuthFailed, BadRequestError, LLMError, RateLimited, TimedOut, to_exception
from llmhub.engine.event_loop import submit
from llmhub.hub import Hub
from llmhub.server.access import Caller, OpenAccess
from llmhub.server.app import json_response, read_json
from llmhub.server.context import RequestContext
from llmhub.server.groups import GROUPS
from llmhub.server.routes import HttpRoute, RouteGroup
from llmhub.server.running import RunningService
from llmhub.server.running import serving as in_process
from llmhub.server.server_settings import GrpcSettings, ServerSettings, parse_server_settings
from llmhub.server.service import Service, open_service

Serving = Callable[..., RunningService]


def fetch(
    url: str, path: str, body: object = None, *, method: str = "", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], Any]:
    """Send a request and return status, headers and decoded body."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    head = {"content-type": "application/json", **(headers or {})} if data is not None else headers or {}
    connection.request(method or ("GET" if data is None else "POST"), path, data, head)
    reply = connection.getresponse()
    text = reply.read()
    connection.close()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, json.loads(text or b"null")


async def echo(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    return json_response({"payload": await read_json(service, request), "lane": context.lane, "team": context.team})


async def refuse(_service: Service, _request: web.Request, _context: RequestContext) -> web.StreamResponse:
    raise to_exception(RateLimited(message="slow down", retry_after_s=2.5))


async def fail(_service: Service, _request: web.Request, _context: RequestContext) -> web.StreamResponse:
    raise ZeroDivisionError("secret detail")


async def time_out(_service: Service, _request: web.Request, _context: RequestContext) -> web.StreamResponse:
    raise to_exception(TimedOut(message="the provider was slow"))


async def hang(_service: Service, _request: web.Request, _context: RequestContext) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


TESTED = RouteGroup(
    name="tested",
    routes=(
        HttpRoute("POST", "/echo", echo, scope="completions", request_types=("application/json",)),
        HttpRoute("POST", "/refuse", refuse, scope="completions"),
        HttpRoute("GET", "/fail", fail, scope="completions"),
        HttpRoute("GET", "/time-out", time_out, scope="completions"),
        HttpRoute("GET", "/hang", hang, scope="completions", timeout_s=0.05),
    ),
)


class TestRequests:
    def test_health_and_readiness(self, serving: Serving) -> None:
        url = serving().url
        assert fetch(url, "/healthz")[2]["status"] == "ready"
        assert fetch(url, "/readyz")[0] == 200

    def test_drained_service_is_alive_but_not_ready_and_refuses_work(self, serving: Serving) -> None:
        url = serving(groups=(*GROUPS, TESTED)).url
        assert fetch(url, "/drain", {})[0] == 202
        assert fetch(url, "/healthz")[0] == 200
        assert fetch(url, "/readyz")[0] == 503
        status, headers, body = fetch(url, "/echo", {})
        assert (status, body["error"]["type"]) == (503, "Cancelled")
        assert int(headers["retry-after"]) >= 1

    def test_handler_sees_the_context_and_the_client_its_request_id(self, serving: Serving) -> None:
        url = serving(groups=(TESTED,)).url
        status, headers, body = fetch(
            url, "/echo", {"a": 1}, headers={"x-request-id": "mine-7", "x-llmhub-lane": "bulk"}
        )
        assert (status, headers["x-request-id"]) == (200, "mine-7")
        assert body == {"payload": {"a": 1}, "lane": "bulk", "team": "local"}

    def test_error_values_have_status_headers_and_body(self, serving: Serving) -> None:
        url = serving(groups=(TESTED,)).url
        status, headers, body = fetch(url, "/refuse", {})
        assert (status, headers["retry-after"], headers["x-should-retry"]) == (429, "3", "true")
        assert body["error"]["message"] == "slow down"
        assert body["request_id"] == headers["x-request-id"]

    def test_defect_of_a_handler_shows_no_detail(self, serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
        status, headers, body = fetch(serving(groups=(TESTED,)).url, "/fail")
        assert status == 500
        assert "secret" not in json.dumps(body)
        assert headers["x-request-id"] in caplog.text

    @pytest.mark.parametrize(
        ("body", "headers", "status"),
        [
            (b"{", {}, 400),
            (b"[1]", {}, 400),
            (b"\xff\xfe", {}, 400),
            (b"[" * 100_000, {}, 400),
            (b"{}", {"content-type": "text/plain"}, 415),
            (b"{}", {"x-llmhub-lane": "fast"}, 400),
            (b'{"a": "' + b"x" * 2000 + b'"}', {}, 413),
        ],
    )
    def test_bad_requests_are_refused(
        self, serving: Serving, body: bytes, headers: dict[str, str], status: int
    ) -> None:
        limit = 200_000 if status != 413 else 1000
        reply = fetch(serving(groups=(TESTED,), max_body_bytes=limit).url, "/echo", body, headers=headers)
        assert reply[0] == status
        assert reply[2]["error"]["message"]

    @pytest.mark.parametrize("path", ["/v1/files", "/v1/plans", "/v1/runs"])
    def test_forms_that_cannot_be_read_are_refused(self, serving: Serving, path: str) -> None:
        body = b"--B\r\nContent-Disposition: form-data; a=\x11\r\n\r\n--B--"
        headers = {"content-type": "multipart/form-data; boundary=B"}
        status, _, reply = fetch(serving().url, path, body, headers=headers)
        assert (status, bool(reply["error"]["message"])) == (400, True)

    def test_unknown_paths_and_methods(self, serving: Serving) -> None:
        url = serving(groups=(TESTED,)).url
        assert fetch(url, "/nowhere")[0] == 404
        status, _, body = fetch(url, "/echo", method="DELETE")
        assert (status, "POST" in body["error"]["message"]) == (405, True)

    def test_request_beyond_its_deadline_times_out(self, serving: Serving) -> None:
        assert fetch(serving(groups=(TESTED,)).url, "/hang")[0] == 504

    def test_timeout_of_the_provider_keeps_its_message(self, serving: Serving) -> None:
        status, _, body = fetch(serving(groups=(TESTED,)).url, "/time-out")
        assert (status, body["error"]["message"]) == (504, "the provider was slow")

    def test_access_decides(self, serving: Serving) -> None:
        class Closed:
            async def authenticate(self, _request: web.Request, _route: HttpRoute) -> Result[Caller, LLMError]:
                return Failure(AuthFailed(message="no such key"))

        status, _, body = fetch(serving(groups=(TESTED,), access=Closed()).url, "/echo", {})
        assert (status, body["error"]["type"]) == (401, "AuthFailed")


class TestSettings:
    def test_environment_takes_precedence_and_nested_tables_are_read(self) -> None:
        text = '[server]\nport = 9000\n[server.limits."openai/gpt-4o"]\nrpm = 60\n[server.models]\nfast = "openai/x"'
        settings = parse_server_settings(text, {"LLMHUB_SERVER_PORT": "9001", "LLMHUB_SERVER_MODELS": '{"b": "c/d"}'})
        assert settings.port == 9001
        assert settings.limits["openai/gpt-4o"].rpm == 60
        assert settings.models == {"fast": "openai/x", "b": "c/d"}

    def test_optional_sections_are_given_by_the_file_or_by_variables(self) -> None:
        assert parse_server_settings("", {}).grpc is None
        assert parse_server_settings("[server.grpc]", {}).grpc == GrpcSettings()
        variables = {"LLMHUB_SERVER_GRPC_PORT": "7", "LLMHUB_SERVER_GRPC_TLS_KEY": "a.pem"}
        assert parse_server_settings("", variables).grpc == GrpcSettings(port=7, tls_key="a.pem")

    @pytest.mark.parametrize(
        ("text", "variables", "place"),
        [
            ("[server]\n\nport = 'x'", {}, "llmhub.toml, line 3: server.port"),
            ("[server]\nhots = 'x'", {}, "llmhub.toml, line 2: server.hots: unknown key"),
            ("[server.limits.openai]\nrpm = -1", {}, "line 2"),
            ("[server.grpc]\nprot = 1", {}, "line 2: server.grpc.prot: unknown key; must be one of tls_certificate"),
            ("", {"LLMHUB_SERVER_GRPC_PROT": "1"}, "LLMHUB_SERVER_GRPC_PROT"),
            ("server = 3", {}, "must be a table"),
            ("[server", {}, "cannot be read"),
            ("", {"LLMHUB_SERVER_PORT": "many"}, "LLMHUB_SERVER_PORT"),
            ("", {"LLMHUB_SERVER_HOTS": "x"}, "LLMHUB_SERVER_HOTS"),
        ],
    )
    def test_errors_name_key_and_line_or_variable(self, text: str, variables: dict[str, str], place: str) -> None:
        with pytest.raises(BadRequestError) as error:
            parse_server_settings(text, variables)
        assert place in str(error.value)

    def test_service_without_keys_is_bound_to_loopback_only(self, environ: pytest.MonkeyPatch) -> None:
        with pytest.raises(BadRequestError, match="keys"):
            open_service(ServerSettings(host="0.0.0.0"))

    def test_address_that_cannot_be_bound_is_named(self, serving: Serving) -> None:
        with pytest.raises(BadRequestError, match="cannot listen"):
            serving(host="192.0.2.1")


class TestStopping:
    def test_stop_waits_for_requests_in_progress_and_runs_drain_callbacks(self, serving: Serving) -> None:
        entered, release = threading.Event(), asyncio.Event()
        drained: list[bool] = []

        async def wait(service: Service, _request: web.Request, _context: RequestContext) -> web.StreamResponse:
            service.on_drain(lambda: (drained.append(True), release.set()))
            entered.set()
            await release.wait()
            return json_response({"ok": True})

        running = serving(groups=(RouteGroup(name="w", routes=(HttpRoute("GET", "/w", wait, scope="completions"),)),))
        replies: list[int] = []
        client = threading.Thread(target=lambda: replies.append(fetch(running.url, "/w")[0]))
        client.start()
        assert entered.wait(10)
        assert submit(running.stop()).result(10)
        client.join(10)
        assert (replies, drained) == ([200], [True])

    def test_connections_that_are_being_accepted_are_closed(self) -> None:
        for _ in range(10):
            service = Service(Hub(endpoints={}, local_files=False), ServerSettings(port=0), OpenAccess())
            with in_process(service, ()) as running:
                address = urlsplit(running.url)
                clients = [socket.socket() for _ in range(20)]
                for client in clients:
                    client.setblocking(False)
                    client.connect_ex((address.hostname or "", address.port or 0))
            for client in clients:
                client.close()
        gc.collect()  # one that is left open is a warning here, and so an error


class TestProcess:
    def test_serve_listens_and_ends_on_sigterm(self, serving_process: Callable[..., Any]) -> None:
        served = serving_process()
        assert fetch(served.url, "/readyz")[0] == 200
        assert served.terminate() == 0

    def test_interrupt_ends_it_too(self, serving_process: Callable[..., Any]) -> None:
        served = serving_process()
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(20) == 0

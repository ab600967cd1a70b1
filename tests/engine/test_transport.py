from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from returns.pipeline import is_successful

from llmhub.core.errors import (
    AuthFailed,
    Disconnected,
    InvalidRequest,
    LLMError,
    Malformed,
    ServerError,
    TimedOut,
    Unsupported,
    is_transient,
)
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest, Message, StreamChunk
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.transport import Timeout, Transport, TransportConfig
from llmhub.providers.registry import PROVIDERS

KEY = "key-0123456789abcdef"
Open = Callable[..., Transport]


@pytest.fixture(params=["own connections", "aiohttp"])
async def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    """Return a factory of transports, closed after the test; all tests hold for both ways to send."""
    if request.param == "aiohttp":
        monkeypatch.setattr(Transport, "_make_encoder", lambda *_: None)
    transports: list[Transport] = []

    def open_transport(**config: Any) -> Transport:
        transports.append(Transport(TransportConfig(**config)))
        return transports[-1]

    yield open_transport
    for client in transports:
        await client.close()


def call(url: str, text: str = "hi", provider: str = "compatible", **options: Any) -> Call:
    target = Target(PROVIDERS[provider], Endpoint(base_url=url, api_key=KEY), "m", f"{provider}/m")
    fields = {name: options.pop(name) for name in ("temperature", "unsupported", "reasoning_budget") if name in options}
    return Call(target, CompletionRequest(model="m", messages=(Message("user", text),), **fields), **options)


async def wait_for_event(event: threading.Event) -> None:
    """Wait for an event of the server's thread."""
    assert await asyncio.get_running_loop().run_in_executor(None, event.wait, 10)


def failed(answer: Answer) -> LLMError:
    assert not is_successful(answer.outcome), answer.outcome
    error = answer.outcome.failure()
    assert KEY not in str(error)
    assert error.provider == "compatible"
    return error


# Requests and replies


async def test_call_is_posted_and_its_reply_decoded(transport: Open, scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer("Hello", **{"x-request-id": "r1"})])
    before = time.time()
    answer = await transport().send(call(server.url, temperature=0.5))
    response = answer.outcome.unwrap()
    assert (response.text, response.request_id) == ("Hello", "r1")
    assert (answer.attempts, answer.ttft_s, answer.rate_wait_s, answer.dropped) == (1, None, None, ())
    assert answer.latency_s == answer.total_s > 0
    assert before <= answer.started_at <= time.time()
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /chat/completions HTTP/1.1\r\n")
    assert f"authorization: bearer {KEY}".encode() in head.lower()
    assert b"content-type: application/json" in head.lower()
    assert json.loads(body) == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5}


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_key_that_a_server_repeats_is_not_in_the_response(
    is_streamed: bool, transport: Open, scripted: Any, replies: Any
) -> None:
    """Responses are stored in caches and tables. Short keys are made up, and may be words."""
    key, texts = "sk-a-key-of-somebody", ["your key is sk-a-key-of-somebody", "ollama"]
    scripts = [[replies.stream(), replies.event(text, "stop"), "close"] for text in texts]
    server = scripted(*(scripts if is_streamed else [[replies.answer(text)] for text in texts]))
    found = []
    for api_key in (key, "ollama"):
        request = call(server.url, stream=is_streamed)
        target = replace(request.target, endpoint=Endpoint(base_url=server.url, api_key=api_key))
        found.append((await transport().send(replace(request, target=target))).outcome.unwrap().text)
    assert found == ["your key is [redacted]", "ollama"]


async def test_unsupported_request_is_not_sent(transport: Open, scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer()])
    answer = await transport().send(call(server.url, reasoning_budget=7))
    assert isinstance(failed(answer), Unsupported)
    assert (answer.attempts, answer.started_at, server.requests) == (0, 0.0, [])


async def test_dropped_parameters_are_reported(transport: Open, scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer()])
    answer = await transport().send(call(server.url, reasoning_budget=7, unsupported="drop"))
    assert answer.dropped == ("reasoning_budget",)


async def test_connections_are_kept_alive(transport: Open, scripted: Any, replies: Any) -> None:
    server, client = scripted([replies.answer()]), transport()
    for _ in range(5):
        assert is_successful((await client.send(call(server.url))).outcome)
    assert (server.connections, len(server.requests)) == (1, 5)


async def test_pool_size_bounds_connections(transport: Open, scripted: Any, replies: Any) -> None:
    server, client = scripted([replies.answer()]), transport(pool_size=3)
    await asyncio.gather(*(client.send(call(server.url)) for _ in range(20)))
    assert len(server.requests) == 20
    assert server.connections <= 3


async def test_connection_closed_while_idle_is_not_reused(transport: Open, scripted: Any, replies: Any) -> None:
    server, client = scripted([replies.answer(), "close"], [replies.answer("again")]), transport()
    assert is_successful((await client.send(call(server.url))).outcome)
    await wait_for_event(server.disconnected)
    await asyncio.sleep(0.01)  # for the loop to see that it is closed
    assert (await client.send(call(server.url))).outcome.unwrap().text == "again"


async def test_compressed_reply_is_decoded(transport: Open, scripted: Any, replies: Any) -> None:
    body = gzip.compress(replies.body("Hello"))
    server = scripted([replies.reply(body, headers={"content-encoding": "gzip"})])
    assert (await transport().send(call(server.url))).outcome.unwrap().text == "Hello"


async def test_large_body_is_sent_without_a_warning(transport: Open, scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer()])
    assert is_successful((await transport().send(call(server.url, "x" * (2 << 20)))).outcome)
    assert len(server.bodies[0]) > 2 << 20


async def test_requests_that_need_aiohttp_are_sent_with_it(transport: Open, scripted: Any, replies: Any) -> None:
    server, client = scripted([replies.answer("Hello")]), transport()
    host = server.url.removeprefix("http://")
    for url, headers in (
        (f"http://ann:secret@{host}", {}),
        (f"http://{host}/caf\u00e9", {}),
        (server.url, {"Host": "other.example"}),
        (server.url, {"connection": "close"}),
    ):
        target = Target(PROVIDERS["compatible"], Endpoint(base_url=url, headers=headers), "m", "compatible/m")
        request = CompletionRequest(model="m", messages=(Message("user", "hi"),))
        assert (await client.send(Call(target, request))).outcome.unwrap().text == "Hello"
    heads = [request.partition(b"\r\n\r\n")[0].lower().split(b"\r\n") for request in server.requests]
    assert b"authorization: basic yw5uonnly3jlda==" in heads[0]
    assert b"host: other.example" in heads[2]
    assert b"connection: close" in heads[3]


# URLs


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


async def test_refused_connection_names_the_address_and_is_not_retried(transport: Open) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    error = failed(await transport().send(call(f"{url}/v1")))
    assert isinstance(error, Disconnected)
    assert url in error.message
    assert "base URL" in error.message
    assert not is_transient(error)


async def test_refused_connection_is_retried_if_the_host_answered_before(
    transport: Open, scripted: Any, replies: Any
) -> None:
    server, client = scripted([replies.answer()]), transport()
    assert is_successful((await client.send(call(server.url))).outcome)
    server.stop()
    for _ in range(2):
        error = failed(await client.send(call(server.url)))
    assert isinstance(error, Disconnected)
    assert "cannot connect" in error.message
    assert is_transient(error)


async def test_unknown_host_is_named(transport: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown, raising=False)
    error = failed(await transport().send(call("http://no-such-host.invalid/v1")))
    assert isinstance(error, Disconnected)
    assert "no-such-host.invalid" in error.message
    assert not is_transient(error)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1",
        "ftp://localhost/v1",
        "nonsense",
        "http://",
        "http:///v1",
        "https:",
        "http://localhost:port/v1",
        "http://localhost:99999/v1",
        "http://[::1/v1",
        "http://a b/v1",
        "http://\x00/",
    ],
)
async def test_invalid_url_is_named_as_written(transport: Open, url: str) -> None:
    error = failed(await transport().send(call(url)))
    assert isinstance(error, InvalidRequest)
    assert "base_url" in error.message
    assert not is_transient(error)


async def test_key_with_invalid_characters_is_refused_without_being_shown(
    transport: Open, scripted: Any, replies: Any
) -> None:
    server = scripted([replies.answer()])
    target = Target(PROVIDERS["compatible"], Endpoint(base_url=server.url, api_key=f"{KEY}\n"), "m", "compatible/m")
    invalid_call = Call(target, CompletionRequest(model="m", messages=(Message("user", "hi"),)))
    error = failed(await transport().send(invalid_call))
    assert isinstance(error, (InvalidRequest, AuthFailed))
    assert server.requests == []


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_reply_that_is_cut_off_is_called_that(is_streamed: bool, transport: Open, scripted: Any) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    for rest in (b"content-length: 1000\r\n\r\n{", b"transfer-encoding: chunked\r\n\r\n10\r\n{"):
        error = failed(await transport().send(call(scripted([head + rest, "close"]).url, stream=is_streamed)))
        assert isinstance(error, Disconnected)
        assert error.message.endswith("was lost: the server closed the connection before the reply was complete")


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_interim_replies_do_not_go_on_for_ever(is_streamed: bool, transport: Open) -> None:
    async def continue_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(continue_for_ever, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = failed(await transport().send(call(f"http://127.0.0.1:{port}", stream=is_streamed)))
    assert isinstance(error, Disconnected)
    assert "interim replies" in error.message


async def test_a_server_without_tls_is_called_that(transport: Open) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = failed(await transport().send(call(f"https://127.0.0.1:{port}/v1")))
    assert f"https://127.0.0.1:{port} answers without TLS: its base URL probably begins with http://" in error.message


async def test_redirects_are_not_followed(transport: Open, scripted: Any, replies: Any) -> None:
    other_server = scripted([replies.answer()])
    for status in (301, 302, 303, 307, 308):
        moved = scripted([replies.reply(b"", status=status, headers={"location": f"{other_server.url}/v1"})])
        error = failed(await transport().send(call(moved.url)))
        assert isinstance(error, ServerError)
        assert (error.status, is_transient(error)) == (status, False)
        assert f"{other_server.url}/v1" in error.message
    assert other_server.connections == 0


async def test_cookies_are_not_stored(transport: Open, scripted: Any, replies: Any) -> None:
    server, client = scripted([replies.answer(**{"set-cookie": "who=me; Path=/"})]), transport()
    for _ in range(2):
        await client.send(call(server.url))
    assert b"cookie" not in server.requests[1].lower()


# Certificates


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """Return a server context with a self-signed certificate."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not here to make a certificate")
    folder: Path = tmp_path_factory.mktemp("certificate")
    key, crt = folder / "key.pem", folder / "crt.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    transports = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-keyout",
        key,
        "-out",
        crt,
        *subject,
    ]
    subprocess.run(transports, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    return context


@pytest.fixture
def trusted(certificate: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make clients trust the server's certificate."""
    file = tmp_path / "trusted.pem"
    file.write_text(certificate_text(certificate), encoding="ascii")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))


def certificate_text(context: ssl.SSLContext) -> str:
    """Return the certificate that a server with ``context`` presents."""
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    def accept() -> None:
        connection, _ = server.accept()
        with connection, context.wrap_socket(connection, server_side=True):
            pass

    thread = threading.Thread(target=accept)
    thread.start()
    text = ssl.get_server_certificate(("127.0.0.1", port))
    thread.join()
    server.close()
    return text


async def test_untrusted_certificate_is_refused(
    transport: Open, scripted: Any, replies: Any, certificate: ssl.SSLContext
) -> None:
    server = scripted([replies.answer()], tls=certificate)
    error = failed(await transport().send(call(server.url)))
    assert isinstance(error, Disconnected)
    assert "cannot verify the certificate" in error.message
    assert server.url in error.message
    assert not is_transient(error)
    assert server.requests == []


@pytest.mark.usefixtures("trusted")
async def test_trusted_certificate_is_accepted(scripted: Any, replies: Any, certificate: ssl.SSLContext) -> None:
    """With our own connections: aiohttp reads the trusted certificates when it is imported."""
    server, client = scripted([replies.answer("Hello")], tls=certificate), Transport(TransportConfig())
    for _ in range(2):
        assert (await client.send(call(server.url))).outcome.unwrap().text == "Hello"
    assert server.connections == 1
    await client.close()


# Lost connections and invalid replies


def faults_of(replies: Any) -> dict[str, list[Any]]:
    reply_bytes = replies.answer("Hello")
    return {
        "reset": ["reset"],
        "closed at once": ["close"],
        "half a head": [reply_bytes[:20], "close"],
        "half a body": [reply_bytes[:-30], "close"],
        "half a body, then reset": [reply_bytes[:-30], "reset"],
        "no http": [b"\x00\xff\x16\x03\x01 no http at all\r\n\r\n", "close"],
        "a chunk without its size": [
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
            "close",
        ],
        "no gzip": [replies.reply(b"plain", headers={"content-encoding": "gzip"})],
    }


@pytest.mark.parametrize(
    "fault", sorted(faults_of(type("_", (), {"answer": lambda *_: b"", "reply": lambda *_, **__: b""})()))
)
@pytest.mark.parametrize("streaming", [False, True])
async def test_lost_connection_is_transient(
    transport: Open, scripted: Any, replies: Any, fault: str, streaming: bool
) -> None:
    server, client = scripted(faults_of(replies)[fault], [replies.answer("again")]), transport()
    answer = await client.send(call(server.url, stream=streaming))
    error = failed(answer)
    assert isinstance(error, Disconnected), error
    assert is_transient(error)
    assert server.url in error.message
    assert (answer.attempts, answer.latency_s is not None) == (1, True)
    assert (await client.send(call(server.url))).outcome.unwrap().text == "again"


@pytest.mark.parametrize("body", [b"", b"<html>busy</html>", b"[]", b'{"choices":', b'{"choices":7}', b"\xff\xfe"])
async def test_undecodable_reply_is_malformed_and_not_retried(
    transport: Open, scripted: Any, replies: Any, body: bytes
) -> None:
    error = failed(await transport().send(call(scripted([replies.reply(body)]).url)))
    assert isinstance(error, Malformed)
    assert not is_transient(error)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_html_page_in_place_of_an_answer_is_named_with_its_address(
    is_streamed: bool, transport: Open, scripted: Any, replies: Any
) -> None:
    page = b"<!doctype html><title>Sign in</title>"
    server = scripted([replies.reply(page, headers={"content-type": "text/html; charset=utf-8"})])
    error = failed(await transport().send(call(f"{server.url}/portal?sig=12345678", stream=is_streamed)))
    assert isinstance(error, Malformed)
    assert not is_transient(error)
    assert "Sign in" in error.message
    assert error.message.endswith(f"(content type text/html); the request went to {server.url}/portal/chat/completions")


async def test_key_in_an_error_body_is_redacted(transport: Open, scripted: Any, replies: Any) -> None:
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}).encode()
    error = failed(await transport().send(call(scripted([replies.reply(body, status=401)]).url)))
    assert isinstance(error, AuthFailed)
    assert "[redacted]" in error.message


async def test_undecodable_header_does_not_fail_the_call(transport: Open, scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer(**{"x-request-id": "r\xff1"})])
    response = (await transport().send(call(server.url))).outcome.unwrap()
    assert response.request_id == "r?1"


# Limits of time and size


@pytest.mark.parametrize("streaming", [False, True])
async def test_reply_above_the_size_limit_is_refused_and_its_connection_closed(
    transport: Open, scripted: Any, replies: Any, streaming: bool
) -> None:
    endless = [replies.stream(), *[b"data: {}\n\n" * 1000] * 50, "hang"]
    unending = [replies.reply(b"{" * 100_000, headers={"content-length": "10000000"}), "hang"]
    server = scripted(endless if streaming else unending)
    error = failed(await transport(max_reply_bytes=50_000).send(call(server.url, stream=streaming)))
    assert isinstance(error, Malformed)
    assert "50000 bytes" in error.message
    assert not is_transient(error)
    await wait_for_event(server.disconnected)


async def test_reply_that_decompresses_above_the_limit_is_refused(transport: Open, scripted: Any, replies: Any) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    server = scripted([replies.reply(bomb, headers={"content-encoding": "gzip"})])
    error = failed(await transport(max_reply_bytes=1_000_000).send(call(server.url)))
    assert isinstance(error, Malformed)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("behavior", ["silent", "dripping"])
async def test_timeouts_name_their_limit(
    transport: Open, scripted: Any, replies: Any, streaming: bool, behavior: str
) -> None:
    behaviors = {"silent": ["hang"], "dripping": [replies.stream() if streaming else replies.answer()[:-10], "hang"]}
    server = scripted(behaviors[behavior])
    answer = await transport(timeout=Timeout(total_s=0.2)).send(call(server.url, stream=streaming))
    error = failed(answer)
    assert isinstance(error, TimedOut)
    assert is_transient(error)
    assert "0.2 s" in error.message
    assert server.url in error.message
    assert answer.latency_s is not None
    assert answer.latency_s >= 0.2
    await wait_for_event(server.disconnected)


async def test_timeout_affects_only_its_own_call(transport: Open, scripted: Any, replies: Any) -> None:
    slow, quick, client = (
        scripted(["hang"]),
        scripted([replies.answer()]),
        transport(timeout=Timeout(total_s=0.3)),
    )
    late = asyncio.create_task(client.send(call(slow.url)))
    while not late.done():
        assert is_successful((await client.send(call(quick.url))).outcome)
    assert isinstance(failed(await late), TimedOut)


async def test_cancellation_is_not_a_timeout(transport: Open, scripted: Any) -> None:
    server, client = scripted(["hang"]), transport(timeout=Timeout(total_s=60))
    task = asyncio.create_task(client.send(call(server.url)))
    await wait_for_event(server.received)
    assert set(client.in_flight) == {task}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not client.in_flight
    await wait_for_event(server.disconnected)


# Streams


async def test_stream_chunks_are_delivered_as_they_arrive(transport: Open, scripted: Any, replies: Any) -> None:
    seen: list[StreamChunk] = []
    first = threading.Event()

    def watch(chunk: StreamChunk) -> None:
        seen.append(chunk)
        first.set()

    # The second word is not sent until the first was seen.
    events = [
        replies.event("Hel"),
        first,
        replies.event("lo"),
        replies.event(finish="stop"),
        b"data: [DONE]\n\n",
        "close",
    ]
    server = scripted([replies.stream(), *events])
    answer = await transport().send(call(server.url, on_chunk=watch))
    response = answer.outcome.unwrap()
    assert response.text == "Hello"
    assert [chunk.text for chunk in seen] == ["Hel", "lo"]
    assert answer.ttft_s is not None
    assert answer.latency_s is not None
    assert 0 < answer.ttft_s < answer.latency_s
    assert json.loads(server.bodies[0])["stream"] is True


async def test_ttft_ignores_empty_chunks(transport: Open, scripted: Any, replies: Any) -> None:
    """Providers open a stream with an empty text long before the first token."""
    seen: list[StreamChunk] = []
    open_transport = threading.Event()
    server = scripted([replies.stream(), replies.event(""), open_transport, replies.event("Hi", "stop"), "close"])
    asyncio.get_running_loop().call_later(0.15, open_transport.set)
    answer = await transport().send(call(server.url, on_chunk=seen.append))
    assert answer.ttft_s is not None
    assert answer.ttft_s >= 0.15
    assert [chunk.text for chunk in seen] == ["Hi"]


async def test_empty_stream_has_no_ttft(transport: Open, scripted: Any, replies: Any) -> None:
    server = scripted([replies.stream(), replies.event("", "stop"), "close"])
    answer = await transport().send(call(server.url, stream=True))
    assert answer.outcome.unwrap().text == ""
    assert answer.ttft_s is None


@pytest.mark.parametrize("cut_off", ["close", "reset"])
async def test_interrupted_stream_is_an_error(transport: Open, scripted: Any, replies: Any, cut_off: str) -> None:
    server = scripted([replies.stream(), replies.event("Hel"), cut_off])
    error = failed(await transport().send(call(server.url, stream=True)))
    assert isinstance(error, Disconnected)
    assert is_transient(error)


async def test_stream_with_delivered_chunks_is_not_retried(transport: Open, scripted: Any, replies: Any) -> None:
    server = scripted([replies.stream(), replies.event("Hel"), "close"])
    assert not is_transient(failed(await transport().send(call(server.url, on_chunk=lambda _: None))))
    server = scripted([replies.stream(), "close"])
    assert is_transient(failed(await transport().send(call(server.url, on_chunk=lambda _: None))))


@pytest.mark.parametrize("behavior", ["one document", "an event without its end"])
async def test_on_chunk_receives_the_whole_text(transport: Open, scripted: Any, replies: Any, behavior: str) -> None:
    behaviors = {
        "one document": [replies.answer("Hello")],
        "an event without its end": [replies.stream(), replies.event("Hello", "stop")[:-2], "close"],
    }
    seen: list[StreamChunk] = []
    answer = await transport().send(call(scripted(behaviors[behavior]).url, on_chunk=seen.append))
    assert "".join(chunk.text for chunk in seen) == answer.outcome.unwrap().text == "Hello"


async def test_cancelling_a_stream_closes_its_connection(transport: Open, scripted: Any, replies: Any) -> None:
    seen = asyncio.Event()
    server = scripted([replies.stream(), replies.event("Hel"), "hang"])
    task = asyncio.create_task(transport().send(call(server.url, on_chunk=lambda _: seen.set())))
    await seen.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_for_event(server.disconnected)


async def test_error_reply_to_a_stream_is_decoded(transport: Open, scripted: Any, replies: Any) -> None:
    refused = replies.reply(b'{"error":{"message":"slow down"}}', status=429, headers={"retry-after": "7"})
    error = failed(await transport().send(call(scripted([refused]).url, stream=True)))
    assert (type(error).__name__, error.retry_after_s) == ("RateLimited", 7.0)


# Closing


async def test_close_closes_connections_and_later_calls_open_new_ones(
    transport: Open, scripted: Any, replies: Any
) -> None:
    server, client = scripted([replies.answer()]), transport()
    await client.send(call(server.url))
    await client.close()
    await wait_for_event(server.disconnected)
    await client.close()
    assert is_successful((await client.send(call(server.url))).outcome)
    assert server.connections == 2


async def test_probe_returns_the_status(transport: Open, scripted: Any, replies: Any) -> None:
    server = scripted([replies.reply(b"not found", status=404)])
    assert (await transport().probe("openai", server.url, Endpoint())).unwrap() == 404
    assert b"authorization" not in server.requests[0].lower()
    missing = await transport().probe("openai", f"http://127.0.0.1:{closed_port()}", Endpoint())
    assert isinstance(missing.failure(), Disconnected)
    silent = await transport(timeout=Timeout(total_s=0.1)).probe("openai", scripted(["hang"]).url, Endpoint())
    assert isinstance(silent.failure(), TimedOut)


# Rate limit headers


@pytest.mark.parametrize("status", [200, 429])
async def test_rate_limit_headers_are_returned_with_the_answer(
    status: int, transport: Open, scripted: Any, replies: Any
) -> None:
    use_proxy = {"x-ratelimit-limit-requests": "60", "X-RateLimit-Remaining-Requests": "7", "retry-after": "3"}
    server = scripted([replies.reply(replies.body(), status=status, headers=use_proxy)])
    answer = await transport().send(call(server.url))
    assert answer.limits is not None
    assert (answer.limits.limit_requests, answer.limits.remaining_requests) == (60, 7)
    assert answer.limits.retry_after_s == (None if status == 200 else 3.0)


async def test_rate_limit_headers_of_a_stream_are_returned(transport: Open, scripted: Any, replies: Any) -> None:
    head = replies.stream().replace(b"\r\n\r\n", b"\r\nx-ratelimit-remaining-tokens: 9\r\n\r\n")
    answer = await transport().send(call(scripted([head, "close"]).url, stream=True))
    assert answer.limits is not None
    assert answer.limits.remaining_tokens == 9


async def test_reply_without_rate_limit_headers_has_no_limits(transport: Open, scripted: Any, replies: Any) -> None:
    assert (await transport().send(call(scripted([replies.answer()]).url))).limits is None
    assert (await transport().send(call("http://127.0.0.1:1"))).limits is None

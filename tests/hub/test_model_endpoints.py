"""Endpoints of single models, and what a call reports of the address it went to; over real HTTP."""

from __future__ import annotations

import asyncio
import json
import pickle
from typing import Any

import pytest

import llmhub
from llmhub.config import Settings
from llmhub.engine.transport import Timeout

MODEL = "openai/gpt-4o-mini"
FIRST = {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}


def test_endpoint_of_a_model_takes_precedence_over_its_providers(scripted: Any, replies: Any) -> None:
    own, other = scripted([replies.answer("own")]), scripted([replies.answer("other")])
    endpoints = {
        MODEL: llmhub.Endpoint(base_url=own.url, api_key="k"),
        "openai": llmhub.Endpoint(base_url=other.url, api_key="k"),
    }
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        assert llmhub.complete("q", model=MODEL, hub=hub).text == "own"
        assert llmhub.complete("q", model="openai/gpt-4o", hub=hub).text == "other"
        assert hub.available_providers() == ("openai",)


def test_endpoint_of_a_model_alone_is_enough(scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer("own"), replies.reply(b"{}")])
    endpoints = {MODEL: llmhub.Endpoint(base_url=server.url, api_key="k")}
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        assert llmhub.complete("q", model=MODEL, hub=hub).text == "own"
        health = llmhub.health_check(MODEL, hub=hub)
    assert (health.provider, health.key_accepted) == ("openai", True)


def test_health_of_a_model_is_that_of_its_provider(scripted: Any, replies: Any) -> None:
    server = scripted([replies.reply(b"{}")])
    endpoints = {"openai": llmhub.Endpoint(base_url=server.url, api_key="k")}
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        assert llmhub.health_check(MODEL, hub=hub).ok


def test_unpickled_hub_has_the_key_of_the_models_provider(environ: pytest.MonkeyPatch) -> None:
    endpoint = llmhub.Endpoint(base_url="http://127.0.0.1:1/v1", api_key="own")
    hub = llmhub.Hub(endpoints={MODEL: endpoint}, settings=Settings(), cache=llmhub.MemoryCache())
    pickled = pickle.dumps(hub)
    environ.setenv("OPENAI_API_KEY", "from-the-environment")
    read = pickle.loads(pickled).endpoints[MODEL]
    assert (read.base_url, read.api_key.reveal()) == (endpoint.base_url, "from-the-environment")


def test_404_names_the_address_that_the_caller_chose(scripted: Any, replies: Any) -> None:
    server = scripted([replies.reply(b"Not Found", status=404)])
    endpoints = {"openai": llmhub.Endpoint(base_url=server.url, api_key="k")}
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        error = llmhub.try_complete("q", model=MODEL, hub=hub).failure()
    assert f"{server.url}/chat/completions" in error.message


def test_stream_that_stalls_ends_after_idle_s() -> None:
    """A server sends one piece and then nothing; the call ends by ``idle_s``, far below ``total_s``."""

    async def run() -> llmhub.ConnectorError:
        released = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            piece = f"data: {json.dumps(FIRST)}\n\n".encode()
            writer.write(head + b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await released.wait()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        endpoints = {"openai": llmhub.Endpoint(base_url=url, api_key="k")}
        options: dict[str, Any] = {"timeout": Timeout(idle_s=0.05), "retry": llmhub.Retry(attempts=1)}
        hub = llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=llmhub.MemoryCache(), **options)
        texts: list[str] = []

        async def consume() -> None:
            texts.extend([chunk.text async for chunk in llmhub.astream("q", model=MODEL, hub=hub)])

        with pytest.raises(llmhub.errors.APITimeoutError) as raised:
            await consume()
        released.set()
        server.close()
        hub.close()
        return raised.value

    error = asyncio.run(run())
    assert "nothing arrived for 0.05 s" in str(error)


def test_text_before_a_bad_event_of_the_same_read_is_handed_out(scripted: Any, replies: Any) -> None:
    body = f"data: {json.dumps(FIRST)}\n\ndata: {{{{\n\n".encode()
    server = scripted([replies.reply(body, headers={"content-type": "text/event-stream"})])
    endpoints = {"openai": llmhub.Endpoint(base_url=server.url, api_key="k")}
    texts: list[str] = []
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        chunks = llmhub.stream("q", model=MODEL, hub=hub)
        texts.append(next(chunks).text)
        with pytest.raises(llmhub.errors.MalformedResponseError):
            next(chunks)
    assert texts == ["Hi"]

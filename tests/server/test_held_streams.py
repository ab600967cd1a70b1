"""Five hundred streams at once: each piece reaches the client that it is for, in its order."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from llmhub.core.provider import Endpoint
from llmhub.server.running import RunningService

STREAMS = 500
PIECES = 8
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if reason is None else {}, "finish_reason": reason}
    return chunk(b"data: %b\n\n" % json.dumps({"id": "1", "model": "gpt-4o-mini", "choices": [choice]}).encode())


class HeldProvider:
    """A provider that sends the rest of its streams, piece by piece of all, once every client has its first piece."""

    def __init__(self) -> None:
        self.begun = 0
        self.received = 0
        self.all_have_begun = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length is not None
        asked = json.loads(await reader.readexactly(int(length[1])))
        number = asked["messages"][0]["content"].rpartition(" ")[2]
        self.begun += 1
        writer.write(HEAD + event(f"{number}:0 "))
        await self.all_have_begun.wait()
        for piece in range(1, PIECES):
            writer.write(event(f"{number}:{piece} "))
            await asyncio.sleep(0)  # a piece of the others
        writer.write(event("", "stop") + chunk(b"data: [DONE]\n\n") + chunk(b""))
        await writer.drain()
        writer.close()

    def on_first_piece(self) -> None:
        self.received += 1
        if self.received == STREAMS:
            assert self.begun == STREAMS
            self.all_have_begun.set()


async def read_stream(url: str, number: int, provider: HeldProvider) -> list[str]:
    """Return the pieces of a stream."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    messages = [{"role": "user", "content": f"Say {number}"}]
    body = json.dumps({"model": "openai/gpt-4o-mini", "messages": messages, "stream": True}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    received = await reader.readuntil(b":0 ")
    provider.on_first_piece()
    received += await reader.read()
    writer.close()
    assert received.rstrip().endswith(b"0"), received[-200:]
    return re.findall(r'"content":"(\d+:\d+) "', received.decode())


def test_none_is_lost_or_reordered(serving: Callable[..., RunningService]) -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=STREAMS)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    endpoints = {"openai": Endpoint(base_url=address, api_key="k")}
    hub = {"simulator": None, "endpoints": endpoints, "pool_size": STREAMS}
    url = serving(hub=hub, concurrency=STREAMS).url

    async def hold() -> list[list[str]]:
        provider = HeldProvider()
        server = await asyncio.start_server(provider.answer, sock=listening)
        async with server:
            return await asyncio.gather(*(read_stream(url, number, provider) for number in range(STREAMS)))

    streams = asyncio.run(asyncio.wait_for(hold(), 60))
    assert streams == [[f"{number}:{piece}" for piece in range(PIECES)] for number in range(STREAMS)]

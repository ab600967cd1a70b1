"""A loopback server that answers every request with the same chat completion, at once or after a latency.

It serves to measure clients, so it does as little as possible: an asyncio protocol that finds the end of each request
by its content length. ``python static_server.py --latency 0.2`` prints its URL and serves until it is stopped. A
request for a stream is answered with 100 pieces, ``--interval`` seconds apart. ``GET /left`` returns when a client last
left a stream before its end, in seconds of the system's monotonic clock.

``--nginx PATH`` answers with nginx instead, at once and without streams: it takes less of the cores that the clients
are to be measured on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEXT = "A short answer of a dozen words, the same for every prompt there is."
REPLY = json.dumps(
    {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 14, "total_tokens": 34},
    }
).encode()
PIECES = 100
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(REPLY)


def event(delta: object, reason: str | None = None) -> bytes:
    """Return a piece of a stream as a chunk of the transfer."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": "chatcmpl-benchmark", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
    return chunk(b"data: %b\n\n" % json.dumps({**head, "choices": [choice]}).encode())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST = event({}, "stop") + chunk(b"data: [DONE]\n\n") + chunk(b"")
EVENTS = [*(event({"content": "word "}) for _ in range(PIECES)), LAST]


class Left:
    """When a client last left a stream."""

    at = 0.0


class StaticProtocol(asyncio.Protocol):
    """Answers each complete request on a connection."""

    def __init__(self, latency_s: float, interval_s: float = 0.0) -> None:
        self.latency_s = latency_s
        self.interval_s = interval_s
        self.buffer = b""
        self.streaming: asyncio.Task[None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - of the protocol
        if self.streaming is not None and not self.streaming.done():
            Left.at = time.monotonic()
            self.streaming.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            start = head.find(b"content-length:")
            size = int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
            if len(self.buffer) < end + 4 + size:
                return
            request, self.buffer = self.buffer[: end + 4 + size], self.buffer[end + 4 + size :]
            if request.startswith(b"GET /left "):
                text = b"%f" % Left.at
                head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(text)
                self.transport.write(head + text)  # type: ignore[attr-defined]
            elif b'"stream":true' in request or b'"stream": true' in request:
                self.streaming = asyncio.get_running_loop().create_task(self.stream())
            elif self.latency_s:
                asyncio.get_running_loop().call_later(self.latency_s, self.reply)
            else:
                self.reply()

    async def stream(self) -> None:
        self.transport.write(STREAM_HEAD)  # type: ignore[attr-defined]
        for piece in EVENTS if self.interval_s else [b"".join(EVENTS)]:
            if self.interval_s:
                await asyncio.sleep(self.interval_s)
            self.transport.write(piece)  # type: ignore[attr-defined]

    def reply(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(HEAD + REPLY)  # type: ignore[attr-defined]


NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ default_type application/json; return 200 '{reply}'; }}
  }}
}}
"""


def serve_with_nginx(command: str) -> None:
    """Print the URL and serve until this process is stopped."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        config = Path(folder, "nginx.conf")
        config.write_text(NGINX.format(folder=folder, port=port, reply=REPLY.decode()), encoding="utf-8")
        with subprocess.Popen([command, "-c", str(config)]) as process:
            signal.signal(signal.SIGTERM, lambda *_: process.terminate())
            while process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            sys.stdout.write(f"http://127.0.0.1:{port}\n")
            sys.stdout.flush()


async def serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: StaticProtocol(options.latency, options.interval), "127.0.0.1", 0, backlog=1024
    )
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--interval", type=float, default=0.0)
    parser.add_argument("--nginx", help="the command of nginx, to serve with it")
    options = parser.parse_args()
    if options.nginx:
        serve_with_nginx(options.nginx)
    else:
        asyncio.run(serve(options))


if __name__ == "__main__":
    main()

"""A server that repeats what it is sent: the worst provider to send a secret to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

collect_ignore = ["canaries"]
"""Scripts that tests start in processes of their own."""
SERVED = ("/chat/completions", "/embeddings")
PIECE = 5
"""Characters in a piece of a stream: fewer than a placeholder has."""


class EchoServer:
    """Answers chat completions with the text of the last message, or calls the first tool with it."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                request = json.loads(body)
                server.requests.append(request)
                server.headers.append({**dict(self.headers), ":path": self.path})
                model = request.get("model", self.path)
                if "broken" in model:
                    self.wfile.write(f"HTTP/1.1 {server.headers[-1]}\r\n\r\n".encode())
                    self.close_connection = True
                    return
                is_failure = "fail" in model or not any(path in self.path for path in SERVED)
                status = 400 if is_failure else server.status
                self.send(status, *server.reply(request, server.headers[-1], status))

            def do_GET(self) -> None:
                server.headers.append(dict(self.headers))
                self.send(server.status, b'{"data": []}', "application/json")

            def send(self, status: int, body: bytes, content_type: str) -> None:
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    @property
    def sent(self) -> str:
        """Everything that was received in bodies, as text."""
        return json.dumps(self.requests, ensure_ascii=False)

    def close(self) -> None:
        """Stop."""
        self._http.shutdown()
        self._http.server_close()

    def reply(self, request: dict[str, Any], headers: dict[str, str], status: int) -> tuple[bytes, str]:
        """Return body and content type of the answer to a request."""
        if status != 200:
            message = f"no: {json.dumps(headers)} {json.dumps(request)}"
            return json.dumps({"error": {"message": message, "code": str(headers)}}).encode(), "application/json"
        if "messages" not in request:
            rows = [{"index": index, "embedding": [1.0, 0.5]} for index, _ in enumerate(request["input"])]
            return json.dumps({"data": rows, "usage": {"prompt_tokens": 3}}).encode(), "application/json"
        text = _text(request["messages"][-1])
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if request.get("tools") and request["messages"][-1]["role"] != "tool":
            function = {"name": request["tools"][0]["function"]["name"], "arguments": json.dumps({"to": text})}
            message = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": function}]}
        if request.get("stream"):
            return _events(message, usage), "text/event-stream"
        finish = "tool_calls" if "tool_calls" in message else "stop"
        reply = {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}
        return json.dumps(reply).encode(), "application/json"


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


def _events(message: dict[str, Any], usage: dict[str, int]) -> bytes:
    deltas: list[dict[str, Any]] = []
    text = message.get("content") or ""
    deltas += [{"content": text[start : start + PIECE]} for start in range(0, len(text), PIECE)]
    for index, call in enumerate(message.get("tool_calls", ())):
        arguments = call["function"]["arguments"]
        deltas.append({"tool_calls": [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": arguments[start : start + PIECE]}}]}
            for start in range(0, len(arguments), PIECE)
        ]
    finish = "tool_calls" if "tool_calls" in message else "stop"
    chunks = [{"model": "m", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append({"model": "m", "choices": [], "usage": usage})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n"


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    """Run a server that repeats what it is sent."""
    server = EchoServer()
    yield server
    server.close()

"""Provider with known response times: streams Chat Completions on schedule and records the times.

``python timed_server.py FIRST_S TOKEN_S TOKENS`` prints its address in one line. ``GET /times`` returns, for each
response, the seconds from receiving the request to the first token and to the end. Each chunk holds two tokens, so that
counting chunks gives a wrong number of tokens.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from functools import partial

from aiohttp import web

TIMES: list[tuple[float, float]] = []


def chunk(**fields: object) -> bytes:
    payload = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [],
    }
    return b"data: " + json.dumps(payload | fields).encode() + b"\n\n"


def content_chunk(text: str, finish: str | None = None) -> bytes:
    return chunk(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


async def complete(first_s: float, token_s: float, tokens: int, request: web.Request) -> web.StreamResponse:
    await request.read()
    received_at = time.perf_counter()
    reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await reply.prepare(request)
    first_token_s = 0.0
    for index in range(0, tokens, 2):
        due = received_at + first_s + index * token_s
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await reply.write(content_chunk("word word "))
        first_token_s = first_token_s or time.perf_counter() - received_at
    due = received_at + first_s + (tokens - 1) * token_s
    await asyncio.sleep(max(0.0, due - time.perf_counter()))
    usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": tokens + 10}
    await reply.write(content_chunk("", "stop") + chunk(usage=usage) + b"data: [DONE]\n\n")
    TIMES.append((first_token_s, time.perf_counter() - received_at))
    await reply.write_eof()
    return reply


async def times(_: web.Request) -> web.Response:
    return web.json_response(TIMES)


async def main() -> None:
    app = web.Application()
    handler = partial(complete, float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
    app.add_routes([web.post("/v1/chat/completions", handler), web.get("/times", times)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sys.stdout.write(f"{runner.addresses[0][0]}:{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

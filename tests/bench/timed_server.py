"""A provider whose times are known: streams Chat Completions by the clock and keeps a diary.

``python timed_server.py FIRST_S TOKEN_S TOKENS`` prints its address in a line. ``GET /diary`` gives, for each answer,
seconds from having the request to the first token and to the end. Two tokens go into one piece: pieces are no tokens.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from functools import partial

from aiohttp import web

DIARY: list[tuple[float, float]] = []


def piece(**more: object) -> bytes:
    chunk = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [],
    }
    return b"data: " + json.dumps(chunk | more).encode() + b"\n\n"


def said(text: str, finish: str | None = None) -> bytes:
    return piece(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


async def complete(first_s: float, token_s: float, tokens: int, request: web.Request) -> web.StreamResponse:
    await request.read()
    begun = time.perf_counter()
    reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await reply.prepare(request)
    first = 0.0
    for at in range(0, tokens, 2):
        due = begun + first_s + at * token_s
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await reply.write(said("word word "))
        first = first or time.perf_counter() - begun
    due = begun + first_s + (tokens - 1) * token_s
    await asyncio.sleep(max(0.0, due - time.perf_counter()))
    usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": tokens + 10}
    await reply.write(said("", "stop") + piece(usage=usage) + b"data: [DONE]\n\n")
    DIARY.append((first, time.perf_counter() - begun))
    await reply.write_eof()
    return reply


async def diary(_: web.Request) -> web.Response:
    return web.json_response(DIARY)


async def main() -> None:
    app = web.Application()
    answer = partial(complete, float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
    app.add_routes([web.post("/v1/chat/completions", answer), web.get("/diary", diary)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sys.stdout.write(f"{runner.addresses[0][0]}:{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

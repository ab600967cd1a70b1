"""Embeddings beside a bounded aiohttp loop: texts a second, bytes on the wire, and what a text that is too long costs.

Run ``python benchmarks/embeddings.py --texts 100000``. A server in a process of its own answers every text with the
same vector, at once or after a latency; both clients send the same packs with as many in flight, and end with one
matrix of float32. Wall times depend on what else runs: the ratio within the same run is what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np

import llmhub
from llmhub.config import Settings

MODEL = "text-embedding-3-small"
DIMENSIONS = 1536
PACK = 256
IN_FLIGHT = 16
MAX_CHARACTERS = 4 * 8192
TOO_LONG = b"This model's maximum context length is 8192 tokens"


class Body(msgspec.Struct):
    """The part of a request that the server reads."""

    input: list[str]
    encoding_format: str = "float"


class EmbeddingServer(asyncio.Protocol):
    """Answers each complete request on a connection with vectors, the same for every text."""

    replies: dict[tuple[int, str], bytes] = {}  # noqa: RUF012 - one server a process
    decode = msgspec.json.Decoder(Body).decode
    vector = np.random.default_rng(7).standard_normal(DIMENSIONS).astype("<f4") / 40

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s
        self.buffer = b""

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
            body = self.buffer[end + 4 : end + 4 + size]
            self.buffer = self.buffer[end + 4 + size :]
            reply = self.reply_to(type(self).decode(body))
            if self.latency_s:
                asyncio.get_running_loop().call_later(self.latency_s, self.transport.write, reply)  # type: ignore[attr-defined]
            else:
                self.transport.write(reply)  # type: ignore[attr-defined]

    def reply_to(self, body: Body) -> bytes:
        if max(map(len, body.input)) > MAX_CHARACTERS:
            error = json.dumps({"error": {"message": TOO_LONG.decode(), "type": "invalid_request_error"}}).encode()
            return b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n%b" % (len(error), error)
        key = (len(body.input), body.encoding_format)
        if key not in self.replies:
            is_base64 = body.encoding_format == "base64"
            vector: Any = base64.b64encode(self.vector.tobytes()).decode() if is_base64 else self.vector.tolist()
            data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(key[0])]
            usage = {"prompt_tokens": 10 * key[0], "total_tokens": 10 * key[0]}
            reply = json.dumps({"object": "list", "data": data, "model": MODEL, "usage": usage}).encode()
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(reply)
            self.replies[key] = head + reply
        return self.replies[key]


async def serve(latency_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: EmbeddingServer(latency_s), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


@contextmanager
def running_server(latency_s: float) -> Iterator[str]:
    command = [sys.executable, __file__, "--serve", "--latency", str(latency_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


async def bounded_loop(url: str, texts: list[str]) -> np.ndarray[Any, Any]:
    """Send packs from a bounded number of tasks, and decode their vectors into one matrix."""
    matrix = np.empty((len(texts), DIMENSIONS), np.float32)
    starts = iter(range(0, len(texts), PACK))

    async def work(session: aiohttp.ClientSession) -> None:
        for start in starts:
            pack = texts[start : start + PACK]
            body = {"model": MODEL, "input": pack, "encoding_format": "base64"}
            async with session.post(f"{url}/embeddings", data=json.dumps(body).encode()) as reply:
                answer = json.loads(await reply.read())
            for item in answer["data"]:
                matrix[start + item["index"]] = np.frombuffer(base64.b64decode(item["embedding"]), np.float32)

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(work(session))
    return matrix


def measure(url: str, texts: list[str], rounds: int) -> None:
    endpoints = {"openai": llmhub.Endpoint(base_url=url, api_key="k")}
    options: dict[str, Any] = {"model": f"openai/{MODEL}", "progress": False, "concurrency": IN_FLIGHT}
    ours, theirs, cpu = [], [], []
    for _ in range(rounds):  # in turns, so that both see the same machine
        started = time.perf_counter()
        matrix = asyncio.run(bounded_loop(url, texts))
        theirs.append(len(texts) / (time.perf_counter() - started))
        with llmhub.Hub(endpoints=endpoints, settings=Settings(), adaptive=False) as hub:
            llmhub.embed(["warm"], hub=hub, **options)
            started, used = time.perf_counter(), time.process_time()
            found = llmhub.embed(texts, hub=hub, **options)
            ours.append(len(texts) / (time.perf_counter() - started))
            cpu.append(len(texts) / (time.process_time() - used))
        assert np.array_equal(found, matrix)
        del found, matrix
    print(f"aiohttp loop        {statistics.median(theirs):>9,.0f} texts/s")
    print(f"llmhub, no cache    {statistics.median(ours):>9,.0f} texts/s")
    print(f"by its own CPU      {statistics.median(cpu):>9,.0f} texts/s")
    ratios = sorted(own / other for own, other in zip(ours, theirs, strict=True))
    print(f"ratio               {statistics.median(ratios):>9.2f}   (from {ratios[0]:.2f} to {ratios[-1]:.2f})")
    with tempfile.TemporaryDirectory() as folder:
        cache = llmhub.DiskCache(Path(folder) / "c.db")
        with llmhub.Hub(endpoints=endpoints, settings=Settings(), adaptive=False, cache=cache) as hub:
            for name in ("llmhub, to disk", "llmhub, from disk"):
                started = time.perf_counter()
                llmhub.embed(texts, hub=hub, **options)
                print(f"{name:<19} {len(texts) / (time.perf_counter() - started):>9,.0f} texts/s")
            sent = llmhub.ledger(hub=hub).num_rows
            print(f"requests of both    {sent:>9,}   ({len(texts) / PACK:,.0f} packs)")


def measure_sizes() -> None:
    """Compare the bytes of a reply with base64 to those with numbers, as OpenAI prints them."""
    server = EmbeddingServer(0.0)
    sizes = {name: len(server.reply_to(Body(["a"] * PACK, name))) for name in ("float", "base64")}
    print(
        f"base64 / JSON       {sizes['base64'] / sizes['float']:>9.2f}   of {sizes['float'] / PACK:,.0f} bytes a text"
    )


def measure_poison(url: str) -> None:
    endpoints = {"openai": llmhub.Endpoint(base_url=url, api_key="k")}
    texts = [f"text {index}" for index in range(PACK)]
    texts[PACK // 3] = "x" * (MAX_CHARACTERS + 1)
    with tempfile.TemporaryDirectory() as folder:
        cache = llmhub.DiskCache(Path(folder) / "c.db")
        with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=cache) as hub:
            table = llmhub.embed_table({"t": texts}, "t", model=f"openai/{MODEL}", hub=hub, progress=False)
            failed = table.column("status").to_pylist().count("error")
            sent = llmhub.ledger(hub=hub).num_rows
    print(f"one text too long   {sent - 1:>9}   more requests for a pack of {PACK}; {failed} row failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds until each reply")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.latency))
        return
    texts = [f"A text of a few words, number {index}, about harbours and lanterns." for index in range(options.texts)]
    with running_server(options.latency) as url:
        measure(url, texts, options.rounds)
        measure_poison(url)
    measure_sizes()
    print(f"peak memory         {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:>9,.0f} MB")


if __name__ == "__main__":
    main()

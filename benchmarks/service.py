"""Measure ``llmhub serve``: latency over a direct call, throughput, CPU, memory, streams, and cancellation.

``python benchmarks/service.py`` starts a static provider, the service without a cache and the service with a
`DiskCache` and its ledger, each in a process of its own, and prints what each costs. Arms take turns within each round,
and medians of the rounds are printed, since other programs share the machine; CPU time is that of the service's process
and varies less.

``--litellm PATH`` adds LiteLLM's proxy before the same provider as an arm; ``PATH`` is the command ``litellm`` of an
environment with ``litellm[proxy]``. ``--other URL --other-model NAME`` adds any other OpenAI-compatible proxy, whose
provider is at the address that this script prints.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).parent
ENVIRONMENT = dict(os.environ)  # noqa: TID251 - that of the processes to start
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)
"""Environment of the processes to start, whose modules are compiled once, as those of an installed package are."""
MODEL = "openai/gpt-4o-mini"
PATH = "/v1/chat/completions"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Arm:
    """An address to measure, and the process behind it."""

    name: str
    url: str
    model: str = MODEL
    process: subprocess.Popen[str] | None = None
    sent: int = 0

    def body(self, *, stream: bool = False) -> bytes:
        """Return a request that no other equals, so that none is answered from the cache."""
        self.sent += 1
        messages = [{"role": "user", "content": f"Say {self.name} {self.sent}"}]
        return json.dumps({"model": self.model, "messages": messages, "stream": stream}).encode()

    def cpu_s(self) -> float:
        """Return the CPU time of the process so far."""
        if self.process is None:
            return 0.0
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def memory_mb(self) -> float:
        if self.process is None:
            return 0.0
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * PAGE_BYTES / 1e6


@contextmanager
def provider(*arguments: str) -> Iterator[str]:
    """Run the static provider."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "static_server.py"), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


@contextmanager
def service(name: str, provider_url: str, cache: str) -> Iterator[tuple[Arm, float]]:
    """Run the service before a provider; yield it with the seconds until it was ready."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "llmhub", "serve", "--port", "0", "--cache", cache],
        stderr=subprocess.PIPE,
        text=True,
        env={
            **ENVIRONMENT,
            "OPENAI_API_KEY": "sk-proj-benchmark-0123456789abcdef",  # as long as real ones: replies are searched for it
            "OPENAI_BASE_URL": f"{provider_url}/v1",
            "PYTHONPATH": str(HERE.parent),
        },
    )
    assert process.stderr is not None
    try:
        found = None
        while found is None:
            found = re.search(r"listening on (\S+)", process.stderr.readline())
        yield Arm(name, found[1], process=process), time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


@contextmanager
def litellm(command: str, provider_url: str, folder: str) -> Iterator[Arm]:
    """Run LiteLLM's proxy before a provider, without a database and without logs."""
    config = Path(folder, "proxy.yaml")
    model = {"model": MODEL, "api_base": f"{provider_url}/v1", "api_key": "sk-proj-benchmark-0123456789abcdef"}
    config.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": model}]}), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    process = subprocess.Popen(
        [command, "--config", str(config), "--host", "127.0.0.1", "--port", port],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env={
            **ENVIRONMENT,
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        },
    )
    try:
        while True:
            assert process.poll() is None, f"{command} ended before it listened"
            try:
                socket.create_connection(("127.0.0.1", int(port))).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.2)
        yield Arm("litellm", f"http://127.0.0.1:{port}", process=process)
    finally:
        process.terminate()
        process.wait()


class Connection:
    """One HTTP connection that sends requests and reads their replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> Connection:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    def send(self, body: bytes) -> None:
        head = (
            f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)

    async def reply(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        size = re.search(rb"content-length: (\d+)", head.lower())
        assert size is not None
        return await self.reader.readexactly(int(size[1]))

    async def stream(self) -> float:
        """Read a stream to its end; return when its first content came."""
        received, first = b"", 0.0
        while not received.endswith(b"0\r\n\r\n"):
            piece = await self.reader.read(65_536)
            assert piece
            received = received[-64:] + piece
            if not first and b"word" in piece:
                first = time.perf_counter()
        return first


async def latency_ms(arm: Arm, count: int) -> float:
    """Return the median latency of calls in turn."""
    connection = await Connection.open(arm.url)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        connection.send(arm.body())
        await connection.reply()
        times.append(time.perf_counter() - began)
    connection.writer.close()
    return 1e3 * statistics.median(times)


async def throughput(arm: Arm, connections: int, seconds: float) -> tuple[float, float]:
    """Return requests per second, and microseconds of CPU per request."""
    opened = [await Connection.open(arm.url) for _ in range(connections)]
    cpu, began = arm.cpu_s(), time.perf_counter()

    async def loop(connection: Connection) -> int:
        count = 0
        while time.perf_counter() - began < seconds:
            connection.send(arm.body())
            await connection.reply()
            count += 1
        return count

    total = sum(await asyncio.gather(*map(loop, opened)))
    elapsed, cpu = time.perf_counter() - began, arm.cpu_s() - cpu
    for connection in opened:
        connection.writer.close()
    return total / elapsed, 1e6 * cpu / total


async def piece_us(arm: Arm, streams: int) -> float:
    """Return microseconds of CPU per piece of streams, sixteen at a time."""
    gate = asyncio.Semaphore(16)
    cpu = arm.cpu_s()

    async def one() -> None:
        async with gate:
            connection = await Connection.open(arm.url)
            connection.send(arm.body(stream=True))
            await connection.stream()
            connection.writer.close()

    await asyncio.gather(*(one() for _ in range(streams)))
    return 1e6 * (arm.cpu_s() - cpu) / (streams * 100)


async def first_token_ms(arm: Arm, streams: int, per_s: float) -> float:
    """Return the median time to the first token of streams that arrive at a rate."""

    async def one(number: int) -> float:
        await asyncio.sleep(number / per_s)
        connection = await Connection.open(arm.url)
        began = time.perf_counter()
        connection.send(arm.body(stream=True))
        first = await connection.stream()
        connection.writer.close()
        return first - began

    return 1e3 * statistics.median(await asyncio.gather(*map(one, range(streams))))


async def cancellation_ms(arm: Arm, provider_url: str, count: int) -> float:
    """Return the median time from when a client leaves a stream until the provider's request ends."""
    times = []
    for _ in range(count):
        connection = await Connection.open(arm.url)
        connection.send(arm.body(stream=True))
        await connection.reader.readuntil(b"word")
        left = time.monotonic()
        connection.writer.transport.abort()
        ended = 0.0
        while ended < left:
            await asyncio.sleep(0.002)
            asked = await Connection.open(provider_url)
            asked.writer.write(b"GET /left HTTP/1.1\r\nhost: x\r\n\r\n")
            ended = float(await asked.reply())
            asked.writer.close()
        times.append(ended - left)
    return 1e3 * statistics.median(times)


async def measure(options: argparse.Namespace, arms: list[Arm], direct: Arm, result: dict[str, Any]) -> None:
    """Measure calls that are not streamed, in rounds of all arms."""
    for arm in [direct, *arms]:
        await throughput(arm, 4, 0.3)
    rounds: list[dict[tuple[str, str], float]] = []
    for _ in range(options.rounds):
        row: dict[tuple[str, str], float] = {}
        for arm in [direct, *arms]:
            row[arm.name, "p50_ms"] = await latency_ms(arm, options.calls)
            row[arm.name, "rps"], row[arm.name, "cpu_us"] = await throughput(arm, 16, options.seconds)
        rounds.append(row)
    for arm in [direct, *arms]:
        values = {
            name: statistics.median(row[arm.name, name] for row in rounds) for name in ("p50_ms", "rps", "cpu_us")
        }
        values["p50_over_direct_ms"] = statistics.median(
            row[arm.name, "p50_ms"] - row[direct.name, "p50_ms"] for row in rounds
        )
        result[arm.name] = {**result.get(arm.name, {}), **values}


async def measure_memory(arm: Arm, requests: int) -> tuple[float, float]:
    """Return the memory after a tenth of the requests, and after all."""
    seen = []
    for count in (requests // 10, requests - requests // 10):
        opened = [await Connection.open(arm.url) for _ in range(16)]

        async def loop(connection: Connection, count: int) -> None:
            for _ in range(count):
                connection.send(arm.body())
                await connection.reply()
            connection.writer.close()

        await asyncio.gather(*(loop(connection, count // 16) for connection in opened))
        seen.append(arm.memory_mb())
    return seen[0], seen[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--requests", type=int, default=20_000, help="of the memory test; 0 for none")
    parser.add_argument("--litellm", help="the command of LiteLLM's proxy, to measure it too")
    parser.add_argument("--other", help="address of another proxy before the provider")
    parser.add_argument("--other-model", default="gpt-4o-mini")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, provider() as static, provider("--interval", "0.02") as paced:
        with service("compiles the modules", static, "none"):
            pass
        with (
            service("no cache", static, "none") as (plain, plain_start_s),
            service("ledger", static, f"{folder}/runs.db") as (ledger, ledger_start_s),
            ExitStack() as stack,
        ):
            print(f"provider: {static}/v1")
            result = {
                "no cache": {"start_s": plain_start_s, "idle_mb": plain.memory_mb()},
                "ledger": {"start_s": ledger_start_s, "idle_mb": ledger.memory_mb()},
            }
            others = [Arm("other", options.other, options.other_model)] if options.other else []
            if options.litellm:
                others.append(stack.enter_context(litellm(options.litellm, static, folder)))
            direct = Arm("direct", static, "gpt-4o-mini")
            asyncio.run(measure(options, [plain, ledger, *others], direct, result))
            if options.litellm:
                for name in ("no cache", "ledger"):
                    result[name]["times_litellm"] = result[name]["rps"] / result["litellm"]["rps"]
            result["no cache"]["piece_us"] = asyncio.run(piece_us(plain, options.streams))
            if options.requests:
                early, late = asyncio.run(measure_memory(plain, options.requests))
                result["no cache"] |= {"mb_after_a_tenth": early, "mb_after_all": late}
        with service("paced", paced, "none") as (arm, _):
            direct = Arm("direct", paced, "gpt-4o-mini")
            asyncio.run(first_token_ms(arm, 10, 100.0))
            rounds = [
                (
                    asyncio.run(first_token_ms(direct, options.streams, 100.0)),
                    asyncio.run(first_token_ms(arm, options.streams, 100.0)),
                )
                for _ in range(options.rounds)
            ]
            result["paced"] = {
                "ttft_direct_ms": statistics.median(each for each, _ in rounds),
                "ttft_over_direct_ms": statistics.median(through - straight for straight, through in rounds),
                "cancelled_after_ms": asyncio.run(cancellation_ms(arm, paced, 20)),
            }
    for name, values in result.items():
        print(f"{name:10}", "  ".join(f"{key} {value:.3f}" for key, value in values.items()))


if __name__ == "__main__":
    main()

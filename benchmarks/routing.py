"""Routes while one of three providers dies and another slows tenfold: no row lost, and the pace soon back.

``python benchmarks/routing.py`` runs each route once against three servers in processes of their own and prints rows
lost, the pace before and after, and how soon it was back; then what a route costs a call, beside the same chain
without one, in turns. What the living permit is as much as before: one quick provider is enough for all calls under
way. ``--json CONFIG_FILE`` keeps the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from static_server import StaticProtocol

import llmhub
from llmhub.config import Settings

LATENCY_S, CONCURRENCY = 0.2, 32
PERMITTED = CONCURRENCY / LATENCY_S
"""Rows a second that one quick provider lets through."""
BREAKS_S, ENDS_S = 6.0, 20.0
A, B, C = "compatible/m", "vllm/m", "openai/m"


class Slowing(StaticProtocol):
    """Takes ten times as long from a signal on."""

    factor = 1

    def data_received(self, data: bytes) -> None:
        self.latency_s = LATENCY_S * Slowing.factor
        super().data_received(data)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: setattr(Slowing, "factor", 10))
    server = await loop.create_server(lambda: Slowing(LATENCY_S), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


@contextmanager
def started(names: tuple[str, ...]) -> Iterator[dict[str, tuple[str, subprocess.Popen[str]]]]:
    """Start a server for each, and give their addresses and processes."""
    with ExitStack() as stack:
        servers = {}
        for name in names:
            command = [sys.executable, __file__, "--serve"]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            servers[name] = (process.stdout.readline().strip(), process)
        yield servers


@dataclass(frozen=True)
class Figures:
    """What came of one route; paces are shares of what one quick provider permits."""

    route: str
    rows: int
    lost: int
    before: float
    after: float
    back_s: float
    most_attempts: int


def broken(said: str, route: llmhub.Route, dies: str, slows: str) -> Figures:
    """Run rows along a route, break two providers, and measure."""
    rows = int(PERMITTED * ENDS_S)
    table = pa.table({"text": [f"How many vowels has the {row}th word?" for row in range(rows)]})
    marks: list[tuple[float, int]] = []
    with started((A, B, C)) as servers:
        endpoints = {
            name.partition("/")[0]: llmhub.Endpoint(base_url=f"{url}/v1", api_key="k")
            for name, (url, _) in servers.items()
        }
        start = time.perf_counter()
        left = {servers[dies][1]: signal.SIGKILL, servers[slows][1]: signal.SIGUSR1}

        def watch(progress: Any) -> None:
            now = time.perf_counter() - start
            marks.append((now, progress.done))
            if now >= BREAKS_S:
                while left:
                    process, how = left.popitem()
                    process.send_signal(how)

        with llmhub.Hub(endpoints=endpoints, settings=Settings(), route={"way": route}) as hub:
            done = llmhub.complete_table(table, "{text}", model="way", hub=hub, concurrency=CONCURRENCY, progress=watch)
    before = pace(marks, 1.0, BREAKS_S)
    lost = rows - done.column("status").to_pylist().count("ok")
    return Figures(
        route=said,
        rows=rows,
        lost=lost,
        before=before / PERMITTED,
        after=pace(marks, BREAKS_S + 5, marks[-1][0] - 0.5) / PERMITTED,
        back_s=next(
            (at - BREAKS_S for at, _ in marks if at > BREAKS_S and pace(marks, at, at + 1) >= 0.9 * before),
            float("inf"),
        ),
        most_attempts=max(done.column("attempts").to_pylist()),
    )


def pace(marks: list[tuple[float, int]], begin_s: float, end_s: float) -> float:
    """Give rows a second between two moments."""
    inside = [(at, done) for at, done in marks if begin_s <= at <= end_s]
    if len(inside) < 2:
        return 0.0
    return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


def overhead(rows: int = 4000) -> dict[str, float]:
    """Give microseconds a row with and without a route, in turns against one server that answers at once."""
    command = [sys.executable, str(Path(__file__).parent / "static_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        endpoints = {"openai": llmhub.Endpoint(base_url=f"{url}/v1", api_key="k")}
        table = pa.table({"text": [f"row {row}" for row in range(rows)]})
        ways = {
            "without": (None, "openai/gpt-4o-mini"),
            "failover": (llmhub.Failover("openai/gpt-4o-mini", "openai/gpt-4o"), "openai/gpt-4o-mini"),
            "low latency, by name": ({"way": llmhub.LowLatency("openai/gpt-4o-mini", "openai/gpt-4o")}, "way"),
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(5):
            for name, (route, model) in ways.items():
                with llmhub.Hub(endpoints=endpoints, settings=Settings(), route=route) as hub:
                    start = time.perf_counter()
                    llmhub.complete_table(table, "{text}", model=model, hub=hub, progress=False)
                    took[name].append((time.perf_counter() - start) / rows * 1e6)
        server.kill()
    return {name: min(times) for name, times in took.items()}


CASES = (
    ("LowLatency, the first dies, the second slows", llmhub.LowLatency(A, B, C), A, B),
    ("LowLatency, the third dies, the first slows", llmhub.LowLatency(A, B, C), C, A),
    ("Failover, the first dies, the third slows", llmhub.Failover(A, B, C), A, C),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve())
        return
    figures: list[Any] = []
    for case in CASES:
        found = broken(*case)
        figures.append(asdict(found))
        print(
            f"{found.route}: {found.lost} of {found.rows:,} rows lost, at most {found.most_attempts} attempts; "
            f"pace {found.before:.2f} of what is permitted before, {found.after:.2f} from 5 s after on "
            f"({found.after / found.before:.2f} of it), back at 0.9 of it in {found.back_s:.1f} s"
        )
    costs = overhead()
    print("; ".join(f"{name}: {micros:.0f} us a row" for name, micros in costs.items()))
    if given.json:
        given.json.write_text(json.dumps({"broken": figures, "overhead_us": costs}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

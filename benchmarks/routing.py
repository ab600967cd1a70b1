"""Measure routes while one of three providers fails for good and another becomes ten times slower.

``python benchmarks/routing.py`` runs each route against three server processes and prints the rows lost, the throughput
before and after the outage, and the time to recover; then the overhead of a route per row, compared with no route.
One healthy provider has enough capacity for all calls in flight. ``--json FILE`` writes the figures to a file.
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
ALLOWED_PER_S = CONCURRENCY / LATENCY_S
"""Rows per second that one healthy provider can answer."""
OUTAGE_AT_S, DURATION_S = 6.0, 20.0
A, B, C = "compatible/m", "vllm/m", "openai/m"


class SlowableProtocol(StaticProtocol):
    """A server that becomes ten times slower on a signal."""

    factor = 1

    def data_received(self, data: bytes) -> None:
        self.latency_s = LATENCY_S * SlowableProtocol.factor
        super().data_received(data)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: setattr(SlowableProtocol, "factor", 10))
    server = await loop.create_server(lambda: SlowableProtocol(LATENCY_S), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


@contextmanager
def running_servers(names: tuple[str, ...]) -> Iterator[dict[str, tuple[str, subprocess.Popen[str]]]]:
    """Start a server for each name; yield their URLs and processes."""
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
    """The figures of one route; throughputs are shares of what one healthy provider can answer."""

    route: str
    rows: int
    lost: int
    before: float
    after: float
    recovery_s: float
    max_attempts: int


def measure_outage(title: str, route: llmhub.Route, dies: str, slows: str) -> Figures:
    """Run rows along a route, disturb two providers, and measure."""
    rows = int(ALLOWED_PER_S * DURATION_S)
    table = pa.table({"text": [f"How many vowels has the {row}th word?" for row in range(rows)]})
    marks: list[tuple[float, int]] = []
    with running_servers((A, B, C)) as servers:
        endpoints = {
            name.partition("/")[0]: llmhub.Endpoint(base_url=f"{url}/v1", api_key="k")
            for name, (url, _) in servers.items()
        }
        start = time.perf_counter()
        signals = {servers[dies][1]: signal.SIGKILL, servers[slows][1]: signal.SIGUSR1}

        def on_progress(progress: Any) -> None:
            now = time.perf_counter() - start
            marks.append((now, progress.done))
            if now >= OUTAGE_AT_S:
                while signals:
                    process, signal_number = signals.popitem()
                    process.send_signal(signal_number)

        with llmhub.Hub(endpoints=endpoints, settings=Settings(), route={"route": route}) as hub:
            done = llmhub.complete_table(
                table, "{text}", model="route", hub=hub, concurrency=CONCURRENCY, progress=on_progress
            )
    before = rows_per_s(marks, 1.0, OUTAGE_AT_S)
    lost = rows - done.column("status").to_pylist().count("ok")
    return Figures(
        route=title,
        rows=rows,
        lost=lost,
        before=before / ALLOWED_PER_S,
        after=rows_per_s(marks, OUTAGE_AT_S + 5, marks[-1][0] - 0.5) / ALLOWED_PER_S,
        recovery_s=next(
            (at - OUTAGE_AT_S for at, _ in marks if at > OUTAGE_AT_S and rows_per_s(marks, at, at + 1) >= 0.9 * before),
            float("inf"),
        ),
        max_attempts=max(done.column("attempts").to_pylist()),
    )


def rows_per_s(marks: list[tuple[float, int]], begin_s: float, end_s: float) -> float:
    """Return the rows per second between two moments."""
    inside = [(at, done) for at, done in marks if begin_s <= at <= end_s]
    if len(inside) < 2:
        return 0.0
    return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


def overhead(rows: int = 4000) -> dict[str, float]:
    """Return microseconds per row with and without a route, alternating, against a server that answers at once."""
    command = [sys.executable, str(Path(__file__).parent / "static_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        endpoints = {"openai": llmhub.Endpoint(base_url=f"{url}/v1", api_key="k")}
        table = pa.table({"text": [f"row {row}" for row in range(rows)]})
        variants = {
            "without": (None, "openai/gpt-4o-mini"),
            "failover": (llmhub.Failover("openai/gpt-4o-mini", "openai/gpt-4o"), "openai/gpt-4o-mini"),
            "low latency, by name": ({"route": llmhub.LowLatency("openai/gpt-4o-mini", "openai/gpt-4o")}, "route"),
        }
        times_us: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(5):
            for name, (route, model) in variants.items():
                with llmhub.Hub(endpoints=endpoints, settings=Settings(), route=route) as hub:
                    start = time.perf_counter()
                    llmhub.complete_table(table, "{text}", model=model, hub=hub, progress=False)
                    times_us[name].append((time.perf_counter() - start) / rows * 1e6)
        server.kill()
    return {name: min(times) for name, times in times_us.items()}


CASES = (
    ("LowLatency, first fails, second slows", llmhub.LowLatency(A, B, C), A, B),
    ("LowLatency, third fails, first slows", llmhub.LowLatency(A, B, C), C, A),
    ("Failover, first fails, third slows", llmhub.Failover(A, B, C), A, C),
)


def summary(figures: Figures) -> str:
    return (
        f"{figures.route}: {figures.lost} of {figures.rows:,} rows lost, at most {figures.max_attempts} attempts; "
        f"throughput {figures.before:.2f} of one provider before, {figures.after:.2f} from 5 s after the outage "
        f"({figures.after / figures.before:.2f} of it), back to 0.9 of it in {figures.recovery_s:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve())
        return
    figures: list[Any] = []
    for case in CASES:
        case_figures = measure_outage(*case)
        figures.append(asdict(case_figures))
        print(summary(case_figures))
    costs = overhead()
    print("; ".join(f"{name}: {per_row_us:.0f} us per row" for name, per_row_us in costs.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"outage": figures, "overhead_us": costs}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

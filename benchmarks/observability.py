"""Measure the cost of logs, metrics and traces.

``python benchmarks/observability.py`` prints the CPU time of `complete_table` per row with each of them on and off, and
how late tasks on the event loop wake while a page of metrics is rendered. The provider is a static server in a process
of its own, so that CPU time of this process is what bounds its throughput; unlike wall time, it hardly depends on other
programs of the machine. Many short runs of all arms take turns in random order, and medians of the comparisons within a
round are printed. ``off again`` shows what is left to chance.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import llmhub
from llmhub.engine.event_loop import submit
from llmhub.observability.instruments import INSTRUMENTS, Measurement

MODEL = "openai/gpt-4o-mini"
Stop = Callable[[], object]


class Discard(SpanExporter):
    """An exporter that encodes nothing and sends nothing."""

    def export(self, spans: object) -> SpanExportResult:  # noqa: ARG002 - the interface
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        return None


def off() -> Stop:
    return lambda: None


def metrics() -> Stop:
    return llmhub.metrics.collect(llmhub.metrics.PrometheusCollector())


def logs() -> Stop:
    return llmhub.logging.configure("info", json=True, stream=io.StringIO())


def traces(ratio: float, *, metrics: bool = False) -> Callable[[], Stop]:
    def start() -> Stop:
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(Discard()))
        meters = MeterProvider([InMemoryMetricReader()], exemplar_filter=AlwaysOffExemplarFilter()) if metrics else None
        undo = llmhub.tracing.configure(tracer_provider=provider, meter_provider=meters, ratio=ratio, metrics=metrics)

        def stop() -> None:
            undo()
            provider.shutdown()

        return stop

    return start


def everything() -> Stop:
    stops = [metrics(), logs(), traces(0.1)()]

    def stop() -> None:
        for function in reversed(stops):
            function()

    return stop


ARMS: dict[str, Callable[[], Stop]] = {
    "off": off,
    "off again": off,
    "metrics": metrics,
    "traces 0 %": traces(0.0),
    "traces 10 %": traces(0.1),
    "traces 100 %": traces(1.0),
    "with its metrics": traces(0.1, metrics=True),
    "logs": logs,
    "everything": everything,
}


def one_round(start: Callable[[], Stop], url: str, rows: int) -> float:
    """Return CPU seconds per row of a run with an arm, what is queued for its threads included."""
    endpoint = llmhub.Endpoint(base_url=f"{url}/v1", api_key="k")
    table = {"text": [f"row {number}" for number in range(rows)]}
    with llmhub.Hub(endpoints={"openai": endpoint}, adaptive=False) as hub:
        stop = start()
        llmhub.complete_table({"text": ["warm"]}, "{text}", model=MODEL, hub=hub, progress=False)
        llmhub.observability.flush()
        began = time.process_time()
        llmhub.complete_table(table, "{text}", model=MODEL, hub=hub, progress=False)
        llmhub.observability.flush()
        used = time.process_time() - began
        stop()
    return used / rows


def bench_cost(url: str, rounds: int, rows: int) -> dict[str, dict[str, float]]:
    """Compare each arm with those that observe nothing, within rounds of short runs in random order."""
    cpu: dict[str, list[float]] = {name: [] for name in ARMS}
    order = list(ARMS)
    for number in range(rounds + 1):
        random.shuffle(order)
        for name in order:
            used = one_round(ARMS[name], url, rows)
            if number:  # the first round loads modules and prices
                cpu[name].append(used)
    base = [(one + other) / 2 for one, other in zip(cpu["off"], cpu["off again"], strict=True)]
    return {
        name: {
            "cpu_us_per_row": statistics.median(values) * 1e6,
            "more_cpu_us": statistics.median(used - off for used, off in zip(values, base, strict=True)) * 1e6,
            "more_cpu": statistics.median(used / off for used, off in zip(values, base, strict=True)) - 1,
        }
        for name, values in cpu.items()
    }


def full_collector() -> llmhub.metrics.PrometheusCollector:
    """Return a collector with about as many series as there may be."""
    collector = llmhub.metrics.PrometheusCollector()
    record = collector.collector.record
    by_name = {instrument.name: instrument for instrument in INSTRUMENTS}
    for number in range(60):
        for name in ("llmhub_request_duration_seconds", "llmhub_time_to_first_token_seconds"):
            record(Measurement(by_name[name], ("openai", f"m{number}"), (0.1,)))
    return collector


def bench_scrape(scrapes: int) -> dict[str, float]:
    """Return how late a task on the event loop wakes, at most, while pages of metrics are rendered in a thread."""
    collector = full_collector()
    page = collector.render()
    ended = threading.Event()

    async def tick() -> list[float]:
        late = []
        while not ended.is_set():
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - due)
        return late

    def lateness(work: Callable[[], object]) -> list[float]:
        ended.clear()
        future = submit(tick())
        for _ in range(scrapes):
            work()
            time.sleep(0.01)
        ended.set()
        return sorted(future.result())

    import prometheus_client  # noqa: PLC0415 - only here

    idle = lateness(lambda: time.sleep(0.03))
    ours = lateness(collector.render)
    plain = lateness(lambda: prometheus_client.generate_latest(collector.registry))
    figures = {"series": page.count(b"\n") - page.count(b"#"), "page_kb": len(page) / 1000}
    for name, values in (("idle", idle), ("render", ours), ("generate_latest in a thread", plain)):
        figures[f"{name}: p50 ms"] = values[len(values) // 2] * 1000
        figures[f"{name}: p99 ms"] = values[int(len(values) * 0.99)] * 1000
        figures[f"{name}: max ms"] = values[-1] * 1000
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--scrapes", type=int, default=30)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    server = Path(__file__).with_name("static_server.py")
    with subprocess.Popen([sys.executable, str(server)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            cost = bench_cost(url, arguments.rounds, arguments.rows)
        finally:
            process.terminate()
    scrape = bench_scrape(arguments.scrapes)
    for name, figures in cost.items():
        print(
            f"{name:17}{figures['cpu_us_per_row']:8.1f} us of CPU a row  {figures['more_cpu_us']:+7.1f} us"
            f"{figures['more_cpu']:+8.1%}"
        )
    for name, value in scrape.items():
        print(f"{name:40}{value:10.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"cost": cost, "scrape": scrape}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

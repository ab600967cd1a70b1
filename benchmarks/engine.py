"""Measure how well the engine uses rate limits and what it costs, against simulated providers over real HTTP.

``python benchmarks/engine.py`` prints every figure; ``--only chain`` selects one; ``--json FILE`` also writes them.
Efficiency is the share of the provider's allowance that was used: its rate times the elapsed time, plus its burst.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
from returns.result import Success

import llmhub
from llmhub.config import Settings
from llmhub.core.types import CompletionRequest, CompletionResponse, Message, Usage
from llmhub.engine import client
from llmhub.engine.call import Answer, Call, Send, Target
from llmhub.engine.event_loop import submit
from llmhub.engine.hedging import InFlightTasks
from llmhub.sim import Faults, Latency, Simulator, serving
from llmhub.sim.limits import SimLimit

MODEL = "openai/gpt-4o-mini"
PROMPT = "Answer in a word: {text}"


def texts(rows: int) -> pa.Table:
    return pa.table({"text": [f"How many vowels has the {i}th word of the dictionary?" for i in range(rows)]})


def run(simulator: Simulator, rows: int, model: str = MODEL, **options: Any) -> tuple[pa.Table, float, dict[str, Any]]:
    """Run rows against a simulator; return the table, the seconds elapsed, and the simulator's counters."""
    with (
        serving(simulator) as served,
        llmhub.Hub(endpoints=served.endpoints(), settings=Settings(), **options) as hub,
    ):
        start = time.perf_counter()
        table = llmhub.complete_table(texts(rows), PROMPT, model=model, hub=hub, progress=False)
        return table, time.perf_counter() - start, served.counts()


def efficiency(table: pa.Table, allowed_per_s: float, burst: float, count: Callable[[pa.Table], float]) -> float:
    """Return the share of the allowance used from the first request to the last."""
    started = [moment.timestamp() for moment in table.column("started_at").to_pylist()]
    return float(count(table) / (burst + allowed_per_s * (max(started) - min(started))))


def requests(table: pa.Table) -> float:
    return float(table.column("status").to_pylist().count("ok"))


def tokens(table: pa.Table) -> float:
    return float(sum(table.column("input_tokens").to_pylist()) + sum(table.column("output_tokens").to_pylist()))


def rate_limited_share(table: pa.Table) -> float:
    """Return the share of requests answered with status 429."""
    sent = sum(table.column("attempts").to_pylist())
    return float((sent - table.num_rows) / sent)


def bench_declared(_runs: int) -> dict[str, float]:
    """Measure the use of declared limits over more than one window of 60 s: requests, tokens, and both."""
    figures: dict[str, float] = {}
    tokens_per_call = tokens(run(Simulator(), 50)[0]) / 50
    for name, rpm, tpm in (
        ("RPM", 1200.0, None),
        ("TPM", None, 1200 * tokens_per_call),
        ("both", 1200.0, 1200 * tokens_per_call),
    ):
        simulator = Simulator(latency=Latency(0.2, 0.3), limit=SimLimit(rpm=rpm, tpm=tpm, burst_s=2.0))
        limits = {"openai": llmhub.Limit(rpm=rpm, tpm=tpm)}
        table, _, _ = run(simulator, 1_400, limits=limits)
        if rpm is not None:
            figures[f"{name}: requests, share of the allowance"] = efficiency(table, rpm / 60, 12, requests)
        if tpm is not None:
            figures[f"{name}: tokens, share of the allowance"] = efficiency(table, tpm / 60, tpm / 100, tokens)
        figures[f"{name}: requests answered 429"] = sum(table.column("attempts").to_pylist()) - table.num_rows
    return figures


def bench_unknown(_runs: int) -> dict[str, float]:
    """Measure the use of an undeclared limit of 2,400 requests per minute, reported in headers or not."""
    figures: dict[str, float] = {}
    for name, model, burst_s in (
        ("headers, 2 s at once", MODEL, 2.0),
        ("headers, a minute at once", MODEL, 60.0),
        ("no headers, 2 s at once", "google/gemini-2.5-flash", 2.0),
    ):
        rate_per_s, rows = 40.0, 2_000 if burst_s < 60 else 4_000
        simulator = Simulator(latency=Latency(0.2, 0.3), limit=SimLimit(rpm=60 * rate_per_s, burst_s=burst_s))
        table, _, _ = run(simulator, rows, model)
        figures[f"{name}: share of the allowance"] = efficiency(table, rate_per_s, rate_per_s * burst_s, requests)
        figures[f"{name}: share answered 429"] = rate_limited_share(table)
        figures[f"{name}: rows lost"] = table.num_rows - requests(table)
    return figures


def bench_faults(_runs: int) -> dict[str, float]:
    """Measure the wall time of 2,000 rows with 5 % 500s and 5 % 429s (Retry-After: 1) over that without faults."""
    healthy = Simulator(latency=Latency(0.5, 0.3))
    table, healthy_s, _ = run(healthy, 2_000)
    faulty = replace(healthy, faults=Faults(rate_500=0.05, rate_429=0.05, retry_after_s=1.0))
    table_with_faults, faulty_s, _ = run(faulty, 2_000)
    return {
        "rows lost": 2.0 * table.num_rows - requests(table) - requests(table_with_faults),
        "wall without faults, s": healthy_s,
        "wall with faults, s": faulty_s,
        "wall with faults / without": faulty_s / healthy_s,
    }


ROUTES: dict[str, Callable[..., llmhub.Route] | None] = {
    "no route": None,
    "Failover": llmhub.Failover,
    "RoundRobin": llmhub.RoundRobin,
    "Weighted": lambda *names: llmhub.Weighted(dict.fromkeys(names, 1.0)),
    "LowLatency": llmhub.LowLatency,
    "CostOptimized": llmhub.CostOptimized,
}
DECLARED: dict[str, dict[str, llmhub.Limit]] = {
    "nothing declared": {},
    "requests and tokens": {"openai": llmhub.Limit(rpm=1e9, tpm=1e12)},
    "input and output tokens": {"openai": llmhub.Limit(rpm=1e9, input_tpm=1e12, output_tpm=1e12)},
}
CALLS = 1_000


class InstantTransport:
    """A transport that returns a response at once."""

    in_flight = InFlightTasks()
    answer = Answer(Success(CompletionResponse(usage=Usage(input_tokens=9, output_tokens=9))), attempts=1)

    def __init__(self, _config: object) -> None: ...

    async def send(self, _call: Call) -> Answer:
        return self.answer

    async def close(self) -> None: ...


async def send_sequentially(send: Send, calls: list[Call]) -> float:
    """Return microseconds per call."""
    start = time.perf_counter()
    for call in calls:
        await send(call)
    return (time.perf_counter() - start) / CALLS * 1e6


def make_call(target: Target, number: int) -> Call:
    messages = (Message("user", f"How many vowels has the {number}th word of the dictionary?"),)
    return Call(target, CompletionRequest(model=target.model, messages=messages, max_tokens=64))


def hub_with(limits: dict[str, llmhub.Limit], route: Callable[..., llmhub.Route] | None, **options: Any) -> llmhub.Hub:
    routes = {"route": route(MODEL, "openai/gpt-4o")} if route is not None else None
    endpoints = {"openai": llmhub.Endpoint(api_key="k")}
    return llmhub.Hub(settings=Settings(), endpoints=endpoints, limits=limits, route=routes, **options)


def bench_chain(runs: int) -> dict[str, float]:
    """Measure the overhead of the middleware per call, in microseconds, on a transport that responds at once."""
    hubs = {
        f"{declared_name}, {name}": hub_with(limits, route)
        for declared_name, limits in DECLARED.items()
        for name, route in ROUTES.items()
    }
    hubs["input and output tokens, CostOptimized, budget"] = hub_with(
        DECLARED["input and output tokens"], llmhub.CostOptimized, budget_usd=1e6
    )
    figures: dict[str, list[float]] = {}
    with ExitStack() as stack, patch.object(client, "Transport", InstantTransport):
        chains: dict[str, tuple[Send, list[Call]]] = {}
        for name, hub in hubs.items():
            target = hub.target("route" if hub.route else MODEL)
            send = stack.enter_context(hub).runtime.client.send_uncached
            chains[name] = (send, [make_call(target, number) for number in range(CALLS)])
        chains["bare"] = (InstantTransport(None).send, chains[name][1])
        for _ in range(10 * runs):
            for name, (send, calls) in chains.items():
                figures.setdefault(name, []).append(submit(send_sequentially(send, calls)).result())
    bare_us = min(figures.pop("bare"))
    return {name: min(times) - bare_us for name, times in figures.items()}


BENCHES: dict[str, Callable[[int], dict[str, float]]] = {
    "chain": bench_chain,
    "faults": bench_faults,
    "unknown": bench_unknown,
    "declared": bench_declared,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", action="append", choices=sorted(BENCHES), help="a benchmark to run (repeatable)")
    parser.add_argument("--runs", type=int, default=5, help="repetitions of short benchmarks")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    for name in arguments.only or BENCHES:
        print(f"\n{name}: {BENCHES[name].__doc__}")
        figures[name] = BENCHES[name](arguments.runs)
        for count, value in figures[name].items():
            print(f"  {count:<52} {value:>12,.4g}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

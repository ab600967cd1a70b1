"""What the engine keeps to and what it costs, against simulated providers over real HTTP.

``python benchmarks/engine.py`` prints every figure; ``--only limits`` chooses; ``--json CONFIG_FILE`` keeps them.
Efficiency is what was answered of what the provider permits: its rate times the time, and what it lets go at once.
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
from llmhub.engine import runtime
from llmhub.engine.call import Answer, Call, Send, Target
from llmhub.engine.event_loop import submit
from llmhub.engine.hedging import InFlightTasks
from llmhub.sim import Faults, Latency, Simulator, serving
from llmhub.sim.limits import SimLimit as Permitted

MODEL = "openai/gpt-4o-mini"
PROMPT = "Answer in a word: {text}"


def texts(rows: int) -> pa.Table:
    return pa.table({"text": [f"How many vowels has the {i}th word of the dictionary?" for i in range(rows)]})


def run(simulator: Simulator, rows: int, model: str = MODEL, **options: Any) -> tuple[pa.Table, float, dict[str, Any]]:
    """Ask a simulator; give the table, the seconds it took, and what the simulator counted."""
    with (
        serving(simulator) as served,
        llmhub.Hub(endpoints=served.endpoints(), settings=Settings(), **options) as hub,
    ):
        start = time.perf_counter()
        table = llmhub.complete_table(texts(rows), PROMPT, model=model, hub=hub, progress=False)
        return table, time.perf_counter() - start, served.counts()


def efficiency(table: pa.Table, permitted_s: float, at_once: float, what: Callable[[pa.Table], float]) -> float:
    """Share of what was permitted from the first request to the last."""
    started = [moment.timestamp() for moment in table.column("started_at").to_pylist()]
    return float(what(table) / (at_once + permitted_s * (max(started) - min(started))))


def requests(table: pa.Table) -> float:
    return float(table.column("status").to_pylist().count("ok"))


def tokens(table: pa.Table) -> float:
    return float(sum(table.column("input_tokens").to_pylist()) + sum(table.column("output_tokens").to_pylist()))


def refused(table: pa.Table) -> float:
    """Share of requests that were answered 429."""
    sent = sum(table.column("attempts").to_pylist())
    return float((sent - table.num_rows) / sent)


def bench_declared(_runs: int) -> dict[str, float]:
    """Limits that are declared, each kept for more than a window of 60 s: requests, tokens, and both."""
    found: dict[str, float] = {}
    took_tokens = tokens(run(Simulator(), 50)[0]) / 50
    for name, rpm, tpm in (
        ("RPM", 1200.0, None),
        ("TPM", None, 1200 * took_tokens),
        ("both", 1200.0, 1200 * took_tokens),
    ):
        simulator = Simulator(latency=Latency(0.2, 0.3), limit=Permitted(rpm=rpm, tpm=tpm, burst_s=2.0))
        limits = {"openai": llmhub.Limit(rpm=rpm, tpm=tpm)}
        table, _, _ = run(simulator, 1_400, limits=limits)
        if rpm is not None:
            found[f"{name}: requests, share of what is permitted"] = efficiency(table, rpm / 60, 12, requests)
        if tpm is not None:
            found[f"{name}: tokens, share of what is permitted"] = efficiency(table, tpm / 60, tpm / 100, tokens)
        found[f"{name}: requests answered 429"] = sum(table.column("attempts").to_pylist()) - table.num_rows
    return found


def bench_unknown(_runs: int) -> dict[str, float]:
    """Find a limit of 2,400 requests a minute of which the client knows nothing: told by headers, and by nobody."""
    found: dict[str, float] = {}
    for name, model, burst_s in (
        ("headers, 2 s at once", MODEL, 2.0),
        ("headers, a minute at once", MODEL, 60.0),
        ("no headers, 2 s at once", "google/gemini-2.5-flash", 2.0),
    ):
        rate_s, rows = 40.0, 2_000 if burst_s < 60 else 4_000
        simulator = Simulator(latency=Latency(0.2, 0.3), limit=Permitted(rpm=60 * rate_s, burst_s=burst_s))
        table, _, _ = run(simulator, rows, model)
        found[f"{name}: share of what is permitted"] = efficiency(table, rate_s, rate_s * burst_s, requests)
        found[f"{name}: share answered 429"] = refused(table)
        found[f"{name}: rows lost"] = table.num_rows - requests(table)
    return found


def bench_faults(_runs: int) -> dict[str, float]:
    """5 % 500s and 5 % 429s with Retry-After: 1, 2,000 rows of half a second: wall over that without faults."""
    well = Simulator(latency=Latency(0.5, 0.3))
    table, took_s, _ = run(well, 2_000)
    faulty = replace(well, faults=Faults(rate_500=0.05, rate_429=0.05, retry_after_s=1.0))
    there, took_there_s, _ = run(faulty, 2_000)
    return {
        "rows lost": 2.0 * table.num_rows - requests(table) - requests(there),
        "wall without faults, s": took_s,
        "wall with faults, s": took_there_s,
        "wall with faults / without": took_there_s / took_s,
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


class Bare:
    """A transport that answers at once."""

    in_flight = InFlightTasks()
    answer = Answer(Success(CompletionResponse(usage=Usage(input_tokens=9, output_tokens=9))), attempts=1)

    def __init__(self, _wiring: object) -> None: ...

    async def send(self, _call: Call) -> Answer:
        return self.answer

    async def close(self) -> None: ...


async def one_by_one(send: Send, calls: list[Call]) -> float:
    """Microseconds a call."""
    start = time.perf_counter()
    for call in calls:
        await send(call)
    return (time.perf_counter() - start) / CALLS * 1e6


def asking(target: Target, number: int) -> Call:
    messages = (Message("user", f"How many vowels has the {number}th word of the dictionary?"),)
    return Call(target, CompletionRequest(model=target.model, messages=messages, max_tokens=64))


def hub_with(limits: dict[str, llmhub.Limit], route: Callable[..., llmhub.Route] | None, **more: Any) -> llmhub.Hub:
    named = {"way": route(MODEL, "openai/gpt-4o")} if route is not None else None
    endpoints = {"openai": llmhub.Endpoint(api_key="k")}
    return llmhub.Hub(settings=Settings(), endpoints=endpoints, limits=limits, route=named, **more)


def bench_chain(runs: int) -> dict[str, float]:
    """Measure a call's way to the transport and back, in microseconds: retries, route, breaker, budget, gate."""
    hubs = {
        f"{said}, {name}": hub_with(limits, route)
        for said, limits in DECLARED.items()
        for name, route in ROUTES.items()
    }
    hubs["input and output tokens, CostOptimized, budget"] = hub_with(
        DECLARED["input and output tokens"], llmhub.CostOptimized, budget_usd=1e6
    )
    found: dict[str, list[float]] = {}
    with ExitStack() as stack, patch.object(runtime, "Transport", Bare):
        ways: dict[str, tuple[Send, list[Call]]] = {}
        for name, hub in hubs.items():
            target = hub.target("way" if hub.route else MODEL)
            # As a run gets it, which asks for it once.
            send = stack.enter_context(hub).runtime.client.send_uncached
            ways[name] = (send, [asking(target, number) for number in range(CALLS)])
        ways["bare"] = (Bare(None).send, ways[name][1])
        for _ in range(10 * runs):
            for name, (send, calls) in ways.items():
                found.setdefault(name, []).append(submit(one_by_one(send, calls)).result())
    bare = min(found.pop("bare"))
    return {name: min(times) - bare for name, times in found.items()}


BENCHES: dict[str, Callable[[int], dict[str, float]]] = {
    "chain": bench_chain,
    "faults": bench_faults,
    "unknown": bench_unknown,
    "declared": bench_declared,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", action="append", choices=sorted(BENCHES), help="a benchmark to run (repeatable)")
    parser.add_argument("--runs", type=int, default=5, help="runs of what is short; medians are reported")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    asked = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    for name in asked.only or BENCHES:
        print(f"\n{name}: {BENCHES[name].__doc__}")
        figures[name] = BENCHES[name](asked.runs)
        for what, value in figures[name].items():
            print(f"  {what:<52} {value:>12,.4g}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

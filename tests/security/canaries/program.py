# ruff: noqa: B023, BLE001, T201 - a script that tries everything
"""A program with everything on that may show a key: run by test_canaries.py, which looks for keys in what it leaves.

Keys are in the environment and in llmhub.toml only, so that none is in a variable of this file. Everything is written
to the folder ``artefacts``; tracebacks with local variables, which show prompts, to ``locals``.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import faulthandler
import json
import logging
import pickle
import pprint
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console
from rich.traceback import Traceback

import llmhub

ARTEFACTS, LOCALS = Path("artefacts"), Path("locals")
for folder in (ARTEFACTS, LOCALS):
    folder.mkdir()
shown = (ARTEFACTS / "shown.txt").open("w", encoding="utf-8")
with_locals = (LOCALS / "locals.txt").open("w", encoding="utf-8")
errors: list[Exception] = []
PROMPTS = json.loads(Path("prompts.json").read_text(encoding="utf-8"))


def show(*values: Any, file: TextIO = shown) -> None:
    for value in values:
        file.write(f"{value!r}\n{value}\n{pprint.pformat(value)}\n{getattr(value, '_repr_html_', str)()}\n")
        with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError, llmhub.errors.ConnectorError):
            file.write(repr(pickle.dumps(value)))
        if dataclasses.is_dataclass(value):
            with contextlib.suppress(TypeError):
                file.write(repr(dataclasses.asdict(value)))


def show_error(error: Exception) -> None:
    show(error, getattr(error, "error", None), error.args, vars(error))
    shown.write("".join(traceback.format_exception(error)))
    errors.append(error)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        with contextlib.suppress(Exception):
            with_locals.write(repr(frame.f_locals))
    if len(errors) <= 3:
        console = Console(file=with_locals, width=400)
        found = Traceback.from_exception(
            type(error), error, error.__traceback__, show_locals=True, locals_max_string=4000, locals_max_length=100
        )
        console.print(found)
        faulthandler.dump_traceback(with_locals)


def attempt(work: Callable[[], object]) -> None:
    """Show what ``work`` returns, which has the values of the prompts again, or what it raises."""
    try:
        show(work(), file=with_locals)
    except Exception as error:
        show_error(error)


# Everything on: all loggers at the lowest level, asyncio's debug mode (-X dev), metrics, traces with content
logging.basicConfig(level=0, filename=ARTEFACTS / "all.log")
stream = (ARTEFACTS / "llmhub.log").open("w", encoding="utf-8")
llmhub.logging.configure("debug", json=True, content=True, stream=stream)
registry, exporter = CollectorRegistry(), InMemorySpanExporter()
llmhub.metrics.collect(llmhub.metrics.PrometheusCollector(registry))
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
llmhub.tracing.configure(tracer_provider=provider, ratio=1.0, content=True, metrics=False)
warnings.simplefilter("always")
progress: list[Any] = []

with llmhub.Hub(cache="program.db", retry=llmhub.Retry(attempts=2, base_s=0.001, cap_s=0.001), redact=True) as hub:
    show(hub, hub.settings, hub.endpoints, hub.runtime, hub.resolver)
    for name in sys.argv[1:]:
        for model in ("ok", "fail", "broken"):
            attempt(lambda: llmhub.complete(PROMPTS[0], model=f"{name}/{model}", hub=hub))
        attempt(lambda: list(llmhub.stream(PROMPTS[0], model=f"{name}/ok", hub=hub)))
        attempt(lambda: list(llmhub.stream(PROMPTS[0], model=f"{name}/fail", hub=hub)))
        attempt(lambda: llmhub.health_check(name, hub=hub))
        attempt(lambda: llmhub.embed(PROMPTS, model=f"{name}/fail", hub=hub))
    frame = pd.DataFrame({"n": range(len(PROMPTS)), "text": PROMPTS})
    models = ["openai/ok", "anthropic/fail", "google/fail", "compatible/broken"]
    table = frame.llm.complete("{text}", model=models, hub=hub, columns="all", progress=progress.append)
    results = table.drop(columns=["text", "response"])
    show(results.to_dict("list"), table["response"].notna().sum())
    results.drop(columns=["request_key", "dropped_params", "tool_calls"]).to_parquet(ARTEFACTS / "table.parquet")
    attempt(lambda: frame.llm.complete("{text}", model="anthropic/fail", hub=hub, on_error="raise", progress=False))
    attempt(lambda: asyncio.run(llmhub.acomplete(PROMPTS[0], model="anthropic/fail", hub=hub), debug=True))
    attempt(lambda: llmhub.complete(PROMPTS[0], model="openai/ok", hub=hub, temperature="hot"))
    attempt(lambda: hub.plan(frame, "{text}", model=models))
    show(hub.decisions(), hub.runtime.state(), progress, llmhub.ledger(hub=hub))

attempt(lambda: llmhub.Hub(endpoints={"openai": 5}))
attempt(lambda: pickle.dumps(llmhub.Hub(endpoints=hub.settings.endpoints)))
Path("llmhub.toml").write_text(
    Path("llmhub.toml").read_text(encoding="utf-8") + "\n[endpoints.broken\n", encoding="utf-8"
)
attempt(llmhub.Hub)
(ARTEFACTS / "metrics.txt").write_bytes(generate_latest(registry))
spans = [span.to_json() for span in exporter.get_finished_spans()]
(ARTEFACTS / "spans.json").write_text("\n".join(spans), encoding="utf-8")
print(len(spans), "spans,", len(errors), "errors")
llmhub.logging.configure("error")
for file in (shown, with_locals, stream):
    file.close()

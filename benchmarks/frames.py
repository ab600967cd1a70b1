"""Overhead of frames in a notebook: the accessor, short Series, and display of a million rows.

``python benchmarks/frames.py`` prints all figures; ``--only series`` selects one benchmark, ``--rows`` its size.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from bench import MODEL, PROMPT, bounded_loop, hub_at, interleaved, main, static_server, texts

import llmhub
from llmhub.cache.store import Entry
from llmhub.core.serialization import pack, to_stored_response
from llmhub.core.types import CompletionRequest, CompletionResponse, Text, Usage
from llmhub.tables.frames import join_results
from llmhub.tables.prompt_batch import batch_from_frame, prepare_target_prompt
from llmhub.tables.schema import RESULTS

ROWS = 1_000_000
SHORT = 100


def timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def fill(hub: llmhub.Hub, frame: pd.DataFrame) -> None:
    """Store a response for every row in the cache, without calls."""
    response = CompletionResponse(
        parts=(Text("Some word or other, and a few more."),),
        usage=Usage(input_tokens=20, output_tokens=8),
        served_model="gpt-4o-mini-2024-07-18",
        request_id="req_0123456789abcdef",
    )
    stored = to_stored_response(response, latency_s=0.2, started_at=time.time())
    request = CompletionRequest(model="", messages=())
    batch = batch_from_frame(frame, PROMPT, [prepare_target_prompt(hub.target(MODEL), request)], 1)
    store = hub.runtime.store
    assert store is not None
    for chunk in batch.iter_chunks():
        store.put_many([Entry(key, pack(stored, key), MODEL, 0.0) for _, key, _, _ in chunk])


def bench_accessor(rows: int, runs: int) -> dict[str, float]:
    """Compare ``df.llm.complete`` with ``complete_table``; all rows are in an SQLite cache."""
    with (
        static_server() as url,
        tempfile.TemporaryDirectory() as folder,
        hub_at(url, cache=llmhub.DiskCache(Path(folder) / "runs.db")) as hub,
    ):
        frame = texts(rows).to_pandas()
        options: dict[str, Any] = {"model": MODEL, "hub": hub, "progress": False}
        fill(hub, frame)
        results = llmhub.complete_table(frame, PROMPT, **options)
        table = partial(timed, lambda: llmhub.complete_table(frame, PROMPT, **options))
        accessor = partial(timed, lambda: llmhub.llm(frame).complete(PROMPT, **options))
        join = partial(timed, lambda: join_results(frame, results, ""))
        tables, accessors, joins = interleaved(runs, table, accessor, join)
    ratio = statistics.median(with_accessor / without for with_accessor, without in zip(accessors, tables, strict=True))
    return {
        "complete_table from the cache, s": statistics.median(tables),
        "df.llm.complete from the cache, s": statistics.median(accessors),
        "df.llm.complete / complete_table": ratio,
        "joining results to the rows, s": statistics.median(joins),
    }


def bench_series(rows: int, runs: int) -> dict[str, float]:
    """Measure the overhead of a Series of 100 rows over the 200 ms that the provider takes for all of them."""
    latency_s = 0.2
    short = min(SHORT, rows)
    with static_server(latency_s) as url, hub_at(url) as hub:
        fresh = iter(range(10_000))

        def series() -> float:
            values = pd.Series([f"word {next(fresh)} of the dictionary" for _ in range(short)])
            options: dict[str, Any] = {"model": MODEL, "hub": hub, "progress": False, "concurrency": short}
            return timed(lambda: llmhub.llm(values).complete("Answer in a word.", **options)) - latency_s

        series()
        overhead, bare = interleaved(max(runs, 7), series, lambda: short / bounded_loop(url, short, short) - latency_s)
    return {
        "Series of 100 rows, overhead over the provider, ms": 1_000 * statistics.median(overhead),
        "the same, fastest run, ms": 1_000 * min(overhead),
        "plain aiohttp loop, overhead over the provider, ms": 1_000 * statistics.median(bare),
    }


def results(rows: int) -> pa.Table:
    """Return a results table of two models."""
    rng = np.random.default_rng(1)
    models = pa.array(["gpt-4o-mini", "claude-haiku-4-5"])
    model_index = pa.array(np.arange(rows, dtype=np.int32) % 2)
    values: dict[str, Any] = {
        "row": pa.array(np.arange(rows) // 2),
        "sample": pa.array(np.zeros(rows, np.int32)),
        "provider": pa.DictionaryArray.from_arrays(model_index, pa.array(["openai", "anthropic"])),
        "model": pa.DictionaryArray.from_arrays(model_index, models),
        "status": pa.array(["ok"] * rows).dictionary_encode(),
        "response": pa.array([f"The answer to question {index} is a short sentence." for index in range(rows)]),
        "input_tokens": pa.array(rng.integers(10, 100, rows)),
        "output_tokens": pa.array(rng.integers(10, 100, rows)),
        "latency_s": pa.array(rng.gamma(2, 0.2, rows)),
        "cache_hit": pa.array(rng.random(rows) < 0.3),
    }
    columns = [values.get(field.name, pa.nulls(rows, field.type)) for field in RESULTS]
    return pa.table([column.cast(field.type) for column, field in zip(columns, RESULTS, strict=True)], schema=RESULTS)


def bench_show(rows: int, runs: int) -> dict[str, float]:
    """Measure the HTML display of a results table, and ``.llm.wide()``."""
    table = results(rows)
    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    arrow, pandas, plain, wide = interleaved(
        runs,
        lambda: timed(lambda: llmhub.show(table)._repr_html_()),
        lambda: timed(lambda: llmhub.show(frame)._repr_html_()),
        lambda: timed(frame._repr_html_),
        lambda: timed(lambda: llmhub.llm(table).wide()),
    )
    return {
        "llmhub.show of an Arrow table, s": statistics.median(arrow),
        "llmhub.show of a pandas frame, s": statistics.median(pandas),
        "pandas' own display of it, s": statistics.median(plain),
        ".llm.wide() of two models, s": statistics.median(wide),
    }


BENCHES: dict[str, Callable[[int, int], dict[str, float]]] = {
    "accessor": bench_accessor,
    "series": bench_series,
    "show": bench_show,
}

if __name__ == "__main__":
    size = argparse.ArgumentParser(add_help=False)
    size.add_argument("--rows", type=int, default=ROWS)
    known, others = size.parse_known_args()
    main({name: partial(bench, known.rows) for name, bench in BENCHES.items()}, __doc__ or "", others)

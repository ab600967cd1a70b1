"""Every task runs on every kind of frame, and returns that kind: pandas, polars, lazy polars, Arrow, DuckDB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import llmhub
from llmhub import plots
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.datasets import sample_by_hash, split_by_hash
from llmhub.sim import Simulator, serving
from llmhub.tables import frames, tokenizers
from llmhub.tables.result_frames import COMPACT_COLUMNS
from llmhub.tables.schema import RESULTS

BOTH = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]
EMBEDDER = "openai/text-embedding-3-small"
COLUMNS: dict[str, list[Any]] = {
    "t": ["one", "two", None, "[[sim:500 always]]", "five"],
    "truth": ["up", "down", "up", "up", "down"],
}


class CharacterEncoding:
    """A tokenizer that needs no download."""

    def encode_ordinary(self, text: str) -> list[str]:
        return list(text)


@pytest.fixture(scope="module")
def hub() -> Iterator[llmhub.Hub]:
    retry = llmhub.Retry(attempts=1)
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(Simulator(seed=7)) as served,
        # Without a circuit breaker: every test sends the failing row again.
        llmhub.Hub(
            endpoints=served.endpoints(), settings=Settings(), cache=llmhub.MemoryCache(), retry=retry, breaker=None
        ) as hub,
    ):
        patch.setattr(tokenizers, "load_encoding", lambda *_: CharacterEncoding())
        yield hub


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.register("input", pa.table(COLUMNS))
        yield connection


KINDS = ("pandas", "polars", "lazy", "arrow", "duckdb")
CLASSES = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "lazy": pl.LazyFrame,
    "arrow": pa.Table,
    "duckdb": duckdb.DuckDBPyRelation,
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def frame(kind: str, connection: duckdb.DuckDBPyConnection) -> Any:
    make: dict[str, Callable[[], Any]] = {
        "pandas": lambda: pd.DataFrame(COLUMNS),
        "polars": lambda: pl.DataFrame(COLUMNS),
        "lazy": lambda: pl.LazyFrame(COLUMNS),
        "arrow": lambda: pa.table(COLUMNS),
        "duckdb": lambda: connection.sql("SELECT * FROM input"),
    }
    return make[kind]()


@pytest.fixture
def ask(frame: Any, hub: llmhub.Hub) -> Callable[..., Any]:
    def complete(**options: Any) -> Any:
        return llmhub.llm(frame).complete("Say {t}", model=BOTH, hub=hub, progress=False, **options)

    return complete


def rows_of(frame: Any) -> dict[str, list[Any]]:
    """Return a frame of any kind as lists, ``None`` where a value is missing."""
    table = frames.to_table(frame)
    return {name: table.column(name).to_pylist() for name in table.column_names}


def test_complete(ask: Callable[..., Any], kind: str) -> None:
    answers = ask()
    assert isinstance(answers, CLASSES[kind])
    rows = rows_of(answers)
    assert rows["t"] == [text for text in COLUMNS["t"] for _ in BOTH]
    assert rows["row"] == [row for row in range(5) for _ in BOTH]
    assert rows["status"][::2] == ["ok", "ok", "skipped", "error", "ok"]
    assert set(rows["model"]) == {"gpt-4o-mini", "claude-haiku-4-5"}
    assert all(isinstance(float(cost), float) for cost in rows["cost_usd"] if cost is not None)


def test_tables_and_empty_frames(frame: Any, hub: llmhub.Hub, kind: str) -> None:
    table = llmhub.complete_table(frame, "Say {t}", model=BOTH, hub=hub, progress=False)
    assert table.schema.equals(RESULTS)
    assert table.num_rows == 10
    native = frames.native_frame(frame)
    nothing = frames.to_kind_of(frame, frames.backend_of(native).take_rows(native, np.array([], np.int64)))
    answers = llmhub.llm(nothing).classify("Say {t}", labels=["up", "down"], model=BOTH, hub=hub, progress=False)
    assert isinstance(answers, CLASSES[kind])
    assert list(rows_of(answers)) == ["t", "truth", "label", "row", *COMPACT_COLUMNS]
    assert rows_of(answers)["label"] == []
    assert repr(llmhub.show(answers)) == "0 rows"
    assert list(rows_of(llmhub.llm(answers).wide())) == ["t", "truth", "label"]


def test_typed_answers(frame: Any, hub: llmhub.Hub, kind: str) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    llm, options = llmhub.llm(frame), {"model": BOTH, "hub": hub, "progress": False}
    labelled = llm.classify("Say {t}", labels=["up", "down"], column="mood", **options)
    extracted = llm.extract("How old is {t}?", schema=schema, **options)
    assert isinstance(labelled, CLASSES[kind])
    assert isinstance(extracted, CLASSES[kind])
    assert set(rows_of(labelled)["mood"]) == {"up", "down", None}
    assert [type(age) for age in rows_of(extracted)["age"]][::2] == [int, int, type(None), type(None), int]
    side = llmhub.llm(labelled).wide()
    assert isinstance(side, CLASSES[kind])
    assert list(rows_of(side)) == ["t", "truth", *BOTH]
    assert rows_of(side)[BOTH[0]] == rows_of(labelled)["mood"][::2]


def test_wide_and_show(ask: Callable[..., Any], kind: str) -> None:
    side = llmhub.llm(ask()).wide()
    assert isinstance(side, CLASSES[kind])
    assert list(rows_of(side)) == ["t", "truth", *BOTH]
    shown = repr(llmhub.show(ask()))
    assert shown.startswith("10 rows, 2 models: 6 answers")


PLOTS = (
    plots.cost_by_model,
    plots.tokens_by_model,
    plots.latency_ecdf,
    plots.cost_against_latency,
    plots.token_histogram,
)
FULL_PLOTS = (plots.ttft_ecdf, plots.throughput, plots.timeline)
"""Plots that need more than the compact columns."""


def test_plots(ask: Callable[..., Any]) -> None:
    compact, full = ask(), ask(columns="all")
    for plot in PLOTS:
        assert plot(compact).figure is not plot(full).figure
    for plot in FULL_PLOTS:
        plot(full)
        with pytest.raises(
            BadRequestError, match=r"^table: the plot needs the column.*columns='all' to df.llm.complete"
        ):
            plot(compact)
    plots.cost_against_quality(compact, score={BOTH[0]: 0.5, BOTH[1]: 0.7})


def test_comparisons(ask: Callable[..., Any], frame: Any, hub: llmhub.Hub) -> None:
    scorers = llmhub.evals.scorers.exact("truth")
    finished = llmhub.compare(ask(), scorers=scorers, hub=hub)
    fresh = llmhub.compare(frame, "Say {t}", model=BOTH, scorers=scorers, hub=hub, progress=False)
    assert finished.scores.column("score").to_pylist() == fresh.scores.column("score").to_pylist()
    task = llmhub.evals.Task(template="Say {t}", target="truth", scorers=llmhub.evals.scorers.exact(), name="say")
    evaluation = llmhub.evaluate(frame, task, model=BOTH, hub=hub, progress=False)
    assert evaluation.results.num_rows == 10


def test_frozen_datasets(ask: Callable[..., Any], tmp_path: Path, hub: llmhub.Hub) -> None:
    with pytest.raises(BadRequestError, match=r"^result: freeze needs the columns .* pass columns='all'"):
        llmhub.freeze(ask(), tmp_path / "set", hub=hub)
    assert llmhub.diff(ask(), ask()).same
    llmhub.freeze(ask(columns="all"), tmp_path / "set", hub=hub)
    assert llmhub.verify(tmp_path / "set")
    assert llmhub.diff(tmp_path / "set", ask(columns="all")).same


def test_splits(frame: Any, kind: str) -> None:
    parts = split_by_hash(frame, {"a": 0.5, "b": 0.5}, columns=["t"])
    assert all(isinstance(part, CLASSES[kind]) for part in parts.values())
    assert sorted(text or "" for part in parts.values() for text in rows_of(part)["t"]) == sorted(
        text or "" for text in COLUMNS["t"]
    )
    sample = sample_by_hash(frame, rows=2)
    assert isinstance(sample, CLASSES[kind])
    assert len(rows_of(sample)["t"]) == 2


def test_jobs_streams_and_functions(frame: Any, hub: llmhub.Hub, kind: str) -> None:
    llm, options = llmhub.llm(frame), {"model": BOTH, "hub": hub, "progress": False}
    job = llm.submit("Say {t}", **options)
    result = job.result()
    assert isinstance(result, CLASSES[kind])
    assert isinstance(job.table(), CLASSES[kind])
    assert rows_of(job.table()) == rows_of(result)
    assert sorted(row["row"] for row in llm.stream("Say {t}", **options)) == [row for row in range(5) for _ in BOTH]
    lengths = llm.map(lambda row: len(row.t), hub=hub)
    assert [None if pd.isna(length) else int(length) for length in frames.series_values(lengths)] == [3, 3, None, 18, 4]
    requests = llm.map(
        lambda row: llmhub.CompletionRequest(model=BOTH[0], messages=(llmhub.Message("user", row.t),)), hub=hub
    )
    assert isinstance(requests, CLASSES[kind])


def test_embeddings(frame: Any, hub: llmhub.Hub, kind: str) -> None:
    options: dict[str, Any] = {"model": EMBEDDER, "hub": hub, "dimensions": 4, "progress": False}
    embedded = llmhub.llm(frame).embed("truth", **options)
    assert isinstance(embedded, CLASSES[kind])
    rows = rows_of(embedded)
    assert list(rows)[:3] == ["t", "truth", "embedding"]
    assert [len(vector) for vector in rows["embedding"]] == [4] * 5
    assert (rows["status"], rows["truth"]) == (["ok"] * 5, COLUMNS["truth"])
    again = rows_of(llmhub.llm(frame).embed("{truth}", **options))
    assert again["cache_hit"] == [True] * 5
    np.testing.assert_array_equal(again["embedding"][0], rows["embedding"][0])
    texts = {"pandas": pd.Series, "polars": pl.Series, "arrow": pa.array}.get(kind)
    if texts is not None:
        vectors = frames.series_values(llmhub.llm(texts(["up", None])).embed(**options))
        assert [vector is None or len(vector) for vector in vectors] == [4, True]


def test_tools_and_conversations(frame: Any, hub: llmhub.Hub, kind: str) -> None:
    def mood(city: str) -> str:
        """Return the mood of a city."""
        return f"good in {city}"

    options: dict[str, Any] = {"model": BOTH[0], "hub": hub, "progress": False}
    answered = llmhub.llm(frame).complete("Say {t} [[sim:tool mood]]", tools=[mood], **options)
    assert isinstance(answered, CLASSES[kind])
    assert rows_of(answered)["turns"] == [2, 2, 0, 0, 2]
    with pytest.warns(RuntimeWarning, match="conversations are unchanged"):
        chat = llmhub.llm(frame).chat("Say {t}", **options)
    assert isinstance(chat, CLASSES[kind])
    assert [0 if turns is None else len(turns) for turns in rows_of(chat)["messages"]] == [2, 2, 0, 0, 2]


def test_plans_and_tokens(frame: Any, ask: Callable[..., Any], hub: llmhub.Hub, kind: str) -> None:
    plan = llmhub.llm(frame).plan("Say {t}", model=BOTH, hub=hub)
    assert len(plan.compare(ask()).checks) == len(plan.compare(ask(columns="all")).checks)
    with llmhub.using(hub):
        counted = llmhub.llm(frame).count_tokens("t", model=BOTH[0])
    assert isinstance(counted, CLASSES[kind])
    assert rows_of(counted)["tokens"] == [3, 3, None, 18, 4]


def test_dtype_backend_is_for_pandas(ask: Callable[..., Any], kind: str) -> None:
    if kind == "pandas":
        assert isinstance(ask(dtype_backend="pyarrow")["cost_usd"].dtype, pd.ArrowDtype)
    else:
        with pytest.raises(BadRequestError, match=r"^dtype_backend: applies to pandas frames only"):
            ask(dtype_backend="pyarrow")

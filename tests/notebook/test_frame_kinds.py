"""Kinds of frames: pandas, polars, Arrow, and objects with Arrow export."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import SimulatorThread
from llmhub.tables import tokenizers
from llmhub.tables.frames import frame_like, join_results, series_like
from llmhub.tables.result_frames import COMPACT_COLUMNS
from llmhub.tables.wide import wide

MODEL = "openai/gpt-4o-mini"


BOTH = [MODEL, "anthropic/claude-haiku-4-5"]


class Character:
    """A tokenizer of characters."""

    def encode_ordinary(self, text: str) -> list[str]:
        return list(text)


@pytest.fixture(autouse=True)
def character_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count with a tokenizer that needs no download."""
    monkeypatch.setattr(tokenizers, "load_encoding", lambda *_: Character())


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(
        endpoints=simulator.endpoints(), settings=Settings(), retry=llmhub.Retry(attempts=1), cache=llmhub.MemoryCache()
    ) as data:
        yield data


class Exporting:
    """A frame that only has Arrow export."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def columns() -> dict[str, list[Any]]:
    return {"t": ["one", None, "three"], "n": [1, 2, 3]}


KINDS: dict[str, tuple[Any, type]] = {
    "pandas": (lambda: pd.DataFrame(columns(), index=["c", "b", "a"]), pd.DataFrame),
    "polars": (lambda: pl.DataFrame(columns()), pl.DataFrame),
    "arrow": (lambda: pa.table(columns()), pa.Table),
    "batch": (lambda: pa.RecordBatch.from_pydict(columns()), pa.Table),
    "mapping": (columns, pa.Table),
    "exporting": (lambda: Exporting(pa.table(columns())), pa.Table),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_result_has_the_kind_of_the_input(hub: llmhub.Hub, kind: str) -> None:
    make, back = KINDS[kind]
    answers = llmhub.llm(make()).complete("Say {t}", model=BOTH, hub=hub, progress=False)
    assert type(answers) is back
    table = pa.table(answers) if back is not pd.DataFrame else pa.Table.from_pandas(answers, preserve_index=False)
    assert table.column_names == ["t", "n", "row", *COMPACT_COLUMNS]
    assert table.column("n").to_pylist() == [1, 1, 2, 2, 3, 3]
    assert table.column("status").to_pylist() == ["ok", "ok", "skipped", "skipped", "ok", "ok"]
    side = llmhub.llm(answers).wide()
    assert type(side) is back
    plain = pa.table(side) if back is not pd.DataFrame else pa.Table.from_pandas(side, preserve_index=False)
    assert plain.column_names == ["t", "n", *BOTH]
    counted = llmhub.llm(make()).count_tokens("n", model=MODEL)
    assert type(counted) is back
    with pytest.raises(BadRequestError, match=r"^prefix: .*'model'"):
        llmhub.llm({"model": ["x"]}).complete("Say {model}", model=MODEL, hub=hub)


def test_arrow_results_have_units_and_run_id(hub: llmhub.Hub) -> None:
    answers = llmhub.llm(pa.table(columns())).complete("{t}", model=MODEL, hub=hub, prefix="llm_", progress=False)
    assert answers.schema.field("llm_latency_s").metadata[b"unit"] == b"s"
    assert b"run_id" in answers.schema.metadata


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["a", None], index=["y", "x"], name="said"),
        pl.Series("said", ["a", None]),
        pa.chunked_array([["a", None]]),
        pa.array(["a", None]),
    ],
    ids=["pandas", "polars", "chunked", "array"],
)
def test_series_of_any_kind(hub: llmhub.Hub, values: Any) -> None:
    texts = llmhub.llm(values).complete("Repeat {}", model=MODEL, hub=hub, progress=False)
    assert type(texts) is (pa.ChunkedArray if isinstance(values, pa.Array) else type(values))
    same = llmhub.complete("Repeat a", model=MODEL, hub=hub).text
    first, second = texts.to_pylist() if isinstance(texts, pa.ChunkedArray) else texts.to_list()
    assert first == same
    assert pd.isna(second)
    assert getattr(texts, "name", "said") == "said"


def test_error_for_unsupported_frames() -> None:
    for wrong in (7, "text", [1], None):
        with pytest.raises(BadRequestError, match=r"^frame: .* is not a frame; pass a pandas DataFrame, a polars"):
            llmhub.llm(wrong)


# Accessors with either import order


@pytest.mark.parametrize(
    "order",
    ["import polars, llmhub", "import llmhub, polars", "import llmhub; from polars import DataFrame; import polars"],
)
def test_polars_accessor_with_either_import_order(order: str) -> None:
    code = f"""
{order}
print(type(polars.DataFrame({{'a': [1]}}).llm).__name__, type(polars.Series([1]).llm).__name__)
import sys
print("pandas" in sys.modules)
import pandas
print(type(pandas.DataFrame().llm).__name__)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["FrameAccessor", "SeriesAccessor", "False", "FrameAccessor"], done.stderr


def test_import_without_polars() -> None:
    code = """
import sys
sys.modules["polars"] = None
import llmhub, pandas
print(llmhub.llm(pandas.DataFrame({"a": ["x"]})).count_tokens("a", model="m").shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["(1,", "2)"], done.stderr


# Wide


MODELS = [("x", "m"), ("y", "m"), ("x", "n/k")]


@st.composite
def long_forms(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.lists(st.integers(0, 9), max_size=6, unique=True))
    samples = draw(st.integers(1, 2))
    options = [(row, sample, *model) for row in rows for model in MODELS for sample in range(samples)]
    sample_rows = draw(st.lists(st.sampled_from(options), unique=True)) if options else []
    names = ("row", "sample", "provider", "model")
    data = {name: [each[at] for each in sample_rows] for at, name in enumerate(names)}
    kinds = {"row": pa.int64(), "sample": pa.int32()}
    table = pa.table({name: pa.array(values, kinds.get(name, pa.string())) for name, values in data.items()})
    responses = pa.array([f"{row} {sample} {who}/{what}" for row, sample, who, what in sample_rows], pa.string())
    return table.append_column("response", responses).append_column(
        "t", pa.array([f"t{row}" for row, *_ in sample_rows], pa.string())
    )


@given(long_forms())
def test_wide_places_every_response(long: pa.Table) -> None:
    side = wide(long, ["response"])
    rows = list(dict.fromkeys(long.column("row").to_pylist()))
    assert side.column("t").to_pylist() == [f"t{row}" for row in rows]
    several = max(long.column("sample").to_pylist(), default=0) > 0
    responses = {
        (row, name, value)
        for name in side.column_names[1:]
        for row, value in zip(rows, side.column(name).to_pylist(), strict=True)
        if value is not None
    }
    assert responses == {
        (
            row_dict["row"],
            "{provider}/{model}".format(**row_dict) + f" #{row_dict['sample']}" * several,
            row_dict["response"],
        )
        for row_dict in long.to_pylist()
    }
    same = wide(long.to_pandas(), ["response"])
    assert pa.Table.from_pandas(same, preserve_index=False).to_pydict() == side.to_pydict()
    assert pa.table(wide(pl.from_arrow(long), ["response"])).to_pydict() == side.to_pydict()


def test_wide_with_values_samples_and_prefix(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["one", "two"]}, index=["b", "a"])
    long = llmhub.llm(frame).complete("{t}", model=BOTH, hub=hub, n=2, prefix="llm_", progress=False)
    side = llmhub.llm(long).wide("response", "cost_usd", prefix="llm_")
    assert list(side.index) == ["b", "a"]
    labels = [f"{model} #{sample}" for model in BOTH for sample in (0, 1)]
    assert list(side.columns) == [
        "t",
        *(f"llm_{value} {label}" for value in ("response", "cost_usd") for label in labels),
    ]
    assert llmhub.llm(long[::-1]).wide(prefix="llm_").index.tolist() == ["a", "b"]


def test_wide_rejects_other_frames(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["one"]})
    with pytest.raises(
        BadRequestError, match=r"^frame: wide needs results of llmhub, but there is no column 'provider'"
    ):
        llmhub.llm(frame).wide()
    long = llmhub.llm(frame).complete("{t}", model=MODEL, hub=hub, progress=False, columns="all")
    with pytest.raises(BadRequestError, match="'respnse' is not a column"):
        llmhub.llm(long).wide("respnse")
    with pytest.raises(BadRequestError, match="row 0 has more than one result of openai/gpt-4o-mini, sample 0"):
        llmhub.llm(pd.concat([long, long])).wide()


# Streams of rows


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_stream_yields_the_rows_of_complete(hub: llmhub.Hub, kind: str) -> None:
    frame = KINDS[kind][0]()
    options: dict[str, Any] = {"model": BOTH, "hub": hub, "progress": False, "columns": ["request_key"]}
    rows = list(llmhub.llm(frame).stream("Say {t}", **options))
    completed = llmhub.llm(frame).complete("Say {t}", **options)
    expected = pa.table(completed) if kind != "pandas" else pa.Table.from_pandas(completed, preserve_index=False)
    same = ("t", "row", "provider", "status", "response", "request_key")

    def facts(row: Any) -> tuple[Any, ...]:
        return tuple(None if pd.isna(row[name]) else row[name] for name in same)

    assert sorted(map(facts, rows), key=str) == sorted(map(facts, expected.to_pylist()), key=str)
    if kind == "pandas":
        assert [row.name for row in rows] == [list("cba")[row["row"]] for row in rows]


def test_stream_yields_rows_in_order_of_completion(hub: llmhub.Hub) -> None:
    frame = pa.table({"t": [f"{at}" for at in range(20)]})
    options = {"model": MODEL, "hub": hub, "progress": False}
    llmhub.llm(frame.slice(0, 15)).complete("{t}", **options)
    rows = list(llmhub.llm(frame).stream("{t}", **options))
    assert sorted(row["row"] for row in rows) == list(range(20))
    assert [row["cache_hit"] for row in rows].count(True) == 15
    assert all(row["cache_hit"] for row in rows[:15])


def test_closed_stream_sends_nothing_more(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    frame = pa.table({"t": [str(at) for at in range(500)]})
    rows = llmhub.llm(frame).stream("{t}", model=MODEL, hub=hub, progress=False, concurrency=1)
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    sent = simulator.counts()["requests"]
    llmhub.complete("one more", model=MODEL, hub=hub)
    assert sent < 500
    # A call that was in flight when the stream was closed may be counted after it.
    assert simulator.counts()["requests"] <= sent + 2


def test_stream_with_on_error_raise(hub: llmhub.Hub) -> None:
    frame = pa.table({"t": ["[[sim:500 always]]"]})
    with pytest.raises(llmhub.ConnectorError):
        list(llmhub.llm(frame).stream("{t}", model=MODEL, hub=hub, progress=False, on_error="raise"))
    with pytest.raises(BadRequestError):
        llmhub.llm(frame).stream("{x}", model=MODEL, hub=hub)


# Several processes


@pytest.mark.slow
def test_several_processes_return_the_same_results(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": pd.Series(["one", 2, None, "four", 5.5], dtype=object)}, index=list("edcba"))
    options: dict[str, Any] = {"model": BOTH, "hub": hub, "progress": False, "columns": ["request_key"]}
    plain = llmhub.llm(frame).complete(lambda row: f"Say {row.t}", **options)
    spread = llmhub.llm(frame).complete(lambda row: f"Say {row.t}", **options, n_jobs=2)
    same = ["t", "row", "provider", "model", "status", "response", "request_key"]
    pd.testing.assert_frame_equal(spread[same], plain[same])
    with pytest.raises(BadRequestError, match="n_jobs: "):
        llmhub.llm(frame).complete("{t}", model=MODEL, hub=hub, n_jobs=0)


def test_count_tokens_in_processes_with_cache(hub: llmhub.Hub, tmp_path: Any) -> None:
    import joblib  # noqa: PLC0415 - of this test alone

    frame = pl.DataFrame({"t": ["a b c", None, "d" * 50]})
    memory = joblib.Memory(tmp_path, verbose=0)
    with pytest.MonkeyPatch.context() as patch, llmhub.using(hub):
        alone = llmhub.llm(frame).count_tokens("Say {t}", model=MODEL)
        with joblib.parallel_config(backend="threading"):
            shared = llmhub.llm(frame).count_tokens("Say {t}", model=MODEL, n_jobs=2, memory=memory)
        patch.setattr(tokenizers, "load_encoding", lambda *_: pytest.fail("counted again"))
        cached = llmhub.llm(frame).count_tokens("Say {t}", model=MODEL, memory=memory)
    assert alone["tokens"].to_list() == [9, None, 54]
    assert alone.equals(shared)
    assert alone.equals(cached)


def test_join_results_with_any_frame() -> None:
    results = pa.table({"row": [0, 1, 1], "x": pa.array([b"ab", None, b"cd"], pa.binary(2))})
    for frame in (pd.DataFrame({"t": [1, 2]}), pl.DataFrame({"t": [1, 2]}), pa.table({"t": [1, 2]})):
        completed = join_results(frame, results, "r_")
        assert type(completed) is type(frame)
        assert list(np.asarray(completed["t"])) == [1, 2, 2]
    assert series_like(pl.Series("s", [1]), pa.chunked_array([[7]])).name == "s"
    assert frame_like(pd.Series([1], index=["a"]), pa.table({"x": [1]})).index.tolist() == ["a"]

"""Calls for embeddings: what they return for each kind of input, and what they refuse before sending."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import llmhub
from llmhub.api.embeddings import build_embedding_run
from llmhub.config import Settings
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import SimulatorThread
from llmhub.tables import vectors as vectors_module

MODEL = "openai/text-embedding-3-small"
FRAME = {"title": ["a", "b", "a"], "body": ["x", None, "x"]}


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        yield hub


def test_a_text_is_a_vector_and_a_list_a_matrix(hub: llmhub.Hub) -> None:
    one = llmhub.embed("a", model=MODEL, hub=hub)
    assert (one.shape, one.dtype) == ((1536,), np.float32)
    many = llmhub.embed(["a", "b"], model=MODEL, hub=hub)
    assert many.shape == (2, 1536)
    assert (many[0] == one).all()
    assert llmhub.embed([], model=MODEL, hub=hub).shape[0] == 0
    awaited = asyncio.run(llmhub.aembed("a", model=MODEL, hub=hub))
    assert (awaited == one).all()


def test_a_failed_text_raises_with_the_others_attached(hub: llmhub.Hub) -> None:
    with pytest.raises(llmhub.ContextLengthExceededError) as caught:
        llmhub.embed(["a", "word " * 10_000], model=MODEL, hub=hub)
    assert caught.value.table.column("status").to_pylist() == ["ok", "error"]  # type: ignore[attr-defined]
    with pytest.raises(llmhub.BadRequestError, match="empty"):
        llmhub.embed(["a", ""], model=MODEL, hub=hub)


def test_series_keep_their_index_and_share_a_matrix(hub: llmhub.Hub) -> None:
    series = pd.Series(["a", None, "b"], index=[5, 5, 1], name="text")
    vectors = series.llm.embed(model=MODEL, hub=hub, dimensions=4)  # type: ignore[attr-defined]
    assert vectors.index.tolist() == [5, 5, 1]
    assert vectors.name == "text"
    assert vectors.iloc[1] is None
    assert vectors.iloc[0].dtype == np.float32
    numbers = llmhub.matrix(vectors)
    assert np.isnan(numbers[1]).all()
    whole = llmhub.matrix(series.dropna().llm.embed(model=MODEL, hub=hub, dimensions=4))  # type: ignore[attr-defined]
    assert (whole == numbers[[0, 2]]).all()


def test_a_series_of_rows_of_one_matrix_is_not_copied(hub: llmhub.Hub) -> None:
    vectors = pd.Series(["a", "b", "c"]).llm.embed(model=MODEL, hub=hub, dimensions=4)  # type: ignore[attr-defined]
    assert np.shares_memory(llmhub.matrix(vectors), vectors.iloc[0])
    reordered = vectors.iloc[[2, 0]]
    assert (llmhub.matrix(reordered)[0] == vectors.iloc[2]).all()
    assert not np.shares_memory(llmhub.matrix(reordered), vectors.iloc[0])


def test_polars_has_arrays_and_duckdb_floats(hub: llmhub.Hub) -> None:
    options: dict[str, Any] = {"model": MODEL, "hub": hub, "dimensions": 4, "progress": False}
    series = pl.Series("t", ["a", None]).llm.embed(**options)  # type: ignore[attr-defined]
    assert series.dtype == pl.Array(pl.Float32, 4)
    assert np.isnan(llmhub.matrix(series)[1]).all()
    frame = pl.DataFrame(FRAME).llm.embed("title", **options)  # type: ignore[attr-defined]
    assert frame.schema["embedding"] == pl.Array(pl.Float32, 4)
    lazy = pl.LazyFrame(FRAME).llm.embed("title", **options)  # type: ignore[attr-defined]
    assert lazy.collect()["embedding"].equals(frame["embedding"])
    with duckdb.connect() as con:
        relation = con.sql("SELECT 'a' AS t").llm.embed("t", **options)  # type: ignore[attr-defined]
        assert str(dict(zip(relation.columns, relation.types, strict=True))["embedding"]) == "FLOAT[4]"
        (score,) = con.sql("SELECT array_cosine_similarity(embedding, embedding) FROM relation").fetchall()[0]
        assert score == pytest.approx(1)


def test_expressions_and_sql_functions_embed(hub: llmhub.Hub) -> None:
    frame = pl.DataFrame({"t": ["a", None, "b"]})
    column: Any = pl.col("t")
    found = frame.with_columns(
        v=column.llm.embed(model=MODEL, hub=hub, dimensions=4), w=column.llm.embed(model=MODEL, hub=hub)
    )
    assert (found.schema["v"], found.schema["w"]) == (pl.Array(pl.Float32, 4), pl.List(pl.Float32))
    assert found["v"].null_count() == found["w"].null_count() == 1
    with pytest.raises(llmhub.BadRequestError, match="anthropic has no embeddings"):
        column.llm.embed(model="anthropic/x", hub=hub)
    with duckdb.connect() as con:
        llmhub.duckdb_functions(con, model="openai/gpt-4o-mini", hub=hub)
        sql = f"SELECT t, llm_embed(t, model := '{MODEL}') AS v FROM (VALUES ('a'), (NULL), ('b')) AS x(t)"
        rows = dict(con.sql(sql).fetchall())
    assert rows[None] is None
    assert rows["a"] == pytest.approx(llmhub.embed("a", model=MODEL, hub=hub).tolist())


def test_frames_get_compact_columns_or_all(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame(FRAME, index=[3, 3, 1])
    result = frame.llm.embed("{title}: {body}", model=MODEL, hub=hub)  # type: ignore[attr-defined]
    assert list(result) == [*FRAME, "embedding", "status", "error", "cost_usd", "input_tokens", "cache_hit"]
    assert result["status"].tolist() == ["ok", "skipped", "ok"]
    assert result.index.tolist() == [3, 3, 1]
    everything = frame.llm.embed("title", model=MODEL, hub=hub, columns="all", prefix="e_")  # type: ignore[attr-defined]
    assert "e_price_id" in everything
    with pytest.raises(llmhub.BadRequestError, match="response"):
        frame.llm.embed("title", model=MODEL, hub=hub, columns=["response"])  # type: ignore[attr-defined]


def test_vectors_survive_parquet(tmp_path: Path, hub: llmhub.Hub) -> None:
    frame = pd.DataFrame(FRAME).llm.embed("title", model=MODEL, hub=hub, dimensions=4)  # type: ignore[attr-defined]
    frame.to_parquet(tmp_path / "v.parquet")
    read = pd.read_parquet(tmp_path / "v.parquet")
    assert (llmhub.matrix(read["embedding"]) == llmhub.matrix(frame["embedding"])).all()
    arrow = pd.DataFrame(FRAME).llm.embed(  # type: ignore[attr-defined]
        "title", model=MODEL, hub=hub, dimensions=4, dtype_backend="pyarrow"
    )
    assert (llmhub.matrix(arrow["embedding"]) == llmhub.matrix(frame["embedding"])).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "anthropic/claude-haiku-4-5"}, "anthropic has no embeddings"),
        ({"model": ["a/b", "c/d"]}, "cannot be compared"),
        ({"model": "nobody/x"}, "nobody"),
        ({"dimensions": 0}, "dimensions"),
        ({"kind": "title"}, "'document' or 'query'"),
        ({"batch_size": 0}, "batch_size"),
        ({"on_error": "drop"}, "on_error"),
        ({"dimension": 3}, "did you mean dimensions"),
        ({"temperature": 1}, "no such option"),
        ({"concurrency": 10**6}, "concurrency"),
        ({"budget_usd": -1}, "budget_usd"),
    ],
)
def test_wrong_arguments_raise_before_anything_is_sent(
    options: dict[str, Any], message: str, hub: llmhub.Hub, simulator: SimulatorThread
) -> None:
    with pytest.raises(llmhub.BadRequestError, match=message):
        llmhub.embed_table(FRAME, "title", **{"model": MODEL, "hub": hub, **options})
    assert simulator.counts()["requests"] == 0


@pytest.mark.parametrize("texts", [5, None, b"bytes", {"t": ["a"]}, ["a", 5], pd.DataFrame({"t": ["a"]})])
def test_what_is_no_text_is_refused(texts: Any, hub: llmhub.Hub) -> None:
    with pytest.raises(llmhub.BadRequestError, match="text: "):
        llmhub.embed(texts, model=MODEL, hub=hub)


@pytest.mark.parametrize("values", [["a"], [{"a": 1}], [[1.0], [1.0, 2.0]], [1.0, 2.0]])
def test_what_is_no_column_of_vectors_is_refused(values: list[Any]) -> None:
    with pytest.raises(llmhub.BadRequestError, match="vectors: must be"):
        llmhub.matrix(pd.Series(values, dtype=object))


def test_unknown_columns_and_routes_are_refused(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    with pytest.raises(llmhub.BadRequestError, match="Did you mean"):
        llmhub.embed_table(FRAME, "titel", model=MODEL, hub=hub)
    route = {"both": llmhub.Failover(MODEL, "voyage/voyage-4")}
    with (
        llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), route=route) as routed,
        pytest.raises(llmhub.BadRequestError, match="route"),
    ):
        llmhub.embed("a", model="both", hub=routed)


def test_a_hook_of_a_hub_without_credentials_names_the_variable() -> None:
    with llmhub.Hub(settings=Settings()) as hub, pytest.raises(llmhub.AuthenticationError, match="VOYAGE_API_KEY"):
        llmhub.embed("a", model="voyage/voyage-4", hub=hub)


@pytest.mark.filterwarnings("ignore::llmhub.EstimateWarning")
def test_a_plan_sends_nothing_and_is_right(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    texts = [f"text {index}" for index in range(600)]
    plan = llmhub.plan_embeddings({"t": [*texts, "text 0"]}, "t", model=MODEL, hub=hub)
    assert simulator.counts()["requests"] == 0
    assert (plan.rows, plan.texts, plan.cached, plan.requests) == (601, 600, 0, 3)
    assert plan.usd is not None
    assert plan.tokens * 2 == int(plan.usd * 10**8)
    llmhub.embed_table({"t": texts}, "t", model=MODEL, hub=hub, progress=False)
    assert simulator.counts()["requests"] == plan.requests
    after = pd.DataFrame({"t": texts}).llm.plan_embeddings("t", model=MODEL, hub=hub)  # type: ignore[attr-defined]
    assert (after.cached, after.requests, after.tokens) == (600, 0, 0)
    assert "600" in str(after)
    assert "600" in after._repr_html_()


@pytest.mark.filterwarnings("ignore::llmhub.EstimateWarning")
def test_a_plan_needs_no_credentials_and_knows_the_limits() -> None:
    limits = {"openai": llmhub.Limit(rpm=2)}
    with llmhub.Hub(settings=Settings(), limits=limits) as hub:
        run = build_embedding_run(["a"], MODEL, hub, {}, dry_run=True)
        assert run.limits.texts == 256
        plan = llmhub.plan_embeddings({"t": [str(n) for n in range(1000)]}, "t", model=MODEL, hub=hub)
    assert plan.minutes == 2


def test_every_provider_with_embeddings_is_simulated() -> None:
    names = [name for name, provider in PROVIDERS.items() if provider.embeddings]
    models = {"bedrock": "amazon.titan-embed-text-v2:0"}
    with llmhub.simulate():
        for name in names:
            vectors = llmhub.embed(["one two", "three"], model=f"{name}/{models.get(name, 'some-embed')}")
            assert vectors.shape[0] == 2


# Similarity


def test_similarity_is_exact() -> None:
    generator = np.random.default_rng(7)
    vectors = generator.standard_normal((500, 16)).astype(np.float32)
    queries = generator.standard_normal((7, 16)).astype(np.float32)
    found = llmhub.similarity(vectors, queries, k=5)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    expected = np.argsort(-(asked @ unit.T), axis=1)[:, :5]
    assert (found.indices == expected).all()
    assert found.scores == pytest.approx(np.take_along_axis(asked @ unit.T, expected, 1), abs=1e-5)


def test_similarity_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(7)
    vectors = generator.standard_normal((100, 4)).astype(np.float32)
    whole = llmhub.similarity(vectors, vectors[:3], k=8)
    monkeypatch.setattr(vectors_module, "BLOCK_ROWS", 7)
    split = llmhub.similarity(vectors, vectors[:3], k=8)
    assert (split.indices == whole.indices).all()
    assert split.indices[:, 0].tolist() == [0, 1, 2]


def test_similarity_takes_columns_and_skips_missing_vectors() -> None:
    series = pd.Series([np.array([1, 0], np.float32), None, np.array([0, 1], np.float32)])
    found = llmhub.similarity(series, np.array([0.9, 0.1], np.float32), k=3)
    assert found.indices[:2].tolist() == [0, 2]
    assert found.scores[2] == -np.inf
    assert llmhub.similarity(pa.array([[0.0, 0.0]], pa.list_(pa.float32(), 2)), [[1.0, 0.0]]).scores.tolist() == [[0.0]]


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_similarity_refuses_other_numbers(k: Any) -> None:
    with pytest.raises(llmhub.BadRequestError, match="k"):
        llmhub.similarity(np.eye(2), np.eye(2), k=k)


def test_vectors_of_other_lengths_are_refused() -> None:
    with pytest.raises(llmhub.BadRequestError, match="dimensions"):
        llmhub.similarity(np.eye(2), np.eye(3))
    with pytest.raises(llmhub.BadRequestError, match="one length"):
        llmhub.matrix([np.ones(2), np.ones(3)])

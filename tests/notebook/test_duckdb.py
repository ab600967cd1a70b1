"""DuckDB relations as frames, and SQL functions that send prompts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import SimulatorThread
from llmhub.tables import tokenizers

MODEL = "openai/gpt-4o-mini"
OTHER = "anthropic/claude-haiku-4-5"
SCHEMA = json.dumps({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]})


class CharacterEncoding:
    """A tokenizer that needs no download."""

    def encode_ordinary(self, text: str) -> list[str]:
        return list(text)


@pytest.fixture
def hub(simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch) -> Iterator[llmhub.Hub]:
    monkeypatch.setattr(tokenizers, "load_encoding", lambda *_: CharacterEncoding())
    retry = llmhub.Retry(attempts=1)
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), retry=retry) as hub:
        yield hub


@pytest.fixture
def con(hub: llmhub.Hub) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE said AS SELECT * FROM (VALUES ('one', 1), (NULL, 2), ('three', 3)) v(t, n)")
        assert llmhub.duckdb_functions(connection, model=MODEL, hub=hub) is connection
        yield connection


def rows(con: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return con.sql(query).fetchall()


def test_complete(con: duckdb.DuckDBPyConnection, hub: llmhub.Hub) -> None:
    expected = [llmhub.complete(f"Say {text}", model=MODEL, hub=hub).text for text in ("one", "three")]
    assert rows(con, "SELECT llm_complete('Say ' || t) FROM said ORDER BY n") == [
        (expected[0],),
        (None,),
        (expected[1],),
    ]
    other = llmhub.complete("Hi", model=OTHER, hub=hub, system="Be brief.").text
    query = f"SELECT llm_complete('Hi', model := '{OTHER}', system := 'Be brief.')"
    assert rows(con, query) == [(other,)]


def test_each_row_may_have_a_model_of_its_own(con: duckdb.DuckDBPyConnection, simulator: SimulatorThread) -> None:
    query = (
        f"SELECT r.model FROM (SELECT n, llm_result(t, CASE n WHEN 1 THEN '{MODEL}' ELSE '{OTHER}' END) AS r FROM said)"
    )
    assert sorted(rows(con, query)) == [("claude-haiku-4-5",), ("claude-haiku-4-5",), ("gpt-4o-mini",)]
    assert simulator.counts()["requests"] == 2


def test_labels_fields_and_tokens(con: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT llm_classify(t, ['up', 'down'], system := 'Judge.') FROM said ORDER BY n"
    (first,), missing, (last,) = rows(con, query)
    assert {first, last} <= {"up", "down"}
    assert missing == (None,)
    (extracted,) = rows(con, f"SELECT llm_extract('How old is she?', '{SCHEMA}')")[0]
    assert isinstance(json.loads(extracted)["age"], int)
    assert rows(con, "SELECT llm_count_tokens(t) FROM said ORDER BY n") == [(3,), (None,), (5,)]


def test_results_tell_status_and_cost(con: duckdb.DuckDBPyConnection, simulator: SimulatorThread) -> None:
    relation = con.sql("SELECT n, unnest(llm_result('[[sim:500 always]]' || n)) FROM said WHERE n = 1")
    (failed,) = relation.fetchall()
    assert relation.columns == [
        "n", "provider", "model", "response", "status", "error", "cost_usd", "latency_s", "input_tokens",
        "output_tokens", "cache_hit",
    ]  # fmt: skip
    assert failed[3:5] == (None, "error")
    assert "500" in failed[5]
    assert simulator.counts()["requests"] == 1  # and not one for each field
    assert rows(con, "SELECT llm_complete('[[sim:500 always]]')") == [(None,)]
    ((cost,),) = rows(con, "SELECT llm_result('Hi').cost_usd")
    assert 0 < cost < 1


def test_many_rows_are_sent_in_vectors_and_equal_ones_once(
    con: duckdb.DuckDBPyConnection, simulator: SimulatorThread
) -> None:
    query = "SELECT count(*), count(DISTINCT a) FROM (SELECT llm_complete('Say ' || i % 7) AS a FROM range(3000) r(i))"
    ((count, distinct),) = rows(con, query)
    assert count == 3000
    assert distinct <= 7
    assert simulator.counts()["requests"] <= 14


def test_explaining_and_failing_send_nothing(con: duckdb.DuckDBPyConnection, simulator: SimulatorThread) -> None:
    rows(con, "EXPLAIN SELECT llm_complete('Hi')")
    for query, message in (
        ("SELECT llm_complete('Hi', NULL)", "model: the call names no model; pass model := "),
        ("SELECT llm_complete('Hi', 'nobody')", "model: 'nobody' names no provider"),
        ("SELECT llm_extract('Hi', 'x')", "schema: 'x' is not a JSON schema"),
        ("SELECT llm_classify('Hi', ['x'])", "labels: "),
        ("SELECT llm_count_tokens('Hi', NULL)", "model: the call names no model"),
    ):
        with pytest.raises(duckdb.Error, match=message):
            rows(con, query)
    assert simulator.counts()["requests"] == 0


def test_functions_are_registered_again_with_other_options(hub: llmhub.Hub, con: duckdb.DuckDBPyConnection) -> None:
    llmhub.duckdb_functions(con, hub=hub, max_tokens=3)
    with pytest.raises(duckdb.Error, match="llm_complete"):
        rows(con, "SELECT llm_complete('Hi')")
    ((tokens,),) = rows(con, f"SELECT llm_result('Tell me a story', '{MODEL}').output_tokens")
    assert tokens <= 3
    for name, value in {"n": 2, "schema": dict, "messages": "t", "images": "t"}.items():
        with pytest.raises(BadRequestError, match=f"^{name}: cannot be set for SQL functions"):
            llmhub.duckdb_functions(con, hub=hub, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(BadRequestError, match="'nobody' names no provider"):
        llmhub.duckdb_functions(con, hub=hub, model="nobody")


def test_a_budget_is_for_all_rows_of_the_connection(hub: llmhub.Hub, con: duckdb.DuckDBPyConnection) -> None:
    llmhub.duckdb_functions(con, model=MODEL, hub=hub, budget_usd=0.00002, max_tokens=20)
    query = (
        "SELECT status, count(*) FROM (SELECT llm_result('Say ' || i).status AS status FROM range(50) r(i)) GROUP BY 1"
    )
    statuses = dict(rows(con, query))
    assert statuses["budget"] > 0
    assert set(statuses) <= {"ok", "budget"}


def test_results_of_a_relation_belong_to_its_connection(con: duckdb.DuckDBPyConnection, hub: llmhub.Hub) -> None:
    relation = con.sql("SELECT * FROM said")
    answers = relation.llm.complete("Say {t}", model=[MODEL, OTHER], hub=hub, progress=False)  # type: ignore[attr-defined]
    assert isinstance(answers, duckdb.DuckDBPyRelation)
    joined = con.sql("SELECT count(*) FROM answers JOIN said USING (n) WHERE status = 'ok'")
    assert joined.fetchall() == [(4,)]
    (cost,) = con.sql("SELECT sum(cost_usd) FROM answers").fetchall()[0]
    assert cost > 0
    assert len(answers.fetchall()) == 6


def test_the_accessor_is_there_whichever_is_imported_first() -> None:
    for imports in ("import duckdb, llmhub", "import llmhub, duckdb"):
        code = f"{imports}; print(hasattr(duckdb.sql('SELECT 1 AS x'), 'llm'))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "True"


def test_duckdb_is_named_where_it_is_missing(hub: llmhub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(BadRequestError, match=r"^con: duckdb is not installed; run pip install 'llmhub\[duckdb\]'"):
        llmhub.duckdb_functions(hub=hub)

"""``pl.col("text").llm``: completions as expressions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import SimulatorThread

MODEL = "openai/gpt-4o-mini"


class Person(BaseModel):
    name: str
    age: int | None


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    retry = llmhub.Retry(attempts=1)
    with llmhub.Hub(
        endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache(), retry=retry
    ) as hub:
        yield hub


@pytest.fixture
def frame() -> pl.DataFrame:
    return pl.DataFrame({"t": ["one", None, "[[sim:500 always]]", "four"], "n": [1, 2, 3, 4]})


def expression(expr: pl.Expr) -> Any:
    return expr.llm  # type: ignore[attr-defined]


def test_an_expression_equals_the_series(hub: llmhub.Hub, frame: pl.DataFrame) -> None:
    texts = frame.select(expression(pl.col("t")).complete("Say {}", model=MODEL, hub=hub)).to_series()
    assert texts.name == "t"
    same = llmhub.llm(frame["t"]).complete("Say {}", model=MODEL, hub=hub, progress=False)
    assert texts.to_list() == same.to_list()
    assert texts.is_null().to_list() == [False, True, True, False]
    assert llmhub.llm(pl.col("t")).complete("Say {}", model=MODEL, hub=hub).meta.output_name() == "t"


def test_labels_and_fields_are_typed(hub: llmhub.Hub, frame: pl.DataFrame) -> None:
    llm = expression(pl.col("t"))
    answers = frame.select(
        mood=llm.classify(labels=["up", "{down}"], model=MODEL, hub=hub, system="Be {brief}."),
        level=llm.classify(labels=[1, 2], model=MODEL, hub=hub),
        person=llm.extract("Who is it?", schema=Person, model=MODEL, hub=hub),
    )
    assert answers.schema["mood"] == pl.String
    assert answers.schema["level"] == pl.Int64
    assert answers.schema["person"] == pl.Struct({"name": pl.String, "age": pl.Int64})
    assert set(answers["mood"]) == {"up", None} | {"{down}"} & set(answers["mood"])
    assert answers["person"].struct.unnest().columns == ["name", "age"]


def test_structs_are_rows_of_a_template(hub: llmhub.Hub, frame: pl.DataFrame) -> None:
    answers = frame.select(expression(pl.struct("t", "n")).complete("{n}: {t}", model=MODEL, hub=hub)).to_series()
    table = llmhub.complete_table(frame, "{n}: {t}", model=MODEL, hub=hub, progress=False)
    assert answers.to_list() == table.column("response").to_pylist()
    with pytest.raises(BadRequestError, match="'m' is not a column of the frame"):
        frame.select(expression(pl.struct("t", "n")).complete("{m}", model=MODEL, hub=hub))


def test_rows_are_filtered_before_they_are_sent(
    hub: llmhub.Hub, simulator: SimulatorThread, frame: pl.DataFrame
) -> None:
    query = frame.lazy().with_columns(answer=expression(pl.col("t")).complete("Say {}", model=MODEL, hub=hub))
    assert query.collect_schema()["answer"] == pl.String
    assert simulator.counts()["requests"] == 0
    assert query.filter(pl.col("n") == 4).collect()["answer"].null_count() == 0
    assert simulator.counts()["requests"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "nobody"}, r"^model: "),
        ({"model": MODEL, "n": 2}, r"^n: "),
        ({"model": MODEL, "temprature": 1}, r"temprature"),
        ({"model": MODEL, "schema": 7}, r"has no schema"),
    ],
)
def test_wrong_arguments_are_raised_where_the_expression_is_written(
    hub: llmhub.Hub, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRequestError, match=message):
        expression(pl.col("t")).complete("Say {}", hub=hub, **options)


def test_the_hub_is_that_of_the_place_where_it_is_written(hub: llmhub.Hub, frame: pl.DataFrame) -> None:
    with llmhub.using(hub):
        query = frame.lazy().select(expression(pl.col("t")).complete("Say {}", model=MODEL))
    assert query.collect().to_series().null_count() == 2


def test_lazy_frames_are_collected_when_they_are_sent(
    hub: llmhub.Hub, simulator: SimulatorThread, frame: pl.DataFrame
) -> None:
    answers = frame.lazy().filter(pl.col("n") == 1).llm.complete("Say {t}", model=MODEL, hub=hub, progress=False)  # type: ignore[attr-defined]
    assert isinstance(answers, pl.LazyFrame)
    assert simulator.counts()["requests"] == 1
    assert answers.collect()["status"].to_list() == ["ok"]
    assert answers.select("response").collect().equals(answers.select("response").collect())
    assert simulator.counts()["requests"] == 1
    assert "llm" in dir(pl.Expr)
    assert repr(expression(pl.col("t"))).startswith("<llmhub methods of an expression: classify, complete, ")

"""Structured outputs, labels, and functions of a row."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import joblib
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError, MalformedResponseError
from llmhub.core.json_schema import schema_violation
from llmhub.sim import Simulator, serving
from llmhub.sim.latency import Latency
from llmhub.tables.result_frames import COMPACT_COLUMNS
from llmhub.tables.rows import Row
from llmhub.tables.structured_outputs import arrow_type, find_label, output_schema, parse_labels, to_arrow_value

MODEL = "openai/gpt-4o-mini"


BOTH = [MODEL, "anthropic/claude-haiku-4-5"]


class Person(BaseModel):
    name: str
    age: int | None = None
    tags: list[str] = Field(default_factory=list)


@dataclass
class Place:
    name: str
    at: tuple[float, float]


def respond(prompt: str) -> str:
    """Return the part of the prompt after the last bar."""
    return prompt.rpartition("|")[2]


@pytest.fixture(scope="module")
def hub() -> Iterator[llmhub.Hub]:
    with serving(Simulator(seed=7, respond=respond)) as served:
        retry = llmhub.Retry(attempts=1)
        with llmhub.Hub(endpoints=served.endpoints(), settings=Settings(), retry=retry) as open_hub:
            yield open_hub


def call_arguments(hub: llmhub.Hub, *answers: str | None) -> dict[str, Any]:
    return {"frame": pd.DataFrame({"said": answers}), "options": {"model": MODEL, "hub": hub, "progress": False}}


def extract(hub: llmhub.Hub, schema: Any, *answers: str | None, **more: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"said": answers})
    return llmhub.llm(frame).extract("|{said}", schema=schema, hub=hub, **{"model": MODEL, "progress": False, **more})


# extract

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": ["integer", "null"]}},
    "required": ["name"],
}


def test_fields_become_typed_columns(hub: llmhub.Hub) -> None:
    rows = extract(hub, Person, '{"name": "Ada", "age": 36, "tags": ["x"]}', None, '```json\n{"name": "Bob"}\n```')
    assert rows["name"].tolist()[::2] == ["Ada", "Bob"]
    assert rows["status"].tolist() == ["ok", "skipped", "ok"]
    assert [str(rows[name].dtype) for name in ("name", "age", "tags")] == [
        "str",
        "Int64",
        "object",
    ]
    assert rows["age"].isna().tolist() == [False, True, True]
    assert list(rows.columns) == ["said", "name", "age", "tags", *COMPACT_COLUMNS]


@pytest.mark.parametrize(
    ("schema", "answer", "message"),
    [
        (Person, '{"name": 7}', r"not a Person: .*at \$\.name"),
        (Person, "Sorry!", r"not a Person: Invalid JSON"),
        (Place, '{"name": "x", "at": [1]}', r"not a Place: .*at \$\.at"),
        (SCHEMA, '{"name": 7}', r"not a answer: 7 is not of type string at \$\.name"),
        (SCHEMA, "{}", r"the field name is missing"),
        (SCHEMA, '{"name": "x", "other": 1}', r"there is no field other"),
        (SCHEMA, "[]", r"is not of type object"),
        (Person, '{"name": "x", "age": 99999999999999999999}', r"does not fit its column"),
    ],
)
def test_mismatch_is_an_error_of_the_row(hub: llmhub.Hub, schema: Any, answer: str, message: str) -> None:
    rows = extract(hub, schema, answer, '{"name": "Ada", "age": 3, "tags": [], "at": [1, 2]}', columns=["error_type"])
    assert rows["status"].iloc[0] == "error"
    assert rows["error_type"].iloc[0] == "Malformed"
    assert rows["response"].iloc[0] == answer
    assert pd.isna(rows["name"].iloc[0])
    assert rows["cost_usd"].iloc[0] > 0
    import re  # noqa: PLC0415 - of this test alone

    assert re.search(message, rows["error"].iloc[0]), rows["error"].iloc[0]


def test_table_has_a_struct_and_explains_truncation(hub: llmhub.Hub) -> None:
    long = json.dumps({"name": "x" * 100})
    table = llmhub.complete_table(
        {"t": [long]}, "|{t}", model=BOTH, hub=hub, schema=Person, max_tokens=3, progress=False
    )
    assert table.schema.field("parsed").type == output_schema(Person).unwrap().arrow_type
    assert [text.partition(":")[0] for text in table.column("error").to_pylist()] == [
        "the response was cut off; raise max_tokens"
    ] * 2
    texts = llmhub.complete_table({"t": [long]}, "|{t}", model=MODEL, hub=hub, response_schema=Person, progress=False)
    assert texts.column("parsed").to_pylist() == ['{"name":"' + "x" * 100 + '"}']


def test_record_batches_and_processes_keep_the_struct_type(hub: llmhub.Hub) -> None:
    batches = [pa.RecordBatch.from_pydict({"t": pa.array(texts, pa.string())}) for texts in ([], ['{"name": "Ada"}'])]
    call_arguments: dict[str, Any] = {"model": MODEL, "hub": hub, "schema": Person, "progress": False}
    kinds = {
        batch.schema.field("parsed").type for batch in llmhub.complete_record_batches(batches, "|{t}", **call_arguments)
    }
    assert kinds == {output_schema(Person).unwrap().arrow_type}
    with joblib.parallel_config(backend="threading"):
        spread = llmhub.complete_table(batches[1], "|{t}", n_jobs=2, **call_arguments)
    assert spread.column("parsed").to_pylist() == [{"name": "Ada", "age": None, "tags": []}]


def test_on_error_raise_raises_for_a_mismatch(hub: llmhub.Hub) -> None:
    with pytest.raises(MalformedResponseError, match="not a Person") as caught:
        extract(hub, Person, '{"name": "Ada"}', "no", on_error="raise")
    table: Any = caught.value.table
    assert table.column("status").to_pylist() == ["ok", "error"]


def test_schema_that_is_not_an_object_is_one_column(hub: llmhub.Hub) -> None:
    rows = extract(hub, list[int], '{"value": [1, 2]}', "[3]", "x")
    assert [None if value is None else list(value) for value in rows["value"].tolist()[:2]] == [[1, 2], [3]]
    assert rows["status"].tolist() == ["ok", "ok", "error"]


def test_name_clashes_are_rejected(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"name": ["x"], "status": ["y"]})
    options: dict[str, Any] = {"model": MODEL, "hub": hub, "progress": False}
    with pytest.raises(BadRequestError, match=r"^prefix: .*'status'"):
        llmhub.llm(frame).extract("{name}", schema=Person, **options)
    with pytest.raises(BadRequestError, match=r"^field_prefix: 'name' is the name of another column"):
        llmhub.llm(frame).extract("{name}", schema=Person, prefix="llm_", **options)
    with pytest.raises(BadRequestError, match="has no schema"):
        llmhub.llm(frame).extract("{name}", schema=7, **options)
    with pytest.raises(BadRequestError, match=r"^schema: schema= and response_schema= exclude each other"):
        llmhub.complete_table({"t": ["x"]}, "{t}", schema=Person, response_schema=Person, **options)
    answers = llmhub.llm(frame).extract("|{name}", schema=Person, prefix="llm_", field_prefix="its_", **options)
    assert list(answers.columns)[:4] == ["name", "status", "its_name", "its_age"]


def test_wide_of_extracted_fields(hub: llmhub.Hub) -> None:
    rows = extract(hub, Person, '{"name": "Ada", "age": 36}', model=BOTH)
    assert list(rows.llm.wide("name").columns) == ["said", "tags", *BOTH]
    assert list(rows.llm.wide().columns) == [
        "said",
        "tags",
        *(f"{it} {model}" for it in ("name", "age") for model in BOTH),
    ]


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string", "enum": ["a", "b"]}, pa.string()),
        ({"enum": [1, 2]}, pa.int64()),
        ({"const": 1.5}, pa.float64()),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}, {"type": "null"}]}, pa.float64()),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, pa.string()),
        ({"type": "array", "items": {"type": "boolean"}}, pa.list_(pa.bool_())),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, pa.string()),
        ({"$ref": "#/$defs/x"}, pa.int64()),
        ({"$ref": "#/$defs/loop"}, pa.string()),
        ({}, pa.string()),
    ],
)
def test_arrow_type_of_a_schema(schema: Any, kind: pa.DataType) -> None:
    root = {"$defs": {"x": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}}}
    assert arrow_type(schema, root) == kind


def test_recursive_type_is_cut_off() -> None:
    loop = {"$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"}
    value: Any = {}
    for _ in range(50):
        value = {"next": value}
    kind = arrow_type(loop, loop)
    assert pa.scalar(to_arrow_value(value, kind), kind).as_py()["next"] is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)


def schema_for(value: Any) -> dict[str, Any]:
    """Return a JSON schema that a value matches."""
    match value:
        case dict():
            fields = {name: schema_for(item) for name, item in value.items()}
            return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
        case list():
            return (
                {"type": "array", "items": {"anyOf": [schema_for(item) for item in value]}}
                if value
                else {"type": "array"}
            )
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return {"type": names[type(value)]}


@given(JSON, JSON)
def test_value_matches_its_own_schema(value: Any, other: Any) -> None:
    schema = schema_for(value)
    assert schema_violation(value, schema, schema) is None
    schema_violation(other, schema, schema)  # returns on any value


# classify


class Tone(Enum):
    UP = "positive"
    DOWN = "negative"


def test_labels_are_returned_in_their_own_spelling(hub: llmhub.Hub) -> None:
    answers = ["Positive.", '{"label": "negative"}', "not positive", None, "**NEGATIVE**"]
    for labels in (["positive", "negative"], Tone, {"positive": "glad", "negative": "sad"}):
        frame = pl.DataFrame({"said": answers})
        rows = llmhub.llm(frame).classify("|{said}", labels=labels, model=BOTH, hub=hub, progress=False)
        assert rows["label"].to_list()[::2] == ["positive", "negative", None, None, "negative"]
        assert rows["status"].to_list()[::2] == ["ok", "ok", "error", "skipped", "ok"]
        assert rows["error"][4] == "the response 'not positive' is not one of the labels 'positive', 'negative' at $"
    numbers = llmhub.llm({"said": ["2", "3"]}).classify("|{said}", labels=[1, 2], model=MODEL, hub=hub, column="n")
    assert numbers.column("n").to_pylist() == [2, None]


def test_labels_are_sent_in_words_and_as_a_schema(hub: llmhub.Hub) -> None:
    seen: list[llmhub.CompletionRequest] = []

    def recording(send: Any) -> Any:
        async def sent(call: Any) -> Any:
            seen.append(call.request)
            return await send(call)

        return sent

    frame = pd.DataFrame({"said": ["a"], "lang": ["Czech"]})
    with llmhub.Hub(endpoints=hub.endpoints, settings=Settings(), middleware=(recording,)) as watched:
        names = [MODEL, "bedrock/anthropic.claude-3-haiku-20240307-v1:0"]
        options: dict[str, Any] = {"labels": ["a", "{b}"], "model": names, "hub": watched, "progress": False}
        llmhub.llm(frame).classify("|{said}", **options, system="In {lang}.")
        llmhub.llm(frame).classify("|{said}", **options, system=lambda row: f"In {row.lang}.")
    assert len({request.messages[0].text for request in seen}) == 1
    assert seen[0].messages[0].text.startswith("In Czech.\n\nAnswer with exactly one")
    assert seen[0].messages[0].text.endswith("- a\n- {b}")
    schemas = {request.model: request.response_schema for request in seen}
    assert schemas["gpt-4o-mini"].schema["properties"]["label"]["enum"] == ["a", "{b}"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "labels", [["one"], "text", 7, [None, "a"], ["a", " "], ["a", "A"], [[], "a"], ["a", "a"], []], ids=str
)
def test_invalid_labels_are_rejected(hub: llmhub.Hub, labels: Any) -> None:
    with pytest.raises(BadRequestError, match=r"^labels: "):
        llmhub.llm(pd.DataFrame({"t": ["x"]})).classify("{t}", labels=labels, model=MODEL, hub=hub)


@given(
    st.sampled_from(["yes", "no", "not sure"]), st.sampled_from(["{}", "{}.", "**{}**", "Label: {}", " {}\n", '"{}"'])
)
def test_label_is_found_in_decorated_text(label: str, dress: str) -> None:
    labels = list(parse_labels(["yes", "no", "not sure"]))
    for written in (label, label.upper(), label.title()):
        assert find_label(dress.format(written), labels) == label


@given(st.text())
def test_any_text_is_a_label_or_none(text: str) -> None:
    assert find_label(text, ["yes", "no"]) in {"yes", "no", None}


# map


def test_map_returns_values_with_the_index(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["one", None, "three"]}, index=pd.Index(list("cab"), name="key"))
    lengths = llmhub.llm(frame).map(lambda row: len(row["t"]), hub=hub)
    pd.testing.assert_series_equal(lengths, pd.Series([3.0, None, 5.0], index=frame.index))
    assert llmhub.llm(pl.from_pandas(frame)).map(lambda row: row.t.upper(), hub=hub).to_list() == ["ONE", None, "THREE"]
    assert llmhub.llm(pa.table({"t": ["a"]})).map(lambda row: [row.t], hub=hub).to_pylist() == [["a"]]
    with pytest.raises(BadRequestError, match=r"^function: its return values have no common Arrow type"):
        llmhub.llm(pa.table({"t": ["a"]})).map(lambda _: object(), hub=hub)


async def awaited(row: Row) -> str:
    return (await llmhub.acomplete(f"|{row.t}", model=MODEL)).text


@pytest.mark.parametrize(
    "function",
    [
        awaited,
        lambda row: llmhub.complete(f"|{row['t']}", model=MODEL).text,
        lambda row: awaited(row),  # noqa: PLW0108 - no coroutine function itself
    ],
    ids=["a coroutine function", "one that blocks", "one that gives what is awaited"],
)
def test_map_function_may_send_requests(hub: llmhub.Hub, function: Any) -> None:
    frame = pd.DataFrame({"t": ["one", None, "three"]}, index=list("cab"))
    texts = llmhub.llm(frame).map(function, hub=hub, concurrency=2)
    assert [None if pd.isna(text) else text for text in texts.tolist()] == ["one", None, "three"]
    assert list(texts.index) == list("cab")


def test_map_sends_returned_requests(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["one", None, "three"], "m": [BOTH[1], MODEL, ""]}, index=list("cab"))

    def request(row: Row) -> llmhub.CompletionRequest:
        turns = (llmhub.Message("user", f"|{row.t}"),)
        return llmhub.CompletionRequest(model=row.m, messages=turns, temperature=0.5)

    rows = llmhub.llm(frame).map(request, model=MODEL, hub=hub, progress=False)
    assert rows["response"].tolist()[::2] == ["one", "three"]
    assert rows["status"].tolist() == ["ok", "skipped", "ok"]
    assert rows["provider"].tolist()[::2] == ["anthropic", "openai"]
    assert list(rows.index) == list("cab")
    assert rows["cost_usd"].iloc[0] > rows["cost_usd"].iloc[2] > 0
    with pytest.raises(BadRequestError, match="the request of row 2 has no model"):
        llmhub.llm(frame).map(request, hub=hub)
    with pytest.raises(BadRequestError, match="returned a request for some rows, but str for row 2"):
        llmhub.llm(frame).map(lambda row: request(row) if row.m else "x", model=MODEL, hub=hub)


def test_failed_row_is_empty_with_a_warning(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["fine", "[[sim:500 always]]"]})

    def ask(row: Row) -> str:
        return llmhub.complete(f"|{row.t}", model=MODEL).text

    with pytest.warns(RuntimeWarning, match=r"1 rows failed and have no value \(ServerError 1\)"):
        texts = llmhub.llm(frame).map(ask, hub=hub)
    assert texts.isna().tolist() == [False, True]
    with pytest.raises(llmhub.ConnectorError):
        llmhub.llm(frame).map(ask, hub=hub, on_error="raise")


def test_exception_in_a_function_is_raised_with_its_row(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": range(100)})
    begun: list[int] = []

    def wrong(row: Row) -> int:
        begun.append(row.t)
        return 1 // (row.t - 3)

    with pytest.raises(ZeroDivisionError) as caught:
        llmhub.llm(frame).map(wrong, hub=hub, concurrency=1)
    assert caught.value.__notes__ == ["function: raised for row 3"]
    assert begun == [0, 1, 2, 3]
    with pytest.raises(BadRequestError, match=r"^function: 'u' is not a column"):
        llmhub.llm(frame).map(lambda row: row["u"], hub=hub)
    with pytest.raises(BadRequestError, match=r"^concurrency: "):
        llmhub.llm(frame).map(wrong, hub=hub, concurrency=0)


def test_exception_does_not_wait_for_running_functions() -> None:
    asking, answered = threading.Event(), threading.Event()

    def ask(row: Row) -> None:
        if row.t == "ask":
            asking.set()
            llmhub.complete("|slow", model=MODEL)
            answered.set()
        else:
            asking.wait()
            raise ZeroDivisionError

    with (
        serving(Simulator(latency=Latency(median_s=0.2))) as served,
        llmhub.Hub(endpoints=served.endpoints(), settings=Settings()) as slow,
    ):
        with pytest.raises(ZeroDivisionError):
            llmhub.llm({"t": ["ask", "fail"]}).map(ask, hub=slow)
        assert answered.wait(30)


def test_map_rejects_request_options(hub: llmhub.Hub) -> None:
    options: dict[str, Any] = {"temperature": 1}
    with pytest.raises(BadRequestError, match=r"^temperature: map has no such option"):
        llmhub.llm({"t": ["a"]}).map(lambda row: row.t, hub=hub, **options)


def test_map_concurrency(hub: llmhub.Hub) -> None:
    now = highest = 0

    async def count(_row: Row) -> None:
        nonlocal now, highest
        now += 1
        highest = max(highest, now)
        await asyncio.sleep(0)
        now -= 1

    llmhub.llm({"t": list(range(50))}).map(count, hub=hub, concurrency=7)
    assert highest == 7

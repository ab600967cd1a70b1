"""A single call returns what a row of a table has, and takes what a table takes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError, MalformedResponseError
from llmhub.core.types import CompletionResponse, Image, Logprobs, Message, Text
from llmhub.sim import SimulatorThread
from llmhub.types import Answer, Call, Send

MODEL = "openai/gpt-4o-mini"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 16


@dataclass
class Person:
    name: str
    age: int


@pytest.fixture
def sent() -> list[Call]:
    return []


@pytest.fixture
def hub(simulator: SimulatorThread, sent: list[Call]) -> Iterator[llmhub.Hub]:
    def record(send: Send) -> Send:
        async def recorded(call: Call) -> Answer:
            sent.append(call)
            return await send(call)

        return recorded

    with llmhub.Hub(
        endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache(), middleware=(record,)
    ) as open_hub:
        yield open_hub


def test_a_response_has_cost_latency_and_attempts(hub: llmhub.Hub) -> None:
    response = llmhub.complete("Say hi", model=MODEL, hub=hub)
    assert response.model == MODEL
    assert response.cost_usd is not None
    assert response.cost_usd > 0
    assert response.cost_usd == response.list_cost_usd
    assert response.latency_s is not None
    assert response.attempts == 1
    assert not response.cache_hit
    assert response.parsed is None
    assert response.usage.output_tokens
    assert response.finish_reason == "stop"


def test_a_cached_response_costs_nothing(hub: llmhub.Hub) -> None:
    first = llmhub.complete("Say hi", model=MODEL, hub=hub)
    again = llmhub.complete("Say hi", model=MODEL, hub=hub)
    assert again == first
    assert again.cache_hit
    assert again.cost_usd == Decimal(0)
    assert again.list_cost_usd == first.cost_usd
    assert "cached" in repr(again)


def test_cost_and_latency_are_those_of_a_row(hub: llmhub.Hub) -> None:
    single = llmhub.complete("Say hi", model=MODEL, hub=hub, cache="off")
    row = llmhub.complete_table({"text": ["hi"]}, "Say {text}", model=MODEL, hub=hub).to_pylist()[0]
    assert (single.text, single.cost_usd) == (row["response"], row["cost_usd"])


def test_a_completion_equals_its_response_and_can_be_pickled(hub: llmhub.Hub) -> None:
    response = llmhub.complete("Say hi", model=MODEL, hub=hub)
    names = CompletionResponse.__dataclass_fields__
    plain = CompletionResponse(**{name: getattr(response, name) for name in names})
    assert response == plain
    assert plain == response
    assert hash(response) == hash(pickle.loads(pickle.dumps(response)))
    assert pickle.loads(pickle.dumps(response)).cost_usd == response.cost_usd


async def test_awaited_and_streamed_calls_return_the_same_fields(hub: llmhub.Hub) -> None:
    awaited = await llmhub.acomplete("Say hi", model=MODEL, hub=hub, cache="off")
    last = [chunk async for chunk in llmhub.astream("Say hi", model=MODEL, hub=hub, cache="off")][-1]
    assert isinstance(last.response, llmhub.Completion)
    assert (last.response.model, last.cost_usd) == (MODEL, awaited.cost_usd)
    assert last.response.ttft_s is not None


@pytest.mark.parametrize("argument", ["schema", "response_schema"])
def test_a_schema_gives_a_parsed_value(hub: llmhub.Hub, argument: str) -> None:
    options: Any = {argument: Person}
    response = llmhub.complete("Ada, 36", model=MODEL, hub=hub, **options)
    assert isinstance(response.parsed, Person)


def test_a_json_schema_gives_plain_values(hub: llmhub.Hub) -> None:
    schema: Any = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    assert set(llmhub.complete("Ada", model=MODEL, hub=hub, schema=schema).parsed) == {"age"}


def test_a_response_that_does_not_match_keeps_its_text(hub: llmhub.Hub) -> None:
    response = llmhub.complete("Ada", model=MODEL, hub=hub, schema=Person, max_tokens=1)
    assert response.cost_usd is not None
    with pytest.raises(MalformedResponseError):
        _ = response.parsed


def test_both_names_of_the_schema_exclude_each_other(hub: llmhub.Hub) -> None:
    with pytest.raises(BadRequestError, match=r"schema: .*pass one of them"):
        llmhub.complete("Ada", model=MODEL, hub=hub, schema=Person, response_schema=Person)


def test_images_precede_the_text(hub: llmhub.Hub, sent: list[Call], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    llmhub.complete("What is this?", model=MODEL, hub=hub, images=tmp_path / "a.png")
    llmhub.complete("Compare.", model=MODEL, hub=hub, images=["https://example.org/a.png", PNG])
    kinds = [[type(part) for part in call.request.messages[-1].parts] for call in sent]
    assert kinds == [[Image, Text], [Image, Image, Text]]


def test_an_image_that_cannot_be_read_is_an_error(hub: llmhub.Hub) -> None:
    with pytest.raises(BadRequestError, match=r"images: .*cannot be read"):
        llmhub.complete("What is this?", model=MODEL, hub=hub, images="missing.png")


EXAMPLES: list[Any] = [
    [("great", "positive"), ("awful", "negative")],
    [{"input": "great", "output": "positive"}, {"input": "awful", "output": "negative"}],
    pd.DataFrame({"input": ["great", "awful"], "output": ["positive", "negative"]}),
]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_examples_are_turns_before_the_prompt(hub: llmhub.Hub, sent: list[Call], examples: Any) -> None:
    llmhub.complete("fine", model=MODEL, hub=hub, system="Classify.", examples=examples)
    llmhub.complete_table({"text": ["fine"]}, "{text}", model=MODEL, hub=hub, system="Classify.", examples=examples)
    llmhub.llm(pd.Series(["fine"])).complete(model=MODEL, hub=hub, system="Classify.", examples=examples)
    texts = [[(message.role, message.text) for message in call.request.messages] for call in sent]
    assert texts == [  # the table and the series ask what was asked before
        [
            ("system", "Classify."),
            ("user", "great"),
            ("assistant", "positive"),
            ("user", "awful"),
            ("assistant", "negative"),
            ("user", "fine"),
        ]
    ]


def test_examples_with_the_columns_of_the_template_are_rendered(hub: llmhub.Hub, sent: list[Call]) -> None:
    examples = [{"text": "great", "output": {"label": "positive"}}]
    frame = {"text": ["fine"], "hint": ["Be brief."]}
    llmhub.complete_table(frame, "Review: {text}", model=MODEL, hub=hub, system="{hint}", examples=examples)
    assert [(message.role, message.text) for message in sent[0].request.messages] == [
        ("system", "Be brief."),
        ("user", "Review: great"),
        ("assistant", '{"label": "positive"}'),
        ("user", "Review: fine"),
    ]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ("great", "expected pairs"),
        ([("great",)], r"examples\[0\]: expected a pair"),
        ([{"input": "great"}], r"examples\[0\]: has no 'output'"),
        ([{"other": "great", "output": "x"}], r"examples\[0\]: has no 'input'"),
    ],
)
def test_examples_that_are_none_say_so(hub: llmhub.Hub, examples: Any, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        llmhub.complete("fine", model=MODEL, hub=hub, examples=examples)


def test_a_list_of_texts_is_not_one_prompt(hub: llmhub.Hub) -> None:
    with pytest.raises(BadRequestError, match=r"2 texts is not one prompt.*complete_table"):
        llmhub.complete(["a", "b"], model=MODEL, hub=hub)


@pytest.mark.filterwarnings("ignore::llmhub.EstimateWarning")
def test_tokens_of_a_text_and_of_several() -> None:
    assert llmhub.count_tokens("Say hi.", MODEL) > 0
    assert len(llmhub.count_tokens(["Say hi.", ""], MODEL)) == 2
    with pytest.raises(BadRequestError, match="int is not a text"):
        llmhub.count_tokens([3], MODEL)  # type: ignore[list-item]


def test_models_are_listed_with_their_prices() -> None:
    table = llmhub.models("anthropic")
    assert set(table.provider) == {"anthropic"}
    row = table.set_index("model").loc["anthropic/claude-haiku-4-5"]
    assert (row.input_usd_per_mtok, row.output_usd_per_mtok) == (1.0, 5.0)
    assert {"openai", "anthropic"} <= set(llmhub.models().provider)
    with pytest.raises(BadRequestError, match="opnai"):
        llmhub.models("opnai")


def test_a_series_is_classified_extracted_and_mapped(hub: llmhub.Hub) -> None:
    texts = pd.Series(["good", None, "bad"], index=["a", "b", "c"], name="text")
    labels = texts.llm.classify(labels=["positive", "negative"], model=MODEL, hub=hub, system="Use {braces}.")
    assert list(labels.index) == ["a", "b", "c"]
    assert set(labels.dropna()) <= {"positive", "negative"}
    assert labels.isna().tolist() == [False, True, False]
    people = texts.llm.extract(schema=Person, model=MODEL, hub=hub)
    assert list(people.columns) == ["name", "age"]
    assert list(people.index) == ["a", "b", "c"]
    assert texts.llm.map(str.upper, hub=hub).tolist()[0] == "GOOD"
    answers = texts.llm.map(
        lambda text: llmhub.CompletionRequest(model=MODEL, messages=(Message("user", text),)), hub=hub
    )
    assert answers.isna().tolist() == [False, True, False]


def test_a_response_with_log_probabilities_is_displayed() -> None:
    response = CompletionResponse(parts=(Text("Hi"), Logprobs('["Hi",-0.5,[]],')))
    assert "Hi" in response._repr_html_()

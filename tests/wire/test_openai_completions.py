"""Completions of a text: recorded exchanges, what a base model takes, and that a stream equals a response."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful

import llmhub
from llmhub.config import Settings
from llmhub.core import errors
from llmhub.core.protocol import interpret, interpret_stream, prepare
from llmhub.core.provider import Endpoint, HttpReply
from llmhub.core.types import CompletionRequest, Image, Message, Schema, Text, Tool
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import SimulatorThread
from llmhub.wire import openai_completions

PROVIDER = PROVIDERS["openai-completions"]
FILES = ("openai", "vllm", "together", "azure_openai")


@pytest.mark.corpus
@pytest.mark.parametrize("file", FILES)
def test_recorded_answers_equal_a_reference_decoding(file: str, corpus: Callable[[str], list[Any]]) -> None:
    for exchange in corpus(f"{file}-completions"):
        pieces = [exchange.body[start : start + 13] for start in range(0, len(exchange.body), 13)]
        result = (
            interpret_stream(PROVIDER, exchange.head, pieces)
            if exchange.streaming
            else interpret(PROVIDER, exchange.reply)
        )
        assert is_successful(result) == exchange.ok, exchange.id
        if not exchange.ok:
            assert result.failure().status == exchange.status
            continue
        answer = result.unwrap()
        if exchange.streaming:
            events = [json.loads(line[6:]) for line in exchange.body.decode().splitlines() if line[:7] == "data: {"]
        else:
            events = [json.loads(exchange.body)]
        choices = [choice for event in events for choice in event["choices"]]
        assert answer.text == "".join(choice["text"] for choice in choices if not choice["index"]), exchange.id
        assert len(answer.others) == len({choice["index"] for choice in choices}) - 1
        assert answer.served_model == events[0]["model"]
        usage = next((event["usage"] for event in events if event.get("usage")), None)
        if usage is not None:
            assert answer.usage.input_tokens == usage["prompt_tokens"]
            assert answer.usage.output_tokens == usage["completion_tokens"]


@pytest.mark.corpus
def test_recorded_request_is_encoded_identically(corpus: Callable[[str], list[Any]]) -> None:
    recorded = next(each.request for each in corpus("openai-completions") if each.id.endswith("10cc7f9f4158"))
    body = recorded["body"]
    request = CompletionRequest(
        model=body["model"],
        messages=(Message("user", body["prompt"]),),
        max_tokens=body["max_tokens"],
        temperature=body["temperature"],
        extra={"n": 1},
    )
    sent = prepare(PROVIDER, Endpoint(api_key="k"), request, 0.0, stream=True).unwrap()
    assert (sent.url, json.loads(sent.body)) == (recorded["url"], body)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"messages": (Message("system", "Be brief."), Message("user", "a"))}, "$.messages[0]"),
        ({"messages": (Message("user", "a"), Message("assistant", "b"))}, "$.messages[1]"),
        (
            {"messages": (Message("user", (Text("a"), Image(url="https://example.org/a.png"))),)},
            "$.messages[0].parts[1]",
        ),
        ({"tools": (Tool("look"),)}, "$.tools"),
        ({"response_schema": Schema({})}, "$.response_schema"),
        ({"reasoning_effort": "low"}, "$.reasoning_effort"),
        ({"top_k": 4}, "$.top_k"),
        ({"logprobs": 6}, "$.logprobs"),
    ],
)
def test_what_a_base_model_does_not_take(fields: dict[str, Any], path: str) -> None:
    request = CompletionRequest(**{"model": "m", "messages": (Message("user", "a"),), **fields})
    assert openai_completions.encode(request).failure().path == path


def test_texts_are_continued_as_they_are() -> None:
    messages = (Message("user", (Text("Once upon"), Text(" a time"))), Message("user", ", "))
    payload = openai_completions.encode(CompletionRequest(model="m", messages=messages)).unwrap()
    assert payload == {"model": "m", "prompt": "Once upon a time, "}


def test_log_probabilities_are_rows() -> None:
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [-0.5, None], "top_logprobs": [{"a": -0.5, "c": -1.5}, None]}
    payload = {"choices": [{"text": "ab", "index": 0, "logprobs": logprobs, "finish_reason": "stop"}]}
    first, second = openai_completions.decode(payload).unwrap().logprobs
    assert (first.token, first.logprob, first.top) == ("a", -0.5, (("a", -0.5), ("c", -1.5)))
    assert (second.token, second.logprob, second.top) == ("b", 0.0, ())


@pytest.mark.parametrize("name", ["openai", "azure", "together", "vllm", "compatible"])
def test_a_stream_equals_a_response(name: str, simulator: SimulatorThread) -> None:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as hub:
        for more in ({}, {"n": 2, "max_tokens": 5}, {"stop": "the"}):
            options: dict[str, Any] = {"model": f"{name}-completions/davinci-002", "hub": hub, **more}
            whole = llmhub.complete("Once upon a time", **options)
            *_, last = llmhub.stream("Once upon a time", **options)
            assert last.response is not None
            assert (last.response.parts, last.response.others) == (whole.parts, whole.others)
            assert (last.response.usage, last.response.finish_reason) == (whole.usage, whole.finish_reason)


def test_the_sdk_reads_the_simulator(simulator: SimulatorThread) -> None:
    with openai.OpenAI(base_url=simulator.base_url("openai-completions"), api_key="k", max_retries=0) as client:
        answer = client.completions.create(model="davinci-002", prompt="Once upon a time", n=2)
        assert len(answer.choices) == 2
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        with client.completions.create(model="davinci-002", prompt="Once upon a time", stream=True) as stream:
            assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model="davinci-002", prompt="a", temperature=3)


@given(st.binary())
def test_arbitrary_bytes_return(body: bytes) -> None:
    assert not is_successful(interpret(PROVIDER, HttpReply(200, {}, body)))
    assert not is_successful(interpret_stream(PROVIDER, HttpReply(200), [body]))
    assert isinstance(interpret(PROVIDER, HttpReply(500, {}, body)).failure(), errors.LLMError)

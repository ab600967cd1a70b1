"""The OpenAI SDK parses the simulated Responses API, Azure's too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from llmhub.sim import SimLimit, SimulatorThread

ASKED: dict[str, Any] = {"model": "gpt-4o-mini", "input": "Say hi to the harbour."}


@pytest.fixture(scope="module")
def client(simulator: SimulatorThread) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=simulator.base_url("openai"), api_key="k", max_retries=0) as client:
        yield client


def test_completion(client: openai.OpenAI) -> None:
    answer = client.responses.create(**ASKED)
    Response.model_validate(answer.model_dump(), strict=False)
    assert answer.output_text
    assert (answer.status, answer.model) == ("completed", "gpt-4o-mini-2024-07-18")
    assert answer.usage.input_tokens == 6  # 22 characters
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    chat = client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": ASKED["input"]}])
    assert chat.choices[0].message.content == answer.output_text


def test_stream_equals_completion(client: openai.OpenAI) -> None:
    completion = client.responses.create(**ASKED)
    with client.responses.stream(**ASKED) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.output_text.delta") > 2
    assert final.output_text == completion.output_text
    assert final.usage == completion.usage


def test_events_are_numbered(client: openai.OpenAI) -> None:
    with client.responses.create(**ASKED, stream=True) as stream:
        numbers = [event.sequence_number for event in stream]
    assert numbers == list(range(len(numbers)))


def test_reasoning_item_precedes_the_message(client: openai.OpenAI) -> None:
    arguments = {**ASKED, "model": "gpt-5-mini", "include": ["reasoning.encrypted_content"]}
    answer = client.responses.create(**arguments)
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].encrypted_content
    assert 0 < answer.usage.output_tokens_details.reasoning_tokens < answer.usage.output_tokens
    turns = [{"role": "user", "content": "a"}, *[item.model_dump(exclude_none=True) for item in answer.output]]
    assert client.responses.create(**{**arguments, "input": turns}).output_text


def test_incomplete_response(client: openai.OpenAI) -> None:
    short = client.responses.create(**{**ASKED, "model": "gpt-5-mini"}, max_output_tokens=16)
    assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    with client.responses.create(**{**ASKED, "model": "gpt-5-mini"}, max_output_tokens=16, stream=True) as stream:
        assert [event.type for event in stream][-1] == "response.incomplete"


@pytest.mark.parametrize(
    ("arguments", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "integer_above_max_value"),
        ({"max_output_tokens": 3}, "max_output_tokens", "integer_below_min_value"),
        ({"extra_body": {"stop": "x"}}, "stop", "unknown_parameter"),
        ({"model": "gpt-5-mini", "temperature": 0.1}, "temperature", "unsupported_parameter"),
        ({"reasoning": {"effort": "low"}}, "reasoning.effort", "unsupported_parameter"),
        ({"include": ["reasoning.encrypted_content"]}, "include", None),
    ],
)
def test_invalid_requests_are_rejected(
    client: openai.OpenAI, arguments: dict[str, Any], param: str, code: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{**ASKED, **arguments})
    assert (caught.value.param, caught.value.code) == (param, code)


def test_error_within_a_stream(client: openai.OpenAI) -> None:
    arguments = {**ASKED, "input": "Say hi. [[sim:stream_error]]", "stream": True}
    with client.responses.create(**arguments) as stream:
        last = list(stream)[-1]
    assert (last.type, last.code) == ("error", "server_error")
    assert last.message


def test_rate_limit_headers(simulate: Callable[..., SimulatorThread]) -> None:
    served = simulate(limit=SimLimit(rpm=1))
    with openai.OpenAI(base_url=served.base_url("openai-responses"), api_key="k", max_retries=0) as client:
        raw = client.responses.with_raw_response.create(**ASKED)
        assert raw.headers["x-ratelimit-limit-requests"] == "1"
        with pytest.raises(openai.RateLimitError):
            client.responses.create(**ASKED)


@pytest.mark.parametrize("path", ["/openai/v1/", "/openai?api-version=2025-04-01-preview"])
def test_azure(simulator: SimulatorThread, path: str) -> None:
    base, _, version = path.partition("?api-version=")
    query = {"api-version": version} if version else {}
    with openai.OpenAI(
        base_url=f"{simulator.url}/azure{base}", api_key="k", default_query=query, default_headers={"api-key": "k"}
    ) as client:
        assert client.responses.create(**ASKED).output_text

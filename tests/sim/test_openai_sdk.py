"""The OpenAI SDK, with Azure too, parses the simulator's replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llmhub.sim import Faults, SimLimit, SimulatorThread

SAY_HI = [{"role": "user", "content": "Say hi to the harbour."}]


@pytest.fixture(scope="module")
def client(simulator: SimulatorThread) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=simulator.base_url("openai"), api_key="k", max_retries=0) as client:
        yield client


def rejection(client: openai.OpenAI, **arguments: object) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "gpt-4o-mini", "messages": SAY_HI, **arguments})
    return caught.value


def test_completion(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=SAY_HI)
    ChatCompletion.model_validate(answer.model_dump(), strict=False)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "gpt-4o-mini-2024-07-18"
    assert answer.usage.prompt_tokens == 6  # 22 characters
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id.startswith("req_")


def test_stream_equals_completion(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="gpt-4o-mini", messages=SAY_HI)
    with client.chat.completions.create(
        model="gpt-4o-mini", messages=SAY_HI, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump(), strict=False)
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 2
    assert "".join(pieces) == completion.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == completion.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_stream_usage_is_opt_in(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="gpt-4o-mini", messages=SAY_HI, stream=True) as stream:
        assert all(chunk.usage is None and chunk.choices for chunk in stream)


def test_several_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=SAY_HI, n=3)
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 3
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    with client.chat.completions.create(model="gpt-4o-mini", messages=SAY_HI, n=3, stream=True) as stream:
        streamed = ["", "", ""]
        for chunk in stream:
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_max_tokens_and_stop(client: openai.OpenAI) -> None:
    short = client.chat.completions.create(model="gpt-4o-mini", messages=SAY_HI, max_tokens=3)
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 3
    stopped = client.chat.completions.create(model="gpt-4o-mini", messages=SAY_HI, stop=["."])
    assert stopped.choices[0].finish_reason == "stop"
    assert "." not in stopped.choices[0].message.content


def test_reasoning_can_use_all_max_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-5-mini", messages=SAY_HI, max_completion_tokens=16)
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content == ""
    assert answer.usage.completion_tokens == answer.usage.completion_tokens_details.reasoning_tokens == 16


@pytest.mark.parametrize(
    ("arguments", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "integer_above_max_value"),
        ({"temperature": -0.5}, "temperature", "decimal_below_min_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role", "invalid_value"),
        ({"stop": list("abcde")}, "stop", "array_above_max_length"),
        ({"extra_body": {"colour": "red"}}, None, None),
        ({"model": ""}, None, None),
        ({"model": "gpt-5-mini", "max_tokens": 5}, "max_tokens", "unsupported_parameter"),
        ({"model": "gpt-5-mini", "temperature": 0.1}, "temperature", "unsupported_value"),
        ({"model": "o3", "stop": ["x"]}, "stop", "unsupported_parameter"),
        ({"model": "o3", "reasoning_effort": "none"}, "reasoning_effort", "unsupported_value"),
        ({"model": "gpt-5.2", "reasoning_effort": "low", "temperature": 0}, "temperature", "unsupported_value"),
    ],
)
def test_invalid_requests_are_rejected(
    client: openai.OpenAI, arguments: dict, param: str | None, code: str | None
) -> None:
    error = rejection(client, **arguments)
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": 2, "top_p": 1, "presence_penalty": -2, "frequency_penalty": 2, "seed": 1, "user": "u"},
        {"stop": "a long stop sequence"},
        {"model": "gpt-5.2", "temperature": 0.5},
        {"model": "gpt-5.5", "temperature": 0.5, "reasoning_effort": "none"},
        {"model": "gpt-5-mini", "temperature": 1, "max_completion_tokens": 900},
        {"model": "gpt-5.2-chat-latest", "temperature": 0.5},
        {"messages": [{"role": "developer", "content": "Be brief."}, *SAY_HI]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
    ],
)
def test_valid_requests_are_accepted(client: openai.OpenAI, arguments: dict) -> None:
    answer = client.chat.completions.create(**{"model": "gpt-4o-mini", "messages": SAY_HI, **arguments})
    assert answer.choices[0].message.content


def test_unknown_model_and_unknown_route(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-does-not-exist", messages=SAY_HI)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match=r"Invalid URL \(POST /moderations\)"):
        client.moderations.create(input="x")


def test_model_list(client: openai.OpenAI) -> None:
    assert "gpt-4o-mini" in [model.id for model in client.models.list()]


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("429", openai.RateLimitError, "rate_limit_exceeded"),
        ("quota", openai.RateLimitError, "insufficient_quota"),
        ("500", openai.InternalServerError, None),
        ("529", openai.InternalServerError, None),
    ],
)
def test_error_faults(client: openai.OpenAI, fault: str, kind: type[openai.APIStatusError], code: str | None) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model="gpt-4o-mini", messages=SAY_HI, extra_headers={"x-sim-fault": fault})
    assert caught.value.code == code
    assert caught.value.request_id.startswith("req_")


def test_error_within_a_stream(client: openai.OpenAI) -> None:
    with (
        client.chat.completions.create(
            model="gpt-4o-mini", messages=SAY_HI, stream=True, extra_headers={"x-sim-fault": "stream_error"}
        ) as stream,
        pytest.raises(openai.APIError, match="overloaded"),
    ):
        list(stream)


def test_client_retries(simulate: Callable[..., SimulatorThread]) -> None:
    served = simulate(faults=Faults(retry_after_s=0))
    with openai.OpenAI(base_url=served.base_url("openai"), api_key="k", max_retries=1) as client:
        messages = [{"role": "user", "content": "Say hi. [[sim:429 once]]"}]
        assert client.chat.completions.create(model="gpt-4o-mini", messages=messages).choices
    assert served.counts()["by_status"] == {"429": 1, "200": 1}


def test_rate_limit_headers(simulate: Callable[..., SimulatorThread]) -> None:
    served = simulate(limit=SimLimit(rpm=600, tpm=6000))
    with openai.OpenAI(base_url=served.base_url("openai"), api_key="k", max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(model="m", messages=SAY_HI, max_tokens=44)
    headers = raw.headers
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("600", "599")
    assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("6000", "5950")
    assert (headers["x-ratelimit-reset-requests"], headers["x-ratelimit-reset-tokens"]) == ("100ms", "500ms")


@pytest.mark.parametrize("classic", [True, False])
def test_azure(simulator: SimulatorThread, classic: bool) -> None:
    where = (
        {"azure_endpoint": simulator.base_url("azure"), "api_version": "2024-10-21"}
        if classic
        else {"base_url": f"{simulator.base_url('azure')}/openai/v1"}
    )
    kind = openai.AzureOpenAI if classic else openai.OpenAI
    with kind(api_key="k", max_retries=0, **where) as client:
        answer = client.chat.completions.create(model="gpt-4o-mini", messages=SAY_HI)
        with client.chat.completions.create(model="gpt-4o-mini", messages=SAY_HI, stream=True) as stream:
            chunks = list(stream)
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="does-not-exist", messages=SAY_HI)
    assert answer.choices[0].content_filter_results["hate"] == {"filtered": False, "severity": "safe"}
    assert chunks[0].choices == []
    assert chunks[0].id == ""
    assert chunks[0].prompt_filter_results[0]["content_filter_results"]["jailbreak"]["detected"] is False
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == answer.choices[0].message.content
    assert caught.value.code == "DeploymentNotFound"


def test_compatible_servers_ignore_unknown_fields(simulator: SimulatorThread) -> None:
    with openai.OpenAI(base_url=simulator.base_url("compatible"), api_key="k", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="gpt-5-mini", messages=SAY_HI, max_tokens=900, temperature=0.1, extra_body={"min_p": 0.1}
        )
    assert answer.choices[0].message.content

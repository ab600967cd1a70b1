"""A battery of calls to servers that others wrote: llama.cpp with a real (if tiny) model, llmock and aimock."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

import llmhub
from llmhub import Endpoint, Hub, Retry, Tool

pytestmark = pytest.mark.real_servers

LLAMA = {"compatible": "/v1", "compatible-responses": "/v1", "compatible-messages": ""}
LLMOCK = {
    "openai": "/v1",
    "openai-responses": "/v1",
    "anthropic": "/anthropic",
    "google": "/gemini",
    "mistral": "/mistral/v1",
    "groq": "/groq/openai/v1",
    "together": "/together/v1",
    "perplexity": "/perplexity/v1",
    "xai": "/xai/v1",
}
AIMOCK = {
    "openai": "/v1",
    "openai-responses": "/v1",
    "anthropic": "",
    "google": "",
    "compatible": "/v1",
}
WEATHER = Tool(
    "weather", "Returns the weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}}
)


def hub_at(provider: str, url: str, **options: Any) -> Hub:
    return Hub(endpoints={provider: Endpoint(base_url=url, api_key="k")}, **options)


def streamed(prompt: str, provider: str, hub: Hub, **options: Any) -> str:
    return "".join(chunk.text for chunk in llmhub.stream(prompt, model=f"{provider}/m", hub=hub, **options))


# llama.cpp


@pytest.mark.parametrize("provider", LLAMA)
def test_llama_gives_the_same_text_whole_and_streamed(provider: str, llama: str) -> None:
    hub = hub_at(provider, llama + LLAMA[provider])
    options: dict[str, Any] = {"max_tokens": 24, "temperature": 0.0}
    whole = llmhub.complete("hello", model=f"{provider}/m", hub=hub, **options)
    assert whole.text
    assert whole.usage.input_tokens
    assert whole.usage.output_tokens
    assert streamed("hello", provider, hub, **options) == whole.text


@pytest.mark.parametrize("provider", LLAMA)
def test_llama_takes_a_conversation(provider: str, llama: str) -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    hub = hub_at(provider, llama + LLAMA[provider])
    assert llmhub.complete(messages, model=f"{provider}/m", hub=hub, max_tokens=16).usage.output_tokens


@pytest.mark.parametrize("provider", LLAMA)
def test_llama_refuses_too_long_a_prompt_by_that_name(provider: str, llama: str) -> None:
    hub = hub_at(provider, llama + LLAMA[provider])
    with pytest.raises(llmhub.ContextLengthExceededError):
        llmhub.complete("word " * 3000, model=f"{provider}/m", hub=hub, max_tokens=16)


def test_llama_answers_a_table_and_holds_to_a_schema(llama: str) -> None:
    hub = hub_at("compatible", f"{llama}/v1")
    frame = {"n": list(range(40))}
    table = llmhub.complete_table(frame, "{n}", model="compatible/m", hub=hub, max_tokens=8, progress=False)
    assert table.column("status").to_pylist() == ["ok"] * 40
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    answer = llmhub.complete("choose", model="compatible/m", hub=hub, max_tokens=64, schema=schema)
    assert answer.parsed["a"] in {"x", "y"}


# llmock


@pytest.mark.parametrize("provider", LLMOCK)
def test_llmock_whole_streamed_and_tools(provider: str, llmock: Any) -> None:
    hub = hub_at(provider, llmock.url + LLMOCK[provider])
    model = f"{provider}/m"
    assert llmhub.complete("hello", model=model, hub=hub, max_tokens=64).text
    assert streamed("hello", provider, hub, max_tokens=64)
    if provider != "perplexity":  # takes no tools
        assert (
            llmhub.complete("weather?", model=model, hub=hub, max_tokens=64, tools=[WEATHER]).tool_calls[0].name
            == "weather"
        )


@pytest.mark.parametrize(
    "fault",
    [
        {"type": "fail", "status": 429, "retry_after": 0.2, "times": 12},
        {"type": "fail", "status": 503, "times": 8},
        {"type": "fail", "status": 500, "times": 3},
    ],
    ids=["429", "503", "500"],
)
@pytest.mark.parametrize("provider", ["openai", "openai-responses", "anthropic", "google"])
def test_llmock_refusals_at_the_start_lose_no_row(provider: str, fault: dict[str, Any], llmock: Any) -> None:
    llmock.script(fault)
    hub = hub_at(provider, llmock.url + LLMOCK[provider], retry=Retry(attempts=9, base_s=0.05))
    started = time.monotonic()
    frame = {"n": list(range(200))}
    table = llmhub.complete_table(frame, "{n}", model=f"{provider}/m", hub=hub, max_tokens=16, progress=False)
    assert table.column("status").to_pylist() == ["ok"] * 200
    assert time.monotonic() - started < 30.0


def test_llmock_refusing_for_ever_ends_the_run(llmock: Any) -> None:
    llmock.script({"type": "fail", "status": 429, "retry_after": 1.0, "message": "out of credit", "times": None})
    hub = hub_at("openai", f"{llmock.url}/v1", retry=Retry(deadline_s=3.0))
    frame = {"n": list(range(50))}
    table = llmhub.complete_table(frame, "{n}", model="openai/m", hub=hub, max_tokens=16, progress=False)
    assert table.column("status").to_pylist() == ["error"] * 50
    assert all("out of credit" in error for error in table.column("error").to_pylist())


@pytest.mark.parametrize("kind", ["disconnect", "truncate"])
@pytest.mark.parametrize("provider", ["openai", "anthropic", "google"])
def test_llmock_broken_streams_are_errors(provider: str, kind: str, llmock: Any) -> None:
    llmock.script({"type": "stream_fault", "kind": kind, "after_chunks": 3})
    hub = hub_at(provider, llmock.url + LLMOCK[provider], retry=Retry(attempts=1))
    with pytest.raises(llmhub.APIConnectionError):
        streamed("tell me a long story", provider, hub, max_tokens=64)


# aimock


@pytest.mark.parametrize("provider", AIMOCK)
def test_aimock_whole_streamed_and_tools(provider: str, aimock: str) -> None:
    hub, model = hub_at(provider, aimock + AIMOCK[provider]), f"{provider}/m"
    text = "Hello from aimock, and goodbye"
    assert llmhub.complete("hello", model=model, hub=hub, max_tokens=64).text == text
    assert streamed("hello", provider, hub, max_tokens=64) == text
    call = llmhub.complete("weather", model=model, hub=hub, max_tokens=64, tools=[WEATHER]).tool_calls[0]
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Oslo"})


@pytest.mark.parametrize("provider", AIMOCK)
def test_aimock_streams_cut_within_surrogate_pairs_are_whole(provider: str, aimock: str) -> None:
    hub = hub_at(provider, aimock + AIMOCK[provider])
    assert (
        streamed("family", provider, hub, max_tokens=64)
        == "nul ls \U0001f468\u200d\U0001f469\u200d\U0001f467 and \U0001d518"
    )

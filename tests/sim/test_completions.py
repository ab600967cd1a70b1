"""Responses are determined by a hash of the request, and follow its parameters."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.sim import Latency, SimulatorThread
from llmhub.sim.completions import count_tokens, draw_uniform, generate_response, generate_text, request_digest
from llmhub.sim.types import SimMessage, SimRequest, SimResponse

TEXTS = st.text(max_size=200)


def ask(prompt: str, **fields: object) -> SimRequest:
    return SimRequest(**{"model": "m", "messages": (SimMessage("user", prompt),), **fields})


def generate(request: SimRequest, seed: int = 0, **fields: object) -> SimResponse:
    return generate_response(request, request_digest(request), seed=seed, **fields)


@given(TEXTS, st.integers())
def test_equal_requests_get_equal_responses(prompt: str, seed: int) -> None:
    assert generate(ask(prompt), seed) == generate(ask(prompt), seed)
    assert generate(ask(prompt), seed).choices[0].text


def test_seed_model_and_conversation_determine_the_response() -> None:
    long = "Describe the harbour and the lighthouse in the morning."
    plain = generate(ask(long)).choices
    assert generate(ask(long), seed=1).choices != plain
    assert generate(ask(long, model="other")).choices != plain
    assert generate(ask(long + "!")).choices != plain
    before = (SimMessage("user", "Hi"), SimMessage("assistant", "Hello"), SimMessage("user", long))
    assert generate(ask(long, messages=before)).choices != plain


def test_responses_do_not_change_between_versions() -> None:
    """Simulated runs of different versions can be compared."""
    text = generate(ask("Describe the harbour."), seed=7).choices[0].text
    assert text.startswith("At its simplest, the harbour is what happens when many small parts follow the same rule.")


@given(TEXTS, st.integers(0, 60), st.lists(st.text(min_size=1, max_size=3), max_size=3), st.integers(1, 3))
def test_max_tokens_and_stop_are_applied(prompt: str, max_tokens: int, stop: list[str], n: int) -> None:
    complete = generate(ask(prompt, n=n))
    cut = generate(ask(prompt, n=n, max_tokens=max_tokens, stop=tuple(stop)))
    assert len(cut.choices) == n
    for full, choice in zip(complete.choices, cut.choices, strict=True):
        assert full.text.startswith(choice.text)
        assert count_tokens(choice.text) <= max_tokens
        assert not any(mark in choice.text for mark in stop) or choice.finish_reason == "length"
        match choice.finish_reason:
            case "stop":
                assert choice.text == full.text
            case "length":
                assert count_tokens(choice.text) == max_tokens
            case "stop_sequence":
                assert full.text[len(choice.text) :].startswith(choice.stopped_by)
    assert cut.output_tokens == sum(count_tokens(choice.text) for choice in cut.choices)


@given(TEXTS, st.integers(0, 300), st.integers(1, 200))
def test_output_tokens_include_reasoning(prompt: str, max_tokens: int, reasoning: int) -> None:
    response = generate(ask(prompt, reasoning_tokens=reasoning, max_tokens=max_tokens))
    assert response.reasoning_tokens <= response.output_tokens <= max_tokens
    assert response.output_tokens == response.reasoning_tokens + count_tokens(response.choices[0].text)


@given(st.integers(0, 40_000), st.booleans())
def test_input_tokens_include_cached_tokens(length: int, uses_cache: bool) -> None:
    request = generate(ask("x" * length, uses_cache=uses_cache))
    assert request.input_tokens == -(-length // 4)
    assert request.cached_tokens % 128 == 0
    assert request.cached_tokens <= request.input_tokens
    if not uses_cache or request.input_tokens < 1024:
        assert request.cached_tokens == 0


def test_arithmetic_questions_get_a_number() -> None:
    sums = [
        generate(ask(f"Ann has {apples} apples and buys 12 more. How many apples has she?")).choices[0].text
        for apples in range(3, 60)
    ]
    assert all(text.split()[-1].rstrip(".").replace(".", "").isdigit() for text in sums)
    right = [text.endswith(f" {apples + 12}.") for apples, text in enumerate(sums, start=3)]
    assert 0 < sum(right) < len(right)


@given(st.text(max_size=400), st.binary(min_size=64, max_size=64))
def test_any_prompt_gets_a_response(prompt: str, digest: bytes) -> None:
    assert 0 < len(generate_text(prompt, digest)) < 5000


@given(st.binary(max_size=40), st.integers(), st.integers(0, 1 << 40))
def test_draws_are_in_the_unit_interval(identity: bytes, seed: int, index: int) -> None:
    assert 0 <= draw_uniform(identity, seed, b"test", index) < 1


def test_draws_are_uniform() -> None:
    drawn = [draw_uniform(b"%d" % index, 0, b"test") for index in range(2000)]
    assert sum(drawn) / len(drawn) == pytest.approx(0.5, abs=0.03)
    assert [sum(tenth <= value * 10 < tenth + 1 for value in drawn) for tenth in range(10)] == [
        pytest.approx(200, abs=60)
    ] * 10


def test_latencies_are_lognormal() -> None:
    latency = Latency(0.2, 0.5)
    drawn = sorted(generate(ask(f"Question {index}"), latency=latency).duration_s for index in range(2000))
    assert drawn[1000] == pytest.approx(0.2, rel=0.06)
    assert drawn[1900] == pytest.approx(0.455, rel=0.12)
    assert drawn[0] > 0


@pytest.mark.parametrize("arguments", [{"median_s": -1}, {"sigma": float("nan")}, {"first": 2}])
def test_invalid_latencies_are_rejected(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Latency(**arguments)


def test_custom_models_are_truncated_and_counted() -> None:
    reversing = generate(ask("abcdefgh"), respond=lambda prompt: prompt[::-1])
    assert (reversing.choices[0].text, reversing.output_tokens) == ("hgfedcba", 2)
    assert generate(ask("abcdefgh", max_tokens=1), respond=lambda prompt: prompt[::-1]).choices[0].text == "hgfe"


async def test_custom_model_that_raises_is_a_server_error(
    simulate: Callable[..., SimulatorThread], ask: Callable, http: aiohttp.ClientSession
) -> None:
    served = simulate(respond=lambda prompt: str(1 / len(prompt.strip("Say hi."))))
    request = ask("openai")
    async with http.post(served.url + request.path, json=request.body) as reply:
        assert reply.status == 500
        assert (await reply.json())["error"]["message"] == "respond raised ZeroDivisionError: division by zero"


async def test_all_providers_send_the_same_text(
    simulate: Callable[..., SimulatorThread], ask: Callable, http: aiohttp.ClientSession, provider: str
) -> None:
    served = simulate(respond=lambda prompt: f"You said: {prompt}")
    for stream in (False, True):
        request = ask(provider, "täglich 日本 🙂", stream=stream)
        async with http.post(served.url + request.path, json=request.body, headers=request.headers) as reply:
            assert "日本".encode() in await reply.read()

"""Answers are decided by hash: the same question is answered alike, and what it asks for is honoured."""

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


def ask(prompt: str, **given: object) -> SimRequest:
    return SimRequest(**{"model": "m", "messages": (SimMessage("user", prompt),), **given})


def said(question: SimRequest, seed: int = 0, **given: object) -> SimResponse:
    return generate_response(question, request_digest(question), seed=seed, **given)


@given(TEXTS, st.integers())
def test_the_same_question_gets_the_same_answer(prompt: str, seed: int) -> None:
    assert said(ask(prompt), seed) == said(ask(prompt), seed)
    assert said(ask(prompt), seed).choices[0].text


def test_seed_model_and_conversation_make_a_difference() -> None:
    long = "Describe the harbour and the lighthouse in the morning."
    plain = said(ask(long)).choices
    assert said(ask(long), seed=1).choices != plain
    assert said(ask(long, model="other")).choices != plain
    assert said(ask(long + "!")).choices != plain
    before = (SimMessage("user", "Hi"), SimMessage("assistant", "Hello"), SimMessage("user", long))
    assert said(ask(long, messages=before)).choices != plain


def test_an_answer_is_what_it_was() -> None:
    """A rehearsal of last year can be compared with one of today."""
    text = said(ask("Describe the harbour."), seed=7).choices[0].text
    assert text == "What matters about Describe is the clear order."


@given(TEXTS, st.integers(0, 60), st.lists(st.text(min_size=1, max_size=3), max_size=3), st.integers(1, 3))
def test_length_and_stop_are_honoured(prompt: str, most: int, stop: list[str], n: int) -> None:
    whole = said(ask(prompt, n=n))
    cut = said(ask(prompt, n=n, max_tokens=most, stop=tuple(stop)))
    assert len(cut.choices) == n
    for full, choice in zip(whole.choices, cut.choices, strict=True):
        assert full.text.startswith(choice.text)
        assert count_tokens(choice.text) <= most
        assert not any(mark in choice.text for mark in stop) or choice.finish_reason == "length"
        match choice.finish_reason:
            case "stop":
                assert choice.text == full.text
            case "length":
                assert count_tokens(choice.text) == most
            case "stop_sequence":
                assert full.text[len(choice.text) :].startswith(choice.stopped_by)
    assert cut.output_tokens == sum(count_tokens(choice.text) for choice in cut.choices)


@given(TEXTS, st.integers(0, 300), st.integers(1, 200))
def test_reasoning_is_part_of_the_output(prompt: str, most: int, reasoning: int) -> None:
    thought = said(ask(prompt, reasoning_tokens=reasoning, max_tokens=most))
    assert thought.reasoning_tokens <= thought.output_tokens <= most
    assert thought.output_tokens == thought.reasoning_tokens + count_tokens(thought.choices[0].text)


@given(st.integers(0, 40_000), st.booleans())
def test_what_is_cached_is_part_of_the_input(length: int, caches: bool) -> None:
    asked = said(ask("x" * length, uses_cache=caches))
    assert asked.input_tokens == -(-length // 4)
    assert asked.cached_tokens % 128 == 0
    assert asked.cached_tokens <= asked.input_tokens
    if not caches or asked.input_tokens < 1024:
        assert asked.cached_tokens == 0


def test_a_sum_asked_for_ends_in_a_number() -> None:
    sums = [
        said(ask(f"Ann has {apples} apples and buys 12 more. How many apples has she?")).choices[0].text
        for apples in range(3, 60)
    ]
    assert all(text.split()[-1].rstrip(".").replace(".", "").isdigit() for text in sums)
    right = [text.endswith(f" {apples + 12}.") for apples, text in enumerate(sums, start=3)]
    assert 0 < sum(right) < len(right)


@given(st.text(max_size=400), st.binary(min_size=64, max_size=64))
def test_any_prompt_can_be_echoed(prompt: str, digest: bytes) -> None:
    assert 0 < len(generate_text(prompt, digest)) < 5000


@given(st.binary(max_size=40), st.integers(), st.integers(0, 1 << 40))
def test_draws_are_shares(identity: bytes, seed: int, at: int) -> None:
    assert 0 <= draw_uniform(identity, seed, b"test", at) < 1


def test_draws_are_even() -> None:
    drawn = [draw_uniform(b"%d" % at, 0, b"test") for at in range(2000)]
    assert sum(drawn) / len(drawn) == pytest.approx(0.5, abs=0.03)
    assert [sum(tenth <= value * 10 < tenth + 1 for value in drawn) for tenth in range(10)] == [
        pytest.approx(200, abs=60)
    ] * 10


def test_latencies_are_lognormal() -> None:
    latency = Latency(0.2, 0.5)
    drawn = sorted(said(ask(f"Question {at}"), latency=latency).duration_s for at in range(2000))
    assert drawn[1000] == pytest.approx(0.2, rel=0.06)
    assert drawn[1900] == pytest.approx(0.455, rel=0.12)
    assert drawn[0] > 0


@pytest.mark.parametrize("arguments", [{"median_s": -1}, {"sigma": float("nan")}, {"first": 2}])
def test_invalid_latencies_are_rejected(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Latency(**arguments)


def test_a_model_of_ones_own_is_cut_and_counted_like_any() -> None:
    reversing = said(ask("abcdefgh"), respond=lambda prompt: prompt[::-1])
    assert (reversing.choices[0].text, reversing.output_tokens) == ("hgfedcba", 2)
    assert said(ask("abcdefgh", max_tokens=1), respond=lambda prompt: prompt[::-1]).choices[0].text == "hgfe"


async def test_a_model_of_ones_own_that_raises(
    simulate: Callable[..., SimulatorThread], ask: Callable, http: aiohttp.ClientSession
) -> None:
    served = simulate(respond=lambda prompt: str(1 / len(prompt.strip("Say hi."))))
    asked = ask("openai")
    async with http.post(served.url + asked.path, json=asked.body) as reply:
        assert reply.status == 500
        assert (await reply.json())["error"]["message"] == "respond raised ZeroDivisionError: division by zero"


async def test_every_provider_says_the_same_words(
    simulate: Callable[..., SimulatorThread], ask: Callable, http: aiohttp.ClientSession, provider: str
) -> None:
    served = simulate(respond=lambda prompt: f"You said: {prompt}")
    for stream in (False, True):
        asked = ask(provider, "täglich 日本 🙂", stream=stream)
        async with http.post(served.url + asked.path, json=asked.body, headers=asked.headers) as reply:
            assert "日本".encode() in await reply.read()

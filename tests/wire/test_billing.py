"""What replies say of their cost: counts that are summed or corrected, service tiers, and the provider's own cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from returns.pipeline import is_successful

from llmhub.core.pricing import compute_cost, compute_cost_nano_usd, cost_bound_nano_usd
from llmhub.core.protocol import interpret, interpret_stream
from llmhub.core.provider import HttpReply
from llmhub.core.serialization import decode_response, encode_response
from llmhub.core.types import CompletionResponse, Usage
from llmhub.providers.prices import find_price
from llmhub.providers.registry import PROVIDERS

NOW = datetime(2026, 11, 30, tzinfo=UTC)
SSE = HttpReply(200, {"content-type": "text/event-stream"})


def events(*payloads: Any) -> bytes:
    return "".join(f"data: {json.dumps(payload)}\n\n" for payload in payloads).encode()


def whole(name: str, payload: Any) -> CompletionResponse:
    return interpret(PROVIDERS[name], HttpReply(200, {}, json.dumps(payload).encode())).unwrap()


def chat(usage: Any, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    return {"id": "c", "model": "m", "choices": [choice], "usage": usage, **more}


COUNTS = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}


def test_last_counts_of_a_stream_are_the_billed_ones() -> None:
    chunks = [
        {
            "candidates": [{"content": {"parts": [{"text": "Hi"}]}, **({"finishReason": "STOP"} if last else {})}],
            "usageMetadata": {"promptTokenCount": prompt, "candidatesTokenCount": 3, "totalTokenCount": prompt + 3},
        }
        for prompt, last in ((169, False), (79, True))
    ]
    usage = interpret_stream(PROVIDERS["google"], SSE, [events(*chunks)]).unwrap().usage
    assert (usage.input_tokens, usage.output_tokens) == (79, 3)


ITERATIONS = [
    {"type": "compaction", "input_tokens": 55196, "output_tokens": 125},
    {"type": "message", "input_tokens": 220, "output_tokens": 8, "cache_read_input_tokens": 5},
]


def test_iterations_of_anthropic_are_summed_whole_and_streamed() -> None:
    last = {"input_tokens": 220, "output_tokens": 8, "cache_read_input_tokens": 5, "iterations": ITERATIONS}
    body = {"content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn", "usage": last}
    expected = Usage(input_tokens=55421, output_tokens=133, cached_input_tokens=5)
    assert whole("anthropic", body).usage == expected
    stream = events(
        {"type": "message_start", "message": {"usage": {"input_tokens": 55196, "output_tokens": 1}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": last},
    )
    assert interpret_stream(PROVIDERS["anthropic"], SSE, [stream]).unwrap().usage == expected


def test_cached_tokens_of_mistral_are_read() -> None:
    assert whole("mistral", chat({**COUNTS, "num_cached_tokens": 48})).usage.cached_input_tokens == 48


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"cost": 0.000764}, "0.000764"),
        ({"cost": 0}, "0"),
        ({"cost": {"request_cost": 0.006, "total_cost": 0.006}}, "0.006"),
        ({"cost_in_usd_ticks": 2071250}, "0.000207125"),
        ({"cost_in_usd_ticks": 0}, None),
        ({"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.2}}, "0.21"),
        ({"cost": -1}, None),
        ({"cost": "NaN"}, None),
        ({"cost": True}, None),
    ],
)
def test_cost_that_the_provider_reports_takes_precedence(usage: dict[str, Any], expected: str | None) -> None:
    payload = chat({**COUNTS, **usage})
    response = whole("openrouter", payload)
    assert response.usage.reported_cost_usd == (None if expected is None else Decimal(expected))
    assert decode_response(encode_response(response)).unwrap() == response
    price = find_price("openai", "gpt-4o-mini", NOW)
    if expected is not None:
        assert compute_cost(response.usage, None) == Decimal(expected) == compute_cost(response.usage, price)
        assert compute_cost_nano_usd(response.usage, price) == int(Decimal(expected) * 10**9)
    choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
    stream = events({"choices": [choice]}, {"choices": [], "usage": payload["usage"]})
    assert interpret_stream(PROVIDERS["openrouter"], SSE, [stream]).unwrap().usage == response.usage


@pytest.mark.parametrize(
    ("name", "stated", "usd"),
    [
        ("openrouter", {"cost": 0.5}, "0.5"),
        ("vercel", {"cost": 0.5}, "0.5"),
        ("avian", {"cost": 0.5}, "0.5"),
        ("perplexity", {"cost": {"total_cost": 0.5}}, "0.5"),
        ("xai", {"cost_in_usd_ticks": 5_000_000_000}, "0.5"),
        ("groq", {"cost": 0.5}, None),
        ("compatible", {"cost": 0.5}, None),
    ],
)
def test_providers_that_report_a_cost(name: str, stated: dict[str, Any], usd: str | None) -> None:
    reported = whole(name, chat({**COUNTS, **stated})).usage.reported_cost_usd
    assert reported == (None if usd is None else Decimal(usd))


def test_cost_in_the_usage_of_responses_is_read_where_it_is_known_to_be_usd() -> None:
    body = {"status": "completed", "output": [], "usage": {"input_tokens": 1, "output_tokens": 1, "cost": 0.5}}
    assert whole("openai-responses", body).usage.reported_cost_usd is None
    reply = HttpReply(200, {}, json.dumps(body).encode())
    gateway = replace(PROVIDERS["compatible-responses"], reports_cost=True)
    assert interpret(gateway, reply).unwrap().usage.reported_cost_usd == Decimal("0.5")


@pytest.mark.parametrize(
    ("model", "tier", "cost"),
    [
        ("gpt-5-mini", "default", "0.00045"),
        ("gpt-5-mini", "flex", "0.000225"),
        ("gpt-5-mini", "priority", "0.00081"),
        ("gpt-5", "priority", "0.0045"),
        ("gpt-4o-mini", "priority", "0.00035"),
    ],
)
@pytest.mark.parametrize("name", ["openai", "openai-responses"])
def test_service_tier_is_priced(name: str, model: str, tier: str, cost: str) -> None:
    payload: dict[str, Any] = chat(COUNTS, service_tier=tier)
    if name == "openai-responses":
        usage = {"input_tokens": 1000, "output_tokens": 100}
        payload = {"status": "completed", "output": [], "usage": usage, "service_tier": tier}
    response = whole(name, payload)
    price = find_price(name, model, NOW)
    assert price is not None
    assert compute_cost(response.usage, price) == Decimal(cost)
    assert price.for_usage(response.usage).price_id.endswith(f"#{tier}") == (tier != "default")
    assert decode_response(encode_response(response)).unwrap() == response


def test_cache_writes_of_an_hour_have_their_own_price() -> None:
    usage = {
        "input_tokens": 0,
        "output_tokens": 0,
        "cache_creation_input_tokens": 1000,
        "cache_creation": {"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 600},
    }
    response = whole("anthropic", {"content": [], "stop_reason": "end_turn", "usage": usage})
    price = find_price("anthropic", "claude-sonnet-4-5", NOW)
    assert price is not None
    assert compute_cost(response.usage, price) == Decimal("0.0051")  # 400 * 3.75 + 600 * 6 USD a million
    assert decode_response(encode_response(response)).unwrap() == response
    assert cost_bound_nano_usd(price, 1000, 0) < 6_000_000 == cost_bound_nano_usd(price, 1000, 0, writes_1h=True)


@pytest.mark.parametrize(("size", "cost"), [(None, "0.0061"), ("low", "0.0061"), ("high", "0.0131")])
def test_fee_of_perplexity_follows_its_search_context(size: str | None, cost: str) -> None:
    usage = {**COUNTS, **({"search_context_size": size} if size else {})}
    price = find_price("perplexity", "sonar", NOW)
    assert compute_cost(whole("perplexity", chat(usage)).usage, price) == Decimal(cost)


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "provider", "expected"),
    [
        ("openrouter", "openrouter", 8),
        ("xai", "xai", 4),
        ("perplexity", "perplexity", 2),
        ("vercel_gateway", "vercel", 3),
    ],
)
def test_recorded_costs_are_read(corpus: Callable[[str], list[Any]], name: str, provider: str, expected: int) -> None:
    found = 0
    for exchange in corpus(f"{name}-chat_completions"):
        row = PROVIDERS[provider]
        result = interpret_stream(row, exchange.reply, []) if exchange.streaming else interpret(row, exchange.reply)
        found += is_successful(result) and result.unwrap().usage.reported_cost_usd is not None
    assert found == expected


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("details", "usd"),
    [
        # An image of 1,290 tokens at 30 USD a million, and 100 of the prompt at 0.30.
        ([{"modality": "IMAGE", "tokenCount": 1290}], "0.038730000"),
        ([{"modality": "TEXT", "tokenCount": 1290}], "0.003255000"),
        (None, "0.038730000"),
    ],
)
def test_images_of_gemini_have_their_own_price(details: list[dict[str, Any]] | None, usd: str, stream: bool) -> None:
    """https://ai.google.dev/gemini-api/docs/pricing (read 2026-11-30): reasoning and text have the rate of text."""
    counts = {"promptTokenCount": 100, "candidatesTokenCount": 1290, "totalTokenCount": 1390}
    body = {
        "candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {**counts, **({"candidatesTokensDetails": details} if details else {})},
        "modelVersion": "gemini-2.5-flash-image",
    }
    response = interpret_stream(PROVIDERS["google"], SSE, [events(body)]).unwrap() if stream else whole("google", body)
    price = find_price("google", "gemini-2.5-flash-image", NOW)
    assert price is not None
    assert compute_cost(response.usage, price) == Decimal(usd)
    bound = cost_bound_nano_usd(price, 100, 1290)
    assert bound >= 38_730_000


def gpt_audio(**usage: Any) -> dict[str, Any]:
    details = {"prompt_tokens_details": {"audio_tokens": 600}, "completion_tokens_details": {"audio_tokens": 80}}
    return chat({**COUNTS, **details, **usage})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("provider", "model", "usd"),
    [
        # 400 tokens of text and 600 of audio in, 20 and 80 out.
        ("openai", "gpt-audio", "0.025520000"),  # 2.5, 32, 10 and 64 USD a million
        ("openai", "gpt-audio-mini", "0.007888000"),  # 0.6, 10, 2.4 and 20
        ("openai", "gpt-4o-audio-preview", "0.031600000"),  # 2.5, 40, 10 and 80
        ("azure", "gpt-audio-mini", "0.007888000"),
        ("openai", "gpt-4o-mini", "0.000210000"),  # which has no price of audio
    ],
)
def test_audio_has_its_own_price(provider: str, model: str, usd: str, stream: bool) -> None:
    payload = gpt_audio()
    choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
    chunks = events({"choices": [choice]}, {"choices": [], "usage": payload["usage"]})
    response = interpret_stream(PROVIDERS[provider], SSE, [chunks]).unwrap() if stream else whole(provider, payload)
    price = find_price(provider, model, NOW)
    assert price is not None
    assert compute_cost(response.usage, price) == Decimal(usd)
    assert compute_cost_nano_usd(response.usage, price) == int(Decimal(usd).scaleb(9))
    assert price.id_for_usage(response.usage).endswith("#audio") == (model != "gpt-4o-mini")
    assert decode_response(encode_response(response)).unwrap() == response
    assert cost_bound_nano_usd(price, 1000, 100, audio=True) >= int(Decimal(usd).scaleb(9))


def test_tokens_of_the_cache_are_not_billed_as_audio_once_more() -> None:
    details = {"prompt_tokens_details": {"audio_tokens": 600, "cached_tokens": 700}}
    usage = whole("openai", chat({**COUNTS, **details})).usage
    assert usage.billed_units == (("audio:input_tokens", 300),)


def test_audio_of_gemini_and_mistral_has_its_own_price() -> None:
    details = [{"modality": "TEXT", "tokenCount": 100}, {"modality": "AUDIO", "tokenCount": 900}]
    cached = [{"modality": "AUDIO", "tokenCount": 400}]
    counts = {"promptTokenCount": 1000, "candidatesTokenCount": 10, "totalTokenCount": 1010}
    body = {
        "candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}],
        "usageMetadata": {
            **counts,
            "cachedContentTokenCount": 400,
            "promptTokensDetails": details,
            "cacheTokensDetails": cached,
        },
    }
    price = find_price("google", "gemini-2.5-flash", NOW)
    # 100 of text at 0.30 USD a million, 500 of audio at 1, 400 of audio from the cache at 0.10, 10 of output at 2.50.
    assert compute_cost(whole("google", body).usage, price) == Decimal("0.000595000")
    spoken = whole("mistral", chat({**COUNTS, "prompt_audio_seconds": 60}))
    price = find_price("mistral", "voxtral-small-latest", NOW)
    assert compute_cost_nano_usd(spoken.usage, price) == 4_140_000  # 0.24 USD an hour, and the tokens


IMAGE_COUNTS = {
    "input_tokens": 70,
    "input_tokens_details": {"image_tokens": 20, "text_tokens": 50},
    "output_tokens": 1056,
    "output_tokens_details": {"image_tokens": 1056, "text_tokens": 0},
}


@pytest.mark.parametrize(
    ("model", "used", "usd", "price_id"),
    [
        # 50 tokens at 5 USD a million, 20 at 8 and 1,056 at 30; 0.00225 are those of the model that calls the tool.
        ("gpt-image-2", {"image_gen": IMAGE_COUNTS}, "0.034340000", "#gpt-image-2"),
        ("gpt-image-2-2026-04-21", {"image_gen": IMAGE_COUNTS}, "0.034340000", "#gpt-image-2"),
        ("gpt-image-2", {"web_search": {"num_requests": 2}}, "0.022250000", "#web_search + 1 gpt-image-2:images"),
        ("gpt-image-9", {"image_gen": IMAGE_COUNTS}, "0.002250000", " + 50 gpt-image-9:text_input_tokens of unknown"),
        ("sk-0123456789abcdef", {"image_gen": IMAGE_COUNTS}, "0.002250000", " + 50 image_generation:text_input_tokens"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_tools_of_the_responses_api_are_billed(
    model: str, used: dict[str, Any], usd: str, price_id: str, stream: bool
) -> None:
    """The counts are those of the types of openai 3.57.0 (read 2026-11-30): `tool_usage`, beside `usage`."""
    body = {
        "id": "r",
        "model": "gpt-5",
        "status": "completed",
        "output": [{"type": "image_generation_call", "id": "i", "status": "completed", "result": "AA=="}],
        "usage": {"input_tokens": 1000, "output_tokens": 100},
        "tool_usage": used,
        "tools": [{"type": "image_generation", "model": model}],
    }
    events_ = events({"type": "response.completed", "response": body})
    response = (
        interpret_stream(PROVIDERS["openai-responses"], SSE, [events_]).unwrap()
        if stream
        else whole("openai-responses", body)
    )
    price = find_price("openai-responses", "gpt-5", NOW)
    assert price is not None
    assert compute_cost(response.usage, price) == Decimal(usd)
    assert price_id in price.id_for_usage(response.usage)
    assert decode_response(encode_response(response)).unwrap() == response


def test_searches_are_billed_by_their_number() -> None:
    usage = {"input_tokens": 1000, "output_tokens": 100, "server_tool_use": {"web_search_requests": 3}}
    body = {"content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn", "usage": usage}
    price = find_price("anthropic", "claude-haiku-4-5", NOW)
    assert compute_cost(whole("anthropic", body).usage, price) == Decimal("0.0315")
    usage = {"iterations": ITERATIONS, "server_tool_use": {"web_search_requests": 3}}
    assert whole("anthropic", {**body, "usage": usage}).usage.billed_units == (("web_search:requests", 3),)
    calls = [{"type": "web_search_call", "action": {"type": action}} for action in ("search", "open_page")]
    counts = {"input_tokens": 0, "output_tokens": 0}
    items = {"status": "completed", "output": [*calls, {"type": "file_search_call"}], "usage": counts}
    price = find_price("openai-responses", "gpt-5", NOW)
    assert compute_cost(whole("openai-responses", items).usage, price) == Decimal("0.0125")  # without `tool_usage`
    deep = whole("perplexity", chat({**COUNTS, "num_search_queries": 10, "citation_tokens": 500}))
    price = find_price("perplexity", "sonar-deep-research", NOW)
    assert compute_cost(deep.usage, price) == Decimal("0.0538")
    price = find_price("perplexity", "sonar", NOW)
    assert price is not None
    assert "unknown" not in price.id_for_usage(deep.usage)  # its fee includes them


def test_searches_of_gemini_are_named_since_some_are_free() -> None:
    """https://ai.google.dev/gemini-api/docs/pricing (read 2026-11-30)."""
    candidate = {"content": {"parts": [{"text": "x"}]}, "groundingMetadata": {"webSearchQueries": ["a", "b"]}}
    counts = {"promptTokenCount": 1000, "candidatesTokenCount": 10, "totalTokenCount": 1010}
    audio = [{"modality": "AUDIO", "tokenCount": 5}]
    first = {"candidates": [candidate], "usageMetadata": counts}
    last = {
        "candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}],
        "usageMetadata": {**counts, "promptTokensDetails": audio},
    }
    price = find_price("google", "gemini-3.5-flash", NOW)
    assert price is not None
    assert price.id_for_usage(whole("google", first).usage).endswith(" + 2 google_search:queries of unknown price")
    streamed = interpret_stream(PROVIDERS["google"], SSE, [events(first, last)]).unwrap().usage
    assert streamed.billed_units == (("google_search:queries", 2), ("audio:input_tokens", 5))
    assert compute_cost(whole("google", first).usage, price) == Decimal("0.00159")


def test_batches_and_tiers_scale_audio_but_no_fee() -> None:
    price = find_price("openai", "gpt-audio", NOW)
    assert price is not None
    half, full = price.service_tiers["flex"], price
    assert half.units["audio:input_tokens"] * 2 == full.units["audio:input_tokens"]
    assert half.units["gpt-image-2:image_output_tokens"] == full.units["gpt-image-2:image_output_tokens"]


@pytest.mark.parametrize(("model", "factor"), [("gpt-5-mini", "1.8"), ("gpt-4.1", "1.75"), ("gpt-4o", "1")])
def test_priority_processing_of_azure_is_priced(model: str, factor: str) -> None:
    price = find_price("azure", model, NOW)
    assert price is not None
    usage = whole("azure", chat(COUNTS, service_tier="priority")).usage
    standard = compute_cost(replace(usage, service_tier=""), price)
    assert standard is not None
    assert compute_cost(usage, price) == standard * Decimal(factor)


def test_types_of_items_that_are_no_text_are_no_tools() -> None:
    body = {"status": "completed", "output": [{"type": []}, {"type": {}}], "tool_usage": 1, "tools": [1]}
    assert whole("openai-responses", body).usage.billed_units == ()
    end = events({"type": "response.completed", "response": body})
    assert interpret_stream(PROVIDERS["openai-responses"], SSE, [end]).unwrap().usage.billed_units == ()

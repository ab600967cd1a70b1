"""What is known of models, held against the price table's own figures."""

from __future__ import annotations

import pytest
from genai_prices.data import providers

from llmhub.providers import models

LISTED = {
    (provider.id, model.id): model.context_window
    for provider in providers
    for model in provider.models
    if model.context_window
}


@pytest.mark.parametrize(
    ("provider", "model", "context", "output"),
    [
        ("openai", "gpt-4o", 128_000, 16_384),
        ("openai", "gpt-4o-mini-2024-07-18", 128_000, 16_384),
        ("openai", "gpt-4.1-nano", 1_047_576, 32_768),
        ("openai", "gpt-5", 400_000, 128_000),
        ("openai", "o3", 200_000, 100_000),
        ("anthropic", "claude-haiku-4-5", 200_000, 64_000),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", 200_000, 64_000),
        ("google", "gemini-2.5-flash", 1_048_576, 65_536),
    ],
)
def test_windows(provider: str, model: str, context: int, output: int) -> None:
    found = models.metadata(provider, model)
    assert (found.context_window, found.max_output_tokens) == (context, output)
    listed = LISTED.get((provider, model))
    assert listed is None or abs(listed - context) <= 0.05 * context


@pytest.mark.parametrize(("provider", "model"), [("openai", "gpt-9"), ("groq", "gpt-4o"), ("compatible", "x")])
def test_what_is_not_known_is_not_said(provider: str, model: str) -> None:
    found = models.metadata(provider, model)
    assert (found.provider, found.model) == (provider, model)
    assert (found.context_window, found.max_output_tokens, found.refused) == (None, None, ())


def test_what_a_model_refuses() -> None:
    assert models.metadata("anthropic", "claude-opus-5").refused == ("temperature", "top_p", "top_k")
    assert models.metadata("anthropic", "claude-opus-4-1").refused == ()
    assert "temperature" in models.metadata("openai", "gpt-5").refused
    assert models.metadata("openai", "gpt-5.1").refused == ()


def test_a_longer_prefix_stands_before_the_shorter() -> None:
    prefixes = [family.prefix for family in models.FAMILIES]
    for at, prefix in enumerate(prefixes):
        assert not any(prefix.startswith(earlier) for earlier in prefixes[:at]), prefix


def test_how_a_model_reasons() -> None:
    found = models.metadata("openai", "gpt-5.4")
    assert (found.reasons_by_default, found.can_stop_reasoning) == (False, True)
    assert found.efforts == ("none", "low", "medium", "high", "xhigh")
    assert found.refused == ()
    assert found.refused_reasoning == models.STEERING
    plain = models.metadata("openai", "gpt-4o")
    assert (plain.reasons_by_default, plain.can_stop_reasoning, plain.efforts) == (None, None, ())


@pytest.mark.parametrize(
    ("provider", "model", "modalities"),
    [
        ("openai", "gpt-4o-mini-2024-07-18", ("text", "image", "document")),
        ("openai", "o3-mini", ("text",)),
        ("openai", "gpt-9", ()),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", ("text", "image", "document")),
        ("google", "gemini-2.5-flash", ("text", "image", "document", "audio", "video")),
        ("google", "gemini-3.5-flash-lite", ("text", "image", "document", "audio", "video")),
        ("google", "gemini-3.5-pro", ()),
        ("groq", "gpt-4o", ()),
    ],
)
def test_what_may_stand_in_a_prompt(provider: str, model: str, modalities: tuple[str, ...]) -> None:
    assert models.metadata(provider, model).modalities == modalities

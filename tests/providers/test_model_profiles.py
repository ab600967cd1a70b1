"""Model profiles, compared with the figures of the price table."""

from __future__ import annotations

import pytest
from genai_prices.data import providers

from llmhub.providers import openai
from llmhub.providers.registry import model_metadata

LISTED_CONTEXT_WINDOWS = {
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
def test_token_limits(provider: str, model: str, context: int, output: int) -> None:
    found = model_metadata(provider, model)
    assert (found.context_window, found.max_output_tokens) == (context, output)
    listed = LISTED_CONTEXT_WINDOWS.get((provider, model))
    assert listed is None or abs(listed - context) <= 0.05 * context


@pytest.mark.parametrize(("provider", "model"), [("openai", "gpt-9"), ("groq", "gpt-4o"), ("compatible", "x")])
def test_unknown_models_have_no_metadata(provider: str, model: str) -> None:
    found = model_metadata(provider, model)
    assert (found.provider, found.model) == (provider, model)
    assert (found.context_window, found.max_output_tokens, found.unsupported_params) == (None, None, ())


def test_unsupported_parameters() -> None:
    assert model_metadata("anthropic", "claude-opus-5").unsupported_params == (
        "temperature",
        "top_p",
        "top_k",
    )
    assert model_metadata("anthropic", "claude-opus-4-1").unsupported_params == ()
    assert "temperature" in model_metadata("openai", "gpt-5").unsupported_params
    assert model_metadata("openai", "gpt-5.1").unsupported_params == ()


def test_longer_prefix_comes_before_shorter() -> None:
    prefixes = [family.prefix for family in openai.MODELS.reasoning]
    for index, prefix in enumerate(prefixes):
        assert not any(prefix.startswith(earlier) for earlier in prefixes[:index]), prefix


def test_reasoning_metadata() -> None:
    found = model_metadata("openai", "gpt-5.4")
    assert (found.reasons_by_default, found.can_disable_reasoning) == (False, True)
    assert found.reasoning_efforts == ("none", "low", "medium", "high", "xhigh")
    assert found.unsupported_params == ()
    assert found.unsupported_when_reasoning == openai.MODELS.refused_while_reasoning
    plain = model_metadata("openai", "gpt-4o")
    assert (plain.reasons_by_default, plain.can_disable_reasoning, plain.reasoning_efforts) == (None, None, ())


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
def test_input_modalities(provider: str, model: str, modalities: tuple[str, ...]) -> None:
    assert model_metadata(provider, model).input_modalities == modalities

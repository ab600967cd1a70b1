"""Errors by what they mean, whatever phrase, type or status a server chose for them; the messages were recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmhub.core import errors
from llmhub.core.protocol import interpret
from llmhub.core.provider import HttpReply
from llmhub.providers.registry import PROVIDERS


def error_of(name: str, status: int, body: Any, content_type: str = "application/json") -> errors.LLMError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return interpret(PROVIDERS[name], HttpReply(status, {"content-type": content_type}, raw)).failure()


TOO_LONG = [
    ("compatible", 500, {"error": {"type": "server_error", "message": "Context size has been exceeded."}}),
    (
        "compatible",
        400,
        {"error": {"type": "exceed_context_size_error", "message": "exceeds the available context size"}},
    ),
    ("perplexity", 400, {"error": {"type": "too_many_prompt_tokens", "code": 400, "message": "Too many tokens"}}),
    ("ollama", 400, {"error": {"message": "prompt too long; exceeded max context length by 1119046 tokens"}}),
    ("deepseek", 400, {"error": {"message": "This model's maximum context length is 1048565 tokens."}}),
    ("anthropic", 400, {"error": {"type": "invalid_request_error", "message": "exceeds the available context size"}}),
    ("anthropic", 400, {"error": {"type": "api_error", "message": "ContextWindowExceededError: too long"}}),
    ("google", 400, {"error": {"status": "INVALID_ARGUMENT", "message": "This model's maximum context length is 9"}}),
    ("bedrock", 400, {"message": "Input Tokens Exceeded: Number of input tokens exceeds maximum length"}),
    (
        "openrouter",
        400,
        {"error": {"message": "Provider returned error", "metadata": {"raw": "context window"}}},
    ),
    ("xai", 400, {"code": "invalid-argument", "error": "This model's maximum prompt length is 131072 but the request"}),
    ("groq", 400, {"error": {"message": "Please reduce the length of the messages or completion."}}),
    ("moonshot", 400, {"error": {"message": "Invalid request: Your request exceeded model token limit: 8192"}}),
    (
        "alibaba",
        400,
        {"error": {"message": "Range of input length should be [1, 129024]"}},
    ),
    ("cohere", 400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"}),
    ("together", 422, {"error": {"message": "`inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000"}}),
    (
        "groq",
        413,
        {
            "error": {
                "message": "Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 9000",
                "type": "tokens",
                "code": "rate_limit_exceeded",
            }
        },
    ),
    (
        "openai",
        429,
        {
            "error": {
                "message": "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000.",
                "type": "tokens",
                "code": "rate_limit_exceeded",
            }
        },
    ),
]


@pytest.mark.parametrize(("name", "status", "body"), TOO_LONG)
def test_prompt_that_is_too_long(name: str, status: int, body: Any) -> None:
    error = error_of(name, status, body)
    assert isinstance(error, errors.ContextTooLong)
    assert not errors.is_transient(error)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (
            "mistral",
            {"message": "Invalid model: bad model", "type": "invalid_model", "code": "1500"},
        ),
        (
            "deepseek",
            {"message": "The supported API model names are deepseek-v4-pro or deepseek-v4-flash only"},
        ),
        ("deepseek", {"message": "Model Not Exist", "type": "invalid_request_error", "code": "invalid_request_error"}),
        ("openai", {"message": "invalid model ID", "type": "invalid_request_error"}),
        ("openrouter", {"message": "bad/model is not a valid model ID", "code": 400}),
        ("perplexity", {"message": "Invalid model 'bad model'.", "type": "invalid_model", "code": 400}),
    ],
)
def test_unknown_model_with_status_400(name: str, error: Any) -> None:
    assert isinstance(error_of(name, 400, error if name == "mistral" else {"error": error}), errors.NotFound)


def test_code_is_the_name_and_not_the_number() -> None:
    body = {"error": {"type": "too_many_prompt_tokens", "code": 400, "message": "m"}}
    assert error_of("perplexity", 400, body).code == "too_many_prompt_tokens"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("compatible", {"error": {"type": "server_error", "message": "image input is not supported - hint: mmproj"}}),
        ("ollama-native", {"error": "image: unknown format"}),
    ],
)
def test_500_that_blames_the_request_is_not_retried(name: str, body: Any) -> None:
    error = error_of(name, 500, body)
    assert isinstance(error, errors.InvalidRequest)
    assert not errors.is_transient(error)


@pytest.mark.parametrize("name", ["openai", "openai-responses", "anthropic", "google", "bedrock", "ollama-native"])
def test_conflict_is_retried(name: str) -> None:
    body = {"error": {"message": "m", "status": "ABORTED"}}
    assert errors.is_transient(error_of(name, 409, body))


def test_reason_behind_a_gateway_is_shown() -> None:
    metadata = {"raw": '{"msg":"invalid parameter"}', "provider_name": "AtlasCloud"}
    body = {"error": {"message": "Provider returned error", "code": 400, "metadata": metadata}}
    assert "AtlasCloud" in error_of("openrouter", 400, body).message
    assert "invalid parameter" in error_of("openrouter", 400, body).message


@pytest.mark.parametrize("name", ["openai", "anthropic", "google", "bedrock", "ollama-native", "openai-responses"])
def test_html_page_with_an_error_status_is_named(name: str) -> None:
    page = b"<!DOCTYPE html><html><head><title>Bad gateway</title><style>p {}</style></head><body><p>nginx"
    error = error_of(name, 502, page, "text/html")
    assert error.message == "an HTML page (Bad gateway nginx)"
    assert errors.is_transient(error)


@pytest.mark.parametrize("name", ["bedrock", "ollama-native"])
def test_message_within_an_error_object_is_read(name: str) -> None:
    assert error_of(name, 400, {"error": {"message": "no such thing"}}).message == "no such thing"


@pytest.mark.parametrize("name", ["openai", "openai-responses", "anthropic", "google", "cohere-native"])
def test_detail_of_an_error_is_its_message(name: str) -> None:
    assert error_of(name, 404, {"detail": "Not Found"}).message == "Not Found"


def test_error_that_came_as_an_event_is_read() -> None:
    body = b'data: {"error": {"message": "upstream is down"}}\n\ndata: [DONE]\n\n'
    assert error_of("openai-responses", 500, body, "text/event-stream").message == "upstream is down"

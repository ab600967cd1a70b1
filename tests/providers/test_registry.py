"""Every provider: its URLs, authorization, dialect, and the requests it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful

from llmhub.core import errors
from llmhub.core.cache_key import request_key
from llmhub.core.protocol import prepare
from llmhub.core.provider import Endpoint, HttpRequest
from llmhub.core.types import CompletionRequest, Document, Image, Message, Reasoning, Schema, Text, ToolResult
from llmhub.providers.registry import PROVIDERS

SECRET = "s3cr3t-k3y"
NAMES = sorted(PROVIDERS)

BASE_URLS = {
    "azure": "https://res.openai.azure.com",
    "azure-responses": "https://res.openai.azure.com",
    "azure-completions": "https://res.openai.azure.com",
    "databricks": "https://w.cloud.databricks.com",
    "vllm": "http://h/v1",
    "vllm-completions": "http://h/v1",
    "compatible-completions": "http://h/v1",
    "compatible": "http://h/v1",
    "compatible-responses": "http://h/v1",
    "compatible-messages": "http://h",
    "snowflake": "https://a.snowflakecomputing.com",
}


def build_endpoint(name: str, **fields: Any) -> Endpoint:
    defaults = {
        "base_url": BASE_URLS.get(name, ""),
        "api_key": SECRET,
        "access_key_id": "AKIA",
        "secret_access_key": SECRET,
        "project": "p",
    }
    return Endpoint(**{**defaults, **fields})


def build_request(model: str = "m", **fields: Any) -> CompletionRequest:
    return CompletionRequest(**{"model": model, "messages": (Message("user", "hi"),), **fields})


def prepared(name: str, endpoint: Endpoint | None = None, stream: bool = False, **fields: Any) -> HttpRequest:
    return prepare(
        PROVIDERS[name], endpoint or build_endpoint(name), build_request(**fields), 0.0, stream=stream
    ).unwrap()


def test_registry_is_read_only_and_keyed_by_name() -> None:
    with pytest.raises(TypeError):
        PROVIDERS["openai"] = PROVIDERS["groq"]  # type: ignore[index]
    assert all(name == row.name for name, row in PROVIDERS.items())


@pytest.mark.parametrize("name", NAMES)
def test_every_provider_prepares_a_request(name: str) -> None:
    request = prepared(name)
    assert request.method == "POST"
    assert request.url.startswith("http")
    assert request.headers["content-type"] == "application/json"
    assert isinstance(json.loads(request.body), dict)
    assert any(SECRET in value for value in request.headers.values())
    streamed = prepared(name, stream=True)
    assert (streamed.url, streamed.body) != (request.url, request.body)


@pytest.mark.parametrize("name", NAMES)
def test_no_repr_url_or_body_contains_the_key(name: str) -> None:
    endpoint = build_endpoint(name, session_token=SECRET, headers={"x-extra": SECRET})
    request = prepared(name, endpoint)
    refusal = prepare(PROVIDERS[name], endpoint, build_request("", top_p=0.5), 0.0)
    assert SECRET not in f"{endpoint!r} {endpoint} {request!r} {request} {refusal!r} {PROVIDERS[name]!r}"
    assert SECRET not in request.url
    assert SECRET.encode() not in request.body


@pytest.mark.parametrize(
    ("name", "model", "stream", "url"),
    [
        ("openai", "gpt-4o", False, "https://api.openai.com/v1/chat/completions"),
        ("openai-responses", "gpt-5", True, "https://api.openai.com/v1/responses"),
        ("azure-responses", "my/dep", False, "https://res.openai.azure.com/openai/v1/responses"),
        ("anthropic", "claude-opus-4-1", True, "https://api.anthropic.com/v1/messages"),
        (
            "vertex",
            "gemini-2.5-pro",
            False,
            "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/google/models/gemini-2.5-pro:generateContent",
        ),
        (
            "vertex",
            "endpoints/12 3",
            True,
            "https://aiplatform.googleapis.com/v1/projects/p/locations/global/endpoints/12%203:streamGenerateContent?alt=sse",
        ),
        (
            "vertex-anthropic",
            "claude-haiku-4-5@20251001",
            False,
            "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/anthropic/models/claude-haiku-4-5@20251001:rawPredict",
        ),
        (
            "vertex-anthropic",
            "publishers/anthropic/models/x",
            True,
            "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/anthropic/models/x:streamRawPredict",
        ),
        (
            "google",
            "gemini-2.5-pro",
            False,
            "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-pro:generateContent",
        ),
        (
            "google",
            "models/gemini-2.5-pro",
            True,
            "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
        ),
        (
            "google",
            "tunedModels/my model/x",
            False,
            "https://generativelanguage.googleapis.com/v1beta/tunedModels/my%20model%2Fx:generateContent",
        ),
        (
            "bedrock",
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            False,
            "https://bedrock-runtime.us-east-1.amazonaws.com/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse",
        ),
        (
            "bedrock",
            "arn:aws:bedrock:us-east-1:1:inference-profile/x",
            True,
            "https://bedrock-runtime.us-east-1.amazonaws.com/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fx/converse-stream",
        ),
        (
            "azure",
            "my/dep",
            False,
            "https://res.openai.azure.com/openai/deployments/my%2Fdep/chat/completions?api-version=2024-10-21",
        ),
        ("groq", "x", False, "https://api.groq.com/openai/v1/chat/completions"),
        ("mistral", "x", False, "https://api.mistral.ai/v1/chat/completions"),
        ("deepseek", "x", False, "https://api.deepseek.com/chat/completions"),
        ("together", "x", False, "https://api.together.xyz/v1/chat/completions"),
        ("openrouter", "x", False, "https://openrouter.ai/api/v1/chat/completions"),
        ("fireworks", "x", False, "https://api.fireworks.ai/inference/v1/chat/completions"),
        ("xai", "x", False, "https://api.x.ai/v1/chat/completions"),
        ("cerebras", "x", False, "https://api.cerebras.ai/v1/chat/completions"),
        ("perplexity", "x", False, "https://api.perplexity.ai/chat/completions"),
        ("huggingface", "x", False, "https://router.huggingface.co/v1/chat/completions"),
        ("ollama", "x", False, "http://localhost:11434/v1/chat/completions"),
        ("ollama-native", "x", True, "http://localhost:11434/api/chat"),
        ("vllm", "x", False, "http://h/v1/chat/completions"),
        ("compatible", "x", False, "http://h/v1/chat/completions"),
        ("databricks", "x", False, "https://w.cloud.databricks.com/serving-endpoints/chat/completions"),
    ],
)
def test_urls(name: str, model: str, stream: bool, url: str) -> None:
    assert prepared(name, model=model, stream=stream).url == url


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"azure", "cloudflare"}))
def test_custom_base_url_keeps_the_path(name: str) -> None:
    own = prepared(name, build_endpoint(name, base_url="http://127.0.0.1:9/x/"))
    assert own.url.startswith("http://127.0.0.1:9/x/")
    public = PROVIDERS[name].base_url or BASE_URLS[name]
    assert own.url.removeprefix("http://127.0.0.1:9/x") == prepared(
        name, build_endpoint(name, base_url=public)
    ).url.removeprefix(public)


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "https://r.openai.azure.com/openai/deployments/m/chat/completions?api-version=2024-10-21"),
        (
            {"api_version": "2025-01-01-preview"},
            "https://r.openai.azure.com/openai/deployments/m/chat/completions?api-version=2025-01-01-preview",
        ),
        ({"api_version": "v1"}, "https://r.openai.azure.com/openai/v1/chat/completions"),
        (
            {"base_url": "https://r.openai.azure.com/openai/v1/"},
            "https://r.openai.azure.com/openai/v1/chat/completions",
        ),
        (
            {"base_url": "https://r.openai.azure.com/openai"},
            "https://r.openai.azure.com/openai/deployments/m/chat/completions?api-version=2024-10-21",
        ),
    ],
)
def test_azure_urls(fields: dict[str, str], url: str) -> None:
    request = prepared("azure", Endpoint(**{"base_url": "https://r.openai.azure.com/", "api_key": SECRET, **fields}))
    assert request.url == url
    assert request.headers["api-key"] == SECRET
    assert "authorization" not in request.headers
    assert json.loads(request.body)["model"] == "m"


def test_cloudflare_needs_an_account_or_an_address_with_one() -> None:
    account = prepared("cloudflare", Endpoint(api_key=SECRET, project="acc"), model="@cf/m").url
    own = prepared("cloudflare", Endpoint(api_key=SECRET, base_url="https://h/accounts/acc/ai/v1")).url
    assert account == "https://api.cloudflare.com/client/v4/accounts/acc/ai/v1/chat/completions"
    assert own == "https://h/accounts/acc/ai/v1/chat/completions"
    error = prepare(PROVIDERS["cloudflare"], Endpoint(api_key=SECRET), build_request(), 0.0).failure()
    assert error.path == "$.endpoint.project"


def test_minimum_of_output_tokens_is_openais_own() -> None:
    request = build_request(max_tokens=12)
    for name in ("openai-responses", "azure-responses"):
        error = prepare(PROVIDERS[name], build_endpoint(name), request, 0.0).failure()
        assert (type(error), error.path) == (errors.InvalidRequest, "$.max_tokens")
    elsewhere = prepared("openai-responses", Endpoint(base_url="http://h/v1", api_key="k"), max_tokens=12)
    assert json.loads(elsewhere.body)["max_output_tokens"] == 12
    assert json.loads(prepared("compatible-responses", max_tokens=12).body)["max_output_tokens"] == 12
    assert "include" in json.loads(prepared("compatible-responses", model="gpt-5").body)
    for model in ("gpt-4o-mini", "openai/gpt-4o-mini"):  # which have no encrypted reasoning
        assert "include" not in json.loads(prepared("compatible-responses", model=model).body)


def test_o3_mini_takes_stop() -> None:
    assert json.loads(prepared("openai", model="o3-mini", stop=("X",)).body)["stop"] == ["X"]
    assert not is_successful(
        prepare(PROVIDERS["openai"], build_endpoint("openai"), build_request("o3", stop=("X",)), 0.0)
    )


def test_databricks_accepts_both_base_urls() -> None:
    urls = {
        prepared("databricks", build_endpoint("databricks", base_url=f"https://w{end}")).url
        for end in ("", "/serving-endpoints")
    }
    assert urls == {"https://w/serving-endpoints/chat/completions"}


def test_bedrock_url_and_signature_use_the_region() -> None:
    request = prepared("bedrock", build_endpoint("bedrock", api_key="", region="eu-west-3"))
    assert request.url.startswith("https://bedrock-runtime.eu-west-3.amazonaws.com/model/")
    assert "/eu-west-3/bedrock/aws4_request" in request.headers["authorization"]


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"base_url": "https://r.openai.azure.com"}, "https://r.openai.azure.com/openai/v1/responses"),
        ({"base_url": "https://r.openai.azure.com/openai/v1/"}, "https://r.openai.azure.com/openai/v1/responses"),
        (
            {"base_url": "https://r.openai.azure.com/openai", "api_version": "2025-04-01-preview"},
            "https://r.openai.azure.com/openai/responses?api-version=2025-04-01-preview",
        ),
    ],
)
def test_azure_responses_urls(fields: dict[str, str], url: str) -> None:
    request = prepared("azure-responses", Endpoint(api_key=SECRET, **fields))
    assert request.url == url
    assert request.headers["api-key"] == SECRET
    assert "authorization" not in request.headers


CORPUS = Path(__file__).parents[1] / "fixtures/conformance"

RECORDED_VERTEX_URL = re.compile(
    r"(?P<host>https://[^/]+)/(?P<version>[^/]+)/projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)"
    r"/publishers/[^/]+/models/(?P<model>[^:]+):(?P<stream>stream)?\w+(\?.*)?"
)

RECORDED_VERTEX_URLS = {
    "vertex-generate_content": (15, 11),
    "vertex-stream_generate_content": (7, 5),
    "vertex_anthropic-messages": (4, 4),
}
"""The number of recorded URLs with a project, and of those whose host is the region's."""

CLAUDE = "publishers/anthropic/models/m:rawPredict"


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, f"https://aiplatform.googleapis.com/v1/projects/p/locations/global/{CLAUDE}"),
        (
            {"region": "us-east5"},
            f"https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/us-east5/{CLAUDE}",
        ),
        ({"region": "eu"}, f"https://aiplatform.eu.rep.googleapis.com/v1/projects/p/locations/eu/{CLAUDE}"),
        (
            {"region": "global", "project": "example.com:p", "api_version": "v1beta1"},
            f"https://aiplatform.googleapis.com/v1beta1/projects/example.com:p/locations/global/{CLAUDE}",
        ),
        ({"base_url": "http://h/v1"}, f"http://h/v1/projects/p/locations/global/{CLAUDE}"),
        (
            {"base_url": "https://h/v1beta1/projects/q/locations/l/", "project": ""},
            f"https://h/v1beta1/projects/q/locations/l/{CLAUDE}",
        ),
    ],
)
def test_vertex_urls(fields: dict[str, str], url: str) -> None:
    assert prepared("vertex-anthropic", build_endpoint("vertex-anthropic", **fields)).url == url


@pytest.mark.parametrize("name", ["vertex", "vertex-anthropic"])
def test_vertex_requires_a_project(name: str) -> None:
    error = prepare(PROVIDERS[name], build_endpoint(name, project=""), build_request(), 0.0).failure()
    assert isinstance(error, errors.InvalidRequest)
    assert error.path == "$.endpoint.project"
    keys = {
        request_key(PROVIDERS[name], build_endpoint(name, project=project), build_request()) for project in ("p", "q")
    }
    assert len(keys) == 2


@pytest.mark.parametrize(
    "name", ["vertex-generate_content", "vertex-stream_generate_content", "vertex_anthropic-messages"]
)
@pytest.mark.corpus
def test_vertex_urls_equal_the_recorded_ones(name: str) -> None:
    row = "vertex-anthropic" if "anthropic" in name else "vertex"
    located = derived = 0
    for line in (CORPUS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        url = json.loads(line)["request"]["url"]
        found = RECORDED_VERTEX_URL.fullmatch(url)
        if found is None:
            assert "/projects/" not in url  # express mode: an API key that names no project
            continue
        place = {"project": found["project"], "region": found["region"], "api_version": found["version"]}
        for base in ("", found["host"]):
            endpoint = build_endpoint(row, base_url=base, **place)
            located_url = PROVIDERS[row].locate(endpoint, build_request(found["model"]), found["stream"] is not None)
            assert base == "" or located_url.partition("?")[0] == url.partition("?")[0]
            derived += base == "" and located_url.partition("?")[0] == url.partition("?")[0]
        located += 1
    assert (located, derived) == RECORDED_VERTEX_URLS[name]


HEADERS = {
    "anthropic": "x-api-key",
    "google": "x-goog-api-key",
    **dict.fromkeys(("azure", "azure-responses", "azure-completions"), "api-key"),
}


@pytest.mark.parametrize("name", NAMES)
def test_key_header(name: str) -> None:
    headers = prepared(name).headers
    assert headers[HEADERS.get(name, "authorization")] == (SECRET if name in HEADERS else f"Bearer {SECRET}")
    without_key = prepare(
        PROVIDERS[name], build_endpoint(name, api_key="", access_key_id="", secret_access_key=""), build_request(), 0.0
    )
    if name != "bedrock":
        assert not {"authorization", "x-api-key", "api-key", "x-goog-api-key"} & without_key.unwrap().headers.keys()


@pytest.mark.parametrize("name", sorted(BASE_URLS))
def test_provider_without_public_address_requires_base_url(name: str) -> None:
    error = prepare(PROVIDERS[name], Endpoint(api_key=SECRET), build_request(), 0.0).failure()
    assert isinstance(error, errors.InvalidRequest)
    assert "base_url" in str(error)


# --- dialects -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["openai", "azure"])
def test_openai_and_azure_rename_max_tokens(name: str) -> None:
    payload = json.loads(prepared(name, max_tokens=7).body)
    assert payload["max_completion_tokens"] == 7
    assert "max_tokens" not in payload


def test_compatible_servers_keep_max_tokens() -> None:
    assert json.loads(prepared("compatible", max_tokens=7).body)["max_tokens"] == 7


def test_mistral_renames_the_seed() -> None:
    payload = json.loads(prepared("mistral", seed=0, stream=True).body)
    assert payload["random_seed"] == 0
    assert payload["stream"] is True
    assert not {"seed", "stream_options"} & payload.keys()


def test_stream_requests_its_usage_unless_it_is_always_sent() -> None:
    requesting = {name for name in NAMES if "stream_options" in json.loads(prepared(name, stream=True).body)}
    chat_providers = {name for name in NAMES if PROVIDERS[name].wire.name in {"openai_chat", "openai_completions"}}
    assert chat_providers - requesting == {"mistral", "perplexity", "databricks"}


def test_extra_takes_precedence_over_the_dialect() -> None:
    payload = json.loads(prepared("openai", max_tokens=7, extra={"max_completion_tokens": 9}).body)
    assert payload["max_completion_tokens"] == 9


@pytest.mark.parametrize(
    ("model", "included"), [("gpt-4o-mini", False), ("gpt-5-chat-latest", False), ("gpt-5-mini", True)]
)
def test_only_reasoning_models_are_asked_for_encrypted_reasoning(model: str, included: bool) -> None:
    payload = json.loads(prepared("openai-responses", model=model).body)
    assert payload["store"] is False
    assert ("include" in payload) == included


@pytest.mark.parametrize("stream", [False, True])
def test_vertex_claude_model_is_in_the_url_and_version_in_the_body(stream: bool) -> None:
    payload = json.loads(prepared("vertex-anthropic", stream=stream, max_tokens=7).body)
    message = {"role": "user", "content": "hi"}
    expected = {"anthropic_version": "vertex-2023-10-16", "max_tokens": 7, "messages": [message]}
    assert payload == {**expected, **({"stream": True} if stream else {})}


# --- api versions -------------------------------------------------------------------------------------------

VERSIONED = {
    "anthropic": "2026-10-21",
    "azure": "2025-04-01-preview",
    "azure-responses": "2025-04-01-preview",
    "google": "v1",
    "vertex": "v1beta1",
    "vertex-anthropic": "v1beta1",
}


@pytest.mark.parametrize("name", NAMES)
def test_api_version_is_in_the_cache_key(name: str) -> None:
    default, dated = build_endpoint(name), build_endpoint(name, api_version=VERSIONED.get(name, "v9"))
    assert request_key(PROVIDERS[name], default, build_request()) != request_key(
        PROVIDERS[name], dated, build_request()
    )
    if name in VERSIONED:
        one, other = prepared(name, default), prepared(name, dated)
        assert VERSIONED[name] in f"{other.url} {other.headers}"
        assert (one.url, one.headers) != (other.url, other.headers)


@pytest.mark.parametrize("name", NAMES)
def test_credentials_are_not_in_the_cache_key(name: str) -> None:
    other = replace(build_endpoint(name), api_key="k2", access_key_id="a2", secret_access_key="s2", session_token="t2")
    assert request_key(PROVIDERS[name], build_endpoint(name), build_request()) == request_key(
        PROVIDERS[name], other, build_request()
    )
    assert request_key(PROVIDERS[name], build_endpoint(name), build_request("m2")) != request_key(
        PROVIDERS[name], other, build_request()
    )


def test_cache_keys_differ_between_providers() -> None:
    assert len({request_key(PROVIDERS[name], build_endpoint(name), build_request()) for name in NAMES}) == len(NAMES)


def test_anthropic_version_is_a_header() -> None:
    assert prepared("anthropic").headers["anthropic-version"] == "2023-06-01"
    newer = prepared("anthropic", build_endpoint("anthropic", api_version="2026-10-21")).headers
    assert (newer["anthropic-version"], newer["x-api-key"]) == ("2026-10-21", SECRET)


# --- refusals -----------------------------------------------------------------------------------------------


def unsupported(name: str, model: str, endpoint: Endpoint | None = None, **fields: Any) -> errors.LLMError | None:
    return PROVIDERS[name].unsupported(endpoint or build_endpoint(name), build_request(model, **fields))


@pytest.mark.parametrize("field", ["temperature", "top_p", "top_k"])
@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("anthropic", "claude-opus-4-7"),
        ("anthropic", "claude-opus-4-8-20260601"),
        ("anthropic", "claude-opus-5-5"),
        ("anthropic", "claude-sonnet-5"),
        ("anthropic", "claude-fable-5-1"),
        ("anthropic", "claude-mythos-5-2"),
        ("anthropic", "claude-haiku-5-5"),
        ("bedrock", "us.anthropic.claude-sonnet-5-v1:0"),
        ("vertex-anthropic", "claude-opus-4-7@20260401"),
    ],
)
def test_newer_claude_models_refuse_sampling_parameters(name: str, model: str, field: str) -> None:
    error = unsupported(name, model, **{field: 1})
    assert isinstance(error, errors.Unsupported)
    assert error.path == f"$.{field}"
    assert model in error.message
    assert "drop" in str(error)


@pytest.mark.parametrize(
    "model", ["claude-opus-4-6", "claude-haiku-4-5", "claude-3-5-sonnet-20241022", "claude-sonnet-50"]
)
def test_older_claude_models_accept_sampling_parameters(model: str) -> None:
    assert unsupported("anthropic", model, temperature=0, top_p=0.5, top_k=3) is None


def test_newer_anthropic_api_refuses_sampling_parameters_for_every_model() -> None:
    newer = build_endpoint("anthropic", api_version="2026-10-21")
    error = unsupported("anthropic", "claude-haiku-4-5", newer, temperature=1)
    assert isinstance(error, errors.Unsupported)
    assert "2026-10-21" in error.message
    assert unsupported("anthropic", "claude-haiku-4-5", newer) is None


@pytest.mark.parametrize(
    ("model", "fields", "path"),
    [
        ("o3", {"temperature": 0}, "$.temperature"),
        ("o3", {"reasoning_effort": "none"}, "$.reasoning_effort"),
        ("gpt-5", {"top_p": 0.5}, "$.top_p"),
        ("gpt-5-mini", {"stop": ("a",)}, "$.stop"),
        ("gpt-5-pro", {"reasoning_effort": "low"}, "$.reasoning_effort"),
        ("gpt-5.1", {"temperature": 0, "reasoning_effort": "low"}, "$.temperature"),
        ("gpt-5.1", {"reasoning_effort": "minimal"}, "$.reasoning_effort"),
        ("gpt-5.4-pro", {"presence_penalty": 1}, "$.presence_penalty"),
        ("gpt-5.6-terra", {"frequency_penalty": 1}, "$.frequency_penalty"),
        ("gpt-6-astra", {"temperature": 0}, "$.temperature"),
        ("gpt-6.1-sol", {"reasoning_effort": "none"}, "$.reasoning_effort"),
    ],
)
def test_parameters_that_reasoning_models_refuse(model: str, fields: dict[str, Any], path: str) -> None:
    error = unsupported("openai", model, **fields)
    assert isinstance(error, errors.Unsupported)
    assert error.path == path


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("gpt-4o", {"temperature": 0, "stop": ("a",)}),
        ("gpt-5", {"temperature": 1, "top_p": 1, "presence_penalty": 0}),
        ("gpt-5.1", {"temperature": 0}),
        ("gpt-5.4", {"temperature": 0, "reasoning_effort": "none"}),
        ("gpt-5.5", {"temperature": 0, "reasoning_effort": "none"}),
        ("gpt-5.6", {"reasoning_effort": "max"}),
        ("gpt-5-chat-latest", {"temperature": 0}),
        ("gpt-6-luna", {"temperature": 0}),
        ("omni-moderation", {"temperature": 0}),
    ],
)
def test_parameters_that_models_accept(model: str, fields: dict[str, Any]) -> None:
    assert unsupported("openai", model, **fields) is None


def test_openai_refuses_the_same_on_both_wires() -> None:
    error = unsupported("openai-responses", "o3", temperature=0)
    assert isinstance(error, errors.Unsupported)
    assert error.path == "$.temperature"


def test_no_model_rule_applies_to_azure_deployments() -> None:
    assert unsupported("azure", "o3", temperature=0) is None


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (ToolResult("c", (Image(data="AAAA", media_type="image/png"),)), "an image in a tool's result"),
        (Document(url="https://example.org/a.pdf"), "a document by URL"),
    ],
)
def test_media_that_only_some_chat_servers_take(part: Any, words: str) -> None:
    messages = (Message("tool" if isinstance(part, ToolResult) else "user", (part,)),)
    assert unsupported("openrouter", "m", messages=messages) is None
    for name in ("openai", "groq", "together", "mistral"):
        error = unsupported(name, "m", messages=messages)
        assert isinstance(error, errors.Unsupported)
        assert error.path == "$.messages[0].parts[0]"
        assert words in error.message


def test_deepseek_schema_is_enforced_by_a_tool() -> None:
    schema = Schema({"type": "object", "properties": {}})
    request = build_request("deepseek-v4", response_schema=schema)
    body = json.loads(prepare(PROVIDERS["deepseek"], build_endpoint("deepseek"), request, 0.0).unwrap().body)
    assert [tool["function"]["parameters"] for tool in body["tools"]] == [schema.schema]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "structured_answer"}}
    assert "response_format" not in body


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 1),
        "top_p": st.floats(0, 1),
        "top_k": st.integers(1, 9),
        "presence_penalty": st.floats(-2, 2),
        "stop": st.just(("a",)),
        "seed": st.integers(0, 9),
        "user": st.just("u"),
        "reasoning_effort": st.sampled_from(["none", "low", "max"]),
        "response_schema": st.just(Schema({"type": "object"})),
    },
)

MODELS = st.sampled_from(
    ["m", "o3", "gpt-5.1", "gpt-5.6", "claude-opus-5", "claude-haiku-4-5", "gemini-2.5-pro", "gemini-3-pro"]
)


@given(st.sampled_from(NAMES), MODELS, FIELDS, st.sampled_from(["", "2026-10-21"]))
def test_dropping_omits_and_lists_unsupported_parameters(
    name: str, model: str, fields: dict[str, Any], version: str
) -> None:
    endpoint = build_endpoint(name, api_version=version)
    strict = prepare(PROVIDERS[name], endpoint, build_request(model, **fields), 0.0)
    loose = prepare(PROVIDERS[name], endpoint, build_request(model, unsupported="drop", **fields), 0.0)
    if is_successful(strict):
        assert loose.unwrap().dropped == ()
        assert loose.unwrap().body == strict.unwrap().body
    elif isinstance(strict.failure(), errors.Unsupported):
        dropped = loose.unwrap().dropped
        assert strict.failure().path.removeprefix("$.") in dropped
        assert set(dropped) <= fields.keys()
        kept = {field: value for field, value in fields.items() if field not in dropped}
        assert (
            prepare(PROVIDERS[name], endpoint, build_request(model, **kept), 0.0).unwrap().body == loose.unwrap().body
        )


WITHOUT_KEYS = {
    *("compatible", "compatible-responses", "compatible-messages", "ollama", "ollama-native", "vllm"),
    *("compatible-completions", "vllm-completions"),
    *("lmstudio", "llamacpp", "litellm"),
}


@pytest.mark.parametrize("name", NAMES)
def test_required_env_names_variables(name: str) -> None:
    groups = PROVIDERS[name].required_env
    assert all(variable.isupper() and variable.isidentifier() for group in groups for variable in group)
    assert bool(groups) == (name not in WITHOUT_KEYS)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *((name, "reasoning_content") for name in ("deepseek", "xai", "ollama", "compatible")),
        *((name, "reasoning") for name in ("openrouter", "vllm", "groq", "cerebras", "together", "huggingface")),
    ],
)
def test_earlier_reasoning_is_sent_where_the_server_accepts_it(name: str, key: str) -> None:
    request = prepare(PROVIDERS[name], build_endpoint(name), build_request("m", messages=WITH_REASONING), 0.0).unwrap()
    assert json.loads(request.body)["messages"][1] == {"role": "assistant", "content": "a", key: "hm"}


WITH_REASONING = (Message("user", "hi"), Message("assistant", (Reasoning("hm"), Text("a"))), Message("user", "and?"))


@pytest.mark.parametrize("name", ["openai", "azure", "fireworks", "perplexity", "databricks"])
def test_earlier_reasoning_is_refused_or_dropped_where_the_server_rejects_it(name: str) -> None:
    strict = prepare(PROVIDERS[name], build_endpoint(name), build_request("m", messages=WITH_REASONING), 0.0).failure()
    assert isinstance(strict, errors.Unsupported)
    assert strict.path == "$.messages[1].parts[0]"
    loose = prepare(
        PROVIDERS[name], build_endpoint(name), build_request("m", messages=WITH_REASONING, unsupported="drop"), 0.0
    ).unwrap()
    assert loose.dropped == ("messages.reasoning",)
    assert json.loads(loose.body)["messages"][1] == {"role": "assistant", "content": "a"}

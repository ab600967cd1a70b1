"""Every row of the table: where it is, how it signs, what it makes of a body, and what it refuses."""

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
from llmhub.core.provider import Endpoint, HttpRequest, Provider
from llmhub.core.types import CompletionRequest, Message, Reasoning, Schema, Text
from llmhub.providers.registry import PROVIDERS

SECRET = "s3cr3t-k3y"


NAMES = sorted(PROVIDERS)


HOMELESS = {
    "azure": "https://res.openai.azure.com",
    "azure-responses": "https://res.openai.azure.com",
    "databricks": "https://w.cloud.databricks.com",
    "vllm": "http://h/v1",
    "compatible": "http://h/v1",
}


def endpoint(name: str, **fields: Any) -> Endpoint:
    known = {
        "base_url": HOMELESS.get(name, ""),
        "api_key": SECRET,
        "access_key_id": "AKIA",
        "secret_access_key": SECRET,
        "project": "p",
    }
    return Endpoint(**{**known, **fields})


def ask(model: str = "m", **fields: Any) -> CompletionRequest:
    return CompletionRequest(**{"model": model, "messages": (Message("user", "hi"),), **fields})


def sent(name: str, at: Endpoint | None = None, stream: bool = False, **fields: Any) -> HttpRequest:
    return prepare(PROVIDERS[name], at or endpoint(name), ask(**fields), 0.0, stream=stream).unwrap()


def test_the_table_is_read_only_and_named_alike() -> None:
    with pytest.raises(TypeError):
        PROVIDERS["openai"] = PROVIDERS["groq"]  # type: ignore[index]
    assert all(name == row.name for name, row in PROVIDERS.items())


@pytest.mark.parametrize("name", NAMES)
def test_every_row_prepares(name: str) -> None:
    request = sent(name)
    assert request.method == "POST"
    assert request.url.startswith("http")
    assert request.headers["content-type"] == "application/json"
    assert isinstance(json.loads(request.body), dict)
    assert any(SECRET in value for value in request.headers.values())
    streamed = sent(name, stream=True)
    assert (streamed.url, streamed.body) != (request.url, request.body)


@pytest.mark.parametrize("name", NAMES)
def test_no_key_in_any_repr(name: str) -> None:
    at = endpoint(name, session_token=SECRET, headers={"x-extra": SECRET})
    request = sent(name, at)
    refusal = prepare(PROVIDERS[name], at, ask("", top_p=0.5), 0.0)
    assert SECRET not in f"{at!r} {at} {request!r} {request} {refusal!r} {PROVIDERS[name]!r}"
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
def test_addresses(name: str, model: str, stream: bool, url: str) -> None:
    assert sent(name, model=model, stream=stream).url == url


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"azure"}))
def test_an_address_of_ones_own_keeps_the_path(name: str) -> None:
    own = sent(name, endpoint(name, base_url="http://127.0.0.1:9/x/"))
    assert own.url.startswith("http://127.0.0.1:9/x/")
    public = PROVIDERS[name].base_url or HOMELESS[name]
    assert own.url.removeprefix("http://127.0.0.1:9/x") == sent(name, endpoint(name, base_url=public)).url.removeprefix(
        public
    )


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
def test_azure_classic_and_v1(fields: dict[str, str], url: str) -> None:
    request = sent("azure", Endpoint(**{"base_url": "https://r.openai.azure.com/", "api_key": SECRET, **fields}))
    assert request.url == url
    assert request.headers["api-key"] == SECRET
    assert "authorization" not in request.headers
    assert json.loads(request.body)["model"] == "m"


def test_databricks_takes_either_address() -> None:
    urls = {
        sent("databricks", endpoint("databricks", base_url=f"https://w{end}")).url for end in ("", "/serving-endpoints")
    }
    assert urls == {"https://w/serving-endpoints/chat/completions"}


def test_bedrock_is_in_its_region() -> None:
    request = sent("bedrock", endpoint("bedrock", api_key="", region="eu-west-3"))
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
def test_azure_responses(fields: dict[str, str], url: str) -> None:
    request = sent("azure-responses", Endpoint(api_key=SECRET, **fields))
    assert request.url == url
    assert request.headers["api-key"] == SECRET
    assert "authorization" not in request.headers


CORPUS = Path(__file__).parents[1] / "fixtures/conformance"


RECORDED_PLACE = re.compile(
    r"(?P<host>https://[^/]+)/(?P<version>[^/]+)/projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)"
    r"/publishers/[^/]+/models/(?P<model>[^:]+):(?P<stream>stream)?\w+(\?.*)?"
)


RECORDED_PLACES = {
    "vertex-generate_content": (15, 11),
    "vertex-stream_generate_content": (7, 5),
    "vertex_anthropic-messages": (4, 4),
}
"""Addresses with a project, and those of them at the host of their region."""


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
def test_vertex_is_in_its_project_and_region(fields: dict[str, str], url: str) -> None:
    assert sent("vertex-anthropic", endpoint("vertex-anthropic", **fields)).url == url


@pytest.mark.parametrize("name", ["vertex", "vertex-anthropic"])
def test_vertex_wants_its_project(name: str) -> None:
    error = prepare(PROVIDERS[name], endpoint(name, project=""), ask(), 0.0).failure()
    assert isinstance(error, errors.InvalidRequest)
    assert error.path == "$.endpoint.project"
    keys = {request_key(PROVIDERS[name], endpoint(name, project=project), ask()) for project in ("p", "q")}
    assert len(keys) == 2


@pytest.mark.parametrize(
    "name", ["vertex-generate_content", "vertex-stream_generate_content", "vertex_anthropic-messages"]
)
@pytest.mark.corpus
def test_vertex_is_where_it_was_recorded(name: str) -> None:
    path = CORPUS / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip("the recorded exchanges are not here")
    row = "vertex-anthropic" if "anthropic" in name else "vertex"
    located = derived = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        url = json.loads(line)["request"]["url"]
        found = RECORDED_PLACE.fullmatch(url)
        if found is None:
            assert "/projects/" not in url  # asked with a key for everyone's use, which names no project
            continue
        place = {"project": found["project"], "region": found["region"], "api_version": found["version"]}
        for base in ("", found["host"]):
            at = endpoint(row, base_url=base, **place)
            there = PROVIDERS[row].locate(at, ask(found["model"]), found["stream"] is not None)
            assert base == "" or there.partition("?")[0] == url.partition("?")[0]
            derived += base == "" and there.partition("?")[0] == url.partition("?")[0]
        located += 1
    assert (located, derived) == RECORDED_PLACES[name]


HEADERS = {"anthropic": "x-api-key", "google": "x-goog-api-key", "azure": "api-key", "azure-responses": "api-key"}


@pytest.mark.parametrize("name", NAMES)
def test_the_key_travels_in_its_header(name: str) -> None:
    headers = sent(name).headers
    assert headers[HEADERS.get(name, "authorization")] == (SECRET if name in HEADERS else f"Bearer {SECRET}")
    without = prepare(PROVIDERS[name], endpoint(name, api_key="", access_key_id="", secret_access_key=""), ask(), 0.0)
    if name != "bedrock":
        assert not {"authorization", "x-api-key", "api-key", "x-goog-api-key"} & without.unwrap().headers.keys()


@pytest.mark.parametrize("name", sorted(HOMELESS))
def test_a_row_without_an_address_says_so(name: str) -> None:
    error = prepare(PROVIDERS[name], Endpoint(api_key=SECRET), ask(), 0.0).failure()
    assert isinstance(error, errors.InvalidRequest)
    assert "base_url" in str(error)


# --- dialects -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["openai", "azure"])
def test_the_bound_has_its_newer_name(name: str) -> None:
    payload = json.loads(sent(name, max_tokens=7).body)
    assert payload["max_completion_tokens"] == 7
    assert "max_tokens" not in payload


def test_compatible_servers_keep_the_older_name() -> None:
    assert json.loads(sent("compatible", max_tokens=7).body)["max_tokens"] == 7


def test_mistral_names_the_seed_its_own_way() -> None:
    payload = json.loads(sent("mistral", seed=0, stream=True).body)
    assert payload["random_seed"] == 0
    assert payload["stream"] is True
    assert not {"seed", "stream_options"} & payload.keys()


def test_a_stream_asks_for_its_usage_where_it_must() -> None:
    asking = {name for name in NAMES if "stream_options" in json.loads(sent(name, stream=True).body)}
    rows = {name for name in NAMES if PROVIDERS[name].wire.name == "openai_chat"}
    assert rows - asking == {"mistral", "perplexity", "databricks"}


def test_extras_win_over_the_dialect() -> None:
    payload = json.loads(sent("openai", max_tokens=7, extra={"max_completion_tokens": 9}).body)
    assert payload["max_completion_tokens"] == 9


@pytest.mark.parametrize(
    ("model", "asked"), [("gpt-4o-mini", False), ("gpt-5-chat-latest", False), ("gpt-5-mini", True)]
)
def test_only_a_model_that_reasons_is_asked_for_its_reasoning(model: str, asked: bool) -> None:
    payload = json.loads(sent("openai-responses", model=model).body)
    assert payload["store"] is False
    assert ("include" in payload) == asked


@pytest.mark.parametrize("stream", [False, True])
def test_vertex_names_claude_in_the_address_and_its_version_in_the_body(stream: bool) -> None:
    payload = json.loads(sent("vertex-anthropic", stream=stream, max_tokens=7).body)
    turn = {"role": "user", "content": "hi"}
    asked = {"anthropic_version": "vertex-2023-10-16", "max_tokens": 7, "messages": [turn]}
    assert payload == {**asked, **({"stream": True} if stream else {})}


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
def test_the_api_version_is_in_the_key(name: str) -> None:
    plain, dated = endpoint(name), endpoint(name, api_version=VERSIONED.get(name, "v9"))
    assert request_key(PROVIDERS[name], plain, ask()) != request_key(PROVIDERS[name], dated, ask())
    if name in VERSIONED:
        one, other = sent(name, plain), sent(name, dated)
        assert VERSIONED[name] in f"{other.url} {other.headers}"
        assert (one.url, one.headers) != (other.url, other.headers)


@pytest.mark.parametrize("name", NAMES)
def test_the_key_does_not_hang_on_who_asks(name: str) -> None:
    other = replace(endpoint(name), api_key="k2", access_key_id="a2", secret_access_key="s2", session_token="t2")
    assert request_key(PROVIDERS[name], endpoint(name), ask()) == request_key(PROVIDERS[name], other, ask())
    assert request_key(PROVIDERS[name], endpoint(name), ask("m2")) != request_key(PROVIDERS[name], other, ask())


def test_keys_differ_between_providers() -> None:
    assert len({request_key(PROVIDERS[name], endpoint(name), ask()) for name in NAMES}) == len(NAMES)


def test_anthropics_version_is_a_header() -> None:
    assert sent("anthropic").headers["anthropic-version"] == "2023-06-01"
    newer = sent("anthropic", endpoint("anthropic", api_version="2026-10-21")).headers
    assert (newer["anthropic-version"], newer["x-api-key"]) == ("2026-10-21", SECRET)


# --- refusals -----------------------------------------------------------------------------------------------


def refusal(name: str, model: str, at: Endpoint | None = None, **fields: Any) -> errors.LLMError | None:
    return PROVIDERS[name].unsupported(at or endpoint(name), ask(model, **fields))


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
def test_newer_claudes_take_no_sampling(name: str, model: str, field: str) -> None:
    error = refusal(name, model, **{field: 1})
    assert isinstance(error, errors.Unsupported)
    assert error.path == f"$.{field}"
    assert model in error.message
    assert "drop" in str(error)


@pytest.mark.parametrize(
    "model", ["claude-opus-4-6", "claude-haiku-4-5", "claude-3-5-sonnet-20241022", "claude-sonnet-50"]
)
def test_older_claudes_take_it(model: str) -> None:
    assert refusal("anthropic", model, temperature=0, top_p=0.5, top_k=3) is None


def test_the_newer_api_takes_no_sampling_for_any_model() -> None:
    newer = endpoint("anthropic", api_version="2026-10-21")
    error = refusal("anthropic", "claude-haiku-4-5", newer, temperature=1)
    assert isinstance(error, errors.Unsupported)
    assert "2026-10-21" in error.message
    assert refusal("anthropic", "claude-haiku-4-5", newer) is None


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
def test_what_a_reasoning_model_does_not_take(model: str, fields: dict[str, Any], path: str) -> None:
    error = refusal("openai", model, **fields)
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
def test_what_it_does_take(model: str, fields: dict[str, Any]) -> None:
    assert refusal("openai", model, **fields) is None


def test_what_openai_refuses_it_refuses_by_either_wire() -> None:
    error = refusal("openai-responses", "o3", temperature=0)
    assert isinstance(error, errors.Unsupported)
    assert error.path == "$.temperature"


def test_an_azure_deployments_name_says_nothing_of_its_model() -> None:
    assert refusal("azure", "o3", temperature=0) is None


def test_deepseek_is_held_to_a_schema_by_a_tool() -> None:
    wanted = Schema({"type": "object", "properties": {}})
    request = ask("deepseek-v4", response_schema=wanted)
    body = json.loads(prepare(PROVIDERS["deepseek"], endpoint("deepseek"), request, 0.0).unwrap().body)
    assert [tool["function"]["parameters"] for tool in body["tools"]] == [wanted.schema]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "structured_answer"}}
    assert "response_format" not in body


SET = st.fixed_dictionaries(
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


@given(st.sampled_from(NAMES), MODELS, SET, st.sampled_from(["", "2026-10-21"]))
def test_dropping_leaves_out_what_cannot_be_said_and_names_it(
    name: str, model: str, fields: dict[str, Any], version: str
) -> None:
    at = endpoint(name, api_version=version)
    strict = prepare(PROVIDERS[name], at, ask(model, **fields), 0.0)
    loose = prepare(PROVIDERS[name], at, ask(model, unsupported="drop", **fields), 0.0)
    if is_successful(strict):
        assert loose.unwrap().dropped == ()
        assert loose.unwrap().body == strict.unwrap().body
    elif isinstance(strict.failure(), errors.Unsupported):
        dropped = loose.unwrap().dropped
        assert strict.failure().path.removeprefix("$.") in dropped
        assert set(dropped) <= fields.keys()
        kept = {field: value for field, value in fields.items() if field not in dropped}
        assert prepare(PROVIDERS[name], at, ask(model, **kept), 0.0).unwrap().body == loose.unwrap().body


@pytest.mark.parametrize("name", NAMES)
def test_needs_are_names_of_variables(name: str) -> None:
    needs = PROVIDERS[name].required_env
    assert all(variable.isupper() and variable.isidentifier() for group in needs for variable in group)
    assert bool(needs) == (name not in {"compatible", "ollama", "ollama-native", "vllm"})


def test_a_plugin_adds_a_row_without_touching_the_table() -> None:
    row = replace(PROVIDERS["compatible"], name="mine", base_url="http://h/v1")
    assert isinstance(row, Provider)
    assert "mine" not in PROVIDERS


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *((name, "reasoning_content") for name in ("deepseek", "xai", "ollama", "compatible")),
        *((name, "reasoning") for name in ("openrouter", "vllm")),
    ],
)
def test_earlier_reasoning_goes_back_where_a_server_takes_it(name: str, key: str) -> None:
    made = prepare(PROVIDERS[name], endpoint(name), ask("m", messages=THOUGHTFUL), 0.0).unwrap()
    assert json.loads(made.body)["messages"][1] == {"role": "assistant", "content": "a", key: "hm"}


THOUGHTFUL = (Message("user", "hi"), Message("assistant", (Reasoning("hm"), Text("a"))), Message("user", "and?"))


@pytest.mark.parametrize("name", ["openai", "azure", "groq", "mistral", "cerebras", "perplexity", "databricks"])
def test_earlier_reasoning_is_refused_or_let_go_of_where_a_server_takes_none(name: str) -> None:
    strict = prepare(PROVIDERS[name], endpoint(name), ask("m", messages=THOUGHTFUL), 0.0).failure()
    assert isinstance(strict, errors.Unsupported)
    assert strict.path == "$.messages[1].parts[0]"
    loose = prepare(PROVIDERS[name], endpoint(name), ask("m", messages=THOUGHTFUL, unsupported="drop"), 0.0).unwrap()
    assert loose.dropped == ("messages.reasoning",)
    assert json.loads(loose.body)["messages"][1] == {"role": "assistant", "content": "a"}

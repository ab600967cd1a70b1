"""Simulated servers as pure functions: streams, arbitrary JSON, and recorded requests and replies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from llmhub.sim import FAKE_PROVIDERS
from llmhub.sim.completions import generate_response, request_digest
from llmhub.sim.limits import LimitMeter, LimitStatus
from llmhub.sim.servers.aws_eventstream import encode_message
from llmhub.sim.servers.fake_provider import encode_json
from llmhub.sim.servers.openai_errors import format_go_duration
from llmhub.sim.types import SimError, SimHttpRequest, SimMessage, SimRequest, SimResponse, SimRoute

CORPUS = Path(__file__).parents[1] / "fixtures/conformance"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
NAMES = (
    "model messages contents system systemInstruction max_tokens temperature stop stop_sequences stopSequences n role "
    "content parts text type generationConfig inferenceConfig maxTokens thinkingConfig thinkingBudget tools toolConfig "
    "toolResult tool_result metadata user_id stream stream_options reasoning_effort cache_control citations"
)
FIELDS = st.sampled_from(sorted(NAMES.split()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS | st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
BODIES = st.dictionaries(FIELDS, JSON, max_size=6)
CALLS = st.builds(
    SimRoute,
    model=st.sampled_from(
        ["", "gpt-5", "gemini-2.5-pro", "us.anthropic.claude-opus-5", "amazon.titan-text-express-v1"]
    ),
    stream=st.booleans(),
    version=st.sampled_from(["", "2023-06-01", "2026-10-21"]),
)


@given(st.sampled_from(sorted(FAKE_PROVIDERS)), BODIES, CALLS)
def test_any_json_is_parsed_or_rejected(provider: str, body: dict[str, Any], call: SimRoute) -> None:
    fake_provider = FAKE_PROVIDERS[provider]
    read = fake_provider.parse_request(body, call)
    if isinstance(read, SimError):
        refusal = fake_provider.encode_error(read, "req_1")
        assert 400 <= refusal.status < 500
        assert json.loads(refusal.body)
        assert fake_provider.encode_stream_error(read, "req_1")
    else:
        assert json.loads(encode_json(fake_provider.encode_reply(respond_to(read))))
        assert b"".join(fake_provider.encode_events(respond_to(read)))


def respond_to(request: SimRequest) -> SimResponse:
    return generate_response(request, request_digest(request), seed=1)


def events_of(provider: str, raw: bytes) -> list[dict[str, Any]]:
    if provider == "bedrock":
        buffer = EventStreamBuffer()
        buffer.add_data(raw)
        return [{"kind": event.headers[":event-type"], **json.loads(event.payload)} for event in buffer]
    lines = raw.replace(b"\r\n", b"\n").split(b"\n")
    if provider == "ollama-native":
        return [json.loads(line) for line in lines if line]
    return [json.loads(line[6:]) for line in lines if line.startswith(b"data: ") and line != b"data: [DONE]"]


def text_of(provider: str, events: list[dict[str, Any]]) -> str:
    match provider:
        case "ollama-native":
            pieces = [event["message"]["content"] for event in events]
        case "cohere-native":
            contents = [event["delta"]["message"]["content"] for event in events if event["type"] == "content-delta"]
            pieces = [content["text"] for content in contents]
        case "openai-completions":
            pieces = [choice["text"] for event in events for choice in event["choices"]]
        case "openai-responses" | "azure-responses":
            pieces = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
        case "anthropic" | "vertex-anthropic":
            pieces = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
        case "bedrock":
            pieces = [event["delta"]["text"] for event in events if event["kind"] == "contentBlockDelta"]
        case "google" | "vertex":
            pieces = [event["candidates"][0]["content"]["parts"][0]["text"] for event in events]
        case _:
            deltas = [choice["delta"] for event in events for choice in event["choices"]]
            pieces = [delta.get("content") or "" for delta in deltas]
    return "".join(pieces)


@given(st.sampled_from(sorted(FAKE_PROVIDERS)), TEXTS, TEXTS)
def test_stream_has_the_complete_text(provider: str, prompt: str, text: str) -> None:
    request = SimRequest(model="m", messages=(SimMessage("user", prompt),), stream=True)
    response = generate_response(request, request_digest(request), respond=lambda _prompt: text)
    raw = b"".join(FAKE_PROVIDERS[provider].encode_events(response))
    assert text_of(provider, events_of(provider, raw)) == text


@given(st.dictionaries(st.text(st.characters(max_codepoint=127), min_size=1, max_size=9), TEXTS), st.binary())
def test_event_stream_messages_equal_botocores(headers: dict[str, str], payload: bytes) -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(encode_message(headers, payload))
    [event] = list(buffer)
    assert (event.headers, event.payload) == (headers, payload)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (0.0004, "1ms"),
        (0.9996, "1s"),
        (59.999, "59.999s"),
        (60, "1m0s"),
        (3600, "1h0m0s"),
        (90061, "25h1m1s"),
    ],
)
def test_go_durations(seconds: float, written: str) -> None:
    assert format_go_duration(seconds) == written


def test_rate_limit_headers_by_provider() -> None:
    standing = LimitStatus(LimitMeter(500, 499, 0.12), LimitMeter(200_000, 199_963, 0.011))
    headers = {
        name: dict(fake_provider.limit_headers(standing, 1_784_932_861.5))
        for name, fake_provider in FAKE_PROVIDERS.items()
    }
    assert headers["openai"] == {
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-limit-tokens": "200000",
        "x-ratelimit-remaining-tokens": "199963",
        "x-ratelimit-reset-tokens": "11ms",
    }
    assert headers["anthropic"]["anthropic-ratelimit-requests-reset"] == "2026-07-24T22:41:02Z"
    assert {name.removeprefix("anthropic-ratelimit-").rpartition("-")[0] for name in headers["anthropic"]} == {
        "requests",
        "tokens",
        "input-tokens",
        "output-tokens",
    }
    assert headers["azure"]["x-ratelimit-remaining-requests"] == "499"
    assert headers["google"] == headers["bedrock"] == {}
    assert all(not fake_provider.limit_headers(LimitStatus(), 0.0) for fake_provider in FAKE_PROVIDERS.values())


def test_all_wires_parse_conversations_alike() -> None:
    """A conversation has the same messages on every wire."""
    turns = (
        SimMessage("system", "Be brief."),
        SimMessage("user", "Hi"),
        SimMessage("assistant", "Hello"),
        SimMessage("user", "Bye"),
    )
    roles = [{"role": turn.role, "content": turn.text} for turn in turns]
    blocks = [{"role": turn.role, "content": [{"text": turn.text}]} for turn in turns[1:]]
    parts = [
        {"role": {"assistant": "model"}.get(turn.role, turn.role), "parts": [{"text": turn.text}]} for turn in turns[1:]
    ]
    chat = {"model": "m", "messages": roles, "max_tokens": 9, "stop": ["x"], "temperature": 0.5, "top_p": 0.5}
    bodies: Mapping[str, dict[str, Any]] = {
        "openai": chat,
        "azure": chat,
        "compatible": chat,
        "anthropic": {
            "model": "m",
            "system": "Be brief.",
            "messages": roles[1:],
            "max_tokens": 9,
            "stop_sequences": ["x"],
            "temperature": 0.5,
            "top_p": 0.5,
        },
        "google": {
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": parts,
            "generationConfig": {"maxOutputTokens": 9, "stopSequences": ["x"], "temperature": 0.5, "topP": 0.5},
        },
        "bedrock": {
            "system": [{"text": "Be brief."}],
            "messages": blocks,
            "inferenceConfig": {"maxTokens": 9, "stopSequences": ["x"], "temperature": 0.5, "topP": 0.5},
        },
    }
    expected = SimRequest(
        model="m", messages=turns, max_tokens=9, stop=("x",), sampling={"temperature": 0.5, "top_p": 0.5}
    )
    assert expected.prompt == "Bye"
    for name, body in bodies.items():
        read = FAKE_PROVIDERS[name].parse_request(body, SimRoute(model="m", version="2023-06-01"))
        assert isinstance(read, SimRequest)
        assert replace(read, uses_cache=False, include_usage=True) == expected


SEEN = {
    "openai-chat_completions": "openai",
    "azure_openai-chat_completions": "azure",
    "anthropic-messages": "anthropic",
    "gemini-generate_content": "google",
    "gemini-stream_generate_content": "google",
    "bedrock-converse": "bedrock",
    "bedrock-converse_stream": "bedrock",
    "groq-chat_completions": "compatible",
    "deepseek-chat_completions": "compatible",
    "mistral-chat_completions": "compatible",
    "vllm-chat_completions": "compatible",
}
BEYOND = {
    "anthropic.messages.0b7e83fad128": "a system turn that only a beta takes",
    "anthropic.messages.20601c746f3d": "sampling at -1, which is refused by now",
    "anthropic.messages.a6fcc419624f": "sampling at -1, which is refused by now",
}


def recorded(name: str) -> list[dict[str, Any]]:
    path = CORPUS / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no recorded exchanges at {path.name}")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.corpus
@pytest.mark.parametrize("name", SEEN)
def test_recorded_requests_are_accepted(name: str) -> None:
    fake_provider = FAKE_PROVIDERS[SEEN[name]]
    rejected, accepted = {}, 0
    for row in recorded(name):
        if not 200 <= row["response"]["status"] < 300 or row["id"] in BEYOND:
            continue
        address = urlsplit(row["request"]["url"])
        headers = {key.lower(): value for key, value in row["request"]["headers"].items()}
        headers.setdefault("anthropic-version", "2023-06-01")
        rest = "/chat/completions" if fake_provider.prefix.endswith("/v1") else address.path
        call = fake_provider.match_route(SimHttpRequest("POST", address.path, rest, address.query, headers))
        if call is None:
            assert "/models/chat/completions" in address.path  # another of Azure's services
            continue
        read = fake_provider.parse_request(row["request"]["body"], call)
        accepted += 1
        if isinstance(read, SimError):
            rejected[row["id"]] = read.message
    assert rejected == {}
    assert accepted >= 2


KNOWN = {
    "openai-chat_completions": ("choices usage model id object created", "message type param code"),
    "anthropic-messages": ("content usage model id type role stop_reason stop_sequence", "message type"),
    "gemini-generate_content": ("candidates usageMetadata modelVersion responseId", "code message status"),
    "bedrock-converse": ("output usage stopReason metrics", ""),
}
"""Fields of an answer and of an error that callers rely on."""


@pytest.mark.corpus
@pytest.mark.parametrize("name", KNOWN)
def test_replies_have_the_recorded_fields(name: str) -> None:
    fake_provider = FAKE_PROVIDERS[SEEN[name]]
    always, in_error = (set(names.split()) for names in KNOWN[name])
    ours = fake_provider.encode_reply(respond_to(SimRequest(model="m", messages=(SimMessage("user", "hi"),))))
    refusal = json.loads(fake_provider.encode_error(SimError(kind="invalid", message="x"), "req_1").body)
    seen: set[str] = set()
    for row in recorded(name):
        body = row["response"].get("body")
        if row["response"]["status"] == 200 and isinstance(body, dict):
            seen |= set(body)
        elif row["response"]["status"] == 400 and in_error:
            assert set(refusal) <= set(body)
            assert in_error <= set(refusal["error"])
    assert always <= set(ours) <= seen

"""No payload of any route ends in a defect: payloads changed at random get an answer that is no 500."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmhub.server.running import RunningService

MODEL = "openai/gpt-4o-mini"
MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "Say hi"}]}]
PAYLOADS: dict[str, Any] = {
    "/v1/chat/completions": {
        "model": MODEL,
        "messages": MESSAGES,
        "temperature": 0.5,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "response_format": {"type": "text"},
    },
    "/v1/responses": {
        "model": MODEL,
        "input": [{"role": "user", "content": "x"}],
        "text": {"format": {"type": "text"}},
    },
    "/v1/messages": {
        "model": MODEL,
        "max_tokens": 9,
        "messages": MESSAGES,
        "system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
        "thinking": {"type": "disabled"},
    },
    "/v1/completions": {"model": MODEL, "messages": MESSAGES, "response_schema": {"schema": {"type": "object"}}},
    "/v1/embeddings": {"model": "openai/text-embedding-3-small", "input": ["a", "b"], "dimensions": 8},
    f"/v1beta/models/{MODEL}:generateContent": {
        "contents": [{"role": "user", "parts": [{"text": "x"}]}],
        "generationConfig": {"temperature": 1, "thinkingConfig": {"thinkingBudget": 0}},
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
    },
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def mutated(draw: Callable[..., Any], value: Any) -> Any:
    """Return a payload with one value somewhere in it replaced by another."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        name = draw(st.sampled_from(sorted(value)))
        return {**value, name: mutated(draw, value[name])}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], mutated(draw, value[index]), *value[index + 1 :]]
    return draw(json_values)


@pytest.mark.parametrize("path", PAYLOADS)
def test_any_payload_gets_an_answer(serving: Callable[..., RunningService], path: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(serving().url).netloc, timeout=20)

    @settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
    @given(st.data())
    def check(data: st.DataObject) -> None:
        body = json.dumps(mutated(data.draw, PAYLOADS[path]))
        connection.request("POST", path, body, {"content-type": "application/json"})
        reply = connection.getresponse()
        text = reply.read()
        assert reply.status < 500, (reply.status, text)
        assert text.startswith((b"{", b"data:", b"event:"))

    check()
    connection.close()

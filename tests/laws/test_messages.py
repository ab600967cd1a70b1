"""Messages are parsed from strings, values and chat logs, or rejected with a reason; parsing never raises."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Result

from llmhub.core.messages import parse_message

KEYS = st.sampled_from(
    ("role", "content", "parts", "type", "text", "source", "image_url", "tool_calls", "tool_call_id")
)
ROLES = st.sampled_from(("user", "assistant", "tool", "system", ""))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(KEYS, VALUES, max_size=5), ROLES)
def test_parsing_a_mapping_never_raises(mapping: dict[str, Any], role: str) -> None:
    assert isinstance(parse_message({**mapping, "role": role}), Result)


@pytest.mark.parametrize("tool_calls", [True, 7, "f", {"id": "1"}, b"x"])
def test_tool_calls_must_be_a_list(tool_calls: Any) -> None:
    error = parse_message({"role": "", "tool_calls": tool_calls}, "$.messages[0]").failure()
    assert error.path == "$.messages[0]"
    assert "tool_calls must be a list" in error.message

"""A key that a provider repeats in its answer reaches nobody, in whatever pieces; ordinary text comes at once."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

import llmhub
from llmhub.config import Settings
from llmhub.core.provider import Endpoint
from llmhub.core.stream import ChoiceFinished, Delta, Fragment, fold
from llmhub.core.types import Choice, CompletionResponse, Logprobs, Opaque, Reasoning, Refusal, Text, ToolCall
from llmhub.security.echoed_keys import KeyByteFilter, KeyDeltaFilter, KeyTextFilter, response_without_keys
from llmhub.server.access import OpenAccess
from llmhub.server.groups import GROUPS
from llmhub.server.running import serving
from llmhub.server.server_settings import ServerSettings
from llmhub.server.service import Service

KEY = "canary-0123456789abcdef"
KEYS = (f"Bearer {KEY}", "canary-9876543210fedcba", KEY)
TEXTS = st.lists(
    st.one_of(st.sampled_from([*KEYS, KEY[:5], KEY[:-1], KEY[3:], "can", "c", " "]), st.text(max_size=4)), max_size=6
).map("".join)


def without(text: str) -> str:
    for key in KEYS:
        text = text.replace(key, "[redacted]")
    return text


def cut(text: str, sizes: Sequence[int]) -> list[str]:
    ends = [*accumulate(sizes), len(text)]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(text=TEXTS, sizes=st.lists(st.integers(1, 9), max_size=40))
def test_no_split_of_a_text_shows_a_key(text: str, sizes: list[int]) -> None:
    filtered = KeyTextFilter(KEYS)
    pieces = [filtered.feed(piece) for piece in cut(text, sizes)]
    shown = "".join((*pieces, filtered.close()))
    assert not any(key in shown for key in KEYS)
    assert without(shown) == shown
    # Of a key that was removed, at most the characters are left that need not be held back.
    expected = re.escape(without(text)).replace(re.escape("[redacted]"), r"(?:can?|c|B(?:ea?)?)?\[redacted\]")
    assert re.fullmatch(expected, shown)


@given(st.lists(st.text(max_size=9), max_size=9))
def test_text_without_the_beginning_of_a_key_passes_at_once(pieces: list[str]) -> None:
    filtered = KeyTextFilter(KEYS)
    assert [filtered.feed(piece) for piece in pieces] == pieces
    assert filtered.feed("the can") == "the can"
    assert filtered.feed("ary") == ""
    assert filtered.feed(" bird") == "ary bird"


@pytest.mark.parametrize("size", range(1, 12))
def test_bytes_at_every_split(size: int) -> None:
    data = b"data: canary-01 canary-0 " + KEY.encode() * 2 + b"-end\n\n" + KEY.encode()[:-1]
    filtered = KeyByteFilter([KEY])
    pieces = [filtered.feed(data[start : start + size]) for start in range(0, len(data), size)]
    assert b"".join(pieces) + filtered.close() == data.replace(KEY.encode(), b"[redacted]")


@pytest.mark.parametrize("at", [4, 9, 17])
def test_every_text_of_a_stream_is_filtered(at: int) -> None:
    """The pieces come in turn, with other deltas between them, and the parts of the text are several."""
    start, end = KEY[:at], KEY[at:]
    rows = [f'["{start}",-0.5,[]],', f'["{end}",-0.5,[["{end}",-0.5]]],']
    deltas: tuple[Delta, ...] = (
        Fragment(0, Reasoning(start)),
        Fragment(1, Text(start)),
        Fragment(1, Text(start), choice=1),
        Fragment(3, Refusal(start)),
        Fragment(4, ToolCall("1", "f", f'{{"a":"{start}')),
        Fragment(5, Reasoning("", start)),
        Fragment(9, Logprobs(rows[0])),
        ChoiceFinished("stop"),
        Fragment(0, Reasoning(end)),
        Fragment(2, Text(end)),
        Fragment(1, Text(end), choice=1),
        Fragment(3, Refusal(end)),
        Fragment(4, ToolCall("", "", f'{end}"}}')),
        Fragment(5, Reasoning("", end)),
        Fragment(9, Logprobs(rows[1])),
    )
    filtered = KeyDeltaFilter(KEYS)
    passed = [filtered.feed((delta,)) for delta in deltas]
    assert start not in str(passed)
    assert end not in str(passed)
    assert filtered.close() == ()
    response = fold([delta for some in passed for delta in some]).unwrap()
    assert response.text == response.others[0].parts[0].text == "[redacted]"  # type: ignore[union-attr]
    assert response.tool_calls == (ToolCall("1", "f", '{"a":"[redacted]"}'),)
    assert [part for part in response.parts if isinstance(part, Reasoning)] == [
        Reasoning("[redacted]"), Reasoning("", "[redacted]")
    ]  # fmt: skip


def test_what_is_held_back_at_the_end_is_passed_on() -> None:
    rows = '["canary-",-0.5,[]],'
    deltas = (
        Fragment(0, Text("a canary-")), Fragment(1, ToolCall("1", "f", '["canary-0')), Fragment(9, Logprobs(rows))
    )  # fmt: skip
    filtered = KeyDeltaFilter(KEYS)
    passed = (*filtered.feed(deltas), ChoiceFinished("stop"), *filtered.close())
    assert fold(passed) == fold((*deltas, ChoiceFinished("stop")))


def test_a_response_has_no_key_in_or_across_its_parts() -> None:
    start, end = KEY[:9], KEY[9:]
    escaped = "".join(f"\\u{ord(character):04x}" for character in KEY)
    response = CompletionResponse(
        parts=(
            Reasoning(f"r {KEY}", KEY), Text(start), Text(end), ToolCall("1", "f", f'{{"a":"{escaped}"}}'),
            Opaque("search", f'{{"a":"{escaped}"}}'), Logprobs(f'["{start}",-1,[]],["{end}",-1,[]],'),
        ),
        others=(Choice((Text(f"o {KEY}"),), "stop"),),
        request_id=KEY,
        served_model=KEY,
    )  # fmt: skip
    cleaned = response_without_keys(KEYS, response)
    assert (cleaned.text, cleaned.reasoning) == ("[redacted]", "r [redacted]")
    assert cleaned.tool_calls == (ToolCall("1", "f", '{"a": "[redacted]"}'),)
    assert not any(piece in repr(cleaned) for piece in (KEY, end, escaped))
    assert response_without_keys(KEYS, cleaned) == cleaned
    plain = CompletionResponse(parts=(Reasoning("r"), Text("a"), Text("b"), Logprobs('["a",-1,[]],')))
    assert response_without_keys(KEYS, plain) is plain


# Over HTTP, from servers that repeat their client's key


def events(provider: str, pieces: Sequence[str]) -> bytes:
    """Return a stream in the format of a provider, with a piece of text in each event."""
    if provider == "anthropic":  # each piece is a block of its own
        messages: list[dict[str, Any]] = [{"type": "message_start", "message": {"id": "m", "model": "m", "usage": {}}}]
        for index, piece in enumerate(pieces):
            messages += [
                {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}},
                {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": piece}},
                {"type": "content_block_stop", "index": index},
            ]
        messages += [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"}]
        return b"".join(f"event: {item['type']}\ndata: {json.dumps(item)}\n\n".encode() for item in messages)
    choices = [{"index": 0, "delta": {"content": piece}} for piece in pieces]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    lines = [f"data: {json.dumps({'id': 'c', 'choices': [choice]})}\n\n" for choice in choices]
    return "".join(lines).encode() + b"data: [DONE]\n\n"


def hub_of(provider: str, url: str) -> llmhub.Hub:
    endpoints = {provider: Endpoint(base_url=url, api_key=KEY)}
    return llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=None, retry=llmhub.Retry(attempts=1))


TEXT = f"your key is {KEY}, keep it"
SHOWN = "your key is [redacted], keep it"
DELIVERED = r"your key is (can?)?\[redacted\], keep it"


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("size", [7, 15])
def test_streams_and_rows(provider: str, size: int, scripted: Any, replies: Any) -> None:
    body = events(provider, [TEXT[start : start + size] for start in range(0, len(TEXT), size)])
    server = scripted([replies.stream() + body, "close"])
    with hub_of(provider, server.url) as hub:
        chunks = [chunk.text for chunk in llmhub.stream("hi", model=f"{provider}/m", hub=hub)]
        table = llmhub.complete_table({"q": ["a"]}, "{q}", model=f"{provider}/m", hub=hub, stream=True, progress=False)
    assert re.fullmatch(DELIVERED, "".join(chunks))
    assert table.column("response").to_pylist() == [SHOWN]


def test_a_reply_that_is_not_streamed_and_its_escapes(scripted: Any, replies: Any) -> None:
    escaped = "".join(f"\\u{ord(character):04x}" for character in KEY)
    server = scripted([replies.answer(f"it is {escaped}")])
    with hub_of("openai", server.url) as hub:
        table = llmhub.complete_table({"q": ["a"]}, "{q}", model="openai/m", hub=hub, progress=False)
    assert table.column("response").to_pylist() == ["it is [redacted]"]


@pytest.mark.parametrize("is_folded", [False, True])
@pytest.mark.parametrize("status", [200, 302, 401])
def test_headers_of_several_lines(status: int, is_folded: bool, scripted: Any, replies: Any) -> None:
    lines = {"x-request-id": f"r-{KEY}", "X-Request-Id": KEY, "location": f"http://h/{KEY}", "Location": f"?key={KEY}"}
    if is_folded:
        lines = {name: f"{value[:-6]}\r\n {value[-6:]}" for name, value in lines.items()}
    body = json.loads(replies.body("Hi")) if status == 200 else {"error": {"message": KEY, "code": KEY}}
    server = scripted([replies.reply(json.dumps(body).encode(), status=status, headers=lines)])
    with hub_of("openai", server.url) as hub:
        table = llmhub.complete_table({"q": ["a"]}, "{q}", model="openai/m", hub=hub, progress=False)
    assert KEY[:-6] not in str(table.to_pylist())


PATHS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
}


def test_the_service(scripted: Any, replies: Any) -> None:
    body = events("openai", [TEXT[start : start + 9] for start in range(0, len(TEXT), 9)])
    server = scripted([replies.stream() + body, "close"])
    with serving(Service(hub_of("openai", server.url), ServerSettings(port=0), OpenAccess()), GROUPS) as service:
        for path, payload in PATHS.items():
            request = urllib.request.Request(
                service.url + path,
                json.dumps({"model": "openai/m", "stream": True, **payload}).encode(),
                {"content-type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=20) as reply:
                said = reply.read().decode()
            deltas = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: {")]
            assert re.fullmatch(DELIVERED, _texts(deltas)), path
            assert KEY[9:] not in said, path


def _texts(events: Sequence[dict[str, Any]]) -> str:
    """Return what a client of any of the formats shows of a stream."""
    texts = [choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ())]
    deltas = [event["delta"] for event in events if "delta" in event]
    return "".join([*texts, *(delta if isinstance(delta, str) else delta.get("text", "") for delta in deltas)])

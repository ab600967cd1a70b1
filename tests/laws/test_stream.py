from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful

from llmhub.core import stream as stream_module
from llmhub.core.errors import Disconnected
from llmhub.core.stream import (
    ARGUMENTS_PLACEHOLDER,
    EMPTY,
    ChoiceFinished,
    Delta,
    Fragment,
    PartialResponse,
    StreamStarted,
    UsageDelta,
    assemble_response,
    finish,
    fold,
    merge,
    step,
    to_stream_chunk,
)
from llmhub.core.types import (
    TOKEN_CLASSES,
    CompletionResponse,
    FinishReason,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    Usage,
    join_text,
)

words = st.sampled_from(
    ["", "a", "b ", '{"x": 1}', "[1, ", "]", "{}", ARGUMENTS_PLACEHOLDER, f"[{ARGUMENTS_PLACEHOLDER}]", "é"]
)
counts = st.none() | st.integers(0, 5)
parts: st.SearchStrategy[Part] = st.one_of(
    st.from_type(Part).map(lambda part: part), st.builds(Text, words), st.builds(ToolCall, words, words, words)
)
usages = st.builds(
    Usage,
    **dict.fromkeys((*TOKEN_CLASSES, "cache_write_1h_tokens"), counts),
    service_tier=st.sampled_from(["", "flex"]),
    reported_cost_usd=st.none() | st.decimals(0, 9, allow_nan=False, allow_infinity=False),
    billed_units=st.sampled_from([(), (("web_search:requests", 2),)]),
)
reasons: st.SearchStrategy[FinishReason] = st.sampled_from(
    ["stop", "length", "tool_calls", "content_filter", "refusal", "other"]
)
deltas: st.SearchStrategy[Delta] = st.one_of(
    st.builds(Fragment, st.integers(-1, 2), parts, st.integers(0, 2), st.sampled_from(["", "k", "l"])),
    st.builds(StreamStarted, words, words),
    st.builds(UsageDelta, usages),
    st.builds(ChoiceFinished, reasons, st.integers(0, 2)),
)
streams = st.lists(deltas, max_size=8)


def folded(stream: list[Delta]) -> PartialResponse:
    return reduce(step, stream, EMPTY)


def content_of(partial: PartialResponse) -> object:
    """Return the content of a partial response, with the order of its parts."""
    return partial, list(partial.parts), finish(partial)


@given(streams, streams, streams)
def test_merge_is_associative(a: list[Delta], b: list[Delta], c: list[Delta]) -> None:
    left, middle, right = folded(a), folded(b), folded(c)
    assert content_of(merge(left, merge(middle, right))) == content_of(merge(merge(left, middle), right))


@given(streams)
def test_empty_is_the_identity_of_merge(stream: list[Delta]) -> None:
    complete = folded(stream)
    assert content_of(merge(EMPTY, complete)) == content_of(complete) == content_of(merge(complete, EMPTY))


@given(streams, streams)
def test_merge_of_folded_halves_equals_fold(a: list[Delta], b: list[Delta]) -> None:
    assert content_of(merge(folded(a), folded(b))) == content_of(folded(a + b))
    assert fold(a + b) == finish(merge(folded(a), folded(b)))


@given(st.lists(deltas, max_size=30))
def test_fold_equals_steps_and_finish(stream: list[Delta]) -> None:
    assert fold(stream) == finish(folded(stream))
    assert fold(iter(stream)) == fold(stream)


@pytest.mark.parametrize("part", [Text("ab"), Refusal("ab"), Reasoning("ab", "s", "r"), ToolCall("1", "f", "ab")])
def test_fold_joins_fragments_once(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of parts that are created does not grow with the stream."""
    count = 0

    def counting(pieces: Sequence[Part]) -> Part:
        nonlocal count
        count += 1
        return joined(pieces)

    joined = stream_module._join_all
    monkeypatch.setattr(stream_module, "_join_all", counting)
    monkeypatch.setattr(stream_module, "step", None)
    monkeypatch.setattr(stream_module, "_join_two", None)
    for length in (10, 1_000):
        count = 0
        fold([*(Fragment(0, part) for _ in range(length)), ChoiceFinished("stop")])
        assert count == 1


@given(st.lists(parts, min_size=1, max_size=2), usages, reasons)
def test_token_classes_are_bounded(parts: list[Part], usage: Usage, reason: FinishReason) -> None:
    read = assemble_response([(parts, reason)], usage=usage).usage
    assert (read.input_tokens, read.output_tokens) == (usage.input_tokens, usage.output_tokens)
    if read.input_tokens is not None:
        assert (read.cached_input_tokens or 0) + (read.cache_write_tokens or 0) <= read.input_tokens
    if read.output_tokens is not None:
        assert (read.reasoning_tokens or 0) <= read.output_tokens
    assert assemble_response([(parts, reason)], usage=read).usage == read


@given(streams, deltas)
def test_step_is_total_and_pure(stream: list[Delta], delta: Delta) -> None:
    before = folded(stream)
    copy = PartialResponse(
        dict(before.parts), dict(before.finish_reasons), before.usage, before.served_model, before.request_id
    )
    assert isinstance(step(before, delta), PartialResponse)
    assert before == copy


@given(streams)
def test_stream_without_finish_reason_is_disconnected(stream: list[Delta]) -> None:
    """A stream that has nothing but finish reasons was cut off as well."""
    done = fold(stream)
    finished = [delta for delta in stream if isinstance(delta, ChoiceFinished)]
    if is_successful(done):
        assert finished
    else:
        assert isinstance(done.failure(), Disconnected)
        assert not finished or all(delta.reason == "other" for delta in finished)


@given(st.lists(st.lists(parts, max_size=4), min_size=1, max_size=3), st.data(), usages, words.map(str.strip), reasons)
def test_streamed_response_equals_the_response(
    answers: list[list[Part]], data: st.DataObject, usage: Usage, served: str, reason: FinishReason
) -> None:
    """Parts are split into any number of fragments, and choices are interleaved in any order."""
    pieces: list[list[Delta]] = []
    for choice, parts in enumerate(answers):
        mine: list[Delta] = []
        for index, part in enumerate(parts):
            mine += [Fragment(index, piece, choice) for piece in data.draw(in_pieces(part))]
        pieces.append([*mine, ChoiceFinished(reason, choice)])
    mixed = data.draw(shuffled(pieces))
    streamed = fold([StreamStarted(served, "r1"), *mixed, UsageDelta(usage)])
    if any(ARGUMENTS_PLACEHOLDER in piece.data for parts in answers for piece in parts if isinstance(piece, Opaque)):
        assert is_successful(streamed)
        return
    complete = assemble_response(
        [(parts, reason) for parts in answers], usage=usage, served_model=served, request_id="r1"
    )
    assert streamed.unwrap() == complete


@st.composite
def in_pieces(draw: st.DrawFn, part: Part) -> list[Part]:
    """Split a part like a wire: text anywhere, id and name of a call in its first fragment."""

    def cut(text: str) -> list[str]:
        position = draw(st.integers(0, len(text)))
        return [text[:position], text[position:]]

    match part:
        case Text(text):
            return [Text(piece) for piece in cut(text)]
        case Refusal(text):
            return [Refusal(piece) for piece in cut(text)]
        case Reasoning(text, signature, redacted):
            first, second = cut(text)
            return [Reasoning(first), Reasoning(second, signature, redacted)]
        case ToolCall(id_, name, arguments, signature):
            first, second = cut(arguments)
            return [ToolCall(id_, name, first, signature), ToolCall("", "", second)]
        case _:
            return [part]


@st.composite
def shuffled(draw: st.DrawFn, queues: list[list[Delta]]) -> list[Delta]:
    """Interleave streams, each in its order."""
    left = [list(queue) for queue in queues]
    mixed: list[Delta] = []
    while any(left):
        mixed.append(draw(st.sampled_from([queue for queue in left if queue])).pop(0))
    return mixed


@given(streams)
def test_chunks_have_the_text_of_the_first_choice(stream: list[Delta]) -> None:
    chunks = [chunk for delta in stream if (chunk := to_stream_chunk([delta])) is not None]
    together = to_stream_chunk(stream)
    assert "".join(chunk.text for chunk in chunks) == (together.text if together else "")
    ordered = [delta for delta in stream if not isinstance(delta, Fragment) or (delta.index, delta.key) == (0, "")]
    done = fold([*ordered, ChoiceFinished("stop")]).unwrap()
    text = "".join(chunk.text for delta in ordered if (chunk := to_stream_chunk([delta])) is not None)
    assert text == done.text


def test_missing_arguments_become_an_empty_object() -> None:
    assert assemble_response([([ToolCall("1", "f", " ")], "stop")]).tool_calls == (ToolCall("1", "f", "{}"),)


def test_arguments_are_compacted() -> None:
    loose, tight = (
        assemble_response([([ToolCall("1", "f", parts)], "stop")]) for parts in ('{ "a" : [1,  2] }', '{"a":[1,2]}')
    )
    assert loose == tight


def test_arguments_that_are_not_json_are_kept() -> None:
    assert assemble_response([([ToolCall("1", "f", '{"a": ')], "length")]).tool_calls[0].arguments == '{"a":'


def test_other_does_not_replace_a_finish_reason() -> None:
    assert fold([ChoiceFinished("length"), ChoiceFinished("other")]).unwrap().finish_reason == "length"
    assert fold([ChoiceFinished("other"), ChoiceFinished("length")]).unwrap().finish_reason == "length"


def test_counts_are_cumulative() -> None:
    deltas = [UsageDelta(Usage(input_tokens=9, output_tokens=n)) for n in (1, 5, 5)]
    assert fold([*deltas, ChoiceFinished("stop")]).unwrap().usage == Usage(input_tokens=9, output_tokens=5)


def test_part_types_at_one_index_are_separate() -> None:
    done = fold(
        [Fragment(0, Reasoning("hm")), Fragment(0, Text("a")), Fragment(0, Reasoning("!")), ChoiceFinished("stop")]
    )
    assert done.unwrap().parts == (Reasoning("hm!"), Text("a"))


def test_calls_without_an_index_are_identified_by_key() -> None:
    calls = [ToolCall("1", "f", "{}"), ToolCall("2", "g", "{}")]
    done = fold([*(Fragment(3, call, 0, call.id) for call in calls), ChoiceFinished("stop")])
    assert done.unwrap().tool_calls == tuple(calls)


def test_arguments_fill_the_placeholder() -> None:
    opened = Opaque("server_tool_use", f'{{"name":"search","input":{ARGUMENTS_PLACEHOLDER}}}')
    done = fold([Fragment(1, opened), Fragment(1, ToolCall("", "", '{"q":')), Fragment(1, ToolCall("", "", '"x"}'))])
    assert not is_successful(done)
    complete = fold(
        [
            Fragment(1, opened),
            Fragment(1, ToolCall("", "", '{"q":')),
            Fragment(1, ToolCall("", "", '"x"}')),
            ChoiceFinished("stop"),
        ]
    ).unwrap()
    assert complete.parts == (Opaque("server_tool_use", '{"name":"search","input":{"q":"x"}}'),)
    assert complete.finish_reason == "stop"


def test_visible_text_is_only_text() -> None:
    parts = (Reasoning("hm"), Text("a"), Refusal("no"), ToolCall("1", "f"), Text("b"))
    assert join_text(parts) == CompletionResponse(parts=parts).text == "ab"

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
usages = st.builds(Usage, **dict.fromkeys(Usage.__slots__, counts))
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


def seen(partial: PartialResponse) -> object:
    """Give all that can be seen of a partial response, the order of its parts included."""
    return partial, list(partial.parts), finish(partial)


@given(streams, streams, streams)
def test_merging_is_associative(a: list[Delta], b: list[Delta], c: list[Delta]) -> None:
    left, middle, right = folded(a), folded(b), folded(c)
    assert seen(merge(left, merge(middle, right))) == seen(merge(merge(left, middle), right))


@given(streams)
def test_nothing_merged_changes_nothing(stream: list[Delta]) -> None:
    whole = folded(stream)
    assert seen(merge(EMPTY, whole)) == seen(whole) == seen(merge(whole, EMPTY))


@given(streams, streams)
def test_folding_two_halves_and_merging_is_folding_the_whole(a: list[Delta], b: list[Delta]) -> None:
    assert seen(merge(folded(a), folded(b))) == seen(folded(a + b))
    assert fold(a + b) == finish(merge(folded(a), folded(b)))


@given(st.lists(deltas, max_size=30))
def test_folding_in_one_pass_is_stepping_and_finishing(stream: list[Delta]) -> None:
    assert fold(stream) == finish(folded(stream))
    assert fold(iter(stream)) == fold(stream)


@pytest.mark.parametrize("part", [Text("ab"), Refusal("ab"), Reasoning("ab", "s", "r"), ToolCall("1", "f", "ab")])
def test_folding_makes_no_more_parts_than_there_are(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pieces are joined once: as many parts are made for a long stream as for a short one."""
    made = 0

    def counting(pieces: Sequence[Part]) -> Part:
        nonlocal made
        made += 1
        return joined(pieces)

    joined = stream_module._join_all
    monkeypatch.setattr(stream_module, "_join_all", counting)
    monkeypatch.setattr(stream_module, "step", None)
    monkeypatch.setattr(stream_module, "_join_two", None)
    for length in (10, 1_000):
        made = 0
        fold([*(Fragment(0, part) for _ in range(length)), ChoiceFinished("stop")])
        assert made == 1


@given(st.lists(parts, min_size=1, max_size=2), usages, reasons)
def test_no_class_of_tokens_exceeds_its_whole(said: list[Part], usage: Usage, reason: FinishReason) -> None:
    read = assemble_response([(said, reason)], usage=usage).usage
    assert (read.input_tokens, read.output_tokens) == (usage.input_tokens, usage.output_tokens)
    if read.input_tokens is not None:
        assert (read.cached_input_tokens or 0) + (read.cache_write_tokens or 0) <= read.input_tokens
    if read.output_tokens is not None:
        assert (read.reasoning_tokens or 0) <= read.output_tokens
    assert assemble_response([(said, reason)], usage=read).usage == read


@given(streams, deltas)
def test_a_step_is_total_and_leaves_what_it_was_given_alone(stream: list[Delta], delta: Delta) -> None:
    before = folded(stream)
    copy = PartialResponse(
        dict(before.parts), dict(before.finish_reasons), before.usage, before.served_model, before.request_id
    )
    assert isinstance(step(before, delta), PartialResponse)
    assert before == copy


@given(streams)
def test_a_stream_that_never_says_why_it_ended_was_cut_off(stream: list[Delta]) -> None:
    done = fold(stream)
    if any(isinstance(delta, ChoiceFinished) for delta in stream):
        assert isinstance(done.unwrap(), CompletionResponse)
    else:
        assert isinstance(done.failure(), Disconnected)


@given(st.lists(st.lists(parts, max_size=4), min_size=1, max_size=3), st.data(), usages, words.map(str.strip), reasons)
def test_an_answer_in_pieces_is_the_answer_whole(
    answers: list[list[Part]], data: st.DataObject, usage: Usage, served: str, reason: FinishReason
) -> None:
    """Parts come at indices of their own, each in any number of pieces, the answers mixed in any way."""
    pieces: list[list[Delta]] = []
    for choice, said in enumerate(answers):
        mine: list[Delta] = []
        for index, part in enumerate(said):
            mine += [Fragment(index, piece, choice) for piece in data.draw(in_pieces(part))]
        pieces.append([*mine, ChoiceFinished(reason, choice)])
    mixed = data.draw(shuffled(pieces))
    streamed = fold([StreamStarted(served, "r1"), *mixed, UsageDelta(usage)])
    if any(ARGUMENTS_PLACEHOLDER in piece.data for said in answers for piece in said if isinstance(piece, Opaque)):
        assert is_successful(streamed)
        return
    whole = assemble_response([(said, reason) for said in answers], usage=usage, served_model=served, request_id="r1")
    assert streamed.unwrap() == whole


@st.composite
def in_pieces(draw: st.DrawFn, part: Part) -> list[Part]:
    """Cut a part as a wire may: text anywhere, a call's id and name with its first piece."""

    def cut(said: str) -> list[str]:
        at = draw(st.integers(0, len(said)))
        return [said[:at], said[at:]]

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
    """Mix streams, each of them in its order."""
    left = [list(queue) for queue in queues]
    mixed: list[Delta] = []
    while any(left):
        mixed.append(draw(st.sampled_from([queue for queue in left if queue])).pop(0))
    return mixed


@given(streams)
def test_what_a_watcher_saw_is_the_text_of_the_first_answer(stream: list[Delta]) -> None:
    chunks = [chunk for delta in stream if (chunk := to_stream_chunk([delta])) is not None]
    together = to_stream_chunk(stream)
    assert "".join(chunk.text for chunk in chunks) == (together.text if together else "")
    ordered = [delta for delta in stream if not isinstance(delta, Fragment) or (delta.index, delta.key) == (0, "")]
    done = fold([*ordered, ChoiceFinished("stop")]).unwrap()
    said = "".join(chunk.text for delta in ordered if (chunk := to_stream_chunk([delta])) is not None)
    assert said == done.text


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert assemble_response([([ToolCall("1", "f", " ")], "stop")]).tool_calls == (ToolCall("1", "f", "{}"),)


def test_white_space_in_arguments_makes_no_difference() -> None:
    loose, tight = (
        assemble_response([([ToolCall("1", "f", said)], "stop")]) for said in ('{ "a" : [1,  2] }', '{"a":[1,2]}')
    )
    assert loose == tight


def test_arguments_that_are_no_json_stay_as_they_came() -> None:
    assert assemble_response([([ToolCall("1", "f", '{"a": ')], "length")]).tool_calls[0].arguments == '{"a":'


def test_a_reason_that_says_nothing_takes_no_reasons_place() -> None:
    assert fold([ChoiceFinished("length"), ChoiceFinished("other")]).unwrap().finish_reason == "length"
    assert fold([ChoiceFinished("other"), ChoiceFinished("length")]).unwrap().finish_reason == "length"


def test_counts_are_cumulative_and_not_summed() -> None:
    said = [UsageDelta(Usage(input_tokens=9, output_tokens=n)) for n in (1, 5, 5)]
    assert fold([*said, ChoiceFinished("stop")]).unwrap().usage == Usage(input_tokens=9, output_tokens=5)


def test_two_kinds_at_one_index_are_two_parts() -> None:
    done = fold(
        [Fragment(0, Reasoning("hm")), Fragment(0, Text("a")), Fragment(0, Reasoning("!")), ChoiceFinished("stop")]
    )
    assert done.unwrap().parts == (Reasoning("hm!"), Text("a"))


def test_calls_without_an_index_are_told_apart_by_their_key() -> None:
    calls = [ToolCall("1", "f", "{}"), ToolCall("2", "g", "{}")]
    done = fold([*(Fragment(3, call, 0, call.id) for call in calls), ChoiceFinished("stop")])
    assert done.unwrap().tool_calls == tuple(calls)


def test_arguments_fill_the_hole_of_the_part_before_them() -> None:
    opened = Opaque("server_tool_use", f'{{"name":"search","input":{ARGUMENTS_PLACEHOLDER}}}')
    done = fold([Fragment(1, opened), Fragment(1, ToolCall("", "", '{"q":')), Fragment(1, ToolCall("", "", '"x"}'))])
    assert not is_successful(done)
    whole = fold(
        [
            Fragment(1, opened),
            Fragment(1, ToolCall("", "", '{"q":')),
            Fragment(1, ToolCall("", "", '"x"}')),
            ChoiceFinished("stop"),
        ]
    ).unwrap()
    assert whole.parts == (Opaque("server_tool_use", '{"name":"search","input":{"q":"x"}}'),)
    assert whole.finish_reason == "stop"


def test_visible_text_is_text_alone() -> None:
    parts = (Reasoning("hm"), Text("a"), Refusal("no"), ToolCall("1", "f"), Text("b"))
    assert join_text(parts) == CompletionResponse(parts=parts).text == "ab"

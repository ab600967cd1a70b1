"""Streaming as one fold: deltas of any wire, in order, become the response the wire gives unstreamed.

A content delta is a part-shaped `Fragment` and the index of the part it belongs to. ``fold`` is
``finish`` after a ``reduce`` of `step`, in one pass that costs a delta the same however many came before;
`merge` joins two halves of a stream and is associative.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Final, TypeAlias

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.errors import Disconnected, LLMError
from llmhub.core.forced_tool import FORCED_TOOL_NAME, is_forced_call, unwrap_forced_call, visible_text
from llmhub.core.types import (
    NO_USAGE,
    Choice,
    CompletionResponse,
    FinishReason,
    Image,
    Logprobs,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    StreamChunk,
    Text,
    ToolCall,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of the part at ``index`` of answer ``choice``.

    Where a wire gives no index to tell parts apart by, ``key`` does; they stand in order of first sight.
    """

    index: int
    part: Part
    choice: int = 0
    key: str = ""


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """What the provider says of the whole answer as it begins."""

    served_model: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class UsageDelta:
    """Token counts so far. They are cumulative on every wire, so the largest of a class is its latest."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class ChoiceFinished:
    """Answer ``choice`` is complete."""

    reason: FinishReason
    choice: int = 0


Delta: TypeAlias = Fragment | StreamStarted | UsageDelta | ChoiceFinished
PartKey: TypeAlias = tuple[int, int, str, type[Part]]
"""Where a part stands: its answer, its index, its key, and its kind (a wire may put two kinds at one index)."""


@dataclass(frozen=True, slots=True)
class PartialResponse:
    """A response so far: parts by where they stand, in order of first sight."""

    parts: Mapping[PartKey, Part] = field(default_factory=dict)
    finish_reasons: Mapping[int, FinishReason] = field(default_factory=dict)
    usage: Usage = NO_USAGE
    served_model: str = ""
    request_id: str = ""


EMPTY: Final = PartialResponse()
ARGUMENTS_PLACEHOLDER: Final = "\0"
"""Where the rest of an `Opaque` part's JSON goes that streams in after it, as the arguments of a nameless call.

A wire that keeps no state cannot tell whose arguments a fragment holds; by its index, `finish` can.
"""


def step(partial: PartialResponse, delta: Delta) -> PartialResponse:
    """Take in one delta. Total: a fragment of another kind than its part's so far begins a part of its own.

    Examples
    --------
    >>> step(step(EMPTY, Fragment(0, Text("a"))), Fragment(0, Text("b"))).parts
    {(0, 0, '', <class 'llmhub.core.types.Text'>): Text(text='ab')}
    """
    match delta:
        case Fragment(index, part, choice, key):
            return replace(partial, parts=_merge_part(dict(partial.parts), (choice, index, key, type(part)), part))
        case StreamStarted(served_model, request_id):
            return replace(
                partial,
                served_model=partial.served_model or served_model,
                request_id=partial.request_id or request_id,
            )
        case UsageDelta(usage):
            return replace(partial, usage=_max_usage(partial.usage, usage))
        case ChoiceFinished(reason, choice):
            return replace(partial, finish_reasons=_merge_reasons(partial.finish_reasons, {choice: reason}))


def merge(left: PartialResponse, right: PartialResponse) -> PartialResponse:
    """Join what came first with what came after.

    Law: ``merge(a, merge(b, c)) == merge(merge(a, b), c)``, and folding a split stream in two and merging
    equals folding it whole.
    """
    parts = dict(left.parts)
    for at, part in right.parts.items():
        _merge_part(parts, at, part)
    return PartialResponse(
        parts=parts,
        finish_reasons=_merge_reasons(left.finish_reasons, right.finish_reasons),
        usage=_max_usage(left.usage, right.usage),
        served_model=left.served_model or right.served_model,
        request_id=left.request_id or right.request_id,
    )


def finish(partial: PartialResponse) -> Result[CompletionResponse, LLMError]:
    """Close the stream; one that never said why it ended was cut off."""
    if not partial.finish_reasons:
        return Failure(Disconnected(message="the stream ended before the answer was complete"))
    choices: dict[int, list[Part]] = {0: []}
    for (choice, *_), part in sorted(partial.parts.items(), key=lambda item: item[0][:2]):
        _append_part(choices.setdefault(choice, []), part)
    for choice in partial.finish_reasons:
        choices.setdefault(choice, [])
    answers = [(choices[choice], partial.finish_reasons.get(choice, "other")) for choice in sorted(choices)]
    return Success(
        assemble_response(
            answers, usage=partial.usage, served_model=partial.served_model, request_id=partial.request_id
        )
    )


def fold(deltas: Iterable[Delta]) -> Result[CompletionResponse, LLMError]:
    """Turn a whole stream of deltas into the response.

    Law: ``fold(deltas) == finish(reduce(step, deltas, EMPTY))``. The pieces of a part are joined once, at the end.

    Examples
    --------
    >>> fold([Fragment(0, Text("H")), Fragment(0, Text("i")), ChoiceFinished("stop")]).unwrap().text
    'Hi'
    """
    pieces: dict[PartKey, list[Part]] = {}
    reasons: dict[int, FinishReason] = {}
    usage, served, request = NO_USAGE, "", ""
    for delta in deltas:
        match delta:
            case Fragment(index, part, choice, key):
                at = (choice, index, key, type(part))
                if at in pieces:
                    pieces[at].append(part)
                else:
                    pieces[at] = [part]
            case StreamStarted(served_model, request_id):
                served, request = served or served_model, request or request_id
            case UsageDelta(counts):
                usage = _max_usage(usage, counts)
            case ChoiceFinished(reason, choice):
                if reason != "other" or choice not in reasons:
                    reasons[choice] = reason
    parts = {at: grown[0] if len(grown) == 1 else _join_all(grown) for at, grown in pieces.items()}
    return finish(PartialResponse(parts, reasons, usage, served, request))


def usage_so_far(deltas: Iterable[Delta]) -> Usage:
    """Give the tokens that were counted so far, of a stream that may have been cut off.

    Examples
    --------
    >>> usage_so_far([UsageDelta(Usage(input_tokens=9)), UsageDelta(Usage(output_tokens=1))]).input_tokens
    9
    """
    usage = NO_USAGE
    for delta in deltas:
        if isinstance(delta, UsageDelta):
            usage = _max_usage(usage, delta.usage)
    return _bounded_usage(usage)


def assemble_response(
    answers: Sequence[tuple[Sequence[Part], FinishReason]],
    *,
    usage: Usage = NO_USAGE,
    served_model: str = "",
    request_id: str = "",
) -> CompletionResponse:
    """Make a response out of its answers: the one place where a response is put together, streamed or not.

    Empty texts vanish, a call's arguments lose their white space (a wire that sends an object has none) and
    are ``{}`` where there are none, no class of tokens exceeds what it is a part of, and a provider that says
    ``stop`` although it calls tools or refuses is read by what it did. A call that is the answer becomes its text.

    Examples
    --------
    >>> assemble_response([([Text(""), ToolCall("1", "f", "")], "stop")]).finish_reason
    'tool_calls'
    """
    forced = any(is_forced_call(part) for parts, _ in answers for part in parts)
    (parts, reason), *rest = [_normalize_answer(parts, reason) for parts, reason in answers] or [((), "other")]
    return CompletionResponse(
        parts=parts,
        finish_reason=reason,
        usage=_bounded_usage(usage),
        served_model=served_model,
        request_id=request_id,
        others=tuple(Choice(parts, reason) for parts, reason in rest),
        forced_tool=forced,
    )


def to_stream_chunk(deltas: Iterable[Delta]) -> StreamChunk | None:
    """Give what a person watching a stream wants to see of ``deltas``, or ``None`` if nothing."""
    seen = [delta.part for delta in deltas if isinstance(delta, Fragment) and delta.choice == 0]
    chunk = StreamChunk(
        text=visible_text(seen),
        reasoning="".join(part.text for part in seen if isinstance(part, Reasoning)),
        tool_calls=tuple(part for part in seen if isinstance(part, ToolCall) and not is_forced_call(part)),
    )
    return chunk if chunk.text or chunk.reasoning or chunk.tool_calls else None


def label_forced_tool_deltas(deltas: tuple[Delta, ...], calls: set[PartKey]) -> tuple[Delta, ...]:
    """Name every fragment of a call that is the answer, as its first one is; ``calls`` remembers which they are."""
    for delta in deltas:
        if type(delta) is Fragment and type(delta.part) is ToolCall:
            return tuple([_label_fragment(each, calls) if type(each) is Fragment else each for each in deltas])
    return deltas


def _label_fragment(fragment: Fragment, calls: set[PartKey]) -> Fragment:
    part = fragment.part
    if type(part) is not ToolCall:
        return fragment
    at = (fragment.choice, fragment.index, fragment.key, ToolCall)
    if part.name == FORCED_TOOL_NAME:
        calls.add(at)
    elif at in calls:
        return replace(fragment, part=replace(part, name=FORCED_TOOL_NAME))
    return fragment


def _append_part(parts: list[Part], part: Part) -> None:
    """Add a finished part; arguments without a call fill the hole in the part before them."""
    match parts[-1:], part:
        case [Opaque(kind, data)], ToolCall("", "", arguments) if ARGUMENTS_PLACEHOLDER in data:
            parts[-1] = Opaque(kind, _fill_placeholder(data, arguments))
        case _:
            parts.append(part)


def _fill_placeholder(data: str, rest: str) -> str:
    """Put what streamed in where it goes: items of a list with a comma after each, or one value."""
    items = rest.strip().removesuffix(",")
    return _compact_json(
        data.replace(f"[{ARGUMENTS_PLACEHOLDER}]", f"[{items}]").replace(ARGUMENTS_PLACEHOLDER, items or "{}")
    )


def _compact_json(text: str) -> str:
    """Take the white space out of JSON; what is none stays as it is."""
    try:
        return msgspec.json.format(text, indent=-1)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return text


def _merge_part(parts: dict[PartKey, Part], at: PartKey, part: Part) -> dict[PartKey, Part]:
    """Grow the part that stands there, or begin it."""
    parts[at] = _join_two(parts[at], part) if at in parts else part
    return parts


def _join_two(old: Part, new: Part) -> Part:
    """Join two fragments of one part; of a kind that comes whole, the later one stands."""
    match old, new:
        case (Text(before), Text(after)) | (Refusal(before), Refusal(after)):
            return Text(before + after) if isinstance(old, Text) else Refusal(before + after)
        case Reasoning(), Reasoning():
            return Reasoning(old.text + new.text, old.signature + new.signature, old.redacted + new.redacted)
        case ToolCall(), ToolCall():
            return ToolCall(
                old.id or new.id, old.name or new.name, old.arguments + new.arguments, old.signature + new.signature
            )
        case Logprobs(), Logprobs():
            return Logprobs(old.data + new.data)
        case Image(), Image():
            return Image(
                old.url or new.url, old.data + new.data, old.media_type or new.media_type, old.detail or new.detail
            )
        case _:
            return new


def _join_all(pieces: Sequence[Part]) -> Part:
    """Join all fragments of one part, which are of one kind; law: as `_join_two` does, two by two."""
    match pieces[0]:
        case Text() | Refusal():
            return (Text if isinstance(pieces[0], Text) else Refusal)(_concatenate(pieces, "text"))
        case Reasoning():
            return Reasoning(
                _concatenate(pieces, "text"), _concatenate(pieces, "signature"), _concatenate(pieces, "redacted")
            )
        case ToolCall():
            arguments, signature = _concatenate(pieces, "arguments"), _concatenate(pieces, "signature")
            return ToolCall(_first_nonempty(pieces, "id"), _first_nonempty(pieces, "name"), arguments, signature)
        case Logprobs():
            return Logprobs(_concatenate(pieces, "data"))
        case Image():
            url, data = _first_nonempty(pieces, "url"), _concatenate(pieces, "data")
            return Image(url, data, _first_nonempty(pieces, "media_type"), _first_nonempty(pieces, "detail"))
        case _:
            return pieces[-1]


def _concatenate(pieces: Sequence[Part], name: str) -> str:
    return "".join(map(attrgetter(name), pieces))


def _first_nonempty(pieces: Sequence[Part], name: str) -> str:
    """Give the first that is not empty."""
    return next(filter(None, map(attrgetter(name), pieces)), "")


def _merge_reasons(left: Mapping[int, FinishReason], right: Mapping[int, FinishReason]) -> dict[int, FinishReason]:
    """Take the later reason of each answer; ``other``, which says only that it ended, takes no reason's place."""
    return {**left, **{choice: reason for choice, reason in right.items() if reason != "other" or choice not in left}}


def _max_usage(left: Usage, right: Usage) -> Usage:
    """Take the larger count of each class; an absent one never wins."""
    return Usage(
        input_tokens=_max_count(left.input_tokens, right.input_tokens),
        output_tokens=_max_count(left.output_tokens, right.output_tokens),
        cached_input_tokens=_max_count(left.cached_input_tokens, right.cached_input_tokens),
        cache_write_tokens=_max_count(left.cache_write_tokens, right.cache_write_tokens),
        reasoning_tokens=_max_count(left.reasoning_tokens, right.reasoning_tokens),
    )


def _bounded_usage(usage: Usage) -> Usage:
    """Bound each class of tokens by what it is a part of, where a provider miscounts."""
    inputs, outputs = usage.input_tokens, usage.output_tokens
    cached, stored, thought = usage.cached_input_tokens, usage.cache_write_tokens, usage.reasoning_tokens
    if outputs is not None and thought is not None and thought > outputs:
        usage = replace(usage, reasoning_tokens=outputs)
    if inputs is None or (cached or 0) + (stored or 0) <= inputs:
        return usage
    read = None if cached is None else min(cached, inputs)
    written = None if stored is None else min(stored, inputs - (read or 0))
    return replace(usage, cached_input_tokens=read, cache_write_tokens=written)


def _max_count(left: int | None, right: int | None) -> int | None:
    return right if left is None else left if right is None else max(left, right)


def _normalize_answer(parts: Sequence[Part], reason: FinishReason) -> tuple[tuple[Part, ...], FinishReason]:
    """Give an answer its one form."""
    if len(parts) == 1 and type(parts[0]) is Text and parts[0].text:
        return tuple(parts), reason
    kept: list[Part] = []
    calls = refused = False
    for part in parts:
        match part:
            case Text(text) | Refusal(text) if not text:
                continue
            case Reasoning("", "", ""):
                continue
            case ToolCall(call, name, arguments, signature):
                calls = True
                kept.append(ToolCall(call, name, _compact_json(arguments.strip() or "{}"), signature))
            case Opaque(kind, data) if ARGUMENTS_PLACEHOLDER in data:
                kept.append(Opaque(kind, _fill_placeholder(data, "")))
            case Refusal():
                refused = True
                kept.append(part)
            case _:
                kept.append(part)
    if calls:
        kept, reason = unwrap_forced_call(kept, reason)
        calls = any(isinstance(part, ToolCall) for part in kept)
    if reason == "stop":
        reason = "tool_calls" if calls else "refusal" if refused else reason
    return tuple(kept), reason

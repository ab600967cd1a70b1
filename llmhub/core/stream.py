"""Fold the deltas of a stream, of any wire format, into the response that the provider would send unstreamed.

A content delta is a `Fragment`: a part with some of its content, and the index of the part it belongs to. `fold` equals
`finish` after a ``reduce`` with `step`, but joins the fragments of a part once, in linear time. `merge` joins two
halves of a stream and is associative.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Final, TypeAlias

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.construction import fast_constructor
from llmhub.core.errors import Disconnected, LLMError
from llmhub.core.forced_tool import FORCED_TOOL_NAME, is_forced_call, unwrap_forced_call, visible_text
from llmhub.core.reasoning_details import REASONING_DETAILS, merge_details
from llmhub.core.recording import join_base64
from llmhub.core.types import (
    NO_USAGE,
    Choice,
    CompletionResponse,
    Document,
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

NEW_RESPONSE: Final = fast_constructor(CompletionResponse)


@dataclass(frozen=True, slots=True)
class Fragment:
    """Some content of the part at ``index`` of response ``choice``.

    Wires without an index identify parts by ``key``; such parts are in order of first appearance.
    """

    index: int
    part: Part
    choice: int = 0
    key: str = ""


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """Metadata at the beginning of a stream."""

    served_model: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class UsageDelta:
    """Token counts so far. The last count of a class is the one that is billed: providers correct their estimates."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class ChoiceFinished:
    """Response ``choice`` is complete."""

    reason: FinishReason
    choice: int = 0


Delta: TypeAlias = Fragment | StreamStarted | UsageDelta | ChoiceFinished
PartKey: TypeAlias = tuple[int, int, str, type[Part]]
"""Identity of a part: choice, index, key and type (some wires send parts of two types at one index)."""


@dataclass(frozen=True, slots=True)
class PartialResponse:
    """The response so far; parts are in order of first appearance."""

    parts: Mapping[PartKey, Part] = field(default_factory=dict)
    finish_reasons: Mapping[int, FinishReason] = field(default_factory=dict)
    usage: Usage = NO_USAGE
    served_model: str = ""
    request_id: str = ""


EMPTY: Final = PartialResponse()
GENERATED_ID_PREFIX: Final = "call_made_"
"""Prefix of a tool call's id that was generated because the provider sent none."""
ARGUMENTS_PLACEHOLDER: Final = "\0"
"""Stands in an `Opaque` part's JSON for what the stream delivers later, as the arguments of a call without a name.

A stateless wire cannot know which part such arguments belong to; `finish` knows by their index.
"""


def step(partial: PartialResponse, delta: Delta) -> PartialResponse:
    """Return ``partial`` with one more delta. A fragment of a new type at a known index begins a new part.

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
            return replace(partial, usage=_latest_usage(partial.usage, usage))
        case ChoiceFinished(reason, choice):
            return replace(partial, finish_reasons=_merge_reasons(partial.finish_reasons, {choice: reason}))


def merge(left: PartialResponse, right: PartialResponse) -> PartialResponse:
    """Join two consecutive halves of a stream.

    Laws: ``merge(a, merge(b, c)) == merge(merge(a, b), c)``; merging the folds of two halves equals folding the whole.
    """
    parts = dict(left.parts)
    for part_key, part in right.parts.items():
        _merge_part(parts, part_key, part)
    return PartialResponse(
        parts=parts,
        finish_reasons=_merge_reasons(left.finish_reasons, right.finish_reasons),
        usage=_latest_usage(left.usage, right.usage),
        served_model=left.served_model or right.served_model,
        request_id=left.request_id or right.request_id,
    )


def finish(partial: PartialResponse) -> Result[CompletionResponse, LLMError]:
    """Return the response; a stream without any finish reason, or with nothing else, was cut off: `Disconnected`."""
    is_empty = replace(partial, finish_reasons={}) == EMPTY and set(partial.finish_reasons.values()) == {"other"}
    if not partial.finish_reasons or is_empty:
        return Failure(Disconnected(message="the stream ended before the response was complete"))
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
    """Return the response of a complete stream.

    Law: ``fold(deltas) == finish(reduce(step, deltas, EMPTY))``.

    Examples
    --------
    >>> fold([Fragment(0, Text("H")), Fragment(0, Text("i")), ChoiceFinished("stop")]).unwrap().text
    'Hi'
    """
    fragments: dict[PartKey, list[Part]] = {}
    reasons: dict[int, FinishReason] = {}
    usage, first_served_model, first_request_id = NO_USAGE, "", ""
    for delta in deltas:
        match delta:
            case Fragment(index, part, choice, key):
                part_key = (choice, index, key, type(part))
                if part_key in fragments:
                    fragments[part_key].append(part)
                else:
                    fragments[part_key] = [part]
            case StreamStarted(served_model, request_id):
                first_served_model, first_request_id = (
                    first_served_model or served_model,
                    first_request_id or request_id,
                )
            case UsageDelta(counts):
                usage = _latest_usage(usage, counts)
            case ChoiceFinished(reason, choice):
                if reason != "other" or choice not in reasons:
                    reasons[choice] = reason
    parts = {part_key: joined[0] if len(joined) == 1 else _join_all(joined) for part_key, joined in fragments.items()}
    return finish(PartialResponse(parts, reasons, usage, first_served_model, first_request_id))


def usage_so_far(deltas: Iterable[Delta]) -> Usage:
    """Return the token counts of a stream that may have been cut off.

    Examples
    --------
    >>> usage_so_far([UsageDelta(Usage(input_tokens=9)), UsageDelta(Usage(output_tokens=1))]).input_tokens
    9
    """
    usage = NO_USAGE
    for delta in deltas:
        if isinstance(delta, UsageDelta):
            usage = _latest_usage(usage, delta.usage)
    return _bounded_usage(usage)


def assemble_response(
    answers: Sequence[tuple[Sequence[Part], FinishReason]],
    *,
    usage: Usage = NO_USAGE,
    served_model: str = "",
    request_id: str = "",
) -> CompletionResponse:
    """Assemble a response in its normal form, whether it was streamed or not.

    Empty texts are removed, and halves of surrogate pairs are joined or replaced. Arguments of tool calls are compact
    JSON, ``{}`` if there are none, and a call without an id gets one. No class of tokens exceeds the count that
    includes it. A finish reason ``stop`` or ``other`` becomes ``tool_calls`` if the response has calls, and ``stop``
    becomes ``refusal`` if it has a refusal. A forced tool call becomes text.

    Parameters
    ----------
    answers
        Parts and finish reason of each choice.

    Examples
    --------
    >>> assemble_response([([Text(""), ToolCall("1", "f", "")], "stop")]).finish_reason
    'tool_calls'
    """
    forced = any([is_forced_call(part) for parts, _ in answers for part in parts])  # noqa: C419 - half the time
    normal = [_normalize_answer(parts, reason, request_id) for parts, reason in answers]
    (parts, reason), *rest = normal or [((), "other")]
    return CompletionResponse(
        parts=parts,
        finish_reason=reason,
        usage=_bounded_usage(usage),
        served_model=served_model,
        request_id=request_id,
        others=tuple(Choice(parts, reason) for parts, reason in rest),
        forced_tool=forced,
    )


def assemble_text_response(
    text: str, reason: FinishReason, *, usage: Usage, served_model: str, request_id: str
) -> CompletionResponse:
    """Assemble a response of one text that is not empty, as `assemble_response` does, in half the time.

    Examples
    --------
    >>> fast = assemble_text_response("Hi", "stop", usage=NO_USAGE, served_model="m", request_id="")
    >>> fast == assemble_response([((Text("Hi"),), "stop")], served_model="m")
    True
    """
    parts = (Text(text if text.isascii() else repair_surrogates(text)),)
    return NEW_RESPONSE(parts, reason, _bounded_usage(usage), served_model, request_id)


def to_stream_chunk(deltas: Iterable[Delta]) -> StreamChunk | None:
    """Return the content of ``deltas`` as a chunk for the caller, or ``None`` if there is none."""
    parts = [delta.part for delta in deltas if isinstance(delta, Fragment) and delta.choice == 0]
    chunk = StreamChunk(
        text=visible_text(parts),
        reasoning="".join(part.text for part in parts if isinstance(part, Reasoning)),
        tool_calls=tuple(part for part in parts if isinstance(part, ToolCall) and not is_forced_call(part)),
    )
    return chunk if chunk.text or chunk.reasoning or chunk.tool_calls else None


def label_forced_tool_deltas(deltas: tuple[Delta, ...], calls: set[PartKey]) -> tuple[Delta, ...]:
    """Name every fragment of a forced tool call, as only its first one is; ``calls`` is updated with their keys."""
    for delta in deltas:
        if type(delta) is Fragment and type(delta.part) is ToolCall:
            return tuple([_label_fragment(item, calls) if type(item) is Fragment else item for item in deltas])
    return deltas


def _label_fragment(fragment: Fragment, calls: set[PartKey]) -> Fragment:
    part = fragment.part
    if type(part) is not ToolCall:
        return fragment
    part_key = (fragment.choice, fragment.index, fragment.key, ToolCall)
    if part.name == FORCED_TOOL_NAME:
        calls.add(part_key)
    elif part_key in calls:
        return replace(fragment, part=replace(part, name=FORCED_TOOL_NAME))
    return fragment


def _append_part(parts: list[Part], part: Part) -> None:
    """Append a finished part; arguments of a call without a name fill the placeholder in the part before them."""
    match parts[-1:], part:
        case [Opaque(kind, data)], ToolCall("", "", arguments) if ARGUMENTS_PLACEHOLDER in data:
            parts[-1] = Opaque(kind, _fill_placeholder(data, arguments))
        case _:
            parts.append(part)


def _fill_placeholder(data: str, rest: str) -> str:
    """Replace the placeholder by what was streamed: list items with a comma after each, or one value."""
    items = rest.strip().removesuffix(",")
    return _compact_json(
        data.replace(f"[{ARGUMENTS_PLACEHOLDER}]", f"[{items}]").replace(ARGUMENTS_PLACEHOLDER, items or "{}")
    )


def _compact_json(text: str) -> str:
    """Return JSON without white space; text that is not JSON is returned unchanged."""
    try:
        return msgspec.json.format(text, indent=-1)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return text


def _merge_part(parts: dict[PartKey, Part], part_key: PartKey, part: Part) -> dict[PartKey, Part]:
    """Extend the part with this key, or add it."""
    parts[part_key] = _join_two(parts[part_key], part) if part_key in parts else part
    return parts


def _join_two(old: Part, new: Part) -> Part:
    """Join two fragments of one part; types that are not sent in fragments are replaced."""
    match old, new:
        case (Text(before), Text(after)) | (Refusal(before), Refusal(after)):
            return Text(before + after) if isinstance(old, Text) else Refusal(before + after)
        case Reasoning(), Reasoning():
            return Reasoning(old.text + new.text, old.signature + new.signature, old.redacted + new.redacted)
        case ToolCall(), ToolCall():
            return ToolCall(
                old.id or new.id, old.name or new.name, old.arguments + new.arguments, old.signature + new.signature
            )
        case (Logprobs(before), Logprobs(after)) | (Opaque("reasoning_details", before), Opaque(_, after)):
            return Logprobs(before + after) if isinstance(old, Logprobs) else Opaque(REASONING_DETAILS, before + after)
        case (Image(), Image()) | (Document(), Document()):
            return _join_media((old, new))
        case _:
            return new


def _join_all(fragments: Sequence[Part]) -> Part:
    """Join all fragments of one part. Law: equals repeated `_join_two`."""
    match fragments[0]:
        case Text() | Refusal():
            return (Text if isinstance(fragments[0], Text) else Refusal)(_concatenate(fragments, "text"))
        case Reasoning():
            return Reasoning(
                _concatenate(fragments, "text"),
                _concatenate(fragments, "signature"),
                _concatenate(fragments, "redacted"),
            )
        case ToolCall():
            arguments, signature = _concatenate(fragments, "arguments"), _concatenate(fragments, "signature")
            return ToolCall(_first_nonempty(fragments, "id"), _first_nonempty(fragments, "name"), arguments, signature)
        case Logprobs() | Opaque(kind="reasoning_details"):
            return replace(fragments[0], data=_concatenate(fragments, "data"))
        case Image() | Document():
            return _join_media(fragments)
        case _:
            return fragments[-1]


def _join_media(fragments: Sequence[Part]) -> Part:
    """Join fragments of an image or a document: its data is concatenated, the rest is said once."""
    first: Any = fragments[0]
    names = [name for name in first.__dataclass_fields__ if name != "data"]
    values = {name: _first_nonempty(fragments, name) for name in names}
    joined: Part = replace(first, data=_concatenate(fragments, "data"), **values)
    return joined


def _concatenate(fragments: Sequence[Part], name: str) -> str:
    return "".join(map(attrgetter(name), fragments))


def _first_nonempty(fragments: Sequence[Part], name: str) -> str:
    """Return the first value that is not empty."""
    return next(filter(None, map(attrgetter(name), fragments)), "")


def _merge_reasons(left: Mapping[int, FinishReason], right: Mapping[int, FinishReason]) -> dict[int, FinishReason]:
    """Return the later reason of each choice; ``other`` does not replace a specific reason."""
    return {**left, **{choice: reason for choice, reason in right.items() if reason != "other" or choice not in left}}


def _latest_usage(left: Usage, right: Usage) -> Usage:
    """Return the later count of each class; ``None`` counts as absent."""
    return Usage(
        input_tokens=_latest_count(left.input_tokens, right.input_tokens),
        output_tokens=_latest_count(left.output_tokens, right.output_tokens),
        cached_input_tokens=_latest_count(left.cached_input_tokens, right.cached_input_tokens),
        cache_write_tokens=_latest_count(left.cache_write_tokens, right.cache_write_tokens),
        reasoning_tokens=_latest_count(left.reasoning_tokens, right.reasoning_tokens),
        cache_write_1h_tokens=_latest_count(left.cache_write_1h_tokens, right.cache_write_1h_tokens),
        service_tier=right.service_tier or left.service_tier,
        reported_cost_usd=left.reported_cost_usd if right.reported_cost_usd is None else right.reported_cost_usd,
        billed_units=tuple({**dict(left.billed_units), **dict(right.billed_units)}.items())
        if left.billed_units and right.billed_units
        else right.billed_units or left.billed_units,
    )


def _bounded_usage(usage: Usage) -> Usage:
    """Limit each class of tokens to the count that includes it, for providers that miscount."""
    inputs, outputs = usage.input_tokens, usage.output_tokens
    cached, stored, reasoning = usage.cached_input_tokens, usage.cache_write_tokens, usage.reasoning_tokens
    if outputs is not None and reasoning is not None and reasoning > outputs:
        usage = replace(usage, reasoning_tokens=outputs)
    if inputs is None or (cached or 0) + (stored or 0) <= inputs:
        return usage
    read = None if cached is None else min(cached, inputs)
    written = None if stored is None else min(stored, inputs - (read or 0))
    return replace(usage, cached_input_tokens=read, cache_write_tokens=written)


def _latest_count(left: int | None, right: int | None) -> int | None:
    return left if right is None else right


def _normalize_answer(
    parts: Sequence[Part], reason: FinishReason, response_id: str
) -> tuple[tuple[Part, ...], FinishReason]:
    """Return the normal form of one choice (see `assemble_response`)."""
    if len(parts) == 1 and type(parts[0]) is Text and parts[0].text:
        text = parts[0].text
        return (parts[0] if text.isascii() else Text(repair_surrogates(text)),), reason
    normalized = (_normalize_part(part, parts[:index], response_id) for index, part in enumerate(parts))
    normal = [part for part in normalized if part is not None]
    if any(isinstance(part, ToolCall) for part in normal):
        normal, reason = unwrap_forced_call(normal, reason)
    if reason in {"stop", "other"} and any(isinstance(part, ToolCall) for part in normal):
        reason = "tool_calls"
    elif reason == "stop" and any(isinstance(part, Refusal) for part in normal):
        reason = "refusal"
    return tuple(normal), reason


def _normalize_part(part: Part, earlier: Sequence[Part], response_id: str) -> Part | None:
    """Return the normal form of a part, ``None`` if it is empty."""
    normal: Part | None = _repair_part(part)
    match normal:
        case Text("") | Refusal("") | Reasoning("", "", "") | ToolCall("", "", "", ""):
            normal = None
        case ToolCall(call, name, arguments, signature):
            call = call or (generate_call_id(response_id, name, arguments, earlier) if name else "")
            normal = ToolCall(call, name, _compact_json(arguments.strip() or "{}"), signature)
        case Image(url=url) as image if url.startswith("data:"):
            normal = _with_data(image)
        case Document(data=data) if data:
            normal = replace(normal, data=join_base64(data))
        case Opaque("reasoning_details"):
            normal = replace(normal, data=merge_details(normal.data))
        case Opaque(kind, data) if ARGUMENTS_PLACEHOLDER in data:
            normal = Opaque(kind, _fill_placeholder(data, ""))
    return normal


def _with_data(image: Image) -> Image:
    """Return an image that is given by a base64 ``data:`` URL as one with ``data`` and ``media_type``."""
    header, _, data = image.url.removeprefix("data:").partition(",")
    media_type, *attributes = header.split(";")
    if "base64" not in attributes or not data.isascii():
        return image
    return replace(image, url="", data=data, media_type=media_type or image.media_type)


def generate_call_id(response_id: str, name: str, arguments: str, earlier: Iterable[Part]) -> str:
    """Return an id for a tool call that came without one, so that a result can name the call it answers.

    It is a hash of the response's id, the call, and how many equal calls are among the ``earlier`` parts: the same
    response gives the same ids, streamed or not, and two responses different ones.

    Examples
    --------
    >>> generate_call_id("r1", "f", "{}", [])
    'call_made_4b7873...'
    >>> generate_call_id("r1", "f", "{}", [ToolCall("", "f", "{}")]) == generate_call_id("r1", "f", "{}", [])
    False
    """
    equal = sum(isinstance(part, ToolCall) and (part.name, part.arguments) == (name, arguments) for part in earlier)
    content = "\n".join((response_id, name, arguments, str(equal))).encode("utf-8", "surrogatepass")
    return GENERATED_ID_PREFIX + hashlib.sha256(content).hexdigest()[:16]


# Halves of surrogate pairs, as servers send that cut text by UTF-16 units


def repair_surrogates(text: str) -> str:
    r"""Return ``text`` with halves of surrogate pairs joined, and replaced where there is only one.

    Examples
    --------
    >>> repair_surrogates("a\ud83d" + "\udc68") == "a\N{MAN}", repair_surrogates("b\ud83d")
    (True, 'b\ufffd')
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _repair_part(part: Part) -> Part:
    """Return a part without halves of surrogate pairs."""
    names = [name for name in part.__dataclass_fields__ if isinstance(getattr(part, name), str)]
    repaired = {name: repair_surrogates(getattr(part, name)) for name in names if not getattr(part, name).isascii()}
    return replace(part, **repaired) if repaired else part  # type: ignore[arg-type] # fields of the part itself

"""Remove the keys of a call from what its provider answers: from bytes, from streamed deltas, from responses. Pure.

A server may repeat a key in pieces, so that no event of a stream and no part of a response holds all of it. Of a stream
only the end of a text is held back that is the beginning of a key, from `MIN_BEGINNING` characters on: ordinary text
passes at once, and of a key no more than the characters before that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from operator import is_
from typing import Any, Final

import msgspec

from llmhub.core.forced_tool import is_forced_call
from llmhub.core.stream import Delta, Fragment
from llmhub.core.types import (
    Choice,
    CompletionResponse,
    Logprobs,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
)
from llmhub.security.redaction import REPLACEMENT, map_part

MIN_BEGINNING: Final = 4
"""Characters of a key from which the end of a text is held back, because it may continue with the rest."""
TEXT_FIELDS: Final[dict[type[Any], tuple[str, ...]]] = {
    Text: ("text",),
    Refusal: ("text",),
    Reasoning: ("text", "signature", "redacted"),
    ToolCall: ("arguments", "id", "name", "signature"),
}
"""Fields that streams send in pieces."""
Channel = tuple[Any, ...]
"""What tells the texts of a stream apart: the choice and the kind, or also the part and its field."""


def redact_keys(text: str, keys: Iterable[str]) -> str:
    """Return a text without keys.

    Examples
    --------
    >>> redact_keys("it is key-0123456789abcdef", ["key-0123456789abcdef"])
    'it is [redacted]'
    """
    for key in keys:
        if key in text:
            text = text.replace(key, REPLACEMENT)
    return text


def redact_key_bytes(body: bytes, keys: Iterable[bytes]) -> bytes:
    """Return a body without keys."""
    for key in keys:
        if key in body:
            body = body.replace(key, REPLACEMENT.encode())
    return body


class KeyByteFilter:
    """Removes keys from a stream of bytes, wherever it is split; what may be the beginning of one is held back."""

    __slots__ = ("_held", "_keys")

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = [key.encode() for key in keys]
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return the next bytes without keys."""
        if not self._keys:
            return chunk
        data = redact_key_bytes(self._held + chunk, self._keys)
        # No key has a line break, with which an event ends.
        held = 0 if data.endswith(b"\n") else max(_overlap(data, key) for key in self._keys)
        self._held = data[len(data) - held :]
        return data[: len(data) - held]

    def close(self) -> bytes:
        """Return what was held back."""
        held, self._held = self._held, b""
        return held


class KeyTextFilter:
    """Removes keys from a text that arrives in pieces.

    Examples
    --------
    >>> text = KeyTextFilter(["key-0123456789abcdef"])
    >>> [text.feed(piece) for piece in ("it is key-01", "2345678", "9abcdef.", " Ask")], text.close()
    (['it is ', '', '[redacted].', ' Ask'], '')
    """

    __slots__ = ("_beginnings", "_context", "_free", "_held", "_keys", "removed")

    def __init__(self, keys: Sequence[str], min_beginning: int = MIN_BEGINNING) -> None:
        self._keys = keys
        self._free = min_beginning - 1
        self._beginnings = [key[:min_beginning] for key in keys]
        self._context = self._held = ""
        self.removed = 0
        """Number of keys that were removed."""

    def feed(self, text: str) -> str:
        """Return what may be passed on now."""
        if not self._held:
            seen = self._context + text
            for beginning in self._beginnings:
                if beginning in seen:
                    break
            else:
                self._context = seen[max(0, len(seen) - self._free) :]
                return text
        return self._search(text)

    def close(self) -> str:
        """Return what is held back at the end."""
        held, self._held = self._held, ""
        return held

    @property
    def is_holding(self) -> bool:
        """Whether something is held back."""
        return bool(self._held)

    def _search(self, text: str) -> str:
        context = len(self._context)
        data = self._context + self._held + text
        passed: list[str] = []
        position = 0
        while found := min(
            ((at, -len(key)) for key in self._keys if (at := data.find(key, position)) >= 0), default=()
        ):
            start, length = found
            passed += [data[max(position, context) : start], REPLACEMENT]
            position = start - length
            self.removed += 1
        overlap = max(_overlap(data[position:], key) for key in self._keys)
        end = len(data) if overlap <= self._free else max(len(data) - overlap, context)
        passed.append(data[max(position, context) : end])
        self._context, self._held = data[max(position, end - self._free) : end], data[end:]
        return "".join(passed)


class KeyDeltaFilter:
    """Removes keys from the deltas of a stream, whichever events and parts they are spread over.

    Examples
    --------
    >>> keys = KeyDeltaFilter(["key-0123456789abcdef"])
    >>> keys.feed((Fragment(0, Text("a key-0123")), Fragment(0, Text("456789abcdef b"))))
    (Fragment(index=0, part=Text(text='a '), choice=0, key=''), Fragment(index=0, part=Text(text='[redacted] b'), ...))
    """

    __slots__ = ("_held_logprobs", "_keys", "_last", "_min_beginning", "_texts")

    def __init__(self, keys: Sequence[str], min_beginning: int = MIN_BEGINNING) -> None:
        self._keys = keys
        self._min_beginning = min_beginning
        self._texts: dict[Channel, KeyTextFilter] = {}
        self._last: dict[Channel, tuple[Fragment, str]] = {}
        self._held_logprobs: dict[int, list[Fragment]] = {}

    def feed(self, deltas: tuple[Delta, ...]) -> tuple[Delta, ...]:
        """Return the deltas that may be passed on now; ``deltas`` itself if they have nothing of a key."""
        if not self._keys:
            return deltas
        passed: list[Delta] = []
        is_same = True
        for delta in deltas:
            if type(delta) is not Fragment:
                passed.append(delta)
                continue
            fragments = self._feed_logprobs(delta) if type(delta.part) is Logprobs else self._feed(delta)
            is_same = is_same and len(fragments) == 1 and fragments[0] is delta
            passed += fragments
        return deltas if is_same else tuple(passed)

    def close(self) -> tuple[Fragment, ...]:
        """Return what is held back at the end of the stream."""
        rest: list[Fragment] = []
        for channel, text in self._texts.items():
            if held := text.close():
                if channel[1:] == (Logprobs,):
                    rest += self._held_logprobs.pop(channel[0])
                else:
                    fragment, name = self._last[channel]
                    rest.append(replace(fragment, part=_only(fragment.part, name, held)))
        return tuple(rest)

    def _feed(self, fragment: Fragment) -> Sequence[Fragment]:
        """Return a fragment without what is held back of it; none if nothing is left."""
        part = fragment.part
        changes: dict[str, str] = {}
        for name in TEXT_FIELDS.get(type(part), ()):
            if value := getattr(part, name):
                channel = _channel(fragment, name)
                text = self._texts.get(channel)
                if text is None:
                    text = self._texts[channel] = KeyTextFilter(self._keys, self._min_beginning)
                passed = text.feed(value)
                if text.is_holding:
                    self._last[channel] = fragment, name
                if passed != value:
                    changes[name] = passed
        if not changes:
            return (fragment,)
        changed: Part = replace(part, **changes)  # type: ignore[arg-type] # texts of the part
        is_empty = not any(getattr(changed, name) for name in TEXT_FIELDS[type(part)])
        return () if is_empty else (replace(fragment, part=changed),)

    def _feed_logprobs(self, fragment: Fragment) -> Sequence[Fragment]:
        """Return the rows that may be passed on: those of a key are left out, as its characters stand in them."""
        choice = fragment.choice
        text = self._texts.setdefault((choice, Logprobs), KeyTextFilter(self._keys, 1))
        before = text.removed
        text.feed(_tokens(fragment.part))
        held = self._held_logprobs.setdefault(choice, [])
        if text.removed > before:
            held.clear()
            return ()
        held.append(fragment)
        if text.is_holding:
            return ()
        self._held_logprobs[choice] = []
        return held


def response_without_keys(keys: Sequence[str], response: CompletionResponse) -> CompletionResponse:
    """Return a response without keys: responses are stored in caches and tables.

    Examples
    --------
    >>> parts = (Text("key-01234"), Text("56789abcdef"))
    >>> response_without_keys(["key-0123456789abcdef"], CompletionResponse(parts=parts)).text
    '[redacted]'
    """
    if not keys:
        return response
    answers = [response.parts, *(choice.parts for choice in response.others)]
    cleaned = [_parts_without_keys(keys, parts) for parts in answers]
    request_id, served_model = redact_keys(response.request_id, keys), redact_keys(response.served_model, keys)
    is_same = all(new is old for new, old in zip(cleaned, answers, strict=True))
    if is_same and request_id == response.request_id and served_model == response.served_model:
        return response
    others = tuple(Choice(parts, old.finish_reason) for parts, old in zip(cleaned[1:], response.others, strict=True))
    return replace(response, parts=cleaned[0], others=others, request_id=request_id, served_model=served_model)


def _parts_without_keys(keys: Sequence[str], parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Return the parts of one choice without keys; ``parts`` itself if they have none."""
    if len(parts) == 1 and type(parts[0]) is Text:
        text = redact_keys(parts[0].text, keys)
        return parts if text is parts[0].text else (Text(text),)
    redact = partial(redact_keys, keys=keys)
    found = tuple([map_part(part, redact) if _may_be_escaped(part) else part for part in parts])
    texts = _texts(found)
    if not any(key in text for key in keys for text in texts):
        return parts if all(map(is_, found, parts)) else found
    key_deltas = KeyDeltaFilter(keys, 1)
    fragments = (*key_deltas.feed(tuple(map(Fragment, range(len(found)), found))), *key_deltas.close())
    cleaned: dict[int, Part] = {}
    for fragment in fragments:
        if isinstance(fragment, Fragment):
            earlier = cleaned.get(fragment.index)
            cleaned[fragment.index] = fragment.part if earlier is None else _joined(earlier, fragment.part)
    return tuple(cleaned[index] for index in sorted(cleaned))


def _texts(parts: Iterable[Part]) -> list[str]:
    """Return the texts of parts as people see them: those of one kind together."""
    texts: dict[Channel, list[str]] = {}
    for index, part in enumerate(parts):
        if type(part) is Logprobs:
            texts.setdefault((0, Logprobs), []).append(_tokens(part))
        for name in TEXT_FIELDS.get(type(part), ()):
            texts.setdefault(_channel(Fragment(index, part), name), []).append(getattr(part, name))
    return list(map("".join, texts.values()))


def _may_be_escaped(part: Part) -> bool:
    """Return whether a part is JSON, in which a key may be written with escape sequences."""
    return isinstance(part, Opaque) or (isinstance(part, ToolCall) and "\\" in part.arguments)


def _joined(earlier: Part, part: Part) -> Part:
    """Return two pieces of one part together."""
    names = TEXT_FIELDS[type(part)]
    values: dict[str, Any] = {name: getattr(earlier, name) + getattr(part, name) for name in names}
    return replace(earlier, **values)


def _channel(fragment: Fragment, name: str) -> Channel:
    part, choice = fragment.part, fragment.choice
    if name == "text":
        return choice, type(part)
    if is_forced_call(part) and name == "arguments":
        return choice, Text
    return choice, fragment.index, fragment.key, type(part), name


def _only(part: Part, name: str, text: str) -> Part:
    """Return a part of the same kind with one text, and none of its others."""
    values: dict[str, Any] = {**dict.fromkeys(TEXT_FIELDS[type(part)], ""), name: text}
    if is_forced_call(part) and isinstance(part, ToolCall):
        values["name"] = part.name
    return replace(part, **values)


_ROWS: Final = msgspec.json.Decoder(list[tuple[str, msgspec.Raw, msgspec.Raw]])


def _tokens(part: Part) -> str:
    """Return the tokens of log probabilities, together."""
    assert isinstance(part, Logprobs)  # noqa: S101 - of the caller
    try:
        return "".join([token for token, *_ in _ROWS.decode(f"[{part.data.removesuffix(',')}]")])
    except msgspec.DecodeError:
        return part.data


def _overlap(data: Any, key: Any) -> int:
    """Return the length of the longest proper beginning of ``key`` that ``data`` ends with."""
    return next((size for size in range(min(len(key) - 1, len(data)), 0, -1) if data.endswith(key[:size])), 0)

"""Reversible redaction: values of a request stand as placeholders in what is sent, and are put back into the answer.

A placeholder is the kind of a value and a number, such as ``[EMAIL_ADDRESS_1]``. Numbers are given in the order in
which values first occur in a request, and equal values share one, so that equal requests stay equal, and a conversation
that goes on keeps its placeholders. Text of the request that looks like a placeholder is treated as a value itself, so
that ``restore(replace(text)) == text`` for every text. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from llmhub.core.types import Choice, CompletionRequest, CompletionResponse, Logprobs, Opaque, Part, ToolCall
from llmhub.security.patterns import ENTITIES
from llmhub.security.redaction import Redactor, Span, map_part, map_request, merge_spans

PLACEHOLDER: Final = re.compile(r"\[([A-Z][A-Z_]*)_[0-9]+\]")


class Placeholders:
    """The placeholders of one request.

    Parameters
    ----------
    redactor
        Finds the values.
    base
        Placeholders that the request begins with, such as those of a system message.

    Examples
    --------
    >>> placeholders = Placeholders(Redactor())
    >>> placeholders.replace("From ann@example.org to bob@example.org, cc ann@example.org")
    'From [EMAIL_ADDRESS_1] to [EMAIL_ADDRESS_2], cc [EMAIL_ADDRESS_1]'
    >>> placeholders.restore("To [EMAIL_ADDRESS_2], ... [EMAIL_ADDRESS_9]")
    'To bob@example.org, ... [EMAIL_ADDRESS_9]'
    """

    __slots__ = ("_by_value", "_counts", "_redactor", "_values", "max_length")

    def __init__(self, redactor: Redactor, base: Placeholders | None = None) -> None:
        self._redactor = redactor
        self._by_value: dict[tuple[str, str], str] = {}
        self._values: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self.max_length: int = 0
        if base is not None:
            base.copy_to(self)

    def __len__(self) -> int:
        """Return the number of placeholders."""
        return len(self._values)

    def __repr__(self) -> str:
        """Return the placeholders only: the values are what is not to be shown."""
        return f"Placeholders({', '.join(self._values)})"

    def __contains__(self, placeholder: object) -> bool:
        """Return whether there is such a placeholder."""
        return placeholder in self._values

    def copy_to(self, other: Placeholders) -> None:
        """Add the placeholders to ``other``, which has none."""
        other._by_value.update(self._by_value)
        other._values.update(self._values)
        other._counts.update(self._counts)
        other.max_length = self.max_length

    def replace(self, text: str) -> str:
        """Return ``text`` with placeholders in place of its values."""
        spans = self._redactor.spans(text)
        if "[" in text:
            spans = merge_spans(spans + self._lookalikes(text))
        if not spans:
            return text
        pieces, position = [], 0
        for span in spans:
            pieces += [text[position : span.start], self._placeholder(span.entity, text[span.start : span.end])]
            position = span.end
        return "".join((*pieces, text[position:]))

    def _lookalikes(self, text: str) -> list[Span]:
        """Return what looks like a placeholder of a kind that may be found."""
        any_kind = bool(self._redactor.recognizers)
        own = {pattern.entity for pattern in self._redactor.own_patterns}
        return [
            Span(found[1], *found.span())
            for found in PLACEHOLDER.finditer(text)
            if any_kind or found[1] in _ENTITIES or found[1] in own
        ]

    def _placeholder(self, entity: str, value: str) -> str:
        known = self._by_value.get((entity, value))
        if known is not None:
            return known
        self._counts[entity] = number = self._counts.get(entity, 0) + 1
        placeholder = f"[{entity}_{number}]"
        self._by_value[entity, value] = placeholder
        self._values[placeholder] = value
        self.max_length = max(self.max_length, len(placeholder))
        return placeholder

    def restore(self, text: str) -> str:
        """Return ``text`` with the values in place of their placeholders."""
        if "[" not in text or not self._values:
            return text
        return PLACEHOLDER.sub(lambda found: self._values.get(found[0], found[0]), text)

    def restore_json(self, text: str) -> str:
        r"""Return a text of JSON, or a piece of one, with the values in its strings.

        Examples
        --------
        >>> placeholders = Placeholders(Redactor(patterns={"NOTE": "a.b"}))
        >>> placeholders.restore_json(placeholders.replace('{"x": "') + placeholders.replace('a"b') + '"}')
        '{"x": "a\\"b"}'
        """
        if "[" not in text or not self._values:
            return text
        return PLACEHOLDER.sub(lambda found: json.dumps(self._values.get(found[0], found[0]))[1:-1], text)

    def restore_text(self, text: str, *, is_json: bool) -> str:
        """Return `restore` or `restore_json` of ``text``."""
        return self.restore_json(text) if is_json else self.restore(text)

    def may_begin(self, text: str) -> bool:
        """Return whether ``text`` is the beginning of a placeholder, and not the whole."""
        longer = (placeholder for placeholder in self._values if len(placeholder) > len(text))
        return len(text) < self.max_length and any(placeholder.startswith(text) for placeholder in longer)


_ENTITIES: Final = frozenset(ENTITIES)


def redact_request(
    request: CompletionRequest, redactor: Redactor, base: Placeholders | None = None
) -> tuple[CompletionRequest, Placeholders]:
    """Return a request with placeholders in place of its values, and the placeholders."""
    placeholders = Placeholders(redactor, base)
    return map_request(request, placeholders.replace), placeholders


def is_json_response(request: CompletionRequest) -> bool:
    """Return whether the text of the response to a request is JSON."""
    return request.response_schema is not None or "response_format" in request.extra


def restore_part(part: Part, placeholders: Placeholders, *, is_json: bool) -> Part:
    """Return a part of a response with the values; in arguments of tools, and in JSON, they are escaped."""
    if isinstance(part, Logprobs):
        return part  # tokens are those of the model's text
    match part:
        case ToolCall(arguments=arguments):
            return replace(part, arguments=placeholders.restore_json(arguments))
        case Opaque(data=data):
            return replace(part, data=placeholders.restore_json(data))
        case _:
            return map_part(part, lambda text: placeholders.restore_text(text, is_json=is_json))


def restore_response(
    response: CompletionResponse, placeholders: Placeholders, *, is_json: bool = False
) -> CompletionResponse:
    """Return a response with the values in place of their placeholders; itself if it has none."""
    parts = tuple([restore_part(part, placeholders, is_json=is_json) for part in response.parts])
    others = tuple(
        Choice(
            tuple([restore_part(part, placeholders, is_json=is_json) for part in choice.parts]), choice.finish_reason
        )
        for choice in response.others
    )
    if parts == response.parts and others == response.others:
        return response
    changes: Mapping[str, Any] = {"parts": parts, "others": others}
    return replace(response, **changes)


class PlaceholderStream:
    """Puts values back into a text that arrives in pieces, which may cut placeholders.

    Law: the pieces that come out, joined, are `Placeholders.restore_text` of those that went in, joined.

    Examples
    --------
    >>> placeholders = Placeholders(Redactor())
    >>> _ = placeholders.replace("ann@example.org")
    >>> stream = PlaceholderStream(placeholders)
    >>> [stream.feed(piece) for piece in ("to [EMAIL_ADD", "RESS_1", "], [x")], stream.close()
    (['to ', '', 'ann@example.org, [x'], '')
    """

    __slots__ = ("_is_json", "_placeholders", "_tail")

    def __init__(self, placeholders: Placeholders, *, is_json: bool = False) -> None:
        self._placeholders = placeholders
        self._is_json = is_json
        self._tail = ""

    def feed(self, piece: str) -> str:
        """Return what can be passed on: everything but a beginning of a placeholder."""
        text = self._tail + piece
        start = text.rfind("[", max(0, len(text) - self._placeholders.max_length))
        is_cut = start >= 0 and self._placeholders.may_begin(text[start:])
        self._tail = text[start:] if is_cut else ""
        return self._placeholders.restore_text(text[:start] if is_cut else text, is_json=self._is_json)

    def close(self) -> str:
        """Return what was held back, at the end of the text."""
        tail, self._tail = self._tail, ""
        return tail

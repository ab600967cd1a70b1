"""Remove credentials and personal data from text, messages, JSON and bytes: by value, or by pattern. Pure.

`redact` removes credentials, from everything that people, logs and files get. A `Redactor` removes personal data too,
and whatever else it is made for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from llmhub.core.errors import invalid
from llmhub.core.types import (
    JSON,
    CompletionRequest,
    Document,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from llmhub.security.number_patterns import NUMBER_ENTITIES, number_spans
from llmhub.security.patterns import (
    CREDENTIALS,
    ENTITIES,
    PERSONAL,
    PatternSet,
    RedactionPattern,
)

REPLACEMENT: Final = "[redacted]"
MIN_SECRET_LENGTH: Final = 6
"""Shorter values are not redacted, because that would garble ordinary text."""
MIN_REDACTED_NUMBER: Final = 10**8
"""Smaller integers in JSON are no cards or telephone numbers."""
ALL_CREDENTIALS: Final = PatternSet(CREDENTIALS)
DIGIT: Final = re.compile(r"\d")

PUBLIC_PARAMETERS: Final = frozenset({"api-version", "api_version", "version", "alt"})
"""Query parameters that are no credentials."""
CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that command a terminal or reorder text, except tabs and line breaks."""

TextMap: TypeAlias = Callable[[str], str]


class Span(NamedTuple):
    """A value to redact: its kind, start and end in the text."""

    entity: str
    start: int
    end: int


class Recognizer(Protocol):
    """Finds what no pattern can, such as names (`presidio_recognizer`)."""

    def __call__(self, text: str, /) -> Iterable[tuple[str, int, int]]:
        """Return kind, start and end of each value in ``text``."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` with every credential replaced.

    Parameters
    ----------
    text
        Text for a person, a log or a table.
    secrets
        Known credentials.

    Examples
    --------
    >>> redact("Incorrect API key provided: sk-proj-abcdefgh1234.")
    'Incorrect API key provided: [redacted].'
    >>> redact("cannot reach http://ann:hunter22@localhost/v1")
    'cannot reach http://[redacted]@localhost/v1'
    >>> redact("no such user: hunter22", ["hunter22"])
    'no such user: [redacted]'
    """
    known = (secret for secret in secrets if len(secret) >= MIN_SECRET_LENGTH)
    for secret in sorted(known, key=len, reverse=True):  # a secret may contain another
        for form in dict.fromkeys((secret, quote(secret, safe=""), json.dumps(secret)[1:-1])):
            text = text.replace(form, REPLACEMENT)
    spans = merge_spans(_find(text, ALL_CREDENTIALS))
    return _replace_spans(text, spans, lambda _: REPLACEMENT) if spans else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Redactor:
    r"""Finds and replaces credentials and personal data.

    Parameters
    ----------
    entities
        Kinds of values to redact, of `llmhub.security.patterns.ENTITIES`; by default all: keys and passwords of every
        form, e-mail addresses, telephone numbers, US social security numbers, credit cards, IBANs, IP addresses.
    patterns
        Patterns of your own: `RedactionPattern` values, or a mapping of names to regular expressions.
    recognizers
        Functions that find other kinds (names, addresses), such as `presidio_recognizer`.
    allow
        Values that are left as they are.

    Examples
    --------
    >>> Redactor().redact("Write to ann@example.org or +44 20 7946 0958.")
    'Write to [EMAIL_ADDRESS] or [PHONE_NUMBER].'
    >>> Redactor(entities=("US_SSN",), patterns={"EMPLOYEE_ID": r"\bE-\d{6}\b"}).redact("E-123456, ann@example.org")
    '[EMPLOYEE_ID], ann@example.org'
    """

    entities: tuple[str, ...] = ENTITIES
    patterns: tuple[RedactionPattern, ...] | Mapping[str, str] = ()
    recognizers: tuple[Recognizer, ...] = ()
    allow: Collection[str] = frozenset()
    _active: PatternSet = field(init=False, repr=False, compare=False)
    _numbers: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Validate the fields and choose the patterns."""
        given: object = self.entities
        entities = (given,) if isinstance(given, str) else tuple(self.entities)
        for entity in entities:
            if entity not in ENTITIES:
                raise invalid("entities", f"unknown kind {entity!r}; the known kinds are {', '.join(ENTITIES)}")
        try:
            own = _own_patterns(self.patterns)
        except (ValueError, re.error) as error:
            raise invalid("patterns", str(error)) from None
        if not all(map(callable, self.recognizers)):
            raise invalid("recognizers", "must be functions of a text that return (kind, start, end) for each value")
        built_in = (pattern for pattern in (*CREDENTIALS, *PERSONAL) if pattern.entity in entities)
        object.__setattr__(self, "entities", entities)
        object.__setattr__(self, "patterns", own)
        object.__setattr__(self, "recognizers", tuple(self.recognizers))
        object.__setattr__(self, "allow", frozenset(self.allow))
        object.__setattr__(self, "_active", PatternSet((*built_in, *own)))
        object.__setattr__(self, "_numbers", frozenset(NUMBER_ENTITIES) & set(entities))

    def __reduce__(self) -> tuple[Callable[..., Redactor], tuple[dict[str, Any]]]:
        """Pickle the arguments."""
        names = ("entities", "patterns", "recognizers", "allow")
        return _make_redactor, ({name: getattr(self, name) for name in names},)

    @property
    def own_patterns(self) -> tuple[RedactionPattern, ...]:
        """The patterns that were given."""
        assert isinstance(self.patterns, tuple)  # noqa: S101 - normalized by __post_init__
        return self.patterns

    def spans(self, text: str) -> list[Span]:
        """Return the values in ``text`` to redact, in order and without overlap.

        Examples
        --------
        >>> Redactor().spans("mail ann@example.org")
        [Span(entity='EMAIL_ADDRESS', start=5, end=20)]
        """
        found = _find(text, self._active, self._numbers)
        for recognizer in self.recognizers:
            found += [Span(entity, start, end) for entity, start, end in recognizer(text) if start < end]
        if self.allow:
            found = [span for span in found if text[span.start : span.end] not in self.allow]
        return merge_spans(found)

    def redact(self, text: str) -> str:
        """Return ``text`` with each value replaced by its kind in square brackets."""
        spans = self.spans(text)
        return _replace_spans(text, spans, lambda span: f"[{span.entity}]") if spans else text

    def redact_json(self, value: JSON) -> JSON:
        """Return a value of JSON, at any nesting, redacted: strings, keys, and large numbers.

        Examples
        --------
        >>> Redactor().redact_json({"cards": [4111111111111111], "note": '{"to": "ann@example.org"}'})
        {'cards': ['[CREDIT_CARD]'], 'note': '{"to": "[EMAIL_ADDRESS]"}'}
        """
        redacted: JSON = map_json(value, self.redact)
        return redacted

    def redact_bytes(self, data: bytes) -> bytes:
        r"""Return bytes with the values in them redacted, whatever encoding based on ASCII they have.

        Examples
        --------
        >>> Redactor().redact_bytes(b"\xff ann@example.org")
        b'\xff [EMAIL_ADDRESS]'
        """
        return self.redact(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def redact_message(self, message: Message) -> Message:
        """Return a message with all its parts redacted."""
        return map_message(message, self.redact)


def _make_redactor(arguments: dict[str, Any]) -> Redactor:
    return Redactor(**arguments)


def _own_patterns(patterns: Sequence[RedactionPattern] | Mapping[str, str]) -> tuple[RedactionPattern, ...]:
    if isinstance(patterns, Mapping):
        return tuple(RedactionPattern(name, regex) for name, regex in patterns.items())
    if not all(isinstance(pattern, RedactionPattern) for pattern in patterns):
        raise ValueError("must be RedactionPattern values, or a mapping of names to regular expressions")
    return tuple(patterns)


def resolve_redactor(value: object) -> Redactor | None:
    """Return the redactor that an option stands for: ``True`` for all kinds, or names of kinds.

    Examples
    --------
    >>> resolve_redactor(["IBAN_CODE"]).entities, resolve_redactor(False)
    (('IBAN_CODE',), None)
    """
    match value:
        case None | False:
            return None
        case True:
            return Redactor()
        case Redactor():
            return value
        case str() | list() | tuple() | set() | frozenset():
            return Redactor(entities=(value,) if isinstance(value, str) else tuple(value))
        case _:
            raise invalid("redact", f"must be True, kinds of values, or a Redactor, not {type(value).__name__}")


def presidio_recognizer(
    analyzer: Any, *, entities: Sequence[str] = ("PERSON", "LOCATION"), language: str = "en", min_score: float = 0.5
) -> Recognizer:
    """Return a recognizer that asks an analyzer of Presidio, for what only a language model finds.

    Parameters
    ----------
    analyzer
        A ``presidio_analyzer.AnalyzerEngine``, or anything with its method ``analyze``.
    entities
        Kinds to ask for.
    language
        Language of the texts.
    min_score
        Lowest score that counts.

    Examples
    --------
    >>> from presidio_analyzer import AnalyzerEngine                                 # doctest: +SKIP
    >>> Redactor(recognizers=(presidio_recognizer(AnalyzerEngine()),))               # doctest: +SKIP
    """
    if not callable(getattr(analyzer, "analyze", None)):
        raise invalid("analyzer", "must have a method analyze(text=, entities=, language=), as Presidio's has")
    return PresidioRecognizer(analyzer, tuple(entities), language, min_score)


@dataclass(frozen=True, slots=True)
class PresidioRecognizer:
    """The recognizer of `presidio_recognizer`."""

    analyzer: Any
    entities: tuple[str, ...]
    language: str
    min_score: float

    def __call__(self, text: str, /) -> list[tuple[str, int, int]]:
        """Return the values that the analyzer finds."""
        results = self.analyzer.analyze(text=text, entities=list(self.entities), language=self.language)
        return [(found.entity_type, found.start, found.end) for found in results if found.score >= self.min_score]


_CONTENT: Final = Redactor()


def redact_content(text: str) -> str:
    """Return prompts or responses without credentials and personal data, for logs and traces.

    Examples
    --------
    >>> redact_content("I am ann@example.org")
    'I am [EMAIL_ADDRESS]'
    """
    return _CONTENT.redact(text)


# Spans


def _find(text: str, patterns: PatternSet, numbers: frozenset[str] = frozenset()) -> list[Span]:
    """Return what the patterns and numbers of these kinds find."""
    spans = list(map(_new_span, patterns.spans(text)))
    if numbers and DIGIT.search(text):
        spans += map(_new_span, number_spans(text, numbers))
    return spans


_new_span: Final = partial(tuple.__new__, Span)
"""Makes a span without a function of Python: the names of its fields come free."""


def merge_spans(spans: list[Span]) -> list[Span]:
    """Return spans in order, with those that overlap united: no part of either is left."""
    if len(spans) < 2:  # noqa: PLR2004 - a single one overlaps with none
        return spans
    spans.sort(key=lambda span: (span.start, -span.end))
    merged: list[Span] = []
    for span in spans:
        if merged and span.start < merged[-1].end:
            if span.end > merged[-1].end:
                merged[-1] = merged[-1]._replace(end=span.end)
        else:
            merged.append(span)
    return merged


def _replace_spans(text: str, spans: Iterable[Span], replacement: Callable[[Span], str]) -> str:
    pieces, position = [], 0
    for span in spans:
        pieces += [text[position : span.start], replacement(span)]
        position = span.end
    return "".join((*pieces, text[position:]))


# Values that contain texts


def map_json(value: Any, change: TextMap) -> Any:
    """Return a value of JSON with ``change`` applied to each string, key, and integer that is long enough for a card.

    A string that is JSON itself is changed inside, so that its escape sequences hide nothing.
    """
    match value:
        case str():
            return map_json_text(value, change) if "\\" in value else change(value)
        case bool():
            return value
        case int() if value >= MIN_REDACTED_NUMBER:
            changed = change(str(value))
            return value if changed == str(value) else changed
        case Mapping():
            return {map_json(key, change): map_json(item, change) for key, item in value.items()}
        case list() | tuple():
            return (
                type(value)(map_json(item, change) for item in value)
                if type(value) in (list, tuple)
                else [map_json(item, change) for item in value]
            )
        case _:
            return value


def map_json_text(text: str, change: TextMap) -> str:
    r"""Return a text of JSON with ``change`` applied to its values; any other text is changed as it is.

    Examples
    --------
    >>> map_json_text('{"to": "a\u0040b"}', lambda text: text.replace("@", "(at)"))
    '{"to": "a(at)b"}'
    >>> map_json_text('{"to": 1.50}', str.upper)
    '{"TO": 1.5}'
    """
    if text.lstrip()[:1] not in {"{", "[", '"'}:
        return change(text)
    try:
        value = json.loads(text)
        changed = map_json(value, change)
    except (ValueError, RecursionError):
        return change(text)
    return text if changed == value else json.dumps(changed, ensure_ascii=False)


def map_part(part: Part, change: TextMap) -> Part:
    """Return a part of a message with ``change`` applied to its texts; pictures, files and signatures are left."""
    field_name, apply = _TEXT_FIELDS.get(type(part), ("", _apply))
    if not field_name:
        return part
    value = getattr(part, field_name)
    if isinstance(value, str):
        changed: Any = apply(value, change)
    else:
        changed = tuple([map_part(item, change) for item in value])
    return part if changed == value else replace(part, **{field_name: changed})


def _apply(text: str, change: TextMap) -> str:
    return change(text)


_TEXT_FIELDS: Final[Mapping[type[Any], tuple[str, Callable[[str, TextMap], str]]]] = {
    Text: ("text", _apply),
    Refusal: ("text", _apply),
    Reasoning: ("text", _apply),
    ToolCall: ("arguments", map_json_text),
    ToolResult: ("content", map_json_text),
    Document: ("name", _apply),
    Opaque: ("data", map_json_text),
}
"""The field of each part that is text, and how it is changed: as text, or inside JSON."""


def map_message(message: Message, change: TextMap) -> Message:
    """Return a message with ``change`` applied to the texts of its parts; itself if nothing changes."""
    parts = tuple([map_part(part, change) for part in message.parts])
    return message if parts == message.parts else Message(message.role, parts)


def map_request(request: CompletionRequest, change: TextMap) -> CompletionRequest:
    """Return a request with ``change`` applied to everything that a provider gets as text; itself if nothing changes.

    That is messages, descriptions and schemas of tools, the schema of the response, the user's id and ``extra``.
    """
    changes: dict[str, Any] = {}
    messages = tuple([map_message(message, change) for message in request.messages])
    if any(new is not old for new, old in zip(messages, request.messages, strict=True)):
        changes["messages"] = messages
    if request.tools:
        tools = tuple(_map_tool(tool, change) for tool in request.tools)
        changes |= {"tools": tools} if tools != request.tools else {}
    if request.response_schema is not None:
        schema = map_json(request.response_schema.schema, change)
        if schema != request.response_schema.schema:
            changes["response_schema"] = replace(request.response_schema, schema=schema)
    if request.user and change(request.user) != request.user:
        changes["user"] = change(request.user)
    if request.extra:
        extra = map_json(request.extra, change)
        changes |= {"extra": extra} if extra != request.extra else {}
    return replace(request, **changes) if changes else request


def _map_tool(tool: Tool, change: TextMap) -> Tool:
    return replace(tool, description=change(tool.description), parameters=map_json(tool.parameters, change))


# Addresses and terminals


def url_secrets(url: str) -> tuple[str, ...]:
    """Return the parts of a URL that may be credentials: password (or a lone user name) and query values.

    Examples
    --------
    >>> url_secrets("https://ann:hunter%202@host/v1?sig=abcdef")
    ('hunter%202', 'hunter 2', 'abcdef')
    """
    try:
        parts = urlsplit(url)
        password = parts.password or parts.username or ""
        values = [value for name, value in parse_qsl(parts.query) if name not in PUBLIC_PARAMETERS]
    except ValueError:
        return ()
    texts = (password, unquote(password), *values, *map(quote, values))
    return tuple(dict.fromkeys(text for text in texts if text))


def escape_controls(text: str) -> str:
    r"""Return ``text`` with control characters as escape sequences, so that a terminal shows and does not obey them.

    Examples
    --------
    >>> escape_controls("\x1b]0;title\x07 ok")
    '\\x1b]0;title\\x07 ok'
    """
    return CONTROL_CHARACTERS.sub(lambda found: repr(found[0])[1:-1], text)

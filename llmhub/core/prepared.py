"""Copies of frozen values with a few fields changed, where each call makes one.

One question, many texts: keys and HTTP requests made by putting a text into what is the same for all.

A million rows of one template differ in one text. What surrounds it is worked out once, with a mark in its place;
law: the results equal those of `request_key` and `prepare` for the request with the text in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from returns.pipeline import is_successful
from returns.result import Result, Success

from llmhub.core.cache_key import canonical_json, json_string, json_strings, key_prefix, request_keyer
from llmhub.core.errors import LLMError
from llmhub.core.protocol import prepare
from llmhub.core.provider import Endpoint, HttpRequest, Provider
from llmhub.core.types import CompletionRequest, Message, Text

T = TypeVar("T")


def field_replacer(kind: type[T], *names: str) -> Callable[..., T]:
    """Make the function that copies a value of a frozen dataclass with slots, and changes the fields ``names``.

    Law: ``field_replacer(kind, "a")(value, 1) == dataclasses.replace(value, a=1)``, at less than half the cost, and without
    checking again what was checked when ``value`` was made.

    Examples
    --------
    >>> from llmhub.core.types import Choice
    >>> ended = field_replacer(Choice, "finish_reason")
    >>> ended(Choice(parts=()), "length")
    Choice(parts=(), finish_reason='length')
    """
    fields: Any = kind.__dict__["__slots__"]
    sets = {f"set_{name}": getattr(kind, name).__set__ for name in fields}
    lines = [f"    set_{name}(made, {name if name in names else f'value.{name}'})" for name in fields]
    # Written out, as `dataclasses` writes its methods: a loop over the fields takes twice as long.
    code = "\n".join([f"def change(value, {', '.join(names)}):", "    made = new(kind)", *lines, "    return made"])
    known: dict[str, Any] = {**sets, "new": object.__new__, "kind": kind}
    exec(code, known)  # noqa: S102 - made of the names of a class of ours
    change: Callable[..., T] = known["change"]
    return change


PromptToRequest: TypeAlias = Callable[[str], CompletionRequest]
"""A text to the request that asks it."""


PromptKeyer: TypeAlias = Callable[[str, int], bytes]
"""A text and a sample's number to the key."""


BatchPromptKeyer: TypeAlias = Callable[[Sequence[str], int], list[bytes]]
"""Texts and a sample's number to their keys."""


PromptPreparer: TypeAlias = Callable[[str, float], Result[HttpRequest, LLMError]]
"""A text and the time to the HTTP request, or to why there is none."""


PLACEHOLDER: Final = "\x00llmhub\x00"
"""Stands for the text that differs: no prompt holds it."""


PIECES_AROUND_PLACEHOLDER: Final = 2
"""What surrounds one mark: something before and something after."""


_REQUEST_SLOTS: Final[tuple[Any, ...]] = tuple(getattr(CompletionRequest, name) for name in CompletionRequest.__slots__)


_replace_model: Final = field_replacer(CompletionRequest, "model")


def request_template(request: CompletionRequest) -> PromptToRequest:
    """Make the function that puts a text as the user's turn behind what ``request`` says.

    Law: ``request_template(r)(t) == replace(r, messages=(*r.messages, Message("user", t)))``.

    Examples
    --------
    >>> request_template(CompletionRequest(model="m", messages=()))("hi").messages[0].text
    'hi'
    """
    before = request.messages
    kept = [(slot.__set__, slot.__get__(request)) for slot in _REQUEST_SLOTS if slot.__name__ != "messages"]
    put_messages = next(slot.__set__ for slot in _REQUEST_SLOTS if slot.__name__ == "messages")

    def ask(text: str) -> CompletionRequest:
        # Field by field, since `replace` would check again what was checked once.
        made = object.__new__(CompletionRequest)
        for put, value in kept:
            put(made, value)
        put_messages(made, (*before, Message("user", (Text(text),))))
        return made

    return ask


def batch_prompt_keyer(provider: Provider, endpoint: Endpoint, to_request: PromptToRequest) -> BatchPromptKeyer:
    """Make the function that keys requests differing in one text, many at a time.

    Law: ``batch_prompt_keyer(p, e, ask)([text], sample) == [request_key(p, e, ask(text), sample)]``.
    """
    begun = _split_key(provider, endpoint, to_request)
    if begun is None:
        whole = request_keyer(provider, endpoint)
        return lambda texts, sample: [whole(to_request(text), sample) for text in texts]
    start, after = begun

    def keys(texts: Sequence[str], sample: int) -> list[bytes]:
        copy = start(sample).copy
        made = []
        for text in json_strings(texts):
            digest = copy()
            digest.update(text + after)
            made.append(digest.digest())
        return made

    return keys


def _split_key(
    provider: Provider, endpoint: Endpoint, ask: PromptToRequest
) -> tuple[Callable[[int], hashlib._Hash], bytes] | None:
    """Give what keys of a sample begin with, and what follows the text; nothing where a text is in there twice."""
    probe = ask(PLACEHOLDER)
    pieces = canonical_json(probe).split(json_string(PLACEHOLDER))
    if len(pieces) != PIECES_AROUND_PLACEHOLDER:
        return None
    before, after = pieces
    head = key_prefix(provider, endpoint)
    url = json_string(provider.locate(endpoint, probe, False))
    known: dict[int, hashlib._Hash] = {}

    def start(sample: int) -> hashlib._Hash:
        found = known.get(sample)
        if found is None:
            found = known[sample] = head.copy()
            found.update(b"%b%d" % (url, sample) + before)
        return found

    return start, after


def with_model(request: CompletionRequest, model: str) -> CompletionRequest:
    """Put the same question to another model. Law: ``with_model(r, m) == replace(r, model=m)``.

    Examples
    --------
    >>> with_model(CompletionRequest(model="m", messages=()), "n").model
    'n'
    """
    if request.model == model:
        return request
    return _replace_model(request, model)


def prompt_keyer(provider: Provider, endpoint: Endpoint, to_request: PromptToRequest) -> PromptKeyer:
    """Make the function that keys requests differing in one text.

    Law: ``prompt_keyer(p, e, ask)(text, sample) == request_key(p, e, ask(text), sample)``.
    """
    begun = _split_key(provider, endpoint, to_request)
    if begun is None:
        whole = request_keyer(provider, endpoint)
        return lambda text, sample: whole(to_request(text), sample)
    start, after = begun

    def key(text: str, sample: int) -> bytes:
        digest = start(sample).copy()
        digest.update(json_string(text) + after)
        return digest.digest()

    return key


def prompt_preparer(
    provider: Provider, endpoint: Endpoint, to_request: PromptToRequest, *, stream: bool
) -> PromptPreparer:
    """Make the function that prepares requests differing in one text.

    Law: ``prompt_preparer(p, e, ask, stream=s)(text, now) == prepare(p, e, ask(text), now, stream=s)``.
    """

    def whole(text: str, now: float) -> Result[HttpRequest, LLMError]:
        return prepare(provider, endpoint, to_request(text), now, stream=stream)

    # A signature covers the body, so it is added to each request; a key is added once.
    signs = provider.signature_covers_body
    once = replace(provider, authorize=_no_authorization) if signs else provider
    probe = prepare(once, endpoint, to_request(PLACEHOLDER), 0.0, stream=stream)
    if not is_successful(probe):
        return whole
    bare = probe.unwrap()
    pieces = bare.body.split(json_string(PLACEHOLDER))
    if len(pieces) != PIECES_AROUND_PLACEHOLDER:
        return whole
    before, after = pieces
    method, url, headers, dropped = bare.method, bare.url, bare.headers, bare.dropped
    authorize = provider.authorize

    def prepared(text: str, now: float) -> Result[HttpRequest, LLMError]:
        if not text or (not text.isascii() and not _encodable(text)):
            return whole(text, now)  # a wire may say an empty text otherwise, or not at all; and some is no text
        request = HttpRequest(method, url, headers, before + json_string(text) + after, dropped)
        return Success(authorize(endpoint, request, now) if signs else request)

    return prepared


class PreparedPrompt(NamedTuple):
    """How one question about many texts is put at one address: the keys, and the HTTP requests."""

    key: PromptKeyer
    prepare: PromptPreparer


def prepare_prompt(
    provider: Provider, endpoint: Endpoint, request: CompletionRequest, *, stream: bool
) -> PreparedPrompt:
    """Make the way of what `request_template` makes of ``request``."""
    ask = request_template(request)
    return PreparedPrompt(
        prompt_keyer(provider, endpoint, ask), prompt_preparer(provider, endpoint, ask, stream=stream)
    )


def _encodable(text: str) -> bool:
    """Say whether a text has bytes; half of a surrogate pair has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_authorization(_endpoint: Endpoint, request: HttpRequest, _now: float) -> HttpRequest:
    return request

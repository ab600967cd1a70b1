"""One question, many texts: keys and HTTP requests made by putting a text into what is the same for all.

A million rows of one template differ in one text. What surrounds it is worked out once, with a mark in its place;
law: the results equal those of `request_key` and `prepare` for the request with the text in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeAlias

from returns.pipeline import is_successful
from returns.result import Result, Success

from llmhub.core.changing import changing
from llmhub.core.codec import canonical, keyed_head, keyer, quoted, quoted_all
from llmhub.core.errors import LLMError
from llmhub.core.provider import Endpoint, HttpRequest, Provider, prepare
from llmhub.core.types import CompletionRequest, Message, Text

Asking: TypeAlias = Callable[[str], CompletionRequest]
"""A text to the request that asks it."""
TextKeyer: TypeAlias = Callable[[str, int], bytes]
"""A text and a sample's number to the key."""
TextsKeyer: TypeAlias = Callable[[Sequence[str], int], list[bytes]]
"""Texts and a sample's number to their keys."""
TextPreparer: TypeAlias = Callable[[str, float], Result[HttpRequest, LLMError]]
"""A text and the time to the HTTP request, or to why there is none."""

MARK: Final = "\x00llmhub\x00"
"""Stands for the text that differs: no prompt holds it."""
PIECES: Final = 2
"""What surrounds one mark: something before and something after."""

_SLOTS: Final[tuple[Any, ...]] = tuple(getattr(CompletionRequest, name) for name in CompletionRequest.__slots__)
_of_model: Final = changing(CompletionRequest, "model")


def asking(request: CompletionRequest) -> Asking:
    """Make the function that puts a text as the user's turn behind what ``request`` says.

    Law: ``asking(r)(t) == replace(r, messages=(*r.messages, Message("user", t)))``.

    Examples
    --------
    >>> asking(CompletionRequest(model="m", messages=()))("hi").messages[0].text
    'hi'
    """
    before = request.messages
    kept = [(slot.__set__, slot.__get__(request)) for slot in _SLOTS if slot.__name__ != "messages"]
    put_messages = next(slot.__set__ for slot in _SLOTS if slot.__name__ == "messages")

    def ask(text: str) -> CompletionRequest:
        # Field by field, since `replace` would check again what was checked once.
        made = object.__new__(CompletionRequest)
        for put, value in kept:
            put(made, value)
        put_messages(made, (*before, Message("user", (Text(text),))))
        return made

    return ask


def texts_keyer(provider: Provider, endpoint: Endpoint, ask: Asking) -> TextsKeyer:
    """Make the function that keys requests differing in one text, many at a time.

    Law: ``texts_keyer(p, e, ask)([text], sample) == [request_key(p, e, ask(text), sample)]``.
    """
    begun = _begun(provider, endpoint, ask)
    if begun is None:
        whole = keyer(provider, endpoint)
        return lambda texts, sample: [whole(ask(text), sample) for text in texts]
    start, after = begun

    def keys(texts: Sequence[str], sample: int) -> list[bytes]:
        copy = start(sample).copy
        made = []
        for text in quoted_all(texts):
            digest = copy()
            digest.update(text + after)
            made.append(digest.digest())
        return made

    return keys


def _begun(provider: Provider, endpoint: Endpoint, ask: Asking) -> tuple[Callable[[int], hashlib._Hash], bytes] | None:
    """Give what keys of a sample begin with, and what follows the text; nothing where a text is in there twice."""
    probe = ask(MARK)
    pieces = canonical(probe).split(quoted(MARK))
    if len(pieces) != PIECES:
        return None
    before, after = pieces
    head = keyed_head(provider, endpoint)
    url = quoted(provider.locate(endpoint, probe, False))
    known: dict[int, hashlib._Hash] = {}

    def start(sample: int) -> hashlib._Hash:
        found = known.get(sample)
        if found is None:
            found = known[sample] = head.copy()
            found.update(b"%b%d" % (url, sample) + before)
        return found

    return start, after


def asked_of(request: CompletionRequest, model: str) -> CompletionRequest:
    """Put the same question to another model. Law: ``asked_of(r, m) == replace(r, model=m)``.

    Examples
    --------
    >>> asked_of(CompletionRequest(model="m", messages=()), "n").model
    'n'
    """
    if request.model == model:
        return request
    return _of_model(request, model)


def text_keyer(provider: Provider, endpoint: Endpoint, ask: Asking) -> TextKeyer:
    """Make the function that keys requests differing in one text.

    Law: ``text_keyer(p, e, ask)(text, sample) == request_key(p, e, ask(text), sample)``.
    """
    begun = _begun(provider, endpoint, ask)
    if begun is None:
        whole = keyer(provider, endpoint)
        return lambda text, sample: whole(ask(text), sample)
    start, after = begun

    def key(text: str, sample: int) -> bytes:
        digest = start(sample).copy()
        digest.update(quoted(text) + after)
        return digest.digest()

    return key


def text_preparer(provider: Provider, endpoint: Endpoint, ask: Asking, *, stream: bool) -> TextPreparer:
    """Make the function that prepares requests differing in one text.

    Law: ``text_preparer(p, e, ask, stream=s)(text, now) == prepare(p, e, ask(text), now, stream=s)``.
    """

    def whole(text: str, now: float) -> Result[HttpRequest, LLMError]:
        return prepare(provider, endpoint, ask(text), now, stream=stream)

    # A signature covers the body, so it is added to each request; a key is added once.
    signs = provider.signs
    once = replace(provider, authorize=_unsigned) if signs else provider
    probe = prepare(once, endpoint, ask(MARK), 0.0, stream=stream)
    if not is_successful(probe):
        return whole
    bare = probe.unwrap()
    pieces = bare.body.split(quoted(MARK))
    if len(pieces) != PIECES:
        return whole
    before, after = pieces
    method, url, headers, dropped = bare.method, bare.url, bare.headers, bare.dropped
    authorize = provider.authorize

    def prepared(text: str, now: float) -> Result[HttpRequest, LLMError]:
        if not text or (not text.isascii() and not _encodable(text)):
            return whole(text, now)  # a wire may say an empty text otherwise, or not at all; and some is no text
        request = HttpRequest(method, url, headers, before + quoted(text) + after, dropped)
        return Success(authorize(endpoint, request, now) if signs else request)

    return prepared


class Way(NamedTuple):
    """How one question about many texts is put at one address: the keys, and the HTTP requests."""

    key: TextKeyer
    prepare: TextPreparer


def way(provider: Provider, endpoint: Endpoint, request: CompletionRequest, *, stream: bool) -> Way:
    """Make the way of what `asking` makes of ``request``."""
    ask = asking(request)
    return Way(text_keyer(provider, endpoint, ask), text_preparer(provider, endpoint, ask, stream=stream))


def _encodable(text: str) -> bool:
    """Say whether a text has bytes; half of a surrogate pair has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unsigned(_endpoint: Endpoint, request: HttpRequest, _now: float) -> HttpRequest:
    return request

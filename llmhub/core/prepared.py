"""Keys and HTTP requests for many prompts that differ in one text, such as the rows of a frame.

What surrounds the text is computed once, with a placeholder in its place; each prompt then costs one hash update or one
concatenation. Laws: the results equal `request_key` and `prepare` of the request with the text in it. A prompt whose
text would occur twice, or nowhere, in the encoded request falls back to those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Final, NamedTuple, TypeAlias

from returns.pipeline import is_successful
from returns.result import Result, Success

from llmhub.core.cache_key import canonical_json, json_string, json_strings, key_prefix, keyed_endpoint, request_keyer
from llmhub.core.construction import fast_constructor
from llmhub.core.errors import LLMError
from llmhub.core.protocol import prepare
from llmhub.core.provider import Endpoint, HttpRequest, Provider
from llmhub.core.types import CompletionRequest, Message, Text

PromptToRequest: TypeAlias = Callable[[str], CompletionRequest]
"""Prompt to request."""
PromptKeyer: TypeAlias = Callable[[str, int], bytes]
"""Prompt and sample number to cache key."""
BatchPromptKeyer: TypeAlias = Callable[[Sequence[str], int], list[bytes]]
"""Prompts and sample number to cache keys."""
PromptPreparer: TypeAlias = Callable[[str, float], Result[HttpRequest, LLMError]]
"""Prompt and time (epoch seconds) to HTTP request."""

PLACEHOLDER: Final = "\x00llmhub\x00"
"""Stands for the prompt while the rest is encoded; prompts do not contain NUL."""
PIECES_AROUND_PLACEHOLDER: Final = 2
"""Pieces into which one placeholder splits the encoded request."""
# With values that are normal already, since normalizing them takes long.
_NEW_REQUEST: Final = fast_constructor(CompletionRequest)
_NEW_MESSAGE: Final = fast_constructor(Message)
_NEW_HTTP_REQUEST: Final = fast_constructor(HttpRequest)
_FIELDS_AFTER_MODEL: Final = attrgetter(*CompletionRequest.__slots__[1:])
_FIELDS_AFTER_MESSAGES: Final = attrgetter(*CompletionRequest.__slots__[2:])


def request_template(request: CompletionRequest) -> PromptToRequest:
    """Return a function that appends a prompt to ``request`` as a user message.

    Law: ``request_template(r)(t) == replace(r, messages=(*r.messages, Message("user", t)))``.

    Examples
    --------
    >>> request_template(CompletionRequest(model="m", messages=()))("hi").messages[0].text
    'hi'
    """
    model, messages, others = request.model, request.messages, _FIELDS_AFTER_MESSAGES(request)

    def to_request(prompt: str) -> CompletionRequest:
        return _NEW_REQUEST(model, (*messages, _NEW_MESSAGE("user", (Text(prompt),))), *others)

    return to_request


def with_model(request: CompletionRequest, model: str) -> CompletionRequest:
    """Return the request for another model. Law: ``with_model(r, m) == replace(r, model=m)``.

    Examples
    --------
    >>> with_model(CompletionRequest(model="m", messages=()), "n").model
    'n'
    """
    if request.model == model:
        return request
    return _NEW_REQUEST(model, *_FIELDS_AFTER_MODEL(request))


def prompt_keyer(provider: Provider, endpoint: Endpoint, to_request: PromptToRequest) -> PromptKeyer:
    """Return a function that computes the cache key of a prompt.

    Law: ``prompt_keyer(p, e, to_request)(text, sample) == request_key(p, e, to_request(text), sample)``.
    """
    split = _split_key(provider, endpoint, to_request)
    if split is None:
        keyer = request_keyer(provider, endpoint)
        return lambda prompt, sample: keyer(to_request(prompt), sample)
    start_digest, suffix = split

    def key(prompt: str, sample: int) -> bytes:
        digest = start_digest(sample).copy()
        digest.update(json_string(prompt) + suffix)
        return digest.digest()

    return key


def batch_prompt_keyer(provider: Provider, endpoint: Endpoint, to_request: PromptToRequest) -> BatchPromptKeyer:
    """Return a function that computes the cache keys of many prompts.

    Law: ``batch_prompt_keyer(p, e, to_request)([text], sample) == [request_key(p, e, to_request(text), sample)]``.
    """
    split = _split_key(provider, endpoint, to_request)
    if split is None:
        keyer = request_keyer(provider, endpoint)
        return lambda prompts, sample: [keyer(to_request(prompt), sample) for prompt in prompts]
    start_digest, suffix = split

    def keys(prompts: Sequence[str], sample: int) -> list[bytes]:
        copy = start_digest(sample).copy
        digests = []
        for prompt in json_strings(prompts):
            digest = copy()
            digest.update(prompt + suffix)
            digests.append(digest.digest())
        return digests

    return keys


def _split_key(
    provider: Provider, endpoint: Endpoint, to_request: PromptToRequest
) -> tuple[Callable[[int], hashlib._Hash], bytes] | None:
    """Return the digest of a key up to the prompt, by sample, and the bytes after it.

    ``None`` if the prompt does not occur exactly once in the request.
    """
    probe = to_request(PLACEHOLDER)
    pieces = canonical_json(probe).split(json_string(PLACEHOLDER))
    if len(pieces) != PIECES_AROUND_PLACEHOLDER:
        return None
    before, after = pieces
    keyed = keyed_endpoint(endpoint)
    prefix = key_prefix(provider, keyed)
    url = json_string(provider.locate(keyed, probe, False))
    digest_by_sample: dict[int, hashlib._Hash] = {}

    def start_digest(sample: int) -> hashlib._Hash:
        digest = digest_by_sample.get(sample)
        if digest is None:
            digest = digest_by_sample[sample] = prefix.copy()
            digest.update(b"%b%d" % (url, sample) + before)
        return digest

    return start_digest, after


def prompt_preparer(
    provider: Provider, endpoint: Endpoint, to_request: PromptToRequest, *, stream: bool
) -> PromptPreparer:
    """Return a function that prepares the HTTP request of a prompt.

    Law: ``prompt_preparer(p, e, to_request, stream=s)(text, now) == prepare(p, e, to_request(text), now, stream=s)``.
    """
    preparer: PromptPreparer | None = None

    def prepare_prompt(prompt: str, now: float) -> Result[HttpRequest, LLMError]:
        nonlocal preparer
        if preparer is None:
            # With the first prompt, since a run may find all its responses in the cache and prepare none.
            preparer = _split_preparer(provider, endpoint, to_request, stream=stream)
        return preparer(prompt, now)

    return prepare_prompt


def _split_preparer(
    provider: Provider, endpoint: Endpoint, to_request: PromptToRequest, *, stream: bool
) -> PromptPreparer:
    """Return a function that puts a prompt into the prepared request around it."""

    def prepare_whole(prompt: str, now: float) -> Result[HttpRequest, LLMError]:
        return prepare(provider, endpoint, to_request(prompt), now, stream=stream)

    # A signature that covers the body is computed per request; any other credential is added once.
    is_signed = provider.signature_covers_body
    unsigned_provider = replace(provider, authorize=_no_authorization) if is_signed else provider
    probe = prepare(unsigned_provider, endpoint, to_request(PLACEHOLDER), 0.0, stream=stream)
    if not is_successful(probe):
        return prepare_whole
    template = probe.unwrap()
    pieces = template.body.split(json_string(PLACEHOLDER))
    if len(pieces) != PIECES_AROUND_PLACEHOLDER:
        return prepare_whole
    before, after = pieces
    method, url, headers, dropped = template.method, template.url, template.headers, template.dropped
    authorize = provider.authorize

    def prepare_prompt_only(prompt: str, now: float) -> Result[HttpRequest, LLMError]:
        if not prompt or (not prompt.isascii() and not _is_encodable(prompt)):
            return prepare_whole(prompt, now)  # wires encode an empty text differently; lone surrogates are an error
        request = _NEW_HTTP_REQUEST(method, url, headers, before + json_string(prompt) + after, dropped)
        return Success(authorize(endpoint, request, now) if is_signed else request)

    return prepare_prompt_only


class PreparedPrompt(NamedTuple):
    """Functions of a prompt appended to one request at one endpoint, sharing what is the same for all prompts.

    Parameters
    ----------
    request
        Returns the complete request.
    key, keys
        Return the cache key of one prompt and of many.
    http
        Returns the HTTP request, or the error that prevents it.
    """

    request: PromptToRequest
    key: PromptKeyer
    keys: BatchPromptKeyer
    http: PromptPreparer


def prepare_prompt(
    provider: Provider, endpoint: Endpoint, request: CompletionRequest, *, stream: bool
) -> PreparedPrompt:
    """Return requests, keys and HTTP requests for prompts appended to ``request`` (see `request_template`)."""
    to_request = request_template(request)
    return PreparedPrompt(
        request=to_request,
        key=prompt_keyer(provider, endpoint, to_request),
        keys=batch_prompt_keyer(provider, endpoint, to_request),
        http=prompt_preparer(provider, endpoint, to_request, stream=stream),
    )


def _is_encodable(text: str) -> bool:
    """Return whether a text can be encoded; half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_authorization(_endpoint: Endpoint, request: HttpRequest, _now: float) -> HttpRequest:
    return request

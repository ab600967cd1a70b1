"""Cache keys: the SHA-256 of everything that determines a response.

That is the version of the mapping, the provider, its wire, address and API version, the headers that choose a model or
its behaviour, the sample number, and the canonical JSON of the request. Equal requests have equal keys; any field that
reaches the wire changes the key; the order of fields and of mapping entries does not.

Credentials are no part of keys, under whatever name they are sent: a renewed token must not make every response be paid
for again. Hence a header or query parameter is left out unless its name says that it determines the response.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import msgspec

from llmhub.core.embedding import EmbedOptions, EmbedRequest
from llmhub.core.provider import Endpoint, Provider, public_url
from llmhub.core.types import CompletionRequest, Text

MAPPING_VERSION: Final = 2
"""Incremented when a wire encodes or decodes with another meaning, so that older responses are not returned."""
CREDENTIALS: Final = frozenset(
    {"authorization", "api-key", "x-api-key", "x-goog-api-key", "x-amz-security-token", "proxy-authorization", "cookie"}
)
"""Headers that identify the caller, in lower case. Other headers were part of keys before `is_keyed` was applied."""
BEHAVIOUR_WORDS: Final = frozenset(
    re.findall(
        r"\w+",
        "apiversion beta betas config configuration deployment experiment fallback fallbacks feature features guardrail"
        " guardrailidentifier guardrailversion guardrails language mode model models organization parameters"
        " performanceconfig preset project prompt provider providers region route routing strategy target"
        " variant version",
    )
)
"""Words in names of headers and query parameters that determine the response (``anthropic-beta``, ``api-version``)."""
CALLER_WORDS: Final = frozenset(
    re.findall(
        r"\w+",
        "auth authorization cookie credential credentials id jwt key keys nonce password passwd sas secret session sig"
        " signature timestamp token tokens trace traceparent tracestate user",
    )
)
"""Words in names that identify a caller or a single request, whatever else the name says."""
_WORDS: Final = re.compile(r"[a-z0-9]+")
_CANONICAL: Final = msgspec.json.Encoder(order="deterministic")

RequestKeyer: TypeAlias = Callable[[CompletionRequest, int], bytes]
"""Request and sample number to cache key."""


def request_key(provider: Provider, endpoint: Endpoint, request: CompletionRequest, sample: int = 0) -> bytes:
    """Return the cache key of a request, 32 bytes.

    Parameters
    ----------
    provider, endpoint
        Recipient of the request; credentials do not change the key.
    request
        Request whose ``model`` is the provider's own model name.
    sample
        Number of the response, if the same request is sent several times.
    """
    return request_keyer(provider, endpoint)(request, sample)


def request_keyer(provider: Provider, endpoint: Endpoint) -> RequestKeyer:
    """Return `request_key` for one endpoint; what all its keys share is hashed once."""
    return _request_keyer(provider, keyed_endpoint(endpoint))


def legacy_request_keyer(provider: Provider, endpoint: Endpoint) -> RequestKeyer | None:
    """Return the keys as they were while all headers, and the whole address, were part of them.

    ``None`` if they are those of `request_keyer`. Responses stored under them are still found.
    """
    headers = {name: value for name, value in endpoint.headers.items() if name.lower() not in CREDENTIALS}
    legacy = replace(endpoint, headers=headers)
    keyed = keyed_endpoint(endpoint)
    if (legacy.base_url, legacy.headers) == (keyed.base_url, keyed.headers):
        return None
    return _request_keyer(provider, legacy)


def scoped_key(key: bytes, scope: str) -> bytes:
    """Return the key of a request within a scope, such as a team that shares its responses with no other.

    Examples
    --------
    >>> scoped_key(b"key", "team:a") == scoped_key(b"key", "team:b")
    False
    """
    return hashlib.sha256(scope.encode() + b"\x00" + key).digest()


def _request_keyer(provider: Provider, keyed: Endpoint) -> RequestKeyer:
    prefix = key_prefix(provider, keyed)
    url_by_model: dict[str, bytes] = {}

    def key(request: CompletionRequest, sample: int = 0) -> bytes:
        url = url_by_model.get(request.model)
        if url is None:
            url = url_by_model[request.model] = json_string(provider.locate(keyed, request, False))
        digest = prefix.copy()
        digest.update(b"%b%d" % (url, sample))
        digest.update(canonical_json(request))
        return digest.digest()

    return key


def key_prefix(provider: Provider, keyed: Endpoint) -> hashlib._Hash:
    """Return the digest state that all keys of an endpoint begin with; ``keyed`` is its `keyed_endpoint`."""
    return hashlib.sha256(
        _CANONICAL.encode(
            [
                MAPPING_VERSION,
                provider.name,
                provider.wire.name,
                str(keyed.base_url) or provider.base_url,
                keyed.api_version,
                keyed.region,
                sorted((name.lower(), value) for name, value in keyed.headers.items()),
            ]
        )
    )


def embedding_keyer(
    provider: Provider, endpoint: Endpoint, model: str, options: EmbedOptions
) -> Callable[[Sequence[str]], list[bytes]]:
    """Return a function from texts to the cache keys of their vectors, 32 bytes each.

    A key does not depend on which other texts are in the request, nor on the form in which the numbers are sent. The
    kind of the texts is part of it only where the provider embeds documents and queries differently.
    """
    service, keyed = provider.vector_service(options), keyed_endpoint(endpoint)
    request = EmbedRequest(model, ("",), options)
    prefix = key_prefix(provider, keyed)
    prefix.update(
        _CANONICAL.encode(
            [
                "embedding",
                service.wire.name if service else "",
                service.locate(keyed, request) if service else "",
                model,
                options.dimensions,
                options.kind if service and service.wire.has_kinds else None,
                options.extra,
                *([] if options.query is None else [options.query]),
            ]
        )
    )

    def keys(texts: Sequence[str]) -> list[bytes]:
        digests = []
        for text in json_strings(texts):
            digest = prefix.copy()
            digest.update(text)
            digests.append(digest.digest())
        return digests

    return keys


def keyed_endpoint(endpoint: Endpoint) -> Endpoint:
    """Return the part of an endpoint that is part of cache keys: it has no credentials.

    Examples
    --------
    >>> endpoint = Endpoint(
    ...     "https://ann:pw@host/v1?sig=s&api-version=1", headers={"X-Auth-Token": "t", "anthropic-beta": "b"}
    ... )
    >>> keyed = keyed_endpoint(endpoint)
    >>> str(keyed.base_url), dict(keyed.headers)
    ('https://host/v1?api-version=1', {'anthropic-beta': 'b'})
    """
    more = {name.lower() for name in endpoint.cache_key_names}
    address, question_mark, query = endpoint.base_url.partition("?")
    if "@" in address or query:
        kept = [pair for pair in query.split("&") if is_keyed(pair.partition("=")[0], more)]
        address = public_url(address) + (question_mark + "&".join(kept) if kept else "")
    return Endpoint(
        base_url=address,
        api_version=endpoint.api_version,
        region=endpoint.region,
        project=endpoint.project,
        headers={name: value for name, value in endpoint.headers.items() if is_keyed(name, more)},
    )


def is_keyed(name: str, more: Collection[str] = ()) -> bool:
    """Return whether a header or query parameter of this name is part of cache keys, or is among ``more``.

    Examples
    --------
    >>> [is_keyed(name) for name in ("anthropic-beta", "OpenAI-Organization", "X-Model-Key", "X-Request-Id", "X-Team")]
    [True, True, False, False, False]
    """
    words = set(_WORDS.findall(name.lower()))
    return name.lower() in more or (bool(words & BEHAVIOUR_WORDS) and not words & CALLER_WORDS)


def canonical_json(request: CompletionRequest) -> bytes:
    """Encode a request with fields in declaration order and mappings sorted by key.

    Law: two requests have the same bytes if and only if they are equal.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> request = CompletionRequest(model="m", messages=(Message("user", "hi"),), extra={"b": 1, "a": 2})
    >>> canonical_json(request)[-45:]
    b'"extra":{"a":2,"b":1},"unsupported":"error"}}'
    """
    try:
        return _CANONICAL.encode(_with_part_kinds(request))
    except UnicodeEncodeError:
        return repr(request).encode("utf-8", "surrogatepass")


def _with_part_kinds(request: CompletionRequest) -> object:
    """Add the type of each part, because two types may have the same fields."""
    messages = request.messages
    if all(len(message.parts) == 1 and type(message.parts[0]) is Text for message in messages):
        return {"request": request}
    kinds = [[type(part).__name__ for part in message.parts] for message in messages]
    return {"kinds": kinds, "request": request}


def json_string(text: str) -> bytes:
    """Encode a string as in canonical requests and in payloads."""
    try:
        return _CANONICAL.encode(text)
    except UnicodeEncodeError:
        # Half of a surrogate pair cannot be sent, but a request with one needs a key nevertheless.
        return json.dumps(text).encode()


def json_strings(texts: Sequence[str]) -> list[bytes]:
    """Encode many strings; equals `json_string` of each, at half the cost."""
    try:
        return list(map(_CANONICAL.encode, texts))
    except UnicodeEncodeError:
        return list(map(json_string, texts))

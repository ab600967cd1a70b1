"""Cache keys: the SHA-256 of everything that determines a response.

That is the version of the mapping, the provider, its wire, address and API version, the headers that are not
credentials, the sample number, and the canonical JSON of the request. Equal requests have equal keys; any field that
reaches the wire changes the key; the order of fields and of mapping entries does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from llmhub.core.types import CompletionRequest, Text

if TYPE_CHECKING:
    from llmhub.core.provider import Endpoint, Provider

MAPPING_VERSION: Final = 2
"""Incremented when a wire encodes or decodes with another meaning, so that older responses are not returned."""
CREDENTIALS: Final = frozenset(
    {"authorization", "api-key", "x-api-key", "x-goog-api-key", "x-amz-security-token", "proxy-authorization", "cookie"}
)
"""Headers that identify the caller, in lower case: they are not part of keys, logs and stores."""
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
    prefix = key_prefix(provider, endpoint)
    url_by_model: dict[str, bytes] = {}

    def key(request: CompletionRequest, sample: int = 0) -> bytes:
        url = url_by_model.get(request.model)
        if url is None:
            url = url_by_model[request.model] = json_string(provider.locate(endpoint, request, False))
        digest = prefix.copy()
        digest.update(b"%b%d" % (url, sample))
        digest.update(canonical_json(request))
        return digest.digest()

    return key


def key_prefix(provider: Provider, endpoint: Endpoint) -> hashlib._Hash:
    """Return the digest state that all keys of an endpoint begin with."""
    return hashlib.sha256(
        _CANONICAL.encode(
            [
                MAPPING_VERSION,
                provider.name,
                provider.wire.name,
                endpoint.base_url or provider.base_url,
                endpoint.api_version,
                endpoint.region,
                sorted((k.lower(), v) for k, v in endpoint.headers.items() if k.lower() not in CREDENTIALS),
            ]
        )
    )


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

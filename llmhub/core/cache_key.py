"""Values as bytes: canonical requests and their keys, and responses as a store keeps them.

A key is the SHA-256 of everything that decides an answer: the mapping's version, the provider, the address,
the api version, the headers that are no credential, which sample it is, and the canonical request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from llmhub.core.types import (
    CompletionRequest,
    Text,
)

if TYPE_CHECKING:
    from llmhub.core.provider import Endpoint, Provider


MAPPING_VERSION: Final = 2
"""Raised when a wire's reading or writing changes meaning, so that old answers are not served for new questions."""


_CANONICAL: Final = msgspec.json.Encoder(order="deterministic")


CREDENTIALS: Final = frozenset(
    {"authorization", "api-key", "x-api-key", "x-goog-api-key", "x-amz-security-token", "proxy-authorization", "cookie"}
)
"""Header names that say who asks, not what: they stay out of keys, logs and stores."""


def json_string(text: str) -> bytes:
    """Give the canonical JSON of a text, as it stands in canonical requests and in payloads."""
    try:
        return _CANONICAL.encode(text)
    except UnicodeEncodeError:
        # Half of a surrogate pair is no text and cannot be sent, but what asks it must still have a key.
        return json.dumps(text).encode()


def json_strings(texts: Sequence[str]) -> list[bytes]:
    """Give `json_string` of each text, at half the cost."""
    try:
        return list(map(_CANONICAL.encode, texts))
    except UnicodeEncodeError:
        return list(map(json_string, texts))


def canonical_json(request: CompletionRequest) -> bytes:
    """Give the one byte form of a request: fields in their declared order, mappings sorted by key.

    Law: equal requests have equal bytes, and any field that differs changes them.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> ask = CompletionRequest(model="m", messages=(Message("user", "hi"),), extra={"b": 1, "a": 2})
    >>> canonical_json(ask)[-45:]
    b'"extra":{"a":2,"b":1},"unsupported":"error"}}'
    """
    try:
        return _CANONICAL.encode(_with_part_kinds(request))
    except UnicodeEncodeError:
        return repr(request).encode("utf-8", "surrogatepass")


def _with_part_kinds(request: CompletionRequest) -> object:
    """Mark each part with its kind, since two kinds may have the same fields."""
    messages = request.messages
    if all(len(message.parts) == 1 and type(message.parts[0]) is Text for message in messages):
        return {"request": request}
    kinds = [[type(part).__name__ for part in message.parts] for message in messages]
    return {"kinds": kinds, "request": request}


RequestKeyer: TypeAlias = Callable[[CompletionRequest, int], bytes]


def request_keyer(provider: Provider, endpoint: Endpoint) -> RequestKeyer:
    """Make the function that keys requests to one address: ``request_keyer(p, e)(request, sample)``.

    What does not change from request to request is hashed once.
    """
    head = key_prefix(provider, endpoint)
    located: dict[str, bytes] = {}

    def key(request: CompletionRequest, sample: int = 0) -> bytes:
        url = located.get(request.model)
        if url is None:
            url = located[request.model] = json_string(provider.locate(endpoint, request, False))
        digest = head.copy()
        digest.update(b"%b%d" % (url, sample))
        digest.update(canonical_json(request))
        return digest.digest()

    return key


def request_key(provider: Provider, endpoint: Endpoint, request: CompletionRequest, sample: int = 0) -> bytes:
    """Give the 32 bytes under which the answer to ``request`` is filed.

    Parameters
    ----------
    provider, endpoint
        Who is asked, and where; credentials do not count.
    request
        What is asked, with the provider's own name of the model.
    sample
        Which of several answers to the same question.

    Notes
    -----
    Laws: equal requests have equal keys; any field that reaches the wire changes the key; the order of
    fields and of mapping entries does not.
    """
    return request_keyer(provider, endpoint)(request, sample)


def key_prefix(provider: Provider, endpoint: Endpoint) -> hashlib._Hash:
    """Hash what all requests to one address share: the beginning of every key."""
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

"""Authorization of requests: a bearer token, a key in a header, or AWS Signature Version 4.

Each function is pure: of the endpoint, the unsigned request and the time (epoch seconds). The endpoint's own
``headers`` are applied last, so a user's header wins; an endpoint without a key adds none.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html (read 2026-11-22).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from typing import Final, TypeAlias
from urllib.parse import SplitResult, quote, urlsplit

from llmhub.core.provider import Endpoint, HttpRequest

Authorize: TypeAlias = Callable[[Endpoint, HttpRequest, float], HttpRequest]

DEFAULT_AWS_REGION: Final = "us-east-1"
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
SIGV4_ALGORITHM: Final = "AWS4-HMAC-SHA256"
UNSIGNED_HEADERS: Final = frozenset(
    {
        "authorization",
        "baggage",
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-amzn-trace-id",
    }
)
"""Headers that a signature leaves out, since proxies may change them."""


def bearer_token(endpoint: Endpoint, request: HttpRequest, _now: float) -> HttpRequest:
    """Send the key as ``Authorization: Bearer``.

    Examples
    --------
    >>> bearer_token(Endpoint(api_key="k"), HttpRequest("POST", "http://localhost", {}), 0.0).headers
    {'authorization': 'Bearer k'}
    """
    token = endpoint.access_token or endpoint.api_key
    headers = {"authorization": f"Bearer {token.reveal()}"} if token else {}
    return _with_headers(request, headers, endpoint.headers)


def api_key_header(name: str) -> Authorize:
    """Return a function that sends the key in the header ``name``, or an OAuth token as ``Authorization: Bearer``.

    Examples
    --------
    >>> api_key_header("api-key")(Endpoint(api_key="k"), HttpRequest("POST", "http://localhost", {}), 0.0).headers
    {'api-key': 'k'}
    """

    def authorize(endpoint: Endpoint, request: HttpRequest, _now: float) -> HttpRequest:
        if endpoint.access_token:
            return bearer_token(endpoint, request, _now)
        return _with_headers(request, {name: endpoint.api_key.reveal()} if endpoint.api_key else {}, endpoint.headers)

    return authorize


def sigv4(service: str) -> Authorize:
    """Return a function that signs with the endpoint's AWS credentials for ``service``.

    Every header is signed except those that proxies may change. The path is percent-encoded twice in its canonical
    form, as every service but S3 requires.
    """
    canonical_request = _canonical_s3_request if service == "s3" else _canonical_request

    def authorize(endpoint: Endpoint, request: HttpRequest, now: float) -> HttpRequest:
        timestamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
        token = {"x-amz-security-token": endpoint.session_token.reveal()} if endpoint.session_token else {}
        unsigned = _with_headers(request, {**token, "x-amz-date": timestamp}, endpoint.headers)
        scope = f"{timestamp[:8]}/{endpoint.region or DEFAULT_AWS_REGION}/{service}/aws4_request"
        signed_names, canonical = canonical_request(unsigned)
        to_sign = "\n".join((SIGV4_ALGORITHM, timestamp, scope, hashlib.sha256(canonical).hexdigest()))
        signing_key = reduce(_hmac, scope.split("/"), b"AWS4" + endpoint.secret_access_key.reveal().encode())
        signature = _hmac(signing_key, to_sign).hex()
        credential = f"{SIGV4_ALGORITHM} Credential={endpoint.access_key_id.reveal()}/{scope}"
        authorization = f"{credential}, SignedHeaders={signed_names}, Signature={signature}"
        return replace(unsigned, headers={"authorization": authorization, **unsigned.headers})

    return authorize


def _with_headers(request: HttpRequest, own: Mapping[str, str], override: Mapping[str, str]) -> HttpRequest:
    """Add headers to a request, all names in lower case, the last value of a name winning."""
    layers = (request.headers, own, override) if override else (request.headers, own)
    return replace(request, headers={name.lower(): value for layer in layers for name, value in layer.items()})


def _hmac(key: bytes, message: str) -> bytes:
    return hmac.new(key, message.encode(), hashlib.sha256).digest()


def _canonical_s3_request(request: HttpRequest) -> tuple[str, bytes]:
    """Return the same for S3: the path is encoded once, and a header may stand for the digest of the body."""
    path = urlsplit(request.url).path or "/"
    return _canonical_request(request, path, request.headers.get("x-amz-content-sha256"))


def _canonical_request(request: HttpRequest, path: str | None = None, payload: str | None = None) -> tuple[str, bytes]:
    """Return the names of the signed headers and the canonical request."""
    url = urlsplit(request.url)
    headers = {"host": _host(url), **request.headers}
    signed = sorted((name, " ".join(value.split())) for name, value in headers.items() if name not in UNSIGNED_HEADERS)
    names = ";".join(name for name, _ in signed)
    pairs = sorted(_query_pair(piece) for piece in url.query.split("&")) if url.query else []
    lines = (
        request.method.upper(),
        quote(_normalized_path(url.path), safe="/~") if path is None else path,
        "&".join("=".join(pair) for pair in pairs),
        *(f"{name}:{value}" for name, value in signed),
        "",
        names,
        hashlib.sha256(request.body).hexdigest() if payload is None else payload,
    )
    return names, "\n".join(lines).encode()


def _query_pair(piece: str) -> tuple[str, str]:
    name, _, value = piece.partition("=")
    return name, value


def _host(url: SplitResult) -> str:
    """Return the host as it is sent: without the user, and without the scheme's default port."""
    host = url.netloc.rpartition("@")[2].lower()
    return host.removesuffix(f":{DEFAULT_PORTS.get(url.scheme, '')}")


def _normalized_path(path: str) -> str:
    """Resolve dots and double slashes, as AWS does before it compares signatures."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in {"", "."}:
            kept.append(segment)
    return "/" + "/".join(kept) + "/" * (path.endswith("/") and bool(kept))

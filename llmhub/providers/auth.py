"""How requests are signed: a bearer token, a key in a header of its own, or AWS Signature Version 4.

Each is a pure function of the endpoint, the bare request and the time. What the endpoint says in its
``headers`` is laid over last, so that a user's own header wins; an endpoint without a key adds none.

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

SIGV4_ALGORITHM: Final = "AWS4-HMAC-SHA256"
DEFAULT_AWS_REGION: Final = "us-east-1"
"""Region of an endpoint that names none."""
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
UNSIGNED_HEADERS: Final = frozenset(
    {
        *(
            "authorization",
            "baggage",
            "connection",
            "expect",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
        ),
        *(
            "te",
            "traceparent",
            "tracestate",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "user-agent",
            "x-amzn-trace-id",
        ),
    }
)
"""Headers that a signature leaves out, since those on the way may change them."""


def bearer_token(endpoint: Endpoint, request: HttpRequest, _now: float) -> HttpRequest:
    """Send the key as ``Authorization: Bearer``.

    Examples
    --------
    >>> bearer_token(Endpoint(api_key="k"), HttpRequest("POST", "http://localhost", {}), 0.0).headers
    {'authorization': 'Bearer k'}
    """
    return _laid(request, {"authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}, endpoint.headers)


def api_key_header(name: str) -> Authorize:
    """Send the key in the header ``name``.

    Examples
    --------
    >>> api_key_header("api-key")(Endpoint(api_key="k"), HttpRequest("POST", "http://localhost", {}), 0.0).headers
    {'api-key': 'k'}
    """

    def authorize(endpoint: Endpoint, request: HttpRequest, _now: float) -> HttpRequest:
        return _laid(request, {name: endpoint.api_key} if endpoint.api_key else {}, endpoint.headers)

    return authorize


def sigv4(service: str) -> Authorize:
    """Sign with the endpoint's AWS credentials for ``service``.

    Every header is signed but the few that a proxy may touch; the path is encoded once more for its
    canonical form, as every service but S3 wants it.
    """

    def authorize(endpoint: Endpoint, request: HttpRequest, now: float) -> HttpRequest:
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
        token = {"x-amz-security-token": endpoint.session_token} if endpoint.session_token else {}
        sent = _laid(request, {**token, "x-amz-date": stamp}, endpoint.headers)
        scope = f"{stamp[:8]}/{endpoint.region or DEFAULT_AWS_REGION}/{service}/aws4_request"
        names, canonical = _canonical(sent)
        to_sign = "\n".join((SIGV4_ALGORITHM, stamp, scope, hashlib.sha256(canonical).hexdigest()))
        key = reduce(_mac, scope.split("/"), b"AWS4" + endpoint.secret_access_key.encode())
        signature = _mac(key, to_sign).hex()
        credential = f"{SIGV4_ALGORITHM} Credential={endpoint.access_key_id}/{scope}"
        signed = {"authorization": f"{credential}, SignedHeaders={names}, Signature={signature}"}
        return replace(sent, headers={**signed, **sent.headers})

    return authorize


def bedrock_auth(endpoint: Endpoint, request: HttpRequest, now: float) -> HttpRequest:
    """Use a Bedrock API key where there is one, and AWS credentials otherwise."""
    return (bearer_token if endpoint.api_key else _SIGN)(endpoint, request, now)


_SIGN: Final = sigv4("bedrock")


def _laid(request: HttpRequest, own: Mapping[str, str], over: Mapping[str, str]) -> HttpRequest:
    """Lay headers over a request's, all names in lower case, the last word winning."""
    layers = (request.headers, own, over) if over else (request.headers, own)
    return replace(request, headers={name.lower(): value for layer in layers for name, value in layer.items()})


def _mac(key: bytes, message: str) -> bytes:
    return hmac.new(key, message.encode(), hashlib.sha256).digest()


def _canonical(request: HttpRequest) -> tuple[str, bytes]:
    """Give the names of the signed headers and the canonical request."""
    url = urlsplit(request.url)
    headers = {"host": _host(url), **request.headers}
    lines = sorted((name, " ".join(value.split())) for name, value in headers.items() if name not in UNSIGNED_HEADERS)
    names = ";".join(name for name, _ in lines)
    query = (
        "&".join("=".join(pair) for pair in sorted(_pair(piece) for piece in url.query.split("&"))) if url.query else ""
    )
    whole = (
        request.method.upper(),
        quote(_path(url.path), safe="/~"),
        query,
        *(f"{name}:{value}" for name, value in lines),
        "",
        names,
        hashlib.sha256(request.body).hexdigest(),
    )
    return names, "\n".join(whole).encode()


def _pair(piece: str) -> tuple[str, str]:
    name, _, value = piece.partition("=")
    return name, value


def _host(url: SplitResult) -> str:
    """Name the host as it is sent: without the user, and without the scheme's own port."""
    host = url.netloc.rpartition("@")[2].lower()
    return host.removesuffix(f":{DEFAULT_PORTS.get(url.scheme, '')}")


def _path(path: str) -> str:
    """Resolve dots and double slashes, as AWS does before it compares."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in {"", "."}:
            kept.append(segment)
    return "/" + "/".join(kept) + "/" * (path.endswith("/") and bool(kept))

"""HTTP Message Signatures (RFC 9421) with HMAC-SHA256: method, target, digest of the body, and headers. Pure.

A signed request has three headers. ``Content-Digest`` (RFC 9530) is the SHA-256 of the body, ``Signature-Input`` lists
what is signed with the time, a nonce and the id of the key, and ``Signature`` is the code of that. A gateway that
verifies such signatures needs the shared secret and no more.

Source: https://www.rfc-editor.org/rfc/rfc9421, https://www.rfc-editor.org/rfc/rfc9530 (read 2026-11-30).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from returns.result import Failure, Result, Success

from llmhub.core.errors import AuthFailed
from llmhub.core.secret import Secret

ALGORITHM: Final = "hmac-sha256"
LABEL: Final = "llmhub"
COMPONENTS: Final = ("@method", "@authority", "@path", "@query", "content-digest")
"""What our own requests sign."""
REQUIRED_COMPONENTS: Final = ("@method", "@path", "@query")
"""What must be signed of a request; of one with a body, ``content-digest`` as well."""
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
MAX_NONCE_CHARACTERS: Final = 128
_ITEM: Final = re.compile(r'"([a-z0-9@_.*-]+)"')
_INPUT: Final = re.compile(
    r'\s*([a-z*][a-z0-9_.*-]*)=(\(([^()]*)\)((?:;[a-z*][a-z0-9_.*-]*=(?:"[^"\\]*"|-?\d{1,15}))*))\s*'
)
_PARAMETER: Final = re.compile(r';([a-z*][a-z0-9_.*-]*)=(?:"([^"\\]*)"|(-?\d{1,15}))')


@dataclass(frozen=True, slots=True)
class SignedParts:
    """Parts of a request that a signature can cover.

    Parameters
    ----------
    method
        As it is sent.
    url
        Absolute URL, percent-encoded as it is sent.
    headers
        Names in lower case.
    body
        The whole body.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class SignatureInput:
    """A parsed ``Signature-Input``: what is signed, and the parameters as they stand there."""

    label: str
    components: tuple[str, ...]
    parameters: Mapping[str, str]
    text: str

    @property
    def key_id(self) -> str:
        """Id of the key."""
        return self.parameters.get("keyid", "")

    @property
    def nonce(self) -> str:
        """The nonce."""
        return self.parameters.get("nonce", "")


def content_digest(body: bytes) -> str:
    """Return the value of the header ``Content-Digest``.

    Examples
    --------
    >>> content_digest(b'{"hello": "world"}')
    'sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:'
    """
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def signature_base(parts: SignedParts, components: Sequence[str], parameters: str) -> Result[str, AuthFailed]:
    r"""Return the canonical form of a request: one line a component, and the parameters of the signature.

    Examples
    --------
    >>> parts = SignedParts("POST", "https://Example.com:443/v1/models?limit=2", {})
    >>> print(signature_base(parts, ["@method", "@authority", "@query"], '("@method" "@authority" "@query")').unwrap())
    "@method": POST
    "@authority": example.com
    "@query": ?limit=2
    "@signature-params": ("@method" "@authority" "@query")
    """
    lines: list[str] = []
    for name in components:
        value = _component(parts, name)
        if value is None:
            return Failure(
                AuthFailed(path="signature-input", message=f"{name!r:.80} is signed, but the request has none")
            )
        lines.append(f'"{name}": {value}')
    return Success("\n".join([*lines, f'"@signature-params": {parameters}']))


def _component(parts: SignedParts, name: str) -> str | None:  # noqa: PLR0911 - one line a component
    if not name.startswith("@"):
        value = parts.headers.get(name)
        return None if value is None else " ".join(value.split("\n")).strip()
    url = urlsplit(parts.url)
    query = f"?{url.query}"
    match name:
        case "@method":
            return parts.method
        case "@target-uri":
            return parts.url
        case "@authority":
            return _authority(parts.url)
        case "@scheme":
            return url.scheme.lower()
        case "@request-target":
            return f"{url.path or '/'}{query if url.query else ''}"
        case "@path":
            return url.path or "/"
        case "@query":
            return query
        case _:
            return None


def _authority(address: str) -> str:
    """Return host and port in lower case, without the default port of the scheme."""
    url = urlsplit(address)
    authority = url.netloc.rpartition("@")[2].lower()
    return authority.removesuffix(f":{DEFAULT_PORTS.get(url.scheme.lower(), '')}")


def compute_signature(secret: bytes, base: str) -> str:
    """Return the HMAC-SHA256 of a signature base, in base64."""
    return base64.b64encode(hmac.digest(secret, base.encode(), "sha256")).decode()


def sign_request(parts: SignedParts, *, key_id: str, secret: Secret, now: float, nonce: str) -> dict[str, str]:
    """Return the headers that sign a request.

    Parameters
    ----------
    parts
        The request.
    key_id, secret
        The key of the receiver.
    now
        Epoch seconds.
    nonce
        A random text that no other request has.

    Examples
    --------
    >>> parts = SignedParts("GET", "https://llm.example/v1/models", {})
    >>> headers = sign_request(parts, key_id="k1", secret=Secret("s"), now=1618884473.0, nonce="n1")
    >>> headers["signature-input"]
    'llmhub=("@method" "@authority" "@path" "@query");created=1618884473;nonce="n1";keyid="k1";alg="hmac-sha256"'
    """
    headers = {"content-digest": content_digest(parts.body)} if parts.body else {}
    components = [name for name in COMPONENTS if name != "content-digest" or parts.body]
    listed = " ".join(f'"{name}"' for name in components)
    parameters = f'({listed});created={int(now)};nonce="{nonce}";keyid="{key_id}";alg="{ALGORITHM}"'
    signed = SignedParts(parts.method, parts.url, {**parts.headers, **headers}, parts.body)
    signature = compute_signature(secret.reveal().encode(), signature_base(signed, components, parameters).unwrap())
    return {**headers, "signature-input": f"{LABEL}={parameters}", "signature": f"{LABEL}=:{signature}:"}


def parse_signature_input(value: str) -> Result[SignatureInput, AuthFailed]:
    """Parse the header ``Signature-Input``, which must hold one signature.

    Examples
    --------
    >>> parse_signature_input('sig=("@method");created=1618884473;keyid="k1"').unwrap().key_id
    'k1'
    """
    found = _INPUT.fullmatch(value)
    components = _ITEM.findall(found[3]) if found else []
    if found is None or " ".join(f'"{name}"' for name in components) != found[3].strip():
        return Failure(AuthFailed(path="signature-input", message="is not one signature in the form of RFC 9421"))
    parameters = {name: text or number for name, text, number in _PARAMETER.findall(found[4])}
    return Success(SignatureInput(found[1], tuple(components), parameters, found[2]))


def verify_request(
    parts: SignedParts, signed: SignatureInput, *, secret: Secret, now: float, window_s: float
) -> AuthFailed | None:
    """Return ``None`` for a request with a valid signature, else the error.

    Whether its nonce was used before is for the caller to check: for as long as the window is open on both sides.

    Parameters
    ----------
    parts
        The request as it was received.
    signed
        Its ``Signature-Input``.
    secret
        The secret of the key that it names.
    now
        Epoch seconds.
    window_s
        How far the time of the signature may be from ``now``.
    """
    refusal = _refusal_of_parameters(parts, signed, now, window_s)
    if refusal is not None:
        return refusal
    base = signature_base(parts, signed.components, signed.text)
    if not isinstance(base, Success):
        return base.failure()
    expected = compute_signature(secret.reveal().encode(), base.unwrap())
    given = re.fullmatch(rf"\s*{re.escape(signed.label)}=:([A-Za-z0-9+/=]+):\s*", parts.headers.get("signature", ""))
    if given is None or not _equal_base64(given[1], expected):
        return AuthFailed(path="signature", message="does not fit the request and the key")
    if "content-digest" in signed.components and not _digest_fits(parts):
        return AuthFailed(path="content-digest", message="does not fit the body")
    return None


def _refusal_of_parameters(
    parts: SignedParts, signed: SignatureInput, now: float, window_s: float
) -> AuthFailed | None:
    required = (*REQUIRED_COMPONENTS, *(("content-digest",) if parts.body else ()))
    covered = {*signed.components, *(REQUIRED_COMPONENTS if _covers_target(signed) else ())}
    missing = [name for name in required if name not in covered]
    if missing or len(set(signed.components)) != len(signed.components):
        message = f"must sign {', '.join(missing or required)}" + ("" if missing else ", each once")
        return AuthFailed(path="signature-input", message=message)
    if signed.parameters.get("alg", ALGORITHM) != ALGORITHM:
        return AuthFailed(path="signature-input", message=f"alg must be {ALGORITHM}")
    if not signed.nonce or len(signed.nonce) > MAX_NONCE_CHARACTERS:
        return AuthFailed(path="signature-input", message=f"needs a nonce of up to {MAX_NONCE_CHARACTERS} characters")
    created, expires = (signed.parameters.get(name, "") for name in ("created", "expires"))
    is_late = bool(expires) and not (expires.isdigit() and now < int(expires))
    if not created.isdigit() or abs(now - int(created)) > window_s or is_late:
        message = f"was created more than {window_s:g} seconds from now; check the clock, and sign each request anew"
        return AuthFailed(path="signature-input", message=message)
    return None


def _covers_target(signed: SignatureInput) -> bool:
    """Return whether path and query are signed as a part of the whole address."""
    return "@method" in signed.components and bool({"@target-uri", "@request-target"} & set(signed.components))


def _equal_base64(given: str, expected: str) -> bool:
    try:
        decoded = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(decoded, base64.b64decode(expected))


def _digest_fits(parts: SignedParts) -> bool:
    digests = [each.strip() for each in parts.headers.get("content-digest", "").split(",")]
    return content_digest(parts.body) in digests

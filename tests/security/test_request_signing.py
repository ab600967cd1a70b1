"""Signatures of requests: the vectors of RFC 9421, RFC 9530 and RFC 4231, and any change that makes them invalid."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Success

from llmhub.core.secret import Secret
from llmhub.security.request_signing import (
    SignedParts,
    compute_signature,
    content_digest,
    parse_signature_input,
    sign_request,
    signature_base,
    verify_request,
)

NOW = 1618884473.0
SECRET = Secret("a secret of these tests")
REQUEST = SignedParts(
    "POST",
    "https://example.com/foo?param=Value&Pet=dog",
    {"host": "example.com", "date": "Tue, 20 Apr 2021 02:07:55 GMT", "content-type": "application/json"},
    b'{"hello": "world"}',
)
"""The example request of RFC 9421, appendix B.2."""
SHARED_SECRET = base64.b64decode(
    "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="
)


class TestPublishedVectors:
    def test_signature_of_rfc_9421(self) -> None:
        parameters = '("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
        base = signature_base(REQUEST, ["date", "@authority", "content-type"], parameters).unwrap()
        assert base.splitlines()[1] == '"@authority": example.com'
        assert compute_signature(SHARED_SECRET, base) == "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="

    def test_digest_of_rfc_9530(self) -> None:
        assert content_digest(b'{"hello": "world"}') == "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"

    @pytest.mark.parametrize(
        ("key", "data", "digest"),
        [
            (b"\x0b" * 20, "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe",
                "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
        ],
    )
    def test_codes_of_rfc_4231(self, key: bytes, data: str, digest: str) -> None:
        assert base64.b64decode(compute_signature(key, data)).hex() == digest

    @pytest.mark.parametrize(
        ("component", "value"),
        [
            ("@method", "POST"),
            ("@target-uri", "https://example.com/foo?param=Value&Pet=dog"),
            ("@scheme", "https"),
            ("@request-target", "/foo?param=Value&Pet=dog"),
            ("@path", "/foo"),
            ("@query", "?param=Value&Pet=dog"),
        ],
    )
    def test_derived_components(self, component: str, value: str) -> None:
        base = signature_base(REQUEST, [component], "()").unwrap()
        assert base.splitlines()[0] == f'"{component}": {value}'


def signed(parts: SignedParts = REQUEST, **more: Any) -> SignedParts:
    added = sign_request(parts, **{"key_id": "k1", "secret": SECRET, "now": NOW, "nonce": "n1", **more})
    return replace(parts, headers={**parts.headers, **added})


def verified(parts: SignedParts, *, secret: Secret = SECRET, now: float = NOW) -> str:
    """Return the message of the error, empty for a valid signature."""
    parsed = parse_signature_input(parts.headers.get("signature-input", ""))
    if not isinstance(parsed, Success):
        return parsed.failure().message
    refusal = verify_request(parts, parsed.unwrap(), secret=secret, now=now, window_s=300.0)
    return "" if refusal is None else refusal.message


class TestVerification:
    def test_a_signed_request_is_valid_within_the_window(self) -> None:
        assert verified(signed()) == ""
        assert verified(signed(replace(REQUEST, body=b""))) == ""
        assert verified(signed(), now=NOW + 300) == verified(signed(), now=NOW - 300) == ""
        assert "created more than 300 seconds" in verified(signed(), now=NOW + 301)
        assert "created more than 300 seconds" in verified(signed(), now=NOW - 302)

    @pytest.mark.parametrize(
        "change",
        [
            {"method": "PUT"},
            {"url": "https://example.com/foo?param=Value&Pet=cat"},
            {"url": "https://example.com/fooo?param=Value&Pet=dog"},
            {"url": "https://example.org/foo?param=Value&Pet=dog"},
            {"body": b'{"hello": "World"}'},
            {"body": b""},
        ],
    )
    def test_a_changed_request_is_not(self, change: dict[str, Any]) -> None:
        assert "does not fit" in verified(replace(signed(), **change))

    def test_another_secret_or_time_or_nonce_is_not(self) -> None:
        assert "does not fit" in verified(signed(), secret=Secret("another"))
        headers = dict(signed().headers)
        for old, new in (("created=1618884473", "created=1618884474"), ('nonce="n1"', 'nonce="n2"'), ("k1", "k2")):
            changed = {**headers, "signature-input": headers["signature-input"].replace(old, new)}
            assert "does not fit" in verified(replace(REQUEST, headers=changed))

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (' "content-digest"', "", "must sign content-digest"),
            ('"@method" ', "", "must sign @method"),
            ('"@query"', '"@query" "@query"', "each once"),
            ('nonce="n1"', 'nonce=""', "needs a nonce"),
            ('alg="hmac-sha256"', 'alg="rsa-v1_5-sha256"', "alg must be"),
            ("created=1618884473;", "", "created more than"),
            (';keyid="k1"', ';keyid="k1";expires=1618884473', "created more than"),
            ('"@query"', '"x-missing" "@query"', "the request has none"),
            ("llmhub=", "", "RFC 9421"),
            (";created", ",other=();created", "RFC 9421"),
        ],
    )
    def test_what_must_be_signed(self, old: str, new: str, message: str) -> None:
        headers = dict(signed().headers)
        headers["signature-input"] = headers["signature-input"].replace(old, new)
        assert message in verified(replace(REQUEST, headers=headers))

    @given(st.text(max_size=200), st.text(max_size=100))
    def test_any_headers_are_refused_without_an_exception(self, given_input: str, signature: str) -> None:
        headers = {**REQUEST.headers, "signature-input": given_input, "signature": signature}
        assert verified(replace(REQUEST, headers=headers))
        valid = dict(signed().headers)
        assert verified(replace(REQUEST, headers={**valid, "signature": signature}))

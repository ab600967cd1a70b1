"""Signed requests: our own hub signs, the service verifies, and nothing that was changed or replayed is accepted."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.core.secret import Secret
from llmhub.security.request_signing import SignedParts, sign_request
from llmhub.server.virtual_keys import NewKey, signing_secret
from tests.server.conftest import ADMIN, Keys
from tests.server.test_keys import CHAT
from tests.server.test_service import fetch

MASTER = Secret("a master secret of these tests, long enough")
PATH = "/v1/chat/completions"


def secret_of(made: NewKey) -> Secret:
    return signing_secret(MASTER, made.key.id, made.key.digest)


def signed_headers(url: str, made: NewKey, body: bytes, *, secret: Secret | None = None, **more: Any) -> dict[str, str]:
    parts = SignedParts("POST", url + PATH, {}, body)
    values = {"key_id": made.key.id, "secret": secret or secret_of(made), "now": time.time(), "nonce": "n1", **more}
    return sign_request(parts, **values)


BODY = b'{"model": "openai/gpt-4o-mini", "max_tokens": 20, "messages": [{"role": "user", "content": "Say hi"}]}'


class TestSignedRequests:
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_hub_signs_for_the_service(self, keys: Keys, stream: bool) -> None:
        running, made = keys.serve(signing_secret=MASTER), keys.create(must_sign=True)
        endpoint = llmhub.Endpoint(
            base_url=f"{running.url}/v1", signing_key_id=made.key.id, signing_secret=secret_of(made)
        )
        with llmhub.Hub(endpoints={"compatible": endpoint}, cache=None) as hub:
            model = "compatible/openai/gpt-4o-mini"
            for _ in range(2):  # equal requests have nonces of their own
                if stream:
                    assert "".join(chunk.text for chunk in llmhub.stream("Say hi", model=model, hub=hub))
                else:
                    assert llmhub.complete("Say hi", model=model, hub=hub).text
        assert keys.registry.describe(made.key).spent_usd > 0

    def test_a_replayed_request_is_refused_by_every_replica(self, keys: Keys) -> None:
        first, second = (keys.serve(signing_secret=MASTER).url for _ in range(2))
        made = keys.create()
        headers = signed_headers(first, made, BODY)
        assert fetch(first, PATH, BODY, headers=headers)[0] == 200
        host = {**headers, "host": urlsplit(first).netloc}
        for url in (first, second):
            status, _, body = fetch(url, PATH, BODY, headers=host)
            assert (status, "received before" in body["error"]["message"]) == (401, True)
        other = signed_headers(first, made, BODY, nonce="n2")
        assert fetch(first, PATH, BODY, headers=other)[0] == 200

    def test_a_changed_late_or_foreign_request_is_refused(self, keys: Keys) -> None:
        url = keys.serve(signing_secret=MASTER).url
        made, other = keys.create(), keys.create()
        attempts: list[tuple[dict[str, str], bytes, str]] = [
            (signed_headers(url, made, BODY), BODY.replace(b"hi", b"ho"), "does not fit the body"),
            (signed_headers(url, made, BODY, secret=secret_of(other)), BODY, "does not fit the request"),
            (signed_headers(url, made, BODY, secret=MASTER), BODY, "does not fit the request"),
            (signed_headers(url, made, BODY, secret=Secret(made.key.digest)), BODY, "does not fit the request"),
            (signed_headers(url, made, BODY, now=time.time() - 301), BODY, "created more than 300 seconds"),
            (signed_headers(url, made, BODY, key_id="k" * 12), BODY, "no key of this service"),
            (signed_headers(url, made, BODY, key_id="../a"), BODY, "no key of this service"),
        ]
        for headers, body, message in attempts:
            status, _, reply = fetch(url, PATH, body, headers=headers)
            assert (status, message in reply["error"]["message"]) == (401, True), reply
        # None of them has used up the nonce.
        assert fetch(url, PATH, BODY, headers=signed_headers(url, made, BODY))[0] == 200

    def test_a_table_can_be_signed(self, keys: Keys) -> None:
        url, made = keys.serve(signing_secret=MASTER).url, keys.create()
        table = pa.table({"text": ["one", "two", "three"]})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        body, path = sink.getvalue().to_pybytes(), "/v1/tables?model=openai/gpt-4o-mini&prompt=Say%20%7Btext%7D"
        kind = {"content-type": "application/vnd.apache.arrow.stream"}
        parts = SignedParts("POST", url + path, {}, body)
        headers = sign_request(parts, key_id=made.key.id, secret=secret_of(made), now=time.time(), nonce="t")
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
        connection.request("POST", path, body, {**kind, **headers})
        reply = connection.getresponse()
        assert pa.ipc.open_stream(reply.read()).read_all().num_rows == 3
        connection.close()
        status, _, refused = fetch(
            url, path, body, headers={**headers, "content-type": "multipart/form-data; boundary=x", "x": "1"}
        )
        assert (status, "received before" in str(refused)) == (401, True)

    def test_an_upload_can_be_signed(self, keys: Keys) -> None:
        url, made = keys.serve(signing_secret=MASTER).url, keys.create()
        lines = b'{"custom_id": "a"}'
        body = (
            b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            b'--b\r\ncontent-disposition: form-data; name="file"; filename="l.jsonl"\r\n\r\n' + lines + b"\r\n--b--\r\n"
        )
        parts = SignedParts("POST", f"{url}/v1/files", {}, body)
        headers = sign_request(parts, key_id=made.key.id, secret=secret_of(made), now=time.time(), nonce="f")
        form = {"content-type": "multipart/form-data; boundary=b"}
        status, _, file = fetch(url, "/v1/files", body, headers={**headers, **form})
        assert (status, file.get("bytes")) == (200, len(lines))

    def test_rotation_and_revocation_hold_for_signatures(self, keys: Keys) -> None:
        url, made = keys.serve(signing_secret=MASTER).url, keys.create()
        rotated = keys.registry.rotate(made.key.id, grace_s=60.0)
        for nonce, key in (("a", made), ("b", rotated)):
            assert fetch(url, PATH, BODY, headers=signed_headers(url, key, BODY, nonce=nonce))[0] == 200
        keys.registry.revoke(made.key.id)
        assert fetch(url, PATH, BODY, headers=signed_headers(url, rotated, BODY, nonce="c"))[0] == 401

    def test_a_key_that_must_sign_is_not_accepted_itself(self, keys: Keys) -> None:
        url, made = keys.serve(signing_secret=MASTER).url, keys.create(must_sign=True)
        status, _, body = fetch(url, PATH, CHAT, headers={"x-api-key": made.token})
        assert (status, "must be signed" in body["error"]["message"]) == (401, True)

    def test_a_service_without_a_secret_says_so(self, keys: Keys) -> None:
        url, made = keys.serve().url, keys.create()
        status, _, body = fetch(url, PATH, BODY, headers=signed_headers(url, made, BODY))
        assert (status, "server.access.signing_secret" in body["error"]["message"]) == (401, True)

    def test_the_admin_api_shows_the_secret_once(self, keys: Keys) -> None:
        url, admin = keys.serve(signing_secret=MASTER).url, {"x-api-key": ADMIN}
        created = fetch(url, "/v1/admin/keys", {}, headers=admin)[2]
        made = NewKey(keys.registry.get(created["key"]["id"]), "")  # type: ignore[arg-type]
        assert created["signing_secret"] == secret_of(made).reveal()
        assert created["signing_secret"] not in str(fetch(url, "/v1/admin/keys", headers=admin))


def test_an_endpoint_needs_both_parts_and_shows_no_secret() -> None:
    with pytest.raises(BadRequestError, match="signing_key_id"):
        llmhub.Endpoint(signing_secret="abc")
    endpoint = llmhub.Endpoint(signing_key_id="k", signing_secret="do not show this")
    assert "do not show" not in repr(endpoint) + repr(endpoint.signing_secret)


def test_an_unsigned_endpoint_sends_no_signature(scripted: Callable[..., Any], replies: Any) -> None:
    server = scripted([replies.answer()])
    signing = {"signing_key_id": "k1", "signing_secret": "s" * 32}
    for more, expected in (({}, False), (signing, True)):
        endpoint = llmhub.Endpoint(base_url=server.url, api_key="key", **more)  # type: ignore[arg-type]
        with llmhub.Hub(endpoints={"compatible": endpoint}, cache=None) as hub:
            assert llmhub.complete("Say hi", model="compatible/m", hub=hub).text == "Hi"
        assert (b"signature-input: llmhub=" in server.requests[-1].lower()) == expected

"""Authorization: SigV4 byte for byte as botocore signs, and the precedence of headers."""

from __future__ import annotations

import datetime as dt
import string
from unittest import mock
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from llmhub.core.provider import Endpoint, HttpRequest
from llmhub.providers.auth import api_key_header, bearer_token, sigv4
from llmhub.providers.bedrock import authorize as authorize_bedrock

KEYS = st.text(string.ascii_letters + string.digits + "/+=", min_size=1, max_size=40)
TOKENS = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=12)
VALUES = st.text(string.ascii_letters + string.digits + " /;=,.-", min_size=1, max_size=20)
SEGMENTS = st.one_of(
    st.text(max_size=12).map(lambda text: quote(text.encode("utf-8", "surrogatepass"), safe="")),
    st.sampled_from(["", ".", "..", "a~b", "%3A0", "a:b"]),
)
HOSTS = st.sampled_from(
    [
        "https://bedrock-runtime.us-east-1.amazonaws.com",
        "https://Bedrock.Example.ORG:443",
        "http://localhost:8080",
        "http://127.0.0.1:80",
        "https://[::1]:8443",
    ]
)
URLS = st.builds(
    lambda host, path, query: host + "".join(f"/{segment}" for segment in path) + (f"?{query}" if query else ""),
    HOSTS,
    st.lists(SEGMENTS, max_size=5),
    st.lists(st.tuples(TOKENS, st.none() | TOKENS), max_size=3).map(
        lambda pairs: "&".join(name if value is None else f"{name}={value}" for name, value in pairs)
    ),
)
ENDPOINTS = st.builds(
    Endpoint,
    access_key_id=KEYS,
    secret_access_key=KEYS,
    session_token=st.just("") | KEYS,
    region=st.sampled_from(["", "us-east-1", "eu-central-1"]),
    headers=st.dictionaries(st.sampled_from(["X-Team", "user-agent", "Content-Type", "x-amzn-trace-id"]), VALUES),
)
NOWS = st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2099, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001 - hypothesis wants naive bounds


def botocore_headers(endpoint: Endpoint, request: HttpRequest, now: dt.datetime) -> dict[str, str]:
    """Return the headers that botocore sends."""
    headers_sent = {name.lower(): value for name, value in {**request.headers, **endpoint.headers}.items()}
    aws = AWSRequest(method=request.method, url=request.url, data=request.body, headers=headers_sent)
    credentials = Credentials(
        endpoint.access_key_id.reveal(), endpoint.secret_access_key.reveal(), endpoint.session_token.reveal() or None
    )
    with mock.patch("botocore.auth.get_current_datetime", return_value=now):
        SigV4Auth(credentials, "bedrock", endpoint.region or "us-east-1").add_auth(aws)
    return {name.lower(): value for name, value in aws.headers.items()}


@settings(max_examples=500, deadline=None)
@given(ENDPOINTS, URLS, st.binary(max_size=50), NOWS)
def test_signature_equals_botocore(endpoint: Endpoint, url: str, body: bytes, now: dt.datetime) -> None:
    request = HttpRequest("POST", url, {"content-type": "application/json"}, body)
    signed = sigv4("bedrock")(endpoint, request, now.timestamp())
    assert signed.headers == botocore_headers(endpoint, request, now.replace(microsecond=0))
    assert (signed.method, signed.url, signed.body) == (request.method, request.url, request.body)


S3_URLS = st.builds(
    lambda key, query: (
        f"https://s3.us-east-1.amazonaws.com/bucket/{quote(key, safe='/')}" + (f"?{query}" if query else "")
    ),
    st.text(string.ascii_letters + string.digits + "-_.~ /é", min_size=1, max_size=30).map(
        lambda text: text.strip("/")
    ),
    st.sampled_from(["", "list-type=2&prefix=a%2Fb%20c", "continuation-token=x%3D&list-type=2&prefix="]),
)


@settings(max_examples=300, deadline=None)
@given(ENDPOINTS, S3_URLS, NOWS)
def test_signature_for_s3_equals_botocore(endpoint: Endpoint, url: str, now: dt.datetime) -> None:
    """Its path is encoded once, and its body, read from disk while it is sent, is not signed."""
    headers = {"content-type": "application/jsonl", "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    signed = sigv4("s3")(endpoint, HttpRequest("PUT", url, headers), now.timestamp())
    sent = {name.lower(): value for name, value in {**headers, **endpoint.headers}.items()}
    aws = AWSRequest(method="PUT", url=url, headers=sent)
    aws.context["client_config"] = Config(s3={"payload_signing_enabled": False})
    token = endpoint.session_token.reveal() or None
    credentials = Credentials(endpoint.access_key_id.reveal(), endpoint.secret_access_key.reveal(), token)
    with mock.patch("botocore.auth.get_current_datetime", return_value=now.replace(microsecond=0)):
        S3SigV4Auth(credentials, "s3", endpoint.region or "us-east-1").add_auth(aws)
    assert signed.headers == {name.lower(): value for name, value in aws.headers.items()}


def test_signature_covers_url_headers_body_time_and_secret() -> None:
    endpoint = Endpoint(access_key_id="a", secret_access_key="s")
    request = HttpRequest("POST", "https://h/model/x%3A0/converse", {}, b"{}")
    signatures = {
        sigv4("bedrock")(*case).headers["authorization"].partition("Signature=")[2]
        for case in (
            (endpoint, request, 0.0),
            (endpoint, request, 1.0),
            (endpoint, HttpRequest("POST", request.url, {}, b"{ }"), 0.0),
            (endpoint, HttpRequest("POST", "https://h/model/x:0/converse", {}, b"{}"), 0.0),
            (endpoint, HttpRequest("POST", request.url, {"a": "b"}, b"{}"), 0.0),
            (Endpoint(access_key_id="a", secret_access_key="t"), request, 0.0),
            (Endpoint(access_key_id="a", secret_access_key="s", region="eu-west-1"), request, 0.0),
        )
    }
    assert len(signatures) == 7


def test_bedrock_api_key_takes_precedence_over_aws_credentials() -> None:
    request = HttpRequest("POST", "https://h/", {})
    with_both = Endpoint(api_key="k", access_key_id="a", secret_access_key="s")
    assert authorize_bedrock(with_both, request, 0.0).headers == {"authorization": "Bearer k"}
    signed = authorize_bedrock(Endpoint(access_key_id="a", secret_access_key="s"), request, 0.0).headers
    assert signed["authorization"].startswith("AWS4-HMAC-SHA256 Credential=a/19700101/us-east-1/bedrock/aws4_request")


@pytest.mark.parametrize("authorize", [bearer_token, api_key_header("api-key"), sigv4("bedrock")])
def test_endpoint_headers_take_precedence(authorize: object) -> None:
    endpoint = Endpoint(api_key="k", headers={"Authorization": "mine", "API-Key": "mine", "Content-Type": "text/x"})
    sent = authorize(endpoint, HttpRequest("POST", "https://h/", {"content-type": "application/json"}), 0.0)  # type: ignore[operator]
    assert sent.headers["authorization"] == "mine"
    assert sent.headers["api-key"] == "mine"
    assert sent.headers["content-type"] == "text/x"


@pytest.mark.parametrize("authorize", [bearer_token, api_key_header("api-key")])
def test_no_header_is_added_without_a_key(authorize: object) -> None:
    assert authorize(Endpoint(), HttpRequest("POST", "https://h/", {}), 0.0).headers == {}  # type: ignore[operator]

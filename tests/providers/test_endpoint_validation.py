"""Endpoints are validated before anything is sent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmhub.core.errors import AuthFailed, InvalidRequest
from llmhub.core.protocol import prepare
from llmhub.core.provider import Endpoint
from llmhub.providers.endpoint_validation import PROBE_REQUEST, validate_endpoint
from llmhub.providers.registry import PROVIDERS

COMPLETE = Endpoint(base_url="https://res.example.org", api_key="k", project="p", region="us-east-1")


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_complete_endpoint_is_valid(name: str) -> None:
    assert validate_endpoint(PROVIDERS[name], COMPLETE) is None


@pytest.mark.parametrize("name", sorted(name for name, row in PROVIDERS.items() if row.required_env))
def test_missing_key_names_every_variable_that_sets_it(name: str) -> None:
    error = validate_endpoint(PROVIDERS[name], Endpoint(base_url="https://res.example.org", project="p"))
    assert isinstance(error, AuthFailed)
    assert (error.provider, error.path) == (name, "$.endpoint.api_key")
    assert all(variable in str(error) for group in PROVIDERS[name].required_env for variable in group)


@pytest.mark.parametrize("name", sorted(name for name, row in PROVIDERS.items() if not row.base_url))
def test_missing_address_is_an_error(name: str) -> None:
    error = validate_endpoint(PROVIDERS[name], Endpoint(api_key="k"))
    assert isinstance(error, InvalidRequest)
    assert error.path == "$.endpoint.base_url"
    assert "Endpoint(base_url=...)" in str(error)


@pytest.mark.parametrize(
    ("name", "endpoint", "path", "expected"),
    [
        ("azure", Endpoint(api_key="k"), "$.endpoint.base_url", "AZURE_OPENAI_ENDPOINT"),
        ("databricks", Endpoint(api_key="k"), "$.endpoint.base_url", "DATABRICKS_HOST"),
        ("openai", Endpoint(base_url="localhost:8000", api_key="k"), "$.endpoint.base_url", "https://"),
        ("openai", Endpoint(base_url="http://[x", api_key="k"), "$.endpoint.base_url", "https://"),
        ("openai", Endpoint(api_key="k\n"), "$.endpoint.api_key", "line break"),
        ("openai", Endpoint(api_key=" k"), "$.endpoint.api_key", "white space"),
        ("bedrock", Endpoint(access_key_id="A"), "$.endpoint.secret_access_key", "AWS_SECRET_ACCESS_KEY"),
        ("bedrock", Endpoint(secret_access_key="s"), "$.endpoint.access_key_id", "AWS_ACCESS_KEY_ID"),
        ("bedrock", Endpoint(api_key="k", region="evil.org/"), "$.endpoint.region", "us-east-1"),
        ("openai", Endpoint(access_key_id="A", secret_access_key="s"), "$.endpoint.api_key", "OPENAI_API_KEY"),
        ("vertex", Endpoint(api_key="k"), "$.endpoint.project", "project"),
    ],
)
def test_error_names_the_field_and_the_remedy(name: str, endpoint: Endpoint, path: str, expected: str) -> None:
    error = validate_endpoint(PROVIDERS[name], endpoint)
    assert error is not None
    assert (error.provider, error.path) == (name, path)
    assert expected in str(error)


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [
        ("bedrock", Endpoint(access_key_id="A", secret_access_key="s")),
        ("bedrock", Endpoint(api_key="k")),
        ("openai", Endpoint(headers={"Authorization": "Bearer k"})),
        ("azure", Endpoint(base_url="https://r.openai.azure.com", headers={"api-key": "k"})),
        ("ollama", Endpoint()),
        ("vllm", Endpoint(base_url="http://localhost:8000/v1")),
    ],
)
def test_sufficient_endpoints(name: str, endpoint: Endpoint) -> None:
    assert validate_endpoint(PROVIDERS[name], endpoint) is None


def test_malformed_key_is_not_in_the_message() -> None:
    error = validate_endpoint(PROVIDERS["openai"], Endpoint(api_key="s3cr3t\n"))
    assert error is not None
    assert "s3cr3t" not in str(error)


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_query_of_an_address_stands_at_the_end_of_the_url(name: str) -> None:
    plain = Endpoint(base_url="http://host/v1", api_key="k", region="us-east-1", project="p", api_version="v1")
    signed = replace(plain, base_url="http://host/v1?sig=a&v=2#x")
    for stream in (False, True):
        own, expected = (
            prepare(PROVIDERS[name], endpoint, PROBE_REQUEST, 0.0, stream=stream).unwrap().url
            for endpoint in (signed, plain)
        )
        assert own == f"{expected}{'&' if '?' in expected else '?'}sig=a&v=2"

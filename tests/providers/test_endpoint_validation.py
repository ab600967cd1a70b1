from __future__ import annotations

import pytest

from llmhub.core.errors import AuthFailed, InvalidRequest
from llmhub.core.provider import Endpoint
from llmhub.providers.endpoint_validation import validate_endpoint
from llmhub.providers.registry import PROVIDERS

WHOLE = Endpoint(base_url="https://res.example.org", api_key="k", project="p", region="us-east-1")


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_a_whole_endpoint_lacks_nothing(name: str) -> None:
    assert validate_endpoint(PROVIDERS[name], WHOLE) is None


@pytest.mark.parametrize("name", sorted(name for name, row in PROVIDERS.items() if row.required_env))
def test_a_missing_key_is_named_with_every_variable_that_would_give_it(name: str) -> None:
    wrong = validate_endpoint(PROVIDERS[name], Endpoint(base_url="https://res.example.org", project="p"))
    assert isinstance(wrong, AuthFailed)
    assert (wrong.provider, wrong.path) == (name, "$.endpoint.api_key")
    assert all(variable in str(wrong) for group in PROVIDERS[name].required_env for variable in group)


@pytest.mark.parametrize("name", sorted(name for name, row in PROVIDERS.items() if not row.base_url))
def test_a_missing_address_is_named(name: str) -> None:
    wrong = validate_endpoint(PROVIDERS[name], Endpoint(api_key="k"))
    assert isinstance(wrong, InvalidRequest)
    assert wrong.path == "$.endpoint.base_url"
    assert "Endpoint(base_url=...)" in str(wrong)


@pytest.mark.parametrize(
    ("name", "endpoint", "path", "said"),
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
def test_what_is_lacking_is_said(name: str, endpoint: Endpoint, path: str, said: str) -> None:
    wrong = validate_endpoint(PROVIDERS[name], endpoint)
    assert wrong is not None
    assert (wrong.provider, wrong.path) == (name, path)
    assert said in str(wrong)


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
def test_what_suffices(name: str, endpoint: Endpoint) -> None:
    assert validate_endpoint(PROVIDERS[name], endpoint) is None


def test_a_key_that_is_wrongly_written_does_not_show() -> None:
    wrong = validate_endpoint(PROVIDERS["openai"], Endpoint(api_key="s3cr3t\n"))
    assert wrong is not None
    assert "s3cr3t" not in str(wrong)

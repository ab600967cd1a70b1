"""What can be said of an endpoint before anything is sent: whether it has a key, an address and what else it needs."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from llmhub.core.errors import AuthFailed, Hint, InvalidRequest, LLMError, with_context
from llmhub.core.provider import Endpoint, Provider
from llmhub.core.types import CompletionRequest, Message

CREDENTIAL_HEADERS: Final = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key"})
"""Headers that stand for a key."""


REGION_PATTERN: Final = re.compile(r"[a-z0-9-]+")


URL_SCHEMES: Final = frozenset({"http", "https"})


PROBE_REQUEST: Final = CompletionRequest(model="any", messages=(Message("user", "hi"),))


def validate_endpoint(provider: Provider, endpoint: Endpoint) -> LLMError | None:
    """Say what an endpoint lacks, and which variables or fields would give it; ``None`` when it lacks nothing.

    Nothing is sent: whether the key is taken, only the provider knows.

    Examples
    --------
    >>> from llmhub.providers.registry import PROVIDERS
    >>> validate_endpoint(PROVIDERS["openai"], Endpoint(api_key="k")) is None
    True
    >>> error = validate_endpoint(PROVIDERS["openai"], Endpoint())
    >>> error.message, error.hint.variables
    ('openai needs credentials', 'OPENAI_API_KEY')
    """
    wrong = _address(provider, endpoint) or _credentials(provider, endpoint)
    if wrong is None:
        # Where an endpoint lacks more than that, the row says so of any request.
        refused = provider.unsupported(endpoint, PROBE_REQUEST)
        wrong = refused if refused is not None and refused.path.startswith("$.endpoint") else None
    return None if wrong is None else with_context(wrong, provider=provider.name)


def _address(provider: Provider, endpoint: Endpoint) -> LLMError | None:
    """Check that there is an address, and that it is one."""
    path = "$.endpoint.base_url"
    if not (endpoint.base_url or provider.base_url):
        names = [
            name for group in provider.required_env for name in group if name.endswith(("_ENDPOINT", "_HOST", "_URL"))
        ]
        hint = Hint("base_url", provider=provider.name, environment=tuple((name,) for name in names))
        return InvalidRequest(path=path, message=f"{provider.name} has no public address", hint=hint)
    try:
        parts = urlsplit(endpoint.base_url or provider.base_url)
        found = parts.scheme in URL_SCHEMES and bool(parts.hostname)
    except ValueError:
        found = False
    if not found:
        return InvalidRequest(path=path, message=f"{endpoint.base_url!r} is no http address; begin it with https://")
    if endpoint.region and not REGION_PATTERN.fullmatch(endpoint.region):
        said = f"{endpoint.region!r} is no region; it is written like us-east-1"
        return InvalidRequest(path="$.endpoint.region", message=said)
    return None


def _credentials(provider: Provider, endpoint: Endpoint) -> LLMError | None:
    """Check that there are credentials where they are needed, and that they can be sent."""
    if not endpoint.api_key.isprintable() or endpoint.api_key != endpoint.api_key.strip():
        said = "the key has white space around it or a line break in it; copy it again"
        return InvalidRequest(path="$.endpoint.api_key", message=said)
    if bool(endpoint.access_key_id) != bool(endpoint.secret_access_key):
        lacking = "secret_access_key" if endpoint.access_key_id else "access_key_id"
        variable = "AWS_SECRET_ACCESS_KEY" if endpoint.access_key_id else "AWS_ACCESS_KEY_ID"
        hint = Hint(lacking, provider=provider.name, environment=((variable,),))
        return AuthFailed(path=f"$.endpoint.{lacking}", message="half of the AWS credentials is missing", hint=hint)
    signed = endpoint.access_key_id and any("AWS_ACCESS_KEY_ID" in group for group in provider.required_env)
    if (
        not provider.required_env
        or endpoint.api_key
        or signed
        or CREDENTIAL_HEADERS & {name.lower() for name in endpoint.headers}
    ):
        return None
    hint = Hint("api_key", provider=provider.name, environment=provider.required_env)
    return AuthFailed(path="$.endpoint.api_key", message=f"{provider.name} needs credentials", hint=hint)

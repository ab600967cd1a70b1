"""Validation of an endpoint before anything is sent: its credentials, its address, and what else its provider needs."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from llmhub.core.errors import AuthFailed, Hint, InvalidRequest, LLMError, with_context
from llmhub.core.provider import Endpoint, Provider, public_url
from llmhub.core.secret import Secret
from llmhub.core.types import CompletionRequest, Message

CREDENTIAL_HEADERS: Final = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key"})
"""Headers of an endpoint that stand for a key."""

ADDRESS_ENV_SUFFIXES: Final = ("_ENDPOINT", "_HOST", "_URL")
"""Endings of the environment variables that hold an address."""

REGION_PATTERN: Final = re.compile(r"[a-z0-9-]+")
URL_SCHEMES: Final = frozenset({"http", "https"})
PROBE_REQUEST: Final = CompletionRequest(model="any", messages=(Message("user", "hi"),))


def validate_endpoint(provider: Provider, endpoint: Endpoint) -> LLMError | None:
    """Return the error of an endpoint that lacks something, naming the variables or fields that set it, else ``None``.

    Nothing is sent: whether a key is valid, only the provider knows.

    Examples
    --------
    >>> from llmhub.providers import PROVIDERS
    >>> validate_endpoint(PROVIDERS["openai"], Endpoint(api_key="k")) is None
    True
    >>> error = validate_endpoint(PROVIDERS["openai"], Endpoint())
    >>> error.message, error.hint.variables
    ('openai needs credentials', 'OPENAI_API_KEY')
    """
    error = _address_error(provider, endpoint) or _credentials_error(provider, endpoint)
    if error is None:
        # What else a provider needs of an endpoint, such as a project, it checks with any request.
        refused = provider.unsupported(endpoint, PROBE_REQUEST)
        error = refused if refused is not None and refused.path.startswith("$.endpoint") else None
    return None if error is None else with_context(error, provider=provider.name)


def _address_error(provider: Provider, endpoint: Endpoint) -> LLMError | None:
    """Check that there is an address, that it is an HTTP URL, and that a region is spelt like one."""
    path = "$.endpoint.base_url"
    address = endpoint.base_url or provider.base_url
    if not address:
        variables = [name for group in provider.required_env for name in group if name.endswith(ADDRESS_ENV_SUFFIXES)]
        hint = Hint("base_url", provider=provider.name, environment=tuple((name,) for name in variables))
        return InvalidRequest(path=path, message=f"{provider.name} has no public address", hint=hint)
    if not _is_http_url(address):
        message = f"{public_url(endpoint.base_url)!r} is not an HTTP URL; begin it with https://"
        return InvalidRequest(path=path, message=message)
    if endpoint.region and not REGION_PATTERN.fullmatch(endpoint.region):
        message = f"{endpoint.region!r} is not a region; regions are spelt like us-east-1"
        return InvalidRequest(path="$.endpoint.region", message=message)
    return None


def _is_http_url(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in URL_SCHEMES and bool(parts.hostname)
    except ValueError:
        return False


def _credentials_error(provider: Provider, endpoint: Endpoint) -> LLMError | None:
    """Check that there are credentials where they are needed, and that they can be sent in a header."""
    if not _is_header_text(endpoint.api_key):
        message = "the key has white space around it or a line break in it; copy it again"
        return InvalidRequest(path="$.endpoint.api_key", message=message)
    if bool(endpoint.access_key_id) != bool(endpoint.secret_access_key):
        missing = "secret_access_key" if endpoint.access_key_id else "access_key_id"
        variable = "AWS_SECRET_ACCESS_KEY" if endpoint.access_key_id else "AWS_ACCESS_KEY_ID"
        hint = Hint(missing, provider=provider.name, environment=((variable,),))
        return AuthFailed(path=f"$.endpoint.{missing}", message="half of the AWS credentials is missing", hint=hint)
    signs = endpoint.access_key_id and any("AWS_ACCESS_KEY_ID" in group for group in provider.required_env)
    has_header = CREDENTIAL_HEADERS & {name.lower() for name in endpoint.headers}
    has_key = endpoint.api_key or endpoint.access_token
    if not provider.required_env or has_key or signs or has_header:
        return None
    hint = Hint("api_key", provider=provider.name, environment=provider.required_env)
    return AuthFailed(path="$.endpoint.api_key", message=f"{provider.name} needs credentials", hint=hint)


def _is_header_text(secret: Secret) -> bool:
    """Return whether a credential can be sent in a header as it is."""
    text = secret.reveal()
    return text.isprintable() and text == text.strip()

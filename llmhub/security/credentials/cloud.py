"""Credentials of clouds by their own libraries: botocore (AWS), google-auth (Google Cloud) and azure-identity (Azure).

Each library walks its own chain: profiles, single sign-on, metadata servers, web identities. They block, so they run in
a thread; they are asked at each read, since the engine keeps what they return until shortly before it expires.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from returns.result import Result

from llmhub.core.errors import LLMError
from llmhub.core.optional_imports import import_optional
from llmhub.core.secret import Secret
from llmhub.providers.registry import providers_of_cloud
from llmhub.security.credentials.credential_store import (
    CredentialContext,
    Credentials,
    CredentialStore,
    fetch_in_thread,
)

GOOGLE_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
AZURE_SCOPE: Final = "https://cognitiveservices.azure.com/.default"


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """Credentials of AWS by botocore (extra ``aws``): environment, profiles, single sign-on, web identity, metadata.

    Parameters
    ----------
    profile
        Name of a profile of ``~/.aws/config``; the one that ``AWS_PROFILE`` names, or the default, if omitted.

    Notes
    -----
    The region is that of the endpoint (``AWS_REGION``), not of the profile, because it is part of cache keys.

    Examples
    --------
    >>> AwsCredentials(profile="research").providers
    frozenset({'bedrock'})
    """

    profile: str = ""

    @property
    def providers(self) -> frozenset[str] | None:
        """The providers that take credentials of AWS."""
        return providers_of_cloud("aws")

    def open(self, context: CredentialContext) -> CredentialStore:
        """Return the store."""
        return _store("aws", context, partial(_read_aws, self.profile))


@dataclass(frozen=True, slots=True)
class GoogleCredentials:
    """Application Default Credentials of Google Cloud by google-auth (extra ``google``).

    Parameters
    ----------
    scope
        Scope of the tokens.

    Notes
    -----
    The project is that of the endpoint (``GOOGLE_CLOUD_PROJECT``), because it is part of the address.

    Examples
    --------
    >>> sorted(GoogleCredentials().providers)
    ['vertex', 'vertex-anthropic']
    """

    scope: str = GOOGLE_SCOPE

    @property
    def providers(self) -> frozenset[str] | None:
        """The providers that take tokens of Google Cloud."""
        return providers_of_cloud("google")

    def open(self, context: CredentialContext) -> CredentialStore:
        """Return the store."""
        return _store("google", context, partial(_read_google, self.scope))


@dataclass(frozen=True, slots=True)
class AzureCredentials:
    """Tokens of Azure AD (Entra ID) by azure-identity (extra ``azure``): environment, workload or managed identity.

    Parameters
    ----------
    client_id
        Client id of a user-assigned managed identity; the system's if omitted.
    scope
        Scope of the tokens.

    Examples
    --------
    >>> "azure" in AzureCredentials().providers
    True
    """

    client_id: str = ""
    scope: str = AZURE_SCOPE

    @property
    def providers(self) -> frozenset[str] | None:
        """The providers that take tokens of Azure AD."""
        return providers_of_cloud("azure")

    def open(self, context: CredentialContext) -> CredentialStore:
        """Return the store."""
        return _store("azure", context, partial(_read_azure, self.client_id, self.scope))


def _store(cloud: str, context: CredentialContext, read: Callable[[], Credentials | None]) -> CredentialStore:
    """Return a store with the credentials of a cloud for its providers."""
    providers = providers_of_cloud(cloud)

    async def fetch(provider: str) -> Result[Credentials | None, LLMError]:
        return await fetch_in_thread(context, cloud, read if provider in providers else _read_none, with_text=True)

    return CredentialStore(cloud, fetch)


def _read_none() -> Credentials | None:
    return None


def _read_aws(profile: str) -> Credentials | None:
    session = import_optional("botocore.session", "aws").Session(profile=profile or None)
    found: Any = session.get_credentials()
    if found is None:
        return None
    frozen = found.get_frozen_credentials()
    # Set on credentials that are renewed, such as those of a role.
    expires_at = getattr(found, "_expiry_time", None)
    return Credentials(
        access_key_id=Secret(frozen.access_key, source="aws"),
        secret_access_key=Secret(frozen.secret_key, source="aws"),
        session_token=Secret(frozen.token or "", source="aws"),
        expires_at=expires_at.timestamp() if isinstance(expires_at, datetime) else None,
    )


def _read_google(scope: str) -> Credentials | None:
    auth = import_optional("google.auth", "google")
    transport = import_optional("google.auth.transport.requests", "google")
    exceptions = import_optional("google.auth.exceptions", "google")
    try:
        found, _project = auth.default(scopes=[scope])
    except exceptions.DefaultCredentialsError:
        return None
    with import_optional("requests", "google").Session() as session:
        found.refresh(transport.Request(session))
    expiry = found.expiry
    return Credentials(
        access_token=Secret(found.token, source="google"),
        # google-auth gives a time in UTC without saying so.
        expires_at=expiry.replace(tzinfo=UTC).timestamp() if expiry is not None else None,
    )


def _read_azure(client_id: str, scope: str) -> Credentials | None:
    identity = import_optional("azure.identity", "azure")
    with identity.DefaultAzureCredential(managed_identity_client_id=client_id or None) as credential:
        try:
            token = credential.get_token(scope)
        except identity.CredentialUnavailableError:
            return None
    return Credentials(access_token=Secret(token.token, source="azure"), expires_at=float(token.expires_on))

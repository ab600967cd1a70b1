"""Credential stores: where the credentials of a provider are read, again and again, so that they can be rotated.

A `CredentialSource` is a value that a `llmhub.Hub` holds; its ``open`` returns a `CredentialStore`, a record with the
function that reads. Sources are asked in the order of a chain. Nothing is cached here:
`llmhub.engine.credential_manager` keeps what was read until it expires or a provider refuses it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from returns.result import Failure, Result, Success

from llmhub.config import (
    CarriedSecret,
    Settings,
    SettingsFiles,
    Variable,
    endpoint_variables,
    parse_settings,
    read_dotenv,
    reload_settings,
    secret_from_variable,
    settings_from_environment,
)
from llmhub.core.errors import AuthFailed, BadRequestError, LLMError, invalid
from llmhub.core.provider import CREDENTIAL_FIELDS, Endpoint, HttpReply, HttpRequest
from llmhub.core.secret import Secret
from llmhub.providers.registry import PROVIDERS
from llmhub.security.redaction import redact

MAX_TEXT: Final = 300
"""Characters of another library's message that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Credentials:
    """Credentials of one provider; the fields are those of `llmhub.Endpoint`. Its ``repr`` shows none.

    Parameters
    ----------
    api_key
        Key.
    access_key_id, secret_access_key, session_token
        AWS credentials.
    access_token
        OAuth token, sent as ``Authorization: Bearer`` in place of a key.
    expires_at
        When they expire, in epoch seconds; ``None`` if that is not known. They are read again before.

    Examples
    --------
    >>> Credentials(api_key="secret")
    Credentials(api_key=Secret(), expires_at=None)
    """

    api_key: Secret
    access_key_id: Secret
    secret_access_key: Secret
    session_token: Secret
    access_token: Secret
    expires_at: float | None

    def __init__(
        self,
        *,
        api_key: str | Secret | None = "",
        access_key_id: str | Secret | None = "",
        secret_access_key: str | Secret | None = "",
        session_token: str | Secret | None = "",
        access_token: str | Secret | None = "",
        expires_at: float | None = None,
    ) -> None:
        checked = Endpoint(
            api_key=api_key,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            access_token=access_token,
        )
        for name in CREDENTIAL_FIELDS:
            object.__setattr__(self, name, getattr(checked, name))
        object.__setattr__(self, "expires_at", expires_at)

    def __repr__(self) -> str:
        """Return the fields that are set, without their values."""
        names = [name for name in CREDENTIAL_FIELDS if getattr(self, name)]
        shown = [f"{name}={getattr(self, name)!r}" for name in names]
        return f"Credentials({', '.join([*shown, f'expires_at={self.expires_at}'])})"

    def __bool__(self) -> bool:
        """Return whether any credential is set."""
        return any(getattr(self, name) for name in CREDENTIAL_FIELDS)

    def is_same(self, other: Credentials) -> bool:
        """Return whether the credentials are equal, whenever they expire."""
        return all(getattr(self, name) == getattr(other, name) for name in CREDENTIAL_FIELDS)


NO_CREDENTIALS: Final = Credentials()


def credentials_of(endpoint: Endpoint) -> Credentials:
    """Return the credentials of an endpoint.

    Examples
    --------
    >>> bool(credentials_of(Endpoint(api_key="k"))), bool(credentials_of(Endpoint("http://localhost")))
    (True, False)
    """
    return Credentials(**{name: getattr(endpoint, name) for name in CREDENTIAL_FIELDS})


def with_credentials(endpoint: Endpoint, credentials: Credentials) -> Endpoint:
    """Return an endpoint with other credentials.

    Examples
    --------
    >>> with_credentials(Endpoint("http://localhost", api_key="old"), Credentials(api_key="new")).api_key.reveal()
    'new'
    """
    return replace(endpoint, **{name: getattr(credentials, name) for name in CREDENTIAL_FIELDS})


def credentials_from_values(provider: str, values: Mapping[str, Any], source: str) -> Credentials | None:
    """Return the credentials among named values: fields of an endpoint, or the provider's environment variables.

    ``None`` if there are none. The names of variables take precedence, since they name the provider too.

    Examples
    --------
    >>> found = credentials_from_values("openai", {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "other"}, "vault")
    >>> found, found.api_key.reveal()
    (Credentials(api_key=Secret(source='vault'), expires_at=None), 'k')
    """
    variables = endpoint_variables(provider) if provider in PROVIDERS else ()
    pairs = (*variables, *((name, name) for name in CREDENTIAL_FIELDS), ("api_key", "value"))
    found: dict[str, Any] = {}
    for field_name, name in pairs:
        value = values.get(name)
        value = value.reveal() if isinstance(value, Secret) else value
        if field_name in CREDENTIAL_FIELDS and isinstance(value, str) and value.strip():
            found.setdefault(field_name, Secret(value.strip(), source=source))
    return Credentials(**found) if found else None


Fetch: TypeAlias = Callable[[str], Awaitable[Result[Credentials | None, LLMError]]]
"""Read the credentials of a provider; ``None`` if the store has none."""


async def _no_close() -> None:
    return None


@dataclass(frozen=True, slots=True)
class CredentialStore:
    """An open credential store.

    Parameters
    ----------
    name
        Name for messages and the decision log.
    fetch
        Reads the credentials of a provider, afresh at each call. It returns errors and raises none.
    close
        Ends its background work.
    """

    name: str
    fetch: Fetch
    close: Callable[[], Awaitable[None]] = _no_close


SendHttp: TypeAlias = Callable[[HttpRequest, Sequence[Secret]], Awaitable[Result[HttpReply, LLMError]]]
"""Send a request over the hub's transport; the secrets are redacted from errors."""
RunInThread: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Run a blocking function off the event loop."""


@dataclass(frozen=True, slots=True)
class CredentialContext:
    """Ways out for a store: the hub's HTTP transport, a thread for blocking libraries, and the time (epoch seconds)."""

    send: SendHttp
    run_in_thread: RunInThread
    clock: Callable[[], float]


@runtime_checkable
class CredentialSource(Protocol):
    """A place that credentials are read from: a value that can be held by a hub and pickled with it."""

    @property
    def providers(self) -> frozenset[str] | None:
        """The providers it has credentials of; ``None`` if that is not known without reading."""

    def open(self, context: CredentialContext) -> CredentialStore:
        """Return the open store, on the event loop. Nothing is read yet."""


async def fetch_in_thread(
    context: CredentialContext, name: str, read: Callable[[], Credentials | None], *, with_text: bool = False
) -> Result[Credentials | None, LLMError]:
    """Run a blocking read in a thread; an exception becomes an error.

    Its text may hold a credential, so that it is left out, or redacted if ``with_text``.
    """
    try:
        return Success(await context.run_in_thread(read))
    except BadRequestError as error:
        return Failure(AuthFailed(path="credentials", message=f"{name}: {error.error}"))
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        text = f": {' '.join(redact(str(error)).split())[:MAX_TEXT]}" if with_text else ""
        message = f"{name}: {type(error).__name__}{text}"
    return Failure(AuthFailed(path="credentials", message=message))


def _with_sources(settings: Settings) -> frozenset[str]:
    """Return the providers that have credentials in settings."""
    return frozenset(name for name, sources in settings.sources.items() if sources)


# Environment, .env and llmhub.toml


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsCredentials:
    """Credentials of the process's environment, of ``.env`` and of ``llmhub.toml``, read again at each request.

    Parameters
    ----------
    files
        The files; those of the working folder if omitted.
    addresses
        The address that each provider must have for its credentials to be returned, so that a new key never goes to an
        old address; any if omitted.

    Examples
    --------
    >>> SettingsCredentials().providers is None
    True
    """

    files: SettingsFiles | None = None
    addresses: Mapping[str, str] | None = None

    @property
    def providers(self) -> frozenset[str] | None:
        """The providers whose addresses are given."""
        return None if self.addresses is None else frozenset(self.addresses)

    def open(self, context: CredentialContext) -> CredentialStore:
        """Return the store."""

        def read(provider: str) -> Credentials | None:
            endpoint = reload_settings(self.files).endpoints.get(provider)
            if endpoint is None or (self.addresses is not None and endpoint.base_url != self.addresses.get(provider)):
                return None
            return credentials_of(endpoint) or None

        async def fetch(provider: str) -> Result[Credentials | None, LLMError]:
            return await fetch_in_thread(context, "settings", partial(read, provider))

        return CredentialStore("settings", fetch)


@dataclass(frozen=True, slots=True)
class EnvironmentCredentials:
    """Credentials of the process's environment only.

    Examples
    --------
    >>> EnvironmentCredentials()
    EnvironmentCredentials()
    """

    @property
    def providers(self) -> frozenset[str] | None:
        """The providers whose variables are set."""
        return _with_sources(settings_from_environment())

    def open(self, context: CredentialContext) -> CredentialStore:
        """Return the store."""

        def read(provider: str) -> Credentials | None:
            endpoint = settings_from_environment().endpoints.get(provider)
            return (credentials_of(endpoint) or None) if endpoint is not None else None

        async def fetch(provider: str) -> Result[Credentials | None, LLMError]:
            return await fetch_in_thread(context, "environment", partial(read, provider))

        return CredentialStore("environment", fetch)


@dataclass(frozen=True, slots=True)
class DotenvCredentials:
    """Credentials of a ``.env`` file.

    Parameters
    ----------
    path
        The file. It need not exist.

    Examples
    --------
    >>> DotenvCredentials("team.env").providers
    frozenset()
    """

    path: str | Path = ".env"

    @property
    def providers(self) -> frozenset[str] | None:
        """The providers whose variables are in the file."""
        return _with_sources(parse_settings(read_dotenv(Path(self.path))))

    def open(self, context: CredentialContext) -> CredentialStore:
        """Return the store."""
        path = Path(self.path)

        def read(provider: str) -> Credentials | None:
            return credentials_from_values(provider, read_dotenv(path), path.name)

        async def fetch(provider: str) -> Result[Credentials | None, LLMError]:
            return await fetch_in_thread(context, str(path), partial(read, provider))

        return CredentialStore(str(path), fetch)


# A function

UserCredentials: TypeAlias = str | Secret | Mapping[str, Any] | Credentials | None
"""What a function may return: a key, fields of an endpoint, `Credentials`, or ``None`` for no credentials."""


@dataclass(frozen=True, slots=True)
class FunctionCredentials:
    """Credentials that a function of the provider's name returns.

    Parameters
    ----------
    function
        Called off the event loop, unless it is a coroutine function. It returns a key, a mapping of fields
        (``{"api_key": ...}``), `Credentials`, or ``None``.

    Examples
    --------
    >>> FunctionCredentials({"openai": "secret"}.get).providers is None
    True
    """

    function: Callable[[str], UserCredentials | Awaitable[UserCredentials]] = field(repr=False)

    @property
    def providers(self) -> frozenset[str] | None:
        """``None``: only the function knows."""
        return None

    def open(self, context: CredentialContext) -> CredentialStore:
        """Return the store."""
        name = getattr(self.function, "__name__", type(self.function).__name__)

        async def fetch(provider: str) -> Result[Credentials | None, LLMError]:
            try:
                if inspect.iscoroutinefunction(self.function):
                    value = await self.function(provider)
                else:
                    value = await context.run_in_thread(partial(self.function, provider))
                    if inspect.isawaitable(value):
                        value = await value
                return Success(_from_user(provider, value, name))
            except BadRequestError as error:
                message = f"{name}({provider!r}): {error.error}"
            except Exception as error:  # noqa: BLE001 - a user's code may raise anything
                # Its text may hold a credential.
                message = f"{name}({provider!r}) raised {type(error).__name__}"
            return Failure(AuthFailed(path="credentials", message=message))

        return CredentialStore(name, fetch)


def _from_user(provider: str, value: Any, name: str) -> Credentials | None:
    """Return the credentials that a function returned; raise for a value of another type, without showing it."""
    if value is None or isinstance(value, Credentials):
        return value or None
    if isinstance(value, (str, Secret)):
        return Credentials(api_key=value) if value else None
    if isinstance(value, Mapping):
        return credentials_from_values(provider, value, name)
    expected = "a key, a mapping of fields, Credentials or None"
    raise invalid("credentials", f"must return {expected}, not {type(value).__name__}")


# Chains


def credential_sources(value: Any, by_name: Mapping[str, Any] | None = None) -> tuple[CredentialSource, ...]:
    """Return the sources of a hub's argument: a source, a function, the name of a plugin, or a list of them.

    Parameters
    ----------
    by_name
        Sources of plugins.

    Raises
    ------
    BadRequestError
        An item is none of these, or no plugin has the name.

    Examples
    --------
    >>> credential_sources([EnvironmentCredentials(), lambda provider: None])
    (EnvironmentCredentials(), FunctionCredentials())
    """
    if value is None:
        return ()
    items = value if isinstance(value, (list, tuple)) else [value]
    return tuple(_source(index, item, by_name or {}) for index, item in enumerate(items))


def _source(index: int, item: Any, by_name: Mapping[str, Any]) -> CredentialSource:
    if isinstance(item, str) and item in by_name:
        item = by_name[item]
    if isinstance(item, CredentialSource):
        return item
    if callable(item):
        return FunctionCredentials(item)
    available = ", ".join(sorted(by_name)) or "none"
    # The text is not shown: it may be a key.
    found = f"a name (plugins: {available})" if isinstance(item, str) else f"of type {type(item).__name__}"
    expected = "a credential source, such as EnvironmentCredentials(), or a function of the provider's name"
    raise invalid(f"credentials[{index}]", f"must be {expected}; it is {found}")


def known_providers(sources: Sequence[CredentialSource]) -> frozenset[str] | None:
    """Return the providers that a chain has credentials of; ``None`` if that is not known.

    Examples
    --------
    >>> known_providers([]), known_providers([FunctionCredentials(str)])
    (frozenset(), None)
    """
    known: frozenset[str] = frozenset()
    for source in sources:
        providers = source.providers
        if providers is None:
            return None
        known |= providers
    return known


# Pickles

ExportedSource: TypeAlias = tuple[type[Any], dict[str, Any]] | CredentialSource


def export_source(source: Any, *, carry: bool) -> ExportedSource:
    """Return a source for a pickle. Its own credentials are included, or the variables they were read from are.

    Raises
    ------
    BadRequestError
        Without ``carry``, the source holds a credential that was given in code.
    """
    if not is_dataclass(source):
        exported: CredentialSource = source
        return exported
    values = {item.name: getattr(source, item.name) for item in fields(source) if item.init}
    for name, value in values.items():
        if not isinstance(value, Secret):
            continue
        if not (carry or value.source or not value):
            remedy = "which is not pickled; set its variable instead, or pass Hub(keys='carry')"
            raise invalid(f"credentials.{name}", f"holds a credential that was given in code, {remedy}")
        is_carried = carry or not value
        values[name] = CarriedSecret(value.reveal(), value.source) if is_carried else Variable(value.source)
    return type(source), values


def import_source(exported: ExportedSource) -> CredentialSource:
    """Return an exported source, with this process's own variables where its credentials were not included."""
    if not isinstance(exported, tuple):
        return exported
    kind, values = exported
    for name, value in values.items():
        if isinstance(value, CarriedSecret):
            values[name] = Secret(value.text, source=value.source)
        elif isinstance(value, Variable):
            values[name] = secret_from_variable(value.name)
    source: CredentialSource = kind(**values)
    return source

"""Settings from environment variables and ``llmhub.toml``, as one frozen value. The only reader of the environment.

`llmhub.providers.registry.ENVIRONMENT_VARIABLES` lists the variables of each provider. `parse_settings` is a pure
function of mappings; `load_settings` reads the process's environment and the file.

The file is long because no other may read the environment.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from llmhub.core.cache_key import is_keyed
from llmhub.core.dotenv import parse_dotenv
from llmhub.core.errors import AuthenticationError, AuthFailed, BadRequestError, InvalidRequest, invalid
from llmhub.core.provider import SECRET_FIELDS, Endpoint, Provider
from llmhub.core.proxies import NO_PROXIES, Proxies, Proxy, parse_proxies
from llmhub.core.secret import Secret, SecretHeaders
from llmhub.providers.registry import ENVIRONMENT_VARIABLES, PROVIDERS

CONFIG_FILE: Final = "llmhub.toml"
FILE_SECTIONS: Final = ("credentials", "endpoints", "profiles", "server")
PROFILE_SECTIONS: Final = ("endpoints",)
DOTENV_FILE: Final = ".env"
PROFILE_VARIABLE: Final = "LLMHUB_PROFILE"
ENDPOINT_FIELDS: Final = frozenset(Endpoint.__dataclass_fields__)
FILE_FIELDS: Final = ENDPOINT_FIELDS - {"simulated"}
"""Fields of an endpoint that ``llmhub.toml`` sets."""
CACHE_FOLDERS: Final = ("LOCALAPPDATA", "XDG_CACHE_HOME")
"""Variables that name the platform's folder for caches."""
CREDENTIALS_FILE_VARIABLE: Final = "LLMHUB_CREDENTIALS_FILE"
PASSPHRASE_VARIABLE: Final = "LLMHUB_CREDENTIALS_PASSPHRASE"  # noqa: S105 - the name of a variable
CERTIFICATE_VARIABLES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables with a file of trusted certificates; the first that is set applies, in place of the system's."""
HARMLESS_HEADERS: Final = frozenset(
    {"accept", "accept-encoding", "accept-language", "content-type", "http-referer", "referer", "user-agent", "x-title"}
)
"""Headers of endpoints that hold no credential, besides those that are part of cache keys; any other may hold one."""
PUBLIC_PARAMETERS: Final = frozenset({"api-version", "api_version", "version", "alt"})
"""Parameters in the query of an address that hold no credential."""
PLUGIN_POLICIES: Final = ("on", "strict", "off")

FieldVariables: TypeAlias = tuple[tuple[str, str], ...]
"""Pairs of an endpoint's field and a variable that sets it; the first variable that is set wins."""


@dataclass(frozen=True, slots=True)
class SettingsFiles:
    """The files that settings are read from, and the profile in the first of them.

    Parameters
    ----------
    toml
        File in the format of ``llmhub.toml``.
    dotenv
        File with variables. Those of a provider apply if none of its credentials is in the process's environment, so
        that a file never redirects a key of the environment to another address. Nothing else is taken from it.
    profile
        Name of a profile, whose ``[profiles.NAME.endpoints.PROVIDER]`` take precedence over ``[endpoints.PROVIDER]``
        field by field; empty for none.
    """

    toml: Path
    dotenv: Path
    profile: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Endpoints, cache and proxies as the environment and the file configure them.

    Parameters
    ----------
    endpoints
        Endpoints of the providers whose credentials are set, by name.
    cache_path
        File of the default cache; ``None`` if it is not a file.
    cache_url
        URL of the default cache (``redis://...``), if ``LLMHUB_CACHE`` is one.
    tokenizer_folder
        Folder in which tiktoken keeps vocabularies; ``None`` if it keeps them for the session only.
    proxies
        Proxies of the variables ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``.
    ca_file
        File (or folder) of trusted certificates and the variable that names it; ``None`` for the system's.
    sources
        Names of the variables, or of the file, that the credentials of each provider come from; never their values.
    credential_sources
        Fields of each ``[[credentials]]`` of the file, in order, with values that are not shown.
    partial_endpoints
        Address, region and the like of providers whose credentials are not set here, for hubs that read them elsewhere.
    files
        The files that were read beside the environment, so that they can be read again; ``None`` for none.
    """

    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    cache_path: Path | None = None
    cache_url: str = field(default="", repr=False)
    tokenizer_folder: Path | None = None
    proxies: Proxies = NO_PROXIES
    ca_file: tuple[str, str] | None = None
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    credential_sources: tuple[SecretHeaders, ...] = ()
    partial_endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    files: SettingsFiles | None = field(default=None, compare=False)


class Variable(NamedTuple):
    """An environment variable that another process reads a credential from."""

    name: str


class OwnCredential(NamedTuple):
    """A credential that another process reads from its own settings: the provider, and the field of its endpoint."""

    provider: str
    field: str


class CarriedSecret(NamedTuple):
    """A credential that is part of a pickle, and where it came from."""

    text: str
    source: str


def s3_endpoint() -> str:
    """Return the address of the object store that speaks S3, as AWS's own tools read it; empty for AWS itself."""
    return next((os.environ[name] for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), "")


def azure_storage_key() -> str:
    """Return the key of an Azure storage account, as Azure's own tools read it; empty to sign in another way."""
    names = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY")
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def load_settings(
    folder: Path | None = None,
    plugin_providers: Mapping[str, Provider] | None = None,
    *,
    file: Path | None = None,
    profile: str | None = None,
) -> Settings:
    """Load settings from the process's environment, and ``.env`` and ``llmhub.toml`` in ``folder``.

    Parameters
    ----------
    folder
        The working directory if omitted.
    plugin_providers
        Providers added by plugins, by name.
    file
        A file to read instead of ``llmhub.toml``.
    profile
        Profile in that file (see `SettingsFiles`); the one that ``LLMHUB_PROFILE`` names if omitted.

    Raises
    ------
    BadRequestError
        A file cannot be read, has unknown fields, or lacks the profile.
    """
    folder = folder or Path.cwd()
    profile = os.environ.get(PROFILE_VARIABLE, "") if profile is None else profile
    return reload_settings(SettingsFiles(file or folder / CONFIG_FILE, folder / DOTENV_FILE, profile), plugin_providers)


def reload_settings(files: SettingsFiles | None, plugin_providers: Mapping[str, Provider] | None = None) -> Settings:
    """Load settings from the process's environment and these files; those of the working directory if omitted."""
    if files is None:
        return load_settings(plugin_providers=plugin_providers)
    settings = _load(files, plugin_providers)
    if isinstance(settings, Settings):
        return settings
    # Raised here, without the frames in which the environment and the file are local variables: a traceback may show
    # those.
    raise BadRequestError(settings)


def settings_from_environment(plugin_providers: Mapping[str, Provider] | None = None) -> Settings:
    """Return the settings of the process's environment alone."""
    return parse_settings(os.environ, None, plugin_providers)


def secret_from_variable(name: str) -> Secret:
    """Return the credential in an environment variable, which remembers the name; empty if the variable is not set.

    Examples
    --------
    >>> bool(secret_from_variable("LLMHUB_NO_SUCH_VARIABLE"))
    False
    """
    return Secret(os.environ.get(name, "").strip(), source=name)


def read_dotenv(path: Path) -> dict[str, str]:
    """Return the variables in a ``.env`` file; none if there is no file.

    Raises
    ------
    BadRequestError
        The file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    except (UnicodeDecodeError, OSError) as error:
        message = f"cannot be read: {_reason_without_content(error)}"
    else:
        return parse_dotenv(text)
    raise invalid(str(path), message)


def _reason_without_content(error: Exception) -> str:
    """Return why a file cannot be read. The text of some errors holds a part of the file, and so perhaps of a key."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return str(error)


def _load(files: SettingsFiles, plugin_providers: Mapping[str, Provider] | None) -> Settings | InvalidRequest:
    """Return the settings, or the error in a file."""
    path = files.toml
    try:
        file = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        return InvalidRequest(path=str(path), message=f"cannot be read: {_reason_without_content(error)}")
    try:
        dotenv = read_dotenv(files.dotenv)
        settings = parse_settings(os.environ, file, plugin_providers, dotenv=dotenv, profile=files.profile)
        return replace(settings, files=files)
    except BadRequestError as error:
        return error.error if isinstance(error.error, InvalidRequest) else InvalidRequest(message=str(error))


def parse_settings(
    environ: Mapping[str, str],
    file: Mapping[str, Any] | None = None,
    plugin_providers: Mapping[str, Provider] | None = None,
    *,
    dotenv: Mapping[str, str] | None = None,
    profile: str = "",
) -> Settings:
    """Combine environment variables with the contents of ``llmhub.toml``; variables take precedence, field by field.

    Parameters
    ----------
    environ
        Environment variables.
    file
        The parsed file.
    plugin_providers
        Providers added by plugins, by name.
    dotenv
        Variables of a ``.env`` file, for providers of which ``environ`` has no credential.
    profile
        Profile of the file whose endpoints take precedence over its others, field by field.

    Examples
    --------
    >>> settings = parse_settings({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://localhost:8000/v1"})
    >>> "openai" in settings.endpoints, "anthropic" in settings.endpoints, settings.endpoints["openai"].base_url
    (True, False, 'http://localhost:8000/v1')
    """
    known = {**PROVIDERS, **(plugin_providers or {})}
    whole = _require_known(file or {}, FILE_SECTIONS, "")
    configured = _require_table(whole, "endpoints")
    _require_known(configured, tuple(known), "endpoints.")
    profiled, section = _profile_endpoints(whole, profile, known)
    endpoints: dict[str, Endpoint] = {}
    partial_endpoints: dict[str, Endpoint] = {}
    sources: dict[str, tuple[str, ...]] = {}
    for name, provider in known.items():
        variables = endpoint_variables(name, provider)
        own = _variables_of(variables, environ, dotenv or {})
        values = {
            **_fields_from_file(configured, name),
            **_fields_from_file(profiled, name, section),
            **_fields_from_variables(variables, own, DOTENV_FILE if own is not environ else ""),
        }
        if _is_complete(provider, variables, values):
            endpoints[name] = Endpoint(**values)
            sources[name] = _credential_sources(variables, own, values, in_dotenv=own is not environ)
        elif rest := {field_name: value for field_name, value in values.items() if field_name not in SECRET_FIELDS}:
            partial_endpoints[name] = Endpoint(**rest)
    folder = environ.get("TIKTOKEN_CACHE_DIR") or environ.get("DATA_GYM_CACHE_DIR")
    cache = environ.get("LLMHUB_CACHE", "")
    return Settings(
        endpoints=endpoints,
        partial_endpoints=partial_endpoints,
        cache_path=None if "://" in cache else _cache_path(environ),
        cache_url=cache if "://" in cache else "",
        tokenizer_folder=Path(folder) if folder else None,
        proxies=parse_proxies(environ),
        ca_file=next(((environ[name], name) for name in CERTIFICATE_VARIABLES if environ.get(name)), None),
        sources=sources,
        credential_sources=_credential_tables(whole),
    )


def _credential_tables(file: Mapping[str, Any]) -> tuple[SecretHeaders, ...]:
    """Return the fields of each ``[[credentials]]``; raise for what is no table of strings with a source."""
    tables = file.get("credentials", [])
    place = "credentials"
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        raise _invalid_file(place, 'must be tables; write [[credentials]] and source = "vault" and the like below')
    for index, table in enumerate(tables):
        for name in ("source", *table):
            if not isinstance(table.get(name), str):
                raise _invalid_file(f"{place}[{index}].{name}", "must be a string; write it in quotes")
    return tuple(map(SecretHeaders, tables))


def variables_with_prefix(prefix: str) -> dict[str, str]:
    """Return the environment variables whose names begin with ``prefix``."""
    return {name: value for name, value in os.environ.items() if name.startswith(prefix)}


def log_setting() -> str:
    """Return which log records are written to standard error (``LLMHUB_LOG``): a level, or empty for none."""
    return os.environ.get("LLMHUB_LOG", "")


def service_key() -> str:
    """Return the key for a service (``LLMHUB_SERVICE_KEY``), or an empty string."""
    return os.environ.get("LLMHUB_SERVICE_KEY", "").strip()


def plugin_policy() -> str:
    """Return whether plugins are loaded (``LLMHUB_PLUGINS``): ``on``, ``strict`` or ``off``."""
    policy = os.environ.get("LLMHUB_PLUGINS", "").strip().lower() or "on"
    if policy not in PLUGIN_POLICIES:
        raise invalid("LLMHUB_PLUGINS", f"must be one of {', '.join(PLUGIN_POLICIES)}, not {policy!r:.80}")
    return policy


def endpoint_variables(name: str, provider: Provider | None = None) -> FieldVariables:
    """Return the fields of a provider's endpoint and the variables that set them.

    A provider without entries in ``ENVIRONMENT_VARIABLES`` has ``NAME_API_KEY`` (or its own variable for the key) and
    ``NAME_BASE_URL``.

    Examples
    --------
    >>> endpoint_variables("vllm")
    (('api_key', 'VLLM_API_KEY'), ('base_url', 'VLLM_BASE_URL'))
    """
    variables = ENVIRONMENT_VARIABLES.get(name)
    if variables is None:
        stem = name.upper().replace("-", "_")
        keys = [group[0] for group in (provider or PROVIDERS[name]).required_env if len(group) == 1]
        variables = (*(("api_key", key) for key in keys or [f"{stem}_API_KEY"]), ("base_url", f"{stem}_BASE_URL"))
    return variables


def _variables_of(
    variables: FieldVariables, environ: Mapping[str, str], dotenv: Mapping[str, str]
) -> Mapping[str, str]:
    """Return the variables of a provider: ``environ`` itself, unless only ``.env`` has credentials of it.

    Taken together otherwise, a file in the working directory could send a key of the environment to its own address.
    """
    secret = [variable for field_name, variable in variables if field_name in SECRET_FIELDS]
    if any(environ.get(name, "").strip() for name in secret) or not any(dotenv.get(name) for name in secret):
        return environ
    return {**{name: dotenv[name] for _, name in variables if name in dotenv}, **environ}


def _profile_endpoints(
    file: Mapping[str, Any], profile: str, known: Mapping[str, Provider]
) -> tuple[Mapping[str, Any], str]:
    """Return the endpoints of a profile and the prefix of their sections; raise if the file lacks the profile."""
    profiles = _require_table(file, "profiles")
    for name in profiles:
        table = _require_known(_require_table(profiles, name, "profiles."), PROFILE_SECTIONS, f"profiles.{name}.")
        _require_known(_require_table(table, "endpoints", f"profiles.{name}."), tuple(known), "endpoints.")
    if not profile:
        return {}, "endpoints"
    if profile not in profiles:
        found = ", ".join(sorted(profiles)) or "none"
        raise invalid(PROFILE_VARIABLE, f"{CONFIG_FILE} has no profile {profile!r}; its profiles: {found}")
    return profiles[profile].get("endpoints", {}), f"profiles.{profile}.endpoints"


def _fields_from_variables(variables: FieldVariables, environ: Mapping[str, str], source: str = "") -> dict[str, Any]:
    """Return the endpoint fields that variables set; credentials name the variable, or ``source``, they come from."""
    values: dict[str, Any] = {}
    for field_name, variable in variables:
        if value := environ.get(variable, "").strip():
            is_secret = field_name in SECRET_FIELDS
            values.setdefault(field_name, Secret(value, source=source or variable) if is_secret else value)
    return values


def _fields_from_file(configured: Mapping[str, Any], name: str, prefix: str = "endpoints") -> dict[str, Any]:
    """Return the endpoint fields that the file sets; raise for unknown fields and values that are not strings."""
    section = f"{prefix}.{name}"
    table = _require_table(configured, name, f"{prefix}.")
    values = _require_known(table, tuple(sorted(FILE_FIELDS)), f"{section}.")
    for key, value in values.items():
        texts = _require_table(values, key, f"{section}.").values() if key == "headers" else [value]
        if key == "cache_key_names" and isinstance(value, list):
            texts = value
        if not all(isinstance(text, str) for text in texts):
            raise _invalid_file(f"{section}.{key}", "must be a string; write it in quotes")
    return {key: Secret(value, source=CONFIG_FILE) if key in SECRET_FIELDS else value for key, value in values.items()}


def _is_complete(provider: Provider, variables: FieldVariables, values: Mapping[str, Any]) -> bool:
    """Return whether the fields of at least one group of required variables are set, from either source."""
    fields = {variable: field_name for field_name, variable in variables}
    groups = ([fields.get(variable, "") for variable in group] for group in provider.required_env)
    return not provider.required_env or any(all(values.get(field_name) for field_name in group) for group in groups)


def _credential_sources(
    variables: FieldVariables, environ: Mapping[str, str], values: Mapping[str, Any], *, in_dotenv: bool = False
) -> tuple[str, ...]:
    """Return the names of the variables, or of the file, that the credentials come from."""
    by_field: dict[str, str] = {}
    for field_name, variable in variables:
        if field_name in SECRET_FIELDS and environ.get(variable, "").strip():
            by_field.setdefault(field_name, DOTENV_FILE if in_dotenv else variable)
    secrets = (field_name for field_name in values if field_name in SECRET_FIELDS)
    return tuple(dict.fromkeys(by_field.get(field_name, CONFIG_FILE) for field_name in secrets))


# Settings and endpoints for another process

Exported: TypeAlias = dict[str, Any]
"""Fields of an endpoint or of settings as plain values: a credential as text, or as the variable to read it from."""


def export_endpoint(provider: str, endpoint: Endpoint, *, carry: bool) -> Exported:
    """Return the fields of an endpoint for a pickle.

    Parameters
    ----------
    provider
        The provider's name.
    endpoint
        Endpoint to export.
    carry
        Whether to include credentials. Otherwise the process that unpickles reads its own: the environment variable of
        the same name, or what its settings say about the provider. Simulators take any key, so theirs is included.

    Raises
    ------
    BadRequestError
        Without ``carry``, the URL or a header holds a credential, for which no variable stands.
    """
    values: Exported = {}
    carry = carry or endpoint.simulated
    for name in ENDPOINT_FIELDS:
        value = getattr(endpoint, name)
        if isinstance(value, Secret):
            if carry or not value:
                value = CarriedSecret(value.reveal(), value.source)
            else:
                in_variable = value.source not in {"", CONFIG_FILE, DOTENV_FILE}
                value = Variable(value.source) if in_variable else OwnCredential(provider, name)
        values[name] = dict(value) if isinstance(value, Mapping) else value
    if not carry:
        _require_no_credentials(provider, endpoint)
    return values


def _require_no_credentials(provider: str, endpoint: Endpoint) -> None:
    """Raise if a URL or a header of an endpoint holds a credential."""
    path = f"endpoints[{provider!r}]"
    remedy = "which is not pickled; pass Hub(keys='carry') to pickle the hub with its credentials"
    # No part of the URL is in a local variable, which tracebacks would show.
    if "@" in urlsplit(endpoint.base_url).netloc:
        raise invalid(f"{path}.base_url", f"holds a user name or password, {remedy}")
    parameter = _secret_parameter(endpoint.base_url)
    if parameter:
        raise invalid(f"{path}.base_url", f"the parameter {parameter!r} may hold a credential, {remedy}")
    names = iter(endpoint.headers)
    header = next((name for name in names if name.lower() not in HARMLESS_HEADERS and not is_keyed(name)), None)
    if header is not None:
        raise invalid(f"{path}.headers", f"{header!r} may hold a credential, {remedy}")


def _secret_parameter(url: str) -> str:
    """Return the name of a parameter in the query of a URL that may hold a credential; empty if there is none."""
    names = (name for name, _ in parse_qsl(urlsplit(url).query))
    return next((name for name in names if name not in PUBLIC_PARAMETERS and not is_keyed(name)), "")


def import_endpoint(values: Exported) -> Endpoint:
    """Return the endpoint of exported fields, reading this process's own credentials where none is included.

    Raises
    ------
    AuthenticationError
        This process has no such credential.
    """
    fields: dict[str, Any] = {}
    for name, value in values.items():
        fields[name] = value
        if isinstance(value, Variable):
            fields[name] = secret_from_variable(value.name)
            missing = f"{value.name} was set in the process that pickled the hub and is not set in this one"
            remedy = "set it here"
        elif isinstance(value, OwnCredential):
            known = load_settings().endpoints
            # The endpoint of a model has the credentials of its provider, unless it has its own.
            own = known.get(value.provider) or known.get(value.provider.partition("/")[0])
            fields[name] = getattr(own, value.field) if own is not None else Secret()
            missing = f"the hub was pickled without {name} of {value.provider!r}, and this process has none of its own"
            remedy = "set the provider's variable here"
        else:
            if isinstance(value, CarriedSecret):
                fields[name] = Secret(value.text, source=value.source)
            continue
        if not fields[name]:
            path = value.name if isinstance(value, Variable) else f"endpoints[{value.provider!r}].{name}"
            message = f"{missing}; {remedy}, or pass Hub(keys='carry'), which is pickled with its credentials"
            raise AuthenticationError(AuthFailed(path=path, message=message))
    return Endpoint(**fields)


def export_settings(settings: Settings, *, carry: bool) -> Exported:
    """Return settings for a pickle; ``carry`` as for `export_endpoint`."""
    exported: dict[str, dict[str, Exported | None]] = {}
    for kind in ENDPOINT_MAPPINGS:
        exported[kind] = {}
        for name, endpoint in getattr(settings, kind).items():
            exported[kind][name] = None  # the other process reads its own
            with suppress(BadRequestError):
                exported[kind][name] = export_endpoint(name, endpoint, carry=carry)
    proxies: Any = None  # read from the environment of the other process
    if carry or not settings.proxies.by_scheme:
        by_scheme = {
            scheme: (proxy.url.reveal(), proxy.variable) for scheme, proxy in settings.proxies.by_scheme.items()
        }
        proxies = (by_scheme, settings.proxies.bypassed)
    others = {name: getattr(settings, name) for name in Settings.__dataclass_fields__}
    others["credential_sources"] = ()  # part of the hub that was made of them
    return {**others, **exported, "proxies": proxies}


ENDPOINT_MAPPINGS: Final = ("endpoints", "partial_endpoints")
"""Fields of settings that hold endpoints."""


def import_settings(values: Exported) -> Settings:
    """Return exported settings; a provider whose credentials this process does not have gets no endpoint."""
    imported: dict[str, dict[str, Endpoint]] = {}
    for kind in ENDPOINT_MAPPINGS:
        endpoints = imported[kind] = {}
        for name, exported in values[kind].items():
            if exported is None:
                own = getattr(load_settings(), kind).get(name)
                endpoints.update({} if own is None else {name: own})
                continue
            with suppress(AuthenticationError):
                endpoints[name] = import_endpoint(exported)
    if values["proxies"] is None:
        proxies = parse_proxies(os.environ)
    else:
        by_scheme, bypassed = values["proxies"]
        named = {scheme: Proxy(Secret(url, source=name), name) for scheme, (url, name) in by_scheme.items()}
        proxies = Proxies(named, bypassed)
    return Settings(**{**values, **imported, "proxies": proxies})


# The file

_NAME_KINDS: Final = {"": "section", "endpoints.": "provider"}
"""Kind of the names in a table of the file, by the table's prefix; other tables hold fields."""


def _require_known(table: Mapping[str, Any], known: tuple[str, ...], prefix: str) -> Mapping[str, Any]:
    """Return a table; raise for unknown names in it."""
    for name in table:
        if name not in known:
            kind = _NAME_KINDS.get(prefix, "field")
            raise _invalid_file(f"{prefix}{name}", f"unknown {kind}; must be one of {', '.join(known)}")
    return table


def _require_table(table: Mapping[str, Any], name: str, prefix: str = "") -> Mapping[str, Any]:
    """Return a table within a table, empty if absent; raise if it is not a table."""
    value = table.get(name, {})
    if not isinstance(value, Mapping):
        raise _invalid_file(f"{prefix}{name}", f"must be a table; write [{prefix}{name}] and its fields below")
    return value


def _invalid_file(place: str, message: str) -> BadRequestError:
    return invalid(f"{CONFIG_FILE}: {place}", message)


# The default cache


def _cache_path(environ: Mapping[str, str]) -> Path | None:
    """Return the file of the default cache; ``None`` for a user without a home directory."""
    if environ.get("LLMHUB_CACHE"):
        return Path(environ["LLMHUB_CACHE"]).expanduser()
    try:
        return _cache_folder(environ) / "llmhub" / "answers.db"
    except RuntimeError:
        return None


def simulated_cache_path(settings: Settings) -> Path | None:
    """Return the file in which the command line caches simulated responses, beside that of real ones.

    Examples
    --------
    >>> str(simulated_cache_path(Settings(cache_path=Path("runs.db"))))
    'runs-simulated.db'
    """
    path = settings.cache_path or _cache_path({name: os.environ[name] for name in CACHE_FOLDERS if name in os.environ})
    return None if path is None else path.with_stem(f"{path.stem}-simulated")


def data_folder() -> Path:
    """Return the folder for what llmhub must not lose, such as the keys of a service.

    Raises
    ------
    BadRequestError
        The user has no home directory.
    """
    try:
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Application Support" / "llmhub"
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "llmhub" / "data"
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "llmhub"
    except RuntimeError:
        raise invalid("access.store", "this user has no home directory; name a file or redis://...") from None


def credentials_path() -> Path:
    """Return the file of ``llmhub credentials``.

    Examples
    --------
    >>> credentials_path().suffix
    '.json'
    """
    named = os.environ.get(CREDENTIALS_FILE_VARIABLE)
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        folder = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    else:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return folder / "llmhub" / "credentials.json"


def _cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the platform's folder for caches."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")

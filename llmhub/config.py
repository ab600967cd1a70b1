"""Settings from environment variables and ``llmhub.toml``, as one frozen value. The only reader of the environment.

`llmhub.providers.registry.ENVIRONMENT_VARIABLES` lists the variables of each provider. `parse_settings` is a pure
function of mappings; `load_settings` reads the process's environment and the file.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from llmhub.core.errors import BadRequestError, invalid
from llmhub.core.provider import Endpoint, Provider
from llmhub.providers.registry import ENVIRONMENT_VARIABLES, PROVIDERS

CONFIG_FILE: Final = "llmhub.toml"
FILE_SECTIONS: Final = ("endpoints",)
ENDPOINT_FIELDS: Final = frozenset(Endpoint.__dataclass_fields__)
SECRET_FIELDS: Final = frozenset({"api_key", "access_key_id", "secret_access_key", "session_token"})
"""Fields of an endpoint that are credentials."""
PROXY_VARIABLES: Final = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
PLUGIN_POLICIES: Final = ("on", "strict", "off")

FieldVariables: TypeAlias = tuple[tuple[str, str], ...]
"""Pairs of an endpoint's field and a variable that sets it; the first variable that is set wins."""


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
    use_proxy_settings
        Whether a proxy variable is set.
    sources
        Names of the variables, or of the file, that the credentials of each provider come from; never their values.
    """

    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    cache_path: Path | None = None
    cache_url: str = field(default="", repr=False)
    tokenizer_folder: Path | None = None
    use_proxy_settings: bool = False
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def load_settings(folder: Path | None = None, plugin_providers: Mapping[str, Provider] | None = None) -> Settings:
    """Load settings from the process's environment and from ``llmhub.toml`` in ``folder`` (the working directory)."""
    path = (folder or Path.cwd()) / CONFIG_FILE
    try:
        file = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise invalid(str(path), f"cannot be read: {error}") from error
    return parse_settings(os.environ, file, plugin_providers)


def parse_settings(
    environ: Mapping[str, str],
    file: Mapping[str, Any] | None = None,
    plugin_providers: Mapping[str, Provider] | None = None,
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

    Examples
    --------
    >>> settings = parse_settings({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://localhost:8000/v1"})
    >>> sorted(settings.endpoints), settings.endpoints["openai"].base_url
    (['compatible', 'ollama', 'ollama-native', 'openai', 'openai-responses', 'vllm'], 'http://localhost:8000/v1')
    """
    known = {**PROVIDERS, **(plugin_providers or {})}
    configured = _require_table(_require_known(file or {}, FILE_SECTIONS, ""), "endpoints")
    _require_known(configured, tuple(known), "endpoints.")
    endpoints: dict[str, Endpoint] = {}
    sources: dict[str, tuple[str, ...]] = {}
    for name, provider in known.items():
        variables = endpoint_variables(name, provider)
        values = {**_fields_from_file(configured, name), **_fields_from_variables(variables, environ)}
        if _is_complete(provider, variables, values):
            endpoints[name] = Endpoint(**values)
            sources[name] = _credential_sources(variables, environ, values)
    folder = environ.get("TIKTOKEN_CACHE_DIR") or environ.get("DATA_GYM_CACHE_DIR")
    cache = environ.get("LLMHUB_CACHE", "")
    return Settings(
        endpoints=endpoints,
        cache_path=None if "://" in cache else _cache_path(environ),
        cache_url=cache if "://" in cache else "",
        tokenizer_folder=Path(folder) if folder else None,
        use_proxy_settings=any(environ.get(name) for name in PROXY_VARIABLES),
        sources=sources,
    )


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


def _fields_from_variables(variables: FieldVariables, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the endpoint fields that variables set."""
    values: dict[str, Any] = {}
    for field_name, variable in variables:
        if value := environ.get(variable, "").strip():
            values.setdefault(field_name, value)
    return values


def _fields_from_file(configured: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the endpoint fields that the file sets; raise for unknown fields and values that are not strings."""
    section = f"endpoints.{name}"
    table = _require_table(configured, name, "endpoints.")
    values = _require_known(table, tuple(sorted(ENDPOINT_FIELDS)), f"{section}.")
    for key, value in values.items():
        texts = _require_table(values, key, f"{section}.").values() if key == "headers" else [value]
        if not all(isinstance(text, str) for text in texts):
            raise _invalid_file(f"{section}.{key}", "must be a string; write it in quotes")
    return dict(values)


def _is_complete(provider: Provider, variables: FieldVariables, values: Mapping[str, Any]) -> bool:
    """Return whether the fields of at least one group of required variables are set, from either source."""
    fields = {variable: field_name for field_name, variable in variables}
    groups = ([fields.get(variable, "") for variable in group] for group in provider.required_env)
    return not provider.required_env or any(all(values.get(field_name) for field_name in group) for group in groups)


def _credential_sources(
    variables: FieldVariables, environ: Mapping[str, str], values: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the names of the variables, or of the file, that the credentials come from."""
    by_field: dict[str, str] = {}
    for field_name, variable in variables:
        if field_name in SECRET_FIELDS and environ.get(variable, "").strip():
            by_field.setdefault(field_name, variable)
    secrets = (field_name for field_name in values if field_name in SECRET_FIELDS)
    return tuple(dict.fromkeys(by_field.get(field_name, CONFIG_FILE) for field_name in secrets))


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


def _cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the platform's folder for caches."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")

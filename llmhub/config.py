"""The environment and ``llmhub.toml`` as one frozen value. The only reader of the process environment.

Which variable says what is a table; `parse_settings` is a pure function of a mapping, `load_settings` reads the real one.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.provider import Endpoint, Provider
from llmhub.providers.registry import ENVIRONMENT_VARIABLES, PROVIDERS

CONFIG_FILE: Final = "llmhub.toml"
ENDPOINT_FIELDS: Final = frozenset(Endpoint.__dataclass_fields__)

FieldVariables: TypeAlias = tuple[tuple[str, str], ...]
"""Fields of an endpoint, each with a variable that sets it."""

SECRET_FIELDS: Final = frozenset({"api_key", "access_key_id", "secret_access_key", "session_token"})
"""Fields that are credentials."""

PROXY_VARIABLES: Final = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment says.

    Parameters
    ----------
    endpoints
        Providers that can be used, by name.
    cache_path
        Where the default cache is, if it is a file.
    cache_url
        The default cache's address (``redis://...``), where ``LLMHUB_CACHE`` says one.
    tokenizer_folder
        Where tiktoken keeps vocabularies; ``None`` where it keeps them for a session only.
    use_proxy_settings
        Whether proxies are set.
    sources
        Where the credentials of each usable provider come from: names of variables or of the file, never values.
    """

    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    cache_path: Path | None = None
    cache_url: str = field(default="", repr=False)
    tokenizer_folder: Path | None = None
    use_proxy_settings: bool = False
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def parse_settings(
    environ: Mapping[str, str],
    file: Mapping[str, Any] | None = None,
    plugin_providers: Mapping[str, Provider] | None = None,
) -> Settings:
    """Read an environment and the contents of ``llmhub.toml``; the environment wins.

    ``plugin_providers`` are providers that plugins bring.

    Examples
    --------
    >>> found = parse_settings({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://localhost:8000/v1"})
    >>> sorted(found.endpoints), found.endpoints["openai"].base_url
    (['compatible', 'ollama', 'ollama-native', 'openai', 'openai-responses', 'vllm'], 'http://localhost:8000/v1')
    """
    written = _expect_table(_expect_known(file or {}, FILE_SECTIONS, ""), "endpoints")
    known = {**PROVIDERS, **(plugin_providers or {})}
    _expect_known(written, tuple(known), "endpoints.")
    endpoints: dict[str, Endpoint] = {}
    sources: dict[str, tuple[str, ...]] = {}
    for name, provider in known.items():
        rows = endpoint_variables(name, provider)
        said = {**_checked(written, name), **_from_variables(rows, environ)}
        if _usable(provider, rows, said):
            endpoints[name] = Endpoint(**said)
            sources[name] = _sources(rows, environ, said)
    folder = environ.get("TIKTOKEN_CACHE_DIR") or environ.get("DATA_GYM_CACHE_DIR")
    return Settings(
        endpoints=endpoints,
        cache_path=None if _is_url(environ.get("LLMHUB_CACHE", "")) else _cache_path(environ),
        cache_url=environ["LLMHUB_CACHE"] if _is_url(environ.get("LLMHUB_CACHE", "")) else "",
        tokenizer_folder=Path(folder) if folder else None,
        use_proxy_settings=any(environ.get(name) for name in PROXY_VARIABLES),
        sources=sources,
    )


def plugin_policy() -> str:
    """Say whether plugins are loaded: ``on``, ``strict`` or ``off`` (``LLMHUB_PLUGINS``)."""
    said = os.environ.get("LLMHUB_PLUGINS", "").strip().lower() or "on"
    if said not in PLUGIN_POLICIES:
        wrong = f"{said!r:.80} is none of {', '.join(PLUGIN_POLICIES)}"
        raise BadRequestError(InvalidRequest(path="LLMHUB_PLUGINS", message=wrong))
    return said


PLUGIN_POLICIES: Final = ("on", "strict", "off")


def load_settings(folder: Path | None = None, plugin_providers: Mapping[str, Provider] | None = None) -> Settings:
    """Read the process's environment, and ``llmhub.toml`` in ``folder`` (the working directory)."""
    path = (folder or Path.cwd()) / CONFIG_FILE
    try:
        file = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadRequestError(InvalidRequest(path=str(path), message=f"cannot be read: {error}")) from error
    return parse_settings(os.environ, file, plugin_providers)


def _from_variables(rows: FieldVariables, environ: Mapping[str, str]) -> dict[str, Any]:
    """Take a provider's fields from its variables."""
    found: dict[str, Any] = {}
    for field_name, variable in rows:
        if value := environ.get(variable, "").strip():
            found.setdefault(field_name, value)
    return found


def endpoint_variables(name: str, provider: Provider | None = None) -> FieldVariables:
    """Give the fields of a provider's endpoint and the variables that set them.

    A provider without rows of its own has its key and address under the usual names.

    Examples
    --------
    >>> endpoint_variables("vllm")
    (('api_key', 'VLLM_API_KEY'), ('base_url', 'VLLM_BASE_URL'))
    """
    rows = ENVIRONMENT_VARIABLES.get(name)
    if rows is None:
        stem = name.upper().replace("-", "_")
        keys = [group[0] for group in (provider or PROVIDERS[name]).required_env if len(group) == 1]
        rows = (*(("api_key", key) for key in keys or [f"{stem}_API_KEY"]), ("base_url", f"{stem}_BASE_URL"))
    return rows


def _sources(rows: FieldVariables, environ: Mapping[str, str], said: Mapping[str, Any]) -> tuple[str, ...]:
    """Name where each credential of a provider comes from."""
    first: dict[str, str] = {}
    for field_name, variable in rows:
        if field_name in SECRET_FIELDS and environ.get(variable, "").strip():
            first.setdefault(field_name, variable)
    return tuple(
        dict.fromkeys(first.get(field_name, CONFIG_FILE) for field_name in said if field_name in SECRET_FIELDS)
    )


def _usable(provider: Provider, rows: FieldVariables, said: Mapping[str, Any]) -> bool:
    """Say whether a provider has all that one group of its variables stands for, wherever it was said."""
    fields = {variable: field_name for field_name, variable in rows}
    groups = ([fields.get(variable, "") for variable in group] for group in provider.required_env)
    return not provider.required_env or any(all(said.get(field_name) for field_name in group) for group in groups)


FILE_SECTIONS: Final = ("endpoints",)
"""What the file may hold."""


def _checked(written: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Give what the file says of an endpoint; refuse fields that it does not have, and values that are no text."""
    place = f"endpoints.{name}"
    said = _expect_known(_expect_table(written, name, "endpoints."), tuple(sorted(ENDPOINT_FIELDS)), f"{place}.")
    for key, value in said.items():
        texts = _expect_table(said, key, f"{place}.").values() if key == "headers" else [value]
        if not all(isinstance(text, str) for text in texts):
            raise _refused(f"{place}.{key}", "it is not a text; write it in quotes")
    return dict(said)


def _expect_known(table: Mapping[str, Any], known: tuple[str, ...], place: str) -> Mapping[str, Any]:
    """Refuse names that mean nothing."""
    for name in table:
        if name not in known:
            raise _refused(
                f"{place}{name}", f"no such {_KINDS_OF_NAME.get(place, 'field')}; there are {', '.join(known)}"
            )
    return table


_KINDS_OF_NAME: Final = {"": "section", "endpoints.": "provider"}
"""What the names at a place of the file stand for."""


def _expect_table(table: Mapping[str, Any], name: str, place: str = "") -> Mapping[str, Any]:
    """Give a table of the file, empty where it is not there."""
    found = table.get(name, {})
    if not isinstance(found, Mapping):
        raise _refused(f"{place}{name}", f"it is no table; write [{place}{name}] and its fields below")
    return found


def _refused(place: str, said: str) -> BadRequestError:
    return BadRequestError(InvalidRequest(path=f"{CONFIG_FILE}: {place}", message=said))


def _is_url(text: str) -> bool:
    return "://" in text


def _cache_path(environ: Mapping[str, str]) -> Path | None:
    """Give the default cache's file in the user's cache folder; ``None`` for a user who has no home."""
    if environ.get("LLMHUB_CACHE"):
        return Path(environ["LLMHUB_CACHE"]).expanduser()
    try:
        return _cache_folder(environ) / "llmhub" / "answers.db"
    except RuntimeError:
        return None


def _cache_folder(environ: Mapping[str, str]) -> Path:
    """Give the folder where the platform keeps caches."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def with_endpoints(settings: Settings, endpoints: Mapping[str, Endpoint]) -> Settings:
    """Lay endpoints over those found; one that is given is taken whole, and no key leaks from one to the other."""
    return replace(settings, endpoints={**settings.endpoints, **endpoints})

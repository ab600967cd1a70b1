"""Sources of credentials that ``llmhub.toml`` declares: ``[[credentials]]`` with a ``source`` and its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from llmhub.config import CONFIG_FILE, Settings
from llmhub.core.errors import invalid
from llmhub.security.credentials.cloud import AwsCredentials, AzureCredentials, GoogleCredentials
from llmhub.security.credentials.credential_store import (
    CredentialSource,
    DotenvCredentials,
    EnvironmentCredentials,
    credential_sources,
)
from llmhub.security.credentials.encrypted_file import EncryptedFileCredentials, default_file
from llmhub.security.credentials.vault import VaultCredentials

SOURCES: Final[Mapping[str, Callable[..., CredentialSource]]] = {
    "aws": AwsCredentials,
    "azure": AzureCredentials,
    "dotenv": DotenvCredentials,
    "environment": EnvironmentCredentials,
    "file": EncryptedFileCredentials,
    "google": GoogleCredentials,
    "vault": VaultCredentials,
}
"""Classes by the name of ``source``. The other keys of the table are their arguments."""


def default_credentials(
    settings: Settings, plugin_sources: Mapping[str, Any] | None = None
) -> tuple[CredentialSource, ...]:
    """Return the sources of the default hub: those that the file declares, and the file of ``llmhub credentials``.

    The latter is used for the providers that the environment has no credentials of.

    Raises
    ------
    BadRequestError
        A declared source is unknown, or has wrong arguments.

    Examples
    --------
    >>> from llmhub.config import parse_settings
    >>> default_credentials(parse_settings({}, {"credentials": [{"source": "aws", "profile": "research"}]}))[0]
    AwsCredentials(profile='research')
    """
    declared = _declared(settings.credential_sources, plugin_sources or {})
    configured = frozenset(name for name, sources in settings.sources.items() if sources)
    return (*declared, *default_file(except_for=configured))


def _declared(tables: Sequence[Mapping[str, str]], plugin_sources: Mapping[str, Any]) -> tuple[CredentialSource, ...]:
    sources: list[CredentialSource] = []
    for index, table in enumerate(tables):
        place, name = f"{CONFIG_FILE}: credentials[{index}]", table["source"]
        make = SOURCES.get(name)
        if make is None:
            if name not in plugin_sources:
                known = ", ".join(sorted({*SOURCES, *plugin_sources}))
                raise invalid(f"{place}.source", f"unknown source {name!r:.80}; must be one of {known}")
            sources += credential_sources(plugin_sources[name])
            continue
        known_arguments = [parameter for parameter in inspect.signature(make).parameters if parameter != "except_for"]
        for argument in table:
            if argument not in {"source", *known_arguments}:
                expected = ", ".join(known_arguments) or "none"
                raise invalid(f"{place}.{argument}", f"unknown argument of {name}; must be one of {expected}")
        sources.append(make(**{argument: table[argument] for argument in table if argument != "source"}))
    return tuple(sources)

"""``llmhub doctor``: the status of all providers, the cache and the installed packages. Credentials are never shown.

Each provider with credentials is sent a free request, such as the list of models, which shows whether it accepts them.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from llmhub import config
from llmhub.cli.console import print_json, print_message, print_result
from llmhub.cli.diagnostics import ProviderStatus, check_cache, check_providers, package_versions
from llmhub.core.provider import Endpoint
from llmhub.core.proxies import NO_PROXIES
from llmhub.formatting.numbers import format_duration, format_megabytes
from llmhub.formatting.text_tables import text_table
from llmhub.providers.registry import PROVIDERS
from llmhub.security.credentials.declared import default_credentials
from llmhub.sim import endpoints

LINE_WIDTH: Final = 96
INDENT: Final = 10
MAX_SUGGESTIONS: Final = 3
"""Providers whose variables are suggested if none is available."""


def run(args: argparse.Namespace) -> int:
    """Print the report, and return 0 if any provider is usable."""
    settings = config.load_settings()
    simulated: Mapping[str, Endpoint] = endpoints(args.simulator) if args.simulator else {}
    if simulated:
        sources = dict.fromkeys(simulated, ("simulator",))
        cache_path = config.simulated_cache_path(settings)
        settings = replace(
            settings,
            endpoints=simulated,
            proxies=NO_PROXIES,
            sources=sources,
            cache_path=cache_path,
            cache_url="",
        )
    stores = () if simulated else default_credentials(settings)
    statuses = check_providers(settings, simulated, stores)
    usable = any(status.usable for status in statuses)
    versions = package_versions()
    cache = check_cache(settings)
    if args.json:
        providers = [_to_json(status) for status in statuses]
        report = {"usable": usable, "providers": providers, "cache": cache, "versions": versions}
        print_json(report)
    else:
        # A server on this machine that is not configured and does not answer is no problem to report.
        absent = [status for status in statuses if status.ready and not (status.configured or _answers(status))]
        found = [status for status in statuses if status.ready and status not in absent]
        print_result(f"{_provider_table(found)}\n" if found else "")
        if absent:
            print_result(_paragraph("not found", ", ".join(map(_absent_text, absent))))
        if any(not status.ready for status in statuses):
            print_result(_missing_keys(statuses))
        print_result(_paragraph("cache", f"{cache['path']}: {_cache_text(cache)}"))
        print_result(_paragraph("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    if not usable:
        print_message("doctor", _remedy(statuses))
    return 0 if usable else 1


def _answers(status: ProviderStatus) -> bool:
    return status.health is not None and status.health.reachable


def _absent_text(status: ProviderStatus) -> str:
    """Return a server that is not configured: where it was looked for, or how its address is set."""
    return f"{status.name} ({status.address or ' or '.join(_address_variables(status))})"


def _address_variables(status: ProviderStatus) -> list[str]:
    return [variable for field, variable in config.endpoint_variables(status.name) if field == "base_url"]


def _provider_table(ready: Sequence[ProviderStatus]) -> str:
    """Return a table of the providers with credentials, and the errors of their health checks below it."""
    header = ("provider", "credentials", "address", "answers")
    rows = [
        (status.name, ", ".join(status.credentials) or "none needed", status.address or "-", _health_text(status))
        for status in ready
    ]
    errors = [_paragraph("", _error_text(status)) for status in ready if status.health and status.health.error]
    return "\n".join(
        [text_table(header, rows, left_columns=len(header), rule=True), *([""] if errors else []), *errors]
    )


def _error_text(status: ProviderStatus) -> str:
    """Return the error of a health check after the name of its provider, which most errors begin with."""
    text = "" if status.health is None else str(status.health.error)
    return text if text.startswith(f"{status.name}: ") else f"{status.name}: {text}"


def _health_text(status: ProviderStatus) -> str:
    """Return whether a provider is reachable and accepts the key, and its latency."""
    health = status.health
    if health is None or not health.reachable:
        return "no" if status.address else f"no address: set {' or '.join(_address_variables(status))}"
    key_accepted = health.key_accepted if status.credentials else None
    key = {True: "key accepted, ", False: "key rejected, ", None: ""}[key_accepted]
    problem = "" if health.ok or health.key_accepted is False else "with an error, "
    has_no_list = health.error is None and health.key_accepted is None and health.status is not None
    if has_no_list and status.credentials and PROVIDERS[status.name].health_url is not None:
        problem = f"no list ({health.status}), "  # of models: a base URL without its /v1 looks like this
    return f"yes, {key}{problem}{format_duration(health.latency_s)}"


def _missing_keys(statuses: Sequence[ProviderStatus]) -> str:
    """Return the environment variables that the providers without credentials need."""
    missing = [f"{status.name} ({_required_variables(status)})" for status in statuses if not status.ready]
    return _paragraph("no key", ", ".join(missing))


def _required_variables(status: ProviderStatus) -> str:
    return " or ".join(dict.fromkeys(" and ".join(group) for group in PROVIDERS[status.name].required_env))


def _remedy(statuses: Sequence[ProviderStatus]) -> str:
    if any(status.health is not None and status.health.key_accepted is False for status in statuses):
        return "no provider accepts its key: see above; `llmhub demo` needs no key"
    if any(status.credentials for status in statuses):
        return "no provider is reachable: check the network, proxies and addresses; `llmhub demo` needs none of them"
    needed = dict.fromkeys(_required_variables(status) for status in statuses if not status.ready)
    variables = " or ".join(sorted(needed, key=lambda names: " and " in names)[:MAX_SUGGESTIONS])
    return f"no provider has credentials: set {variables}; `llmhub demo` needs no key"


def _cache_text(cache: Mapping[str, Any]) -> str:
    if cache["error"]:
        return f"cannot be used: {cache['error']}"
    if cache["entries"] is None:
        return "does not exist yet"
    return f"{cache['entries']:,} responses, {format_megabytes(cache['size_bytes'])}"


def _paragraph(label: str, text: str) -> str:
    """Return a wrapped paragraph with a label in its margin."""
    return textwrap.fill(
        text,
        LINE_WIDTH,
        initial_indent=label.ljust(INDENT),
        subsequent_indent=" " * INDENT,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _to_json(status: ProviderStatus) -> dict[str, Any]:
    needs = [] if status.ready else [list(group) for group in PROVIDERS[status.name].required_env]
    health = None if status.health is None else {**asdict(status.health), "error": str(status.health.error or "")}
    return {**asdict(replace(status, health=None)), "health": health, "usable": status.usable, "needs": needs}

"""``llmhub doctor``: which providers can be asked, and what is missing. It shows no key.

What each is asked costs nothing (a list of models, say), and tells whether its key is taken.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import msgspec

from llmhub import config
from llmhub.cli.console import print_message, print_result
from llmhub.cli.diagnostics import ProviderStatus, check_cache, check_providers, package_versions
from llmhub.core.provider import Endpoint
from llmhub.formatting.numbers import format_duration
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import endpoints

WIDTH: Final = 96


def act(given: argparse.Namespace) -> int:
    """Look around and report."""
    found = config.load_settings()
    there: Mapping[str, Endpoint] = endpoints(given.simulator) if given.simulator else {}
    if there:
        found = replace(found, endpoints=there, use_proxy_settings=False, sources=dict.fromkeys(there, ("simulator",)))
    rows = check_providers(found, there)
    usable = any(row.usable for row in rows)
    versions = package_versions()
    cache = check_cache(found)
    if given.json:
        said = {"usable": usable, "providers": [_plain(row) for row in rows], "cache": cache, "versions": versions}
        print_result(msgspec.json.format(msgspec.json.encode(said), indent=2).decode())
    else:
        print_result(_table(rows))
        print_result(f"\n{_unready(rows)}" if any(not row.ready for row in rows) else "")
        print_result(_paragraph("cache", f"{cache['path']}: {_holds(cache)}"))
        print_result(_paragraph("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    if not usable:
        print_message("doctor", _remedy(rows))
    return 0 if usable else 1


def _table(rows: Sequence[ProviderStatus]) -> str:
    """Write those that could be asked as a table, why they do not answer below it."""
    ready = [row for row in rows if row.ready]
    head = ("provider", "credentials", "address", "answers")
    body = [(row.name, ", ".join(row.credentials) or "none needed", row.address or "-", _answer(row)) for row in ready]
    widths = [max(len(cells[at]) for cells in (head, *body)) for at in range(3)]
    lines = [
        "  ".join([*(cell.ljust(wide) for cell, wide in zip(cells[:3], widths, strict=True)), cells[3]])
        for cells in (head, *body)
    ]
    reasons = [_paragraph("", f"{row.name}: {row.health.error}") for row in ready if row.health and row.health.error]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], *([""] if reasons else []), *reasons])


def _answer(row: ProviderStatus) -> str:
    """Say whether a provider answers, what became of the key, and how long it took."""
    if row.health is None or not row.health.reachable:
        addresses = [variable for field, variable in config.endpoint_variables(row.name) if field == "base_url"]
        return "no" if row.address else f"no address: set {' or '.join(addresses)}"
    key = {True: "key taken, ", False: "key refused, ", None: ""}[row.health.key_accepted if row.credentials else None]
    trouble = "" if row.health.ok or row.health.key_accepted is False else "trouble, "
    return f"yes, {key}{trouble}{format_duration(row.health.latency_s)}"


def _unready(rows: Sequence[ProviderStatus]) -> str:
    """Say what to set for each of the others."""
    wants = [f"{row.name} ({_wants(row)})" for row in rows if not row.ready]
    return _paragraph("no key", ", ".join(wants))


def _wants(row: ProviderStatus) -> str:
    return " or ".join(" and ".join(group) for group in PROVIDERS[row.name].required_env)


def _remedy(rows: Sequence[ProviderStatus]) -> str:
    if any(row.health is not None and row.health.key_accepted is False for row in rows):
        return "no provider takes its key: see above; `llmhub demo` needs none"
    if any(row.credentials for row in rows):
        return "no provider answers: check the network, proxies and addresses; `llmhub demo` needs none of them"
    some = [row for row in rows if not row.ready][:3]
    wants = " or ".join(_wants(row) for row in some)
    return f"no provider can be asked: set {wants}; `llmhub demo` needs no key"


def _holds(cache: Mapping[str, Any]) -> str:
    if cache["error"]:
        return f"cannot be used: {cache['error']}"
    return (
        "not there yet"
        if cache["entries"] is None
        else f"{cache['entries']:,} answers, {cache['size_bytes'] / 1e6:,.1f} MB"
    )


def _paragraph(head: str, text: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=head.ljust(10),
        subsequent_indent=" " * 10,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _plain(row: ProviderStatus) -> dict[str, Any]:
    """Give a row as JSON takes it."""
    needs = [] if row.ready else [list(group) for group in PROVIDERS[row.name].required_env]
    health = None if row.health is None else {**asdict(row.health), "error": str(row.health.error or "")}
    return {**asdict(replace(row, health=None)), "health": health, "usable": row.usable, "needs": needs}

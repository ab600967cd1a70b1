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
from llmhub.cli.checkup import Row, look_at_cache, look_at_providers, look_at_versions
from llmhub.cli.terminal import complain, say
from llmhub.core.provider import Endpoint
from llmhub.drawing.writing import seconds
from llmhub.providers.table import PROVIDERS
from llmhub.sim import endpoints

WIDTH: Final = 96


def act(given: argparse.Namespace) -> int:
    """Look around and report."""
    found = config.load()
    there: Mapping[str, Endpoint] = endpoints(given.simulator) if given.simulator else {}
    if there:
        found = replace(found, endpoints=there, use_proxy_settings=False, sources=dict.fromkeys(there, ("simulator",)))
    rows = look_at_providers(found, there)
    usable = any(row.usable for row in rows)
    versions = look_at_versions()
    cache = look_at_cache(found)
    if given.json:
        said = {"usable": usable, "providers": [_plain(row) for row in rows], "cache": cache, "versions": versions}
        say(msgspec.json.format(msgspec.json.encode(said), indent=2).decode())
    else:
        say(_table(rows))
        say(f"\n{_unready(rows)}" if any(not row.ready for row in rows) else "")
        say(_paragraph("cache", f"{cache['path']}: {_holds(cache)}"))
        say(_paragraph("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    if not usable:
        complain("doctor", _remedy(rows))
    return 0 if usable else 1


def _table(rows: Sequence[Row]) -> str:
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


def _answer(row: Row) -> str:
    """Say whether a provider answers, what became of the key, and how long it took."""
    if row.health is None or not row.health.reachable:
        addresses = [variable for field, variable in config.variables(row.name) if field == "base_url"]
        return "no" if row.address else f"no address: set {' or '.join(addresses)}"
    key = {True: "key taken, ", False: "key refused, ", None: ""}[row.health.key_accepted if row.credentials else None]
    trouble = "" if row.health.ok or row.health.key_accepted is False else "trouble, "
    return f"yes, {key}{trouble}{seconds(row.health.latency_s)}"


def _unready(rows: Sequence[Row]) -> str:
    """Say what to set for each of the others."""
    wants = [f"{row.name} ({_wants(row)})" for row in rows if not row.ready]
    return _paragraph("no key", ", ".join(wants))


def _wants(row: Row) -> str:
    return " or ".join(" and ".join(group) for group in PROVIDERS[row.name].needs)


def _remedy(rows: Sequence[Row]) -> str:
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


def _plain(row: Row) -> dict[str, Any]:
    """Give a row as JSON takes it."""
    needs = [] if row.ready else [list(group) for group in PROVIDERS[row.name].needs]
    health = None if row.health is None else {**asdict(row.health), "error": str(row.health.error or "")}
    return {**asdict(replace(row, health=None)), "health": health, "usable": row.usable, "needs": needs}

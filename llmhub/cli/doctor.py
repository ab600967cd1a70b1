"""``llmhub doctor``: which providers can be asked, and what is missing. It never shows a key, and sends none."""

from __future__ import annotations

import argparse
import platform
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from llmhub import __version__, config
from llmhub.cache.disk import DiskCache
from llmhub.cache.store import StoreError
from llmhub.cli.terminal import complain, say
from llmhub.core.errors import ConnectorError
from llmhub.core.provider import Endpoint, Provider
from llmhub.core.types import CompletionRequest
from llmhub.engine.loop import run_sync
from llmhub.engine.probe import Reached, probe
from llmhub.engine.transport import Timeout, Wiring
from llmhub.notebook.writing import seconds
from llmhub.providers.table import PROVIDERS
from llmhub.sim import endpoints

LONGEST_S: Final = 5.0
"""How long an address has to answer."""
PACKAGES: Final = (
    "aiohttp",
    "genai-prices",
    "ipywidgets",
    "joblib",
    "matplotlib",
    "msgspec",
    "nest-asyncio",
    "pandas",
    "pyarrow",
    "returns",
    "tiktoken",
    "uvloop",
)
WIDTH: Final = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is known of one provider: where its credentials come from, where it is, and whether it answers there."""

    name: str
    credentials: tuple[str, ...]
    ready: bool
    address: str
    reached: Reached | None = None

    @property
    def usable(self) -> bool:
        """Whether it can be asked now."""
        return self.reached is not None and self.reached.status is not None


def act(given: argparse.Namespace) -> int:
    """Look around and report."""
    found = config.load()
    there: Mapping[str, Endpoint] = endpoints(given.simulator) if given.simulator else {}
    if there:
        found = replace(found, endpoints=there, use_proxy_settings=False, sources=dict.fromkeys(there, ("simulator",)))
    rows = _rows(found, there)
    usable = any(row.usable for row in rows)
    versions = {"python": platform.python_version(), "llmhub": __version__, **_versions()}
    cache = _cache(found.cache_path)
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


def _rows(found: config.Settings, only: Collection[str]) -> list[Row]:
    """Look at every provider, or at some; those that could be asked are reached for."""
    rows = [
        Row(
            name=name,
            credentials=found.sources.get(name, ()),
            ready=name in found.endpoints,
            address=_address(provider, found.endpoints.get(name, Endpoint())),
        )
        for name, provider in PROVIDERS.items()
        if not only or name in only
    ]
    asked = {row.name: row.address for row in rows if row.ready and row.address}
    bound = Wiring(timeout=Timeout(connect_s=LONGEST_S, total_s=LONGEST_S), use_proxy_settings=found.use_proxy_settings)
    reached = run_sync(lambda _: probe(asked, bound)) if asked else {}
    return [replace(row, reached=reached.get(row.name), address=_shown(row.address)) for row in rows]


def _address(provider: Provider, endpoint: Endpoint) -> str:
    """Give a provider's address: what was set, or else the origin of what would be asked."""
    if endpoint.base_url or not provider.base_url:
        return endpoint.base_url
    parts = urlsplit(provider.locate(endpoint, CompletionRequest(model="any", messages=()), False))
    return f"{parts.scheme}://{parts.netloc}"


def _shown(url: str) -> str:
    """Take what may be secret out of an address: a user's name and password, and the query.

    Examples
    --------
    >>> _shown("https://me:secret@localhost:8000/v1?key=secret")
    'https://localhost:8000/v1'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


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
    reasons = [_paragraph("", f"{row.name}: {row.reached.error}") for row in ready if row.reached and row.reached.error]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], *([""] if reasons else []), *reasons])


def _answer(row: Row) -> str:
    if row.reached is None:
        addresses = [variable for field, variable in config.variables(row.name) if field == "base_url"]
        return f"no address: set {' or '.join(addresses)}"
    if row.reached.status is None:
        return "no"
    return f"yes, {seconds(row.reached.took_s)}"


def _unready(rows: Sequence[Row]) -> str:
    """Say what to set for each of the others."""
    wants = [f"{row.name} ({_wants(row)})" for row in rows if not row.ready]
    return _paragraph("no key", ", ".join(wants))


def _wants(row: Row) -> str:
    return " or ".join(" and ".join(group) for group in PROVIDERS[row.name].needs)


def _remedy(rows: Sequence[Row]) -> str:
    if any(row.credentials for row in rows):
        return "no provider answers: check the network, proxies and addresses; `llmhub demo` needs none of them"
    some = [row for row in rows if not row.ready][:3]
    wants = " or ".join(_wants(row) for row in some)
    return f"no provider can be asked: set {wants}; `llmhub demo` needs no key"


def _versions() -> dict[str, str]:
    """Give the packages' versions without importing any."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _cache(path: Path | None) -> dict[str, Any]:
    """Look at the default cache, without making it."""
    if path is None or not path.exists():
        return {"path": str(path), "entries": None, "size_bytes": 0, "error": ""}
    try:
        store = DiskCache(path).open()
        try:
            held = store.stats()
        finally:
            store.close()
    except (ConnectorError, StoreError) as error:
        return {"path": str(path), "entries": None, "size_bytes": path.stat().st_size, "error": str(error)}
    return {"path": str(path), "entries": held.entries, "size_bytes": held.size_bytes, "error": ""}


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
    return {**asdict(row), "usable": row.usable, "needs": needs}

"""``llmhub doctor``: which providers can be asked, and what is missing. It never shows a key, and sends none."""

from __future__ import annotations

import argparse
import platform
import textwrap
from collections.abc import Mapping
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
    """What is known of one provider."""

    name: str
    credentials: tuple[str, ...]
    needs: tuple[tuple[str, ...], ...]
    base_url: str
    reached: Reached | None = None

    @property
    def usable(self) -> bool:
        """Whether it can be asked now."""
        return self.reached is not None and self.reached.status is not None


def act(given: argparse.Namespace) -> int:
    """Look around and report."""
    found = config.load()
    if given.simulator:
        there = endpoints(given.simulator)
        found = replace(found, endpoints=there, use_proxy_settings=False, sources=dict.fromkeys(there, ("simulator",)))
    rows = _rows(found)
    usable = any(row.usable for row in rows)
    versions = {"python": platform.python_version(), "llmhub": __version__, **_versions()}
    cache = _cache(found.cache_path)
    if given.json:
        said = {"usable": usable, "providers": [_plain(row) for row in rows], "cache": cache, "versions": versions}
        say(msgspec.json.format(msgspec.json.encode(said), indent=2).decode())
    else:
        say(_providers(rows))
        say(f"\ncache     {cache['path']}: {cache['holds']}")
        say(textwrap.fill(", ".join(f"{name} {version}" for name, version in versions.items()), WIDTH,
                          initial_indent="versions  ", subsequent_indent=" " * 10))
    if not usable:
        complain("doctor", _remedy(rows))
    return 0 if usable else 1


def _rows(found: config.Settings) -> list[Row]:
    """Look at every provider; those that could be asked are reached for."""
    rows = [
        Row(
            name=name,
            credentials=found.sources.get(name, ()),
            needs=provider.needs,
            base_url=(found.endpoints[name].base_url if name in found.endpoints else "") or provider.base_url,
        )
        for name, provider in PROVIDERS.items()
    ]
    asked = {row.name: row.base_url for row in rows if row.name in found.endpoints and row.base_url}
    bound = Wiring(
        timeout=Timeout(connect_s=LONGEST_S, total_s=LONGEST_S), use_proxy_settings=found.use_proxy_settings
    )
    reached = run_sync(lambda _: probe(asked, bound)) if asked else {}
    return [replace(row, reached=reached.get(row.name), base_url=_shown(row.base_url)) for row in rows]


def _shown(url: str) -> str:
    """Take a user's name, password and query out of an address."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

"""Dashboards for Grafana, rules and a scrape configuration for Prometheus, as files that are part of the package.

The dashboards are written by `llmhub.observability.dashboards.build`; the other files are kept by hand.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

DASHBOARDS: Final = ("llmhub-providers.json", "llmhub-limits-and-cache.json", "llmhub-cost.json")
FILES: Final = (*DASHBOARDS, "rules.yml", "prometheus.yml")
"""Names of all files."""


def read(name: str) -> str:
    """Return the text of a file.

    Examples
    --------
    >>> "llmhub:request_errors:ratio5m" in read("rules.yml")
    True
    """
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def export(folder: str | Path) -> tuple[Path, ...]:
    """Write all files to a folder, which is made if it is not there; return their paths.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in export(folder)][-1]
    'prometheus.yml'
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (target / name).write_text(read(name), encoding="utf-8")
    return tuple(target / name for name in FILES)

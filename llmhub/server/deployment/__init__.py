"""Files that run the service for a team: a container image, Kubernetes manifests and a compose file.

They are part of the package; ``llmhub deploy export DIR`` writes them to a folder, with the installed version in place
of `VERSION_MARK`. Each is kept by hand.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

from llmhub import __version__

CONTAINER: Final = ("Containerfile", ".dockerignore", "requirements.txt", "wheels/README.md")
"""The folder that an image is built in."""
MANIFESTS: Final = tuple(
    f"kubernetes/{name}.yaml"
    for name in ("kustomization", "config", "deployment", "service", "autoscaling", "network", "redis")
)
FILES: Final = (
    "README.md",
    *CONTAINER,
    "llmhub.toml",
    "compose.yaml",
    "example.env",
    *MANIFESTS,
    "kubernetes/example-secret.yaml",
)
"""Names of all files."""
VERSION_MARK: Final = "LLMHUB_VERSION"
"""Stands in the files for the version of llmhub."""


def read(name: str) -> str:
    """Return the text of a file for the installed version.

    Examples
    --------
    >>> "runAsNonRoot: true" in read("kubernetes/deployment.yaml")
    True
    """
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return text.replace(VERSION_MARK, __version__)


def export(folder: str | Path) -> tuple[Path, ...]:
    """Write all files to a folder, which is made if it is not there; return their paths.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in export(folder)][:2]
    ['README.md', 'Containerfile']
    """
    paths = tuple(Path(folder) / name for name in FILES)
    for name, path in zip(FILES, paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(read(name), encoding="utf-8")
    return paths

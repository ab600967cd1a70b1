"""Vocabulary files of tokenizers: found in tiktoken's cache folder, or fetched with a bounded wait.

A file's name there is the SHA-1 of its URL, and its content must have the SHA-256 that tiktoken knows
(https://github.com/openai/tiktoken/blob/main/tiktoken/load.py, read 2026-11-22).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Final
from urllib.request import urlopen

LARGEST: Final = 64 * 2**20
"""Bytes beyond which a download is no vocabulary."""
LATEST_S: Final = 120.0
"""Seconds that a download nobody waits for any more may go on, for the next process to profit from."""


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """Where vocabularies are looked for.

    Parameters
    ----------
    folder
        tiktoken's cache folder (``TIKTOKEN_CACHE_DIR``); its default one where none is given.
    download
        Whether a vocabulary that is not there may be fetched.
    wait_s
        How long a count waits for that, in all.
    """

    folder: Path | None = None
    download: bool = True
    wait_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Missing:
    """A vocabulary that could not be had, and why."""

    reason: str


def vocabulary_path(url: str, folder: Path | None) -> Path:
    """Say where tiktoken keeps the file of ``url``.

    Examples
    --------
    >>> vocabulary_path("https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken", Path("x")).name
    'fb374d419588a4632f3f557e76b4b70aebbca790'
    """
    name = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    return (folder or Path(tempfile.gettempdir()) / "data-gym-cache") / name


def read_vocabulary(url: str, sha256: str, vocabularies: Vocabularies) -> bytes | Missing:
    """Give a vocabulary's bytes, or say why it cannot be had. Returns within ``wait_s`` seconds."""
    path = vocabulary_path(url, vocabularies.folder)
    found: bytes | None = None
    with suppress(OSError):
        found = path.read_bytes()
    if found is not None and hashlib.sha256(found).hexdigest() == sha256:
        return found
    if vocabularies.download:
        return _fetch(url, sha256, path, vocabularies.wait_s)
    return Missing(f"{path} is not there" if found is None else f"{path} is damaged: its digest is another")


def _fetch(url: str, sha256: str, path: Path, wait_s: float) -> bytes | Missing:
    """Download in a thread of its own, since neither names nor slow servers keep to a socket's timeout."""
    arrived: SimpleQueue[bytes | Missing] = SimpleQueue()

    def run() -> None:
        content = _download(url, sha256, wait_s)
        if isinstance(content, bytes):
            _keep(path, content)
        arrived.put(content)

    Thread(target=run, name="llmhub-vocabulary", daemon=True).start()
    try:
        return arrived.get(timeout=wait_s)
    except Empty:
        return Missing(f"{url} did not come within {wait_s:g} s")


def _download(url: str, sha256: str, wait_s: float) -> bytes | Missing:
    """Read the file, and check that it is the one."""
    until = monotonic() + LATEST_S
    content = bytearray()
    try:
        with urlopen(url, timeout=wait_s) as reply:  # noqa: S310 - the URL is tiktoken's own
            while piece := reply.read(2**16):
                content += piece
                if len(content) > LARGEST or monotonic() > until:
                    return Missing(f"{url} is too large or too slow")
    except (OSError, HTTPException, ValueError) as error:
        return Missing(f"{url}: {error}")
    if hashlib.sha256(content).hexdigest() != sha256:
        return Missing(f"{url} gave a file whose digest is another")
    return bytes(content)


def _keep(path: Path, content: bytes) -> None:
    """Put the file into its place whole, or not at all; a folder that cannot be written only costs a download."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(draft).replace(path)
        except OSError:
            Path(draft).unlink(missing_ok=True)
            raise

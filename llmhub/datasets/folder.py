"""Reading of a frozen dataset's folder, which may come from anyone: plain file names and regular files only.

A frozen dataset is data from elsewhere. Its names must not lead out of its folder, and opening a file must neither
follow a symbolic link nor wait on a pipe or device.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from llmhub.core.errors import BadRequestError, invalid

LOCK_FILE: Final = "lock.json"
OPEN_FLAGS: Final = (
    os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
)
"""Flags that refuse symbolic links and do not wait for the other end of a pipe."""

PlainText: TypeAlias = Annotated[str, msgspec.Meta(max_length=1 << 20)]
Sha256: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


def is_plain_name(name: str) -> bool:
    r"""Return whether a name is that of a file directly inside a folder.

    Examples
    --------
    >>> [is_plain_name(name) for name in ("data.parquet", "../data.parquet", "/etc/passwd", "a\\b", "..", "")]
    [True, False, False, False, False, False]
    """
    return bool(name) and name not in {".", ".."} and not any(mark in name for mark in ("/", "\\", "\0", ":"))


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading.

    Raises
    ------
    OSError
        The file is missing, a symbolic link, a pipe, a device or a folder.
    """
    try:
        descriptor = os.open(path, OPEN_FLAGS)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a symbolic link, not a regular file", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    with os.fdopen(descriptor, "rb") as file:
        yield file


def read_file(path: Path) -> bytes:
    """Return the content of a regular file."""
    with open_regular(path) as file:
        return file.read()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Column(msgspec.Struct):
    name: PlainText
    role: Literal["input", "asked", "answer", "score", "measure"]
    type: PlainText
    source: PlainText = ""


class _Scorer(msgspec.Struct):
    name: PlainText
    version: PlainText
    parameters: dict[str, Any]


class _Recipe(msgspec.Struct, forbid_unknown_fields=True):
    name: PlainText
    version: PlainText
    prompt: PlainText
    system: PlainText
    parameters: dict[str, Any]
    models: list[PlainText]
    samples: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    target: PlainText
    scorers: list[_Scorer]
    design: dict[str, Any]


class _Model(msgspec.Struct):
    asked: PlainText
    served: list[PlainText]
    price_ids: list[PlainText]


class _Endpoint(msgspec.Struct, forbid_unknown_fields=True):
    base_url: PlainText
    project: PlainText
    api_version: PlainText
    region: PlainText
    headers: dict[str, str] | list[str]
    query: list[str] = []


class _Lock(msgspec.Struct):
    """Shape of ``lock.json``."""

    version: Annotated[int, msgspec.Meta(ge=1)]
    content_sha256: Sha256
    rows: Count
    inputs: Count
    data: Literal["data.parquet", "data.jsonl"]
    files: dict[str, Sha256]
    columns: list[_Column]
    recipe: _Recipe
    models: list[_Model]
    asked_between: tuple[str | None, str | None]
    endpoints: dict[str, _Endpoint]
    packages: dict[str, Any]
    schema: PlainText = ""


def read_lock(folder: Path, latest_version: int) -> dict[str, Any]:
    """Return the content of ``lock.json``, whose shape is validated.

    Raises
    ------
    BadRequestError
        The folder holds no frozen dataset, or one of a later version than ``latest_version``.
    """
    try:
        lock = msgspec.json.decode(read_file(folder / LOCK_FILE))
    except OSError as error:
        raise not_frozen(folder, f"{LOCK_FILE} cannot be read ({error.strerror or error})") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise not_frozen(folder, f"{LOCK_FILE} is not valid JSON: {error}") from error
    version = lock.get("version") if isinstance(lock, dict) else None
    if isinstance(version, int) and version > latest_version:
        message = f"{LOCK_FILE}: layout version {version} is later than {latest_version}, the latest this llmhub reads"
        raise not_frozen(folder, message)
    try:
        shape = msgspec.convert(lock, _Lock)
    except (msgspec.ValidationError, RecursionError) as error:
        raise not_frozen(folder, f"{LOCK_FILE} was not written by llmhub.freeze: {error}") from error
    _check_names(folder, shape)
    return dict[str, Any](lock)


def _check_names(folder: Path, lock: _Lock) -> None:
    """Raise if a file name leads out of the folder, or if two columns have the same name."""
    outside = next((name for name in lock.files if not is_plain_name(name)), None)
    if outside is not None:
        raise not_frozen(folder, f"{LOCK_FILE} lists the file {outside!r}, which is not a plain name in the folder")
    names = [column.name for column in lock.columns]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise not_frozen(folder, f"{LOCK_FILE} lists the column {duplicate!r} twice")


def not_frozen(folder: Path, reason: str) -> BadRequestError:
    """Return the exception for a folder that is not a frozen dataset."""
    message = f"{str(folder)!r} is not a frozen dataset: {reason}; pass a folder written by llmhub.freeze"
    return invalid("path", message)


def endpoint_headers(recorded: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return the header values of a recorded endpoint, and the names of headers whose values are not stored.

    Datasets of layout version 1 stored values.
    """
    headers = recorded["headers"]
    return (dict(headers), []) if isinstance(headers, Mapping) else ({}, list(headers))

"""Tables at locations: URLs of object stores, local globs, and folders of Parquet files, partitioned or not.

``s3://``, ``gs://``, ``abfs://`` and ``hdfs://`` are opened by Arrow itself, with the credentials that their own tools
use; any other scheme (``hf://datasets/...``) by fsspec, if the package of that scheme is installed.
"""

from __future__ import annotations

import importlib
import re
import tempfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, TypeGuard
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import dataset, fs, parquet

from llmhub import config
from llmhub.core.errors import invalid
from llmhub.tables import files, frames

URL: Final = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""Matches the beginning of a URL; a drive letter is none."""
GLOB: Final = re.compile(r"[*?\[]")
URL_PASSWORD: Final = re.compile(r"(://[^/:@\s]+):[^\s'\"]*@")
URL_SECRET: Final = re.compile(r"([?&](?:client_secret|sig)=)[^&\s'\"]+", re.IGNORECASE)
"""Matches the secret of an application, or the signature of a shared access token, in the query of a URL."""
ARROW_SCHEMES: Final = frozenset({"s3", "gs", "gcs", "abfs", "abfss", "hdfs"})
"""Schemes that Arrow opens itself, so that its words say what is wrong with a URL."""
FORMATS: Final = {
    ".parquet": "parquet",
    ".arrow": "ipc",
    ".feather": "ipc",
    ".csv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
}
"""Formats of files by extension; a location without one is a folder of Parquet files."""
BATCH_ROWS: Final = 4096


def parse_location(text: str) -> Path | str:
    """Return a URL or a pattern as text, and anything else as a path.

    Examples
    --------
    >>> parse_location("s3://bucket/rows.parquet"), parse_location("data/*.csv")
    ('s3://bucket/rows.parquet', 'data/*.csv')
    >>> parse_location("rows.csv").name
    'rows.csv'
    """
    is_pattern = GLOB.search(text) is not None and not Path(text).exists()
    return text if is_url(text) or is_pattern else Path(text)


def is_url(location: object) -> TypeGuard[str]:
    """Return whether a location is a URL."""
    return isinstance(location, str) and URL.match(location) is not None


def redact_location(text: str) -> str:
    """Return text in which URLs have no password and no other secret.

    Examples
    --------
    >>> redact_location("'abfs://account:a/key==@host/container/rows.parquet' cannot be read")
    "'abfs://account:***@host/container/rows.parquet' cannot be read"
    """
    return URL_SECRET.sub(r"\1***", URL_PASSWORD.sub(r"\1:***@", text))


def open_location(location: str, argument: str) -> tuple[Any, str]:
    """Return the file system of a location, and the path on it.

    Raises
    ------
    BadRequestError
        The URL is not valid, or nothing that is installed opens its scheme.
    """
    if not is_url(location):
        return fs.LocalFileSystem(), str(Path(location).expanduser().absolute())
    endpoint = config.s3_endpoint() if location.lower().startswith("s3://") and "?" not in location else ""
    try:
        if endpoint:
            authority, slash, key = location.partition("://")[2].partition("/")
            user_info, _, bucket = authority.rpartition("@")
            user, _, secret = map(unquote, user_info.partition(":"))
            keys = {"access_key": user or None, "secret_key": secret or None}
            return fs.S3FileSystem(**keys, endpoint_override=endpoint), f"{bucket}{slash}{key}"
        found, path = fs.FileSystem.from_uri(location)
        if found.type_name == "abfs":
            found = _with_account_key(found, location)
    except (pa.ArrowException, ValueError, OSError) as error:
        scheme = location.partition("://")[0].lower()
        if scheme in ARROW_SCHEMES:
            message = f"cannot be opened: {str(error).splitlines()[0]}"
            raise invalid(argument, redact_location(f"{location!r} {message}")) from error
        try:
            found, path = importlib.import_module("fsspec.core").url_to_fs(location)  # comes with other packages
        except (ImportError, ValueError, OSError) as other:
            message = f"cannot be opened: {other}; install the fsspec package for {scheme}://, such as huggingface_hub"
            raise invalid(argument, redact_location(f"{location!r} {message}")) from error
        found = fs.PyFileSystem(fs.FSSpecHandler(found))
    return found, path


def _with_account_key(system: Any, location: str) -> Any:
    """Return a file system of Azure with the key of the URL or the environment, which Arrow 26 does not use itself."""
    key = unquote(urlsplit(location).password or "") or config.azure_storage_key()
    if not key:
        return system
    (options,) = system.__reduce__()[1]  # what the constructor takes
    return fs.AzureFileSystem(**{name: value or None for name, value in {**options, "account_key": key}.items()})


def read_location(location: str | Path, argument: str) -> Iterator[pa.Table]:
    """Yield the rows of a URL, a pattern or a folder in tables of some thousand rows.

    Folders named ``column=value`` become columns.

    Raises
    ------
    BadRequestError
        There is no file, or a file cannot be read.
    """
    system, path = open_location(str(location), argument)
    try:
        if GLOB.search(path):
            # Before the pattern there may be folders of partitions, which are read as the files say.
            files = _matching(system, path)
            if not files:
                raise invalid(argument, redact_location(f"{str(location)!r} matches no file"))
            found = dataset.dataset(files, filesystem=system, format=_format(files[0]), partitioning="hive")
        else:
            found = dataset.dataset(path, filesystem=system, format=_format(path), partitioning="hive")
        for batch in found.to_batches(batch_size=BATCH_ROWS):
            if batch.num_rows:
                yield pa.Table.from_batches([batch])
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise invalid(argument, redact_location(f"{str(location)!r} cannot be read: {reason}")) from error


def read_rows(location: str | Path, argument: str) -> pa.Table:
    """Return all rows of a file, a folder of Parquet files, a pattern or a URL.

    Raises
    ------
    BadRequestError
        There is no file or no row, or a file cannot be read.
    """
    if isinstance(location, Path) and not location.is_dir():
        return files.read_table(location, argument)
    tables = list(read_location(location, argument))
    if not tables:
        raise invalid(argument, redact_location(f"{str(location)!r} has no rows"))
    return frames.to_table(pa.concat_tables(tables))


def _matching(system: Any, pattern: str) -> list[str]:
    """Return the files that match a pattern, in order."""
    base = pattern[: GLOB.search(pattern).start()].rpartition("/")[0]  # type: ignore[union-attr]
    selector = fs.FileSelector(base or "/", recursive=True, allow_not_found=True)
    depth = pattern.count("/")
    infos = system.get_file_info(selector)
    names = [info.path for info in infos if info.type == fs.FileType.File]
    return sorted(
        name for name in names if fnmatchcase(name, pattern) and ("**" in pattern or name.count("/") == depth)
    )


def _format(path: str) -> str:
    return FORMATS.get(Path(path).suffix.lower(), "parquet")


class ObjectStoreFolder:
    """A folder of Parquet parts at a URL. A part appears when it is complete, as object stores do.

    Parameters
    ----------
    url
        The folder.
    """

    def __init__(self, url: str) -> None:
        self._system, self._folder = open_location(url, "sink")
        self._folder = self._folder.rstrip("/")
        try:
            self._system.create_dir(self._folder, recursive=True)
        except (OSError, pa.ArrowException) as error:
            message = f"{url!r} cannot be written: {str(error).splitlines()[0]}"
            raise invalid("sink", redact_location(message)) from error
        digest = blake2b(url.encode(), digest_size=8).hexdigest()
        self.journal_path = Path(tempfile.gettempdir()) / f".llmhub-{digest}.responses.db"

    def read(self, first: int, select: Callable[[pa.Table], pa.Table]) -> pa.Table | None:
        """Return the rows of a part that ``select`` keeps; ``None`` if there is no such part."""
        path = self._part(first)
        if self._system.get_file_info(path).type != fs.FileType.File:
            return None
        with self._system.open_input_file(path) as file:
            return select(parquet.read_table(file))

    def write(self, first: int, results: pa.Table) -> None:
        """Write a part, replacing the one that is there."""
        with self._system.open_output_stream(self._part(first)) as stream:
            parquet.write_table(results, stream)

    def _part(self, first: int) -> str:
        return f"{self._folder}/part-{first:012d}.parquet"

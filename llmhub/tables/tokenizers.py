"""Token counts: with the model's tiktoken vocabulary if it is available, else estimated and marked as such.

tiktoken downloads a vocabulary on first use, without a timeout and under a lock shared by all threads. llmhub therefore
supplies the vocabulary itself: from tiktoken's cache folder, or downloaded with a timeout. A file's name in that folder
is the SHA-1 of its URL, and its content must have the SHA-256 that tiktoken declares
(https://github.com/openai/tiktoken/blob/main/tiktoken/load.py, read 2026-11-22).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from binascii import a2b_base64
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.request import urlopen
from warnings import warn

from llmhub.core.token_estimate import estimate_tokens

if TYPE_CHECKING:
    from tiktoken import Encoding

ESTIMATOR: Final = "estimate"
"""Name of `llmhub.core.token_estimate.estimate_tokens` as a tokenizer."""
DEFAULT_ENCODING: Final = "o200k_base"
"""Encoding used for models whose own is unknown or not public."""
ENCODING_ALIASES: Final[Mapping[str, str]] = {
    "o200k_harmony": "o200k_base",
    "p50k_edit": "p50k_base",
    "gpt2": "r50k_base",
}
"""Encodings that differ from another one only in special tokens, which user text never produces."""
MAX_PIECE_CHARS: Final = 400_000
"""Characters passed to tiktoken at once; its regular expression overflows the stack on a million spaces in a row."""
PARALLEL_FROM_CHARS: Final = 20_000_000
"""Characters from which on threads are started (about a second of work for one thread)."""
MAX_THREADS: Final = 4
"""Threads of a parallel count; more only wait for each other."""
MAX_VOCABULARY_BYTES: Final = 64 * 2**20
"""Larger downloads are aborted."""
DOWNLOAD_DEADLINE_S: Final = 120.0
"""Seconds that a download may continue in the background after its caller timed out, for the next process to use."""

TokenRanks: TypeAlias = dict[bytes, int]


class EstimateWarning(UserWarning):
    """Token counts are estimates because a vocabulary is not available."""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Token counts of texts.

    Parameters
    ----------
    counts
        One count per text.
    estimated
        Whether another tokenizer than the model's own was used.
    tokenizer
        Name of the tiktoken encoding, or ``estimate``.
    """

    counts: list[int]
    estimated: bool
    tokenizer: str


@dataclass(frozen=True, slots=True)
class VocabularySource:
    """Where vocabularies are read from.

    Parameters
    ----------
    folder
        tiktoken's cache folder (``TIKTOKEN_CACHE_DIR``); its default if ``None``.
    download
        Whether a missing vocabulary may be downloaded.
    wait_s
        Seconds that a count waits for a download.
    """

    folder: Path | None = None
    download: bool = True
    wait_s: float = 3.0


@dataclass(frozen=True, slots=True)
class MissingVocabulary:
    """The reason why a vocabulary is not available."""

    reason: str


# Counting


def count_tokens(texts: Sequence[str], model: str, vocabularies: VocabularySource | None = None) -> TokenCounts:
    """Count the tokens of each text with the tokenizer of ``model``, or estimate them if it is not available in time.

    Parameters
    ----------
    texts
        Texts; markup that looks like a special token is counted as text.
    model
        ``provider/model``, or a model name alone.
    vocabularies
        Where the vocabulary is read from; by default tiktoken's folder and the network.

    Warns
    -----
    EstimateWarning
        Once per process and tokenizer, if its vocabulary is not available.

    Examples
    --------
    >>> import warnings
    >>> from pathlib import Path
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     count_tokens(["Say hi."], "openai/gpt-4o", VocabularySource(Path("/nowhere"), download=False))
    TokenCounts(counts=[2], estimated=True, tokenizer='estimate')
    """
    name, is_own = encoding_name_of(model)
    encoding = load_encoding(name, vocabularies or VocabularySource())
    if isinstance(encoding, MissingVocabulary):
        _warn_estimated(name, encoding.reason)
        return TokenCounts([estimate_tokens(text) for text in texts], estimated=True, tokenizer=ESTIMATOR)
    return TokenCounts(_count_parallel(encoding, texts), estimated=not is_own, tokenizer=name)


def _count_parallel(encoding: Encoding, texts: Sequence[str]) -> list[int]:
    """Count in threads if there is much text; tiktoken releases the interpreter lock while it encodes."""
    if sum(map(len, texts)) < PARALLEL_FROM_CHARS:
        return _count(encoding, texts)
    from joblib import Parallel, cpu_count, delayed  # noqa: PLC0415 - takes a third of a second to import

    jobs = min(cpu_count(), MAX_THREADS)
    step = -(-len(texts) // (4 * jobs))
    parts = (texts[start : start + step] for start in range(0, len(texts), step))
    counts = Parallel(jobs, prefer="threads")(delayed(_count)(encoding, part) for part in parts)
    return list(chain.from_iterable(counts))


def _count(encoding: Encoding, texts: Sequence[str]) -> list[int]:
    """Count in this thread; a very long text is counted in pieces, which may add a token at each cut."""
    encode = encoding.encode_ordinary
    return [
        len(encode(text))
        if len(text) <= MAX_PIECE_CHARS
        else sum(len(encode(text[start : start + MAX_PIECE_CHARS])) for start in range(0, len(text), MAX_PIECE_CHARS))
        for text in texts
    ]


@cache
def _warn_estimated(name: str, reason: str) -> None:
    warn(f"token counts are estimates: {name} could not be loaded: {reason}", EstimateWarning, stacklevel=3)


# Encodings


def encoding_name_of(model: str) -> tuple[str, bool]:
    """Return the name of the encoding to count with, and whether it is known to be the model's own.

    Examples
    --------
    >>> encoding_name_of("openai/gpt-4-0613"), encoding_name_of("groq/openai/gpt-oss-20b")
    (('cl100k_base', True), ('o200k_base', True))
    >>> encoding_name_of("anthropic/claude-sonnet-4-5")
    ('o200k_base', False)
    """
    from tiktoken.model import encoding_name_for_model  # noqa: PLC0415 - loaded only to count

    try:
        name = encoding_name_for_model(model.rpartition("/")[2])
    except KeyError:
        return DEFAULT_ENCODING, False
    return ENCODING_ALIASES.get(name, name), True


@cache
def load_encoding(name: str, vocabularies: VocabularySource) -> Encoding | MissingVocabulary:
    """Return an encoding, or why its vocabulary is not available; the result is kept for the life of the process."""
    from tiktoken import Encoding  # noqa: PLC0415 - loaded only to count
    from tiktoken_ext.openai_public import (  # type: ignore[import-untyped]  # noqa: PLC0415 - as above
        ENCODING_CONSTRUCTORS,
    )

    missing: list[MissingVocabulary] = []

    def load(url: str, expected_hash: str) -> TokenRanks:
        content = read_vocabulary(url, expected_hash, vocabularies)
        if isinstance(content, MissingVocabulary):
            missing.append(content)
            return {}
        return parse_ranks(content)

    constructor = _with_loader(ENCODING_CONSTRUCTORS.get(name), load)
    if constructor is None:
        return MissingVocabulary(f"the installed tiktoken does not define {name} in the expected way")
    arguments = constructor()
    return missing[0] if missing else Encoding(**arguments)


def parse_ranks(content: bytes) -> TokenRanks:
    r"""Parse a vocabulary file: on each line a token in base64 and its rank.

    Examples
    --------
    >>> parse_ranks(b"IQ== 0\nIg== 1\n")
    {b'!': 0, b'"': 1}
    """
    pairs = (line.split() for line in content.splitlines() if line)
    return {a2b_base64(token): int(rank) for token, rank in pairs}


def _with_loader(constructor: object, load: Callable[[str, str], TokenRanks]) -> Callable[[], Mapping[str, Any]] | None:
    """Return tiktoken's constructor of an encoding with its loader, which has no timeout, replaced by ``load``."""
    loader = "load_tiktoken_bpe"
    if not isinstance(constructor, FunctionType) or loader not in constructor.__code__.co_names:
        return None
    return FunctionType(constructor.__code__, {**constructor.__globals__, loader: load})


# Vocabulary files


def vocabulary_path(url: str, folder: Path | None) -> Path:
    """Return the path at which tiktoken caches the file of ``url``.

    Examples
    --------
    >>> vocabulary_path("https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken", Path("x")).name
    'fb374d419588a4632f3f557e76b4b70aebbca790'
    """
    name = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    return (folder or Path(tempfile.gettempdir()) / "data-gym-cache") / name


def read_vocabulary(url: str, sha256: str, vocabularies: VocabularySource) -> bytes | MissingVocabulary:
    """Return a vocabulary's bytes, or why they are not available, within ``wait_s`` seconds."""
    path = vocabulary_path(url, vocabularies.folder)
    content: bytes | None = None
    with suppress(OSError):
        content = path.read_bytes()
    if content is not None and hashlib.sha256(content).hexdigest() == sha256:
        return content
    if vocabularies.download:
        return _fetch(url, sha256, path, vocabularies.wait_s)
    reason = "does not exist" if content is None else "is corrupt: its SHA-256 differs from the expected one"
    return MissingVocabulary(f"{path} {reason}")


def _fetch(url: str, sha256: str, path: Path, wait_s: float) -> bytes | MissingVocabulary:
    """Download in a thread, since name resolution and slow servers are not bound by the socket's timeout."""
    result: SimpleQueue[bytes | MissingVocabulary] = SimpleQueue()

    def run() -> None:
        content = _download(url, sha256, wait_s)
        if isinstance(content, bytes):
            _store_file(path, content)
        result.put(content)

    Thread(target=run, name="llmhub-vocabulary", daemon=True).start()
    try:
        return result.get(timeout=wait_s)
    except Empty:
        return MissingVocabulary(f"{url} did not respond completely within {wait_s:g} s")


def _download(url: str, sha256: str, timeout_s: float) -> bytes | MissingVocabulary:
    """Download the file and verify its digest."""
    deadline = monotonic() + DOWNLOAD_DEADLINE_S
    content = bytearray()
    try:
        with urlopen(url, timeout=timeout_s) as reply:  # noqa: S310 - the URL is tiktoken's own
            while chunk := reply.read(2**16):
                content += chunk
                if len(content) > MAX_VOCABULARY_BYTES or monotonic() > deadline:
                    return MissingVocabulary(f"{url} is too large or too slow")
    except (OSError, HTTPException, ValueError) as error:
        return MissingVocabulary(f"{url}: {error}")
    if hashlib.sha256(content).hexdigest() != sha256:
        return MissingVocabulary(f"{url} returned a file with an unexpected SHA-256")
    return bytes(content)


def _store_file(path: Path, content: bytes) -> None:
    """Write the file atomically; if the folder is not writable, the next process downloads it again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise

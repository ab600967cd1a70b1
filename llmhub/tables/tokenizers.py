"""Token counts of a column of texts: from the model's vocabulary where it can be had, else estimated and said so.

tiktoken fetches a vocabulary at first use, without a bound on the wait and under a lock that all threads share.
So llmhub brings the vocabulary itself: from tiktoken's cache folder, or with a bounded wait over the network,
checked against the digest that tiktoken knows, and left in that folder for the next process to find.

Vocabulary files of tokenizers: found in tiktoken's cache folder, or fetched with a bounded wait.

A file's name there is the SHA-1 of its URL, and its content must have the SHA-256 that tiktoken knows
(https://github.com/openai/tiktoken/blob/main/tiktoken/load.py, read 2026-11-22).
"""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from warnings import warn

from llmhub.core.token_estimate import estimate_tokens

if TYPE_CHECKING:
    from tiktoken import Encoding
import hashlib
import os
import tempfile
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from urllib.request import urlopen

ESTIMATOR: Final = "estimate"
"""The name under which `llmhub.core.token_estimate.estimate_tokens` goes."""


DEFAULT_ENCODING: Final = "o200k_base"
"""The vocabulary taken for a model whose own is not public or not known."""


ENCODING_ALIASES: Final[Mapping[str, str]] = {
    "o200k_harmony": "o200k_base",
    "p50k_edit": "p50k_base",
    "gpt2": "r50k_base",
}
"""Tokenizers that differ in control tokens alone, which no user's text becomes."""


MAX_PIECE_CHARS: Final = 400_000
"""Characters that tiktoken is given at once: on a million blanks in a row its pattern's stack overflows."""


PARALLEL_FROM_CHARS: Final = 20_000_000
"""Characters from which on starting threads is worth its while (a second's work for one)."""


MAX_THREADS: Final = 4
"""Threads of a large count: more of them wait for each other."""


TokenRanks: TypeAlias = dict[bytes, int]


class EstimateWarning(UserWarning):
    """Token counts are estimates, because a vocabulary could not be had."""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Token counts of texts.

    Parameters
    ----------
    tokens
        One count for each text, in their order.
    estimated
        Whether the counts are those of another tokenizer than the model's own.
    tokenizer
        What counted: a tiktoken encoding, or ``estimate``.
    """

    counts: list[int]
    estimated: bool
    tokenizer: str


def count_tokens(texts: Sequence[str], model: str, vocabularies: VocabularySource | None = None) -> TokenCounts:
    """Count the tokens of each text as ``model`` would, waiting for a vocabulary no longer than permitted.

    Parameters
    ----------
    texts
        What to count; markup that looks like a control token counts as the text it is.
    model
        ``provider/model``, or a model's name alone.
    vocabularies
        Where vocabularies are, and whether one may be fetched.

    Warns
    -----
    EstimateWarning
        Once a process and tokenizer, where its vocabulary cannot be had.

    Examples
    --------
    >>> import warnings
    >>> from pathlib import Path
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     count_tokens(["Say hi."], "openai/gpt-4o", VocabularySource(Path("/nowhere"), download=False))
    TokenCounts(counts=[2], estimated=True, tokenizer='estimate')
    """
    name, own = encoding_name_of(model)
    found = load_encoding(name, vocabularies or VocabularySource())
    if isinstance(found, MissingVocabulary):
        _warn_estimated(name, found.reason)
        return TokenCounts([estimate_tokens(text) for text in texts], estimated=True, tokenizer=ESTIMATOR)
    return TokenCounts(_count_parallel(found, texts), estimated=not own, tokenizer=name)


def encoding_name_of(model: str) -> tuple[str, bool]:
    """Name the tokenizer to count with, and say whether it is known to be the model's own.

    Examples
    --------
    >>> encoding_name_of("openai/gpt-4-0613"), encoding_name_of("groq/openai/gpt-oss-20b")
    (('cl100k_base', True), ('o200k_base', True))
    >>> encoding_name_of("anthropic/claude-sonnet-4-5")
    ('o200k_base', False)
    """
    from tiktoken.model import encoding_name_for_model  # noqa: PLC0415 - loaded by those who count

    try:
        name = encoding_name_for_model(model.rpartition("/")[2])
    except KeyError:
        return DEFAULT_ENCODING, False
    return ENCODING_ALIASES.get(name, name), True


@cache
def load_encoding(name: str, vocabularies: VocabularySource) -> Encoding | MissingVocabulary:
    """Build a tokenizer from a vocabulary that is at hand or can be had in time; what came of it stands for good."""
    from tiktoken import Encoding  # noqa: PLC0415 - loaded by those who count
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
        return MissingVocabulary(f"this version of tiktoken has no {name} of the form known here")
    pieces = constructor()
    return missing[0] if missing else Encoding(**pieces)


def parse_ranks(content: bytes) -> TokenRanks:
    r"""Read a vocabulary file: on each line a token in base64 and its rank.

    Examples
    --------
    >>> parse_ranks(b"IQ== 0\nIg== 1\n")
    {b'!': 0, b'"': 1}
    """
    pairs = (line.split() for line in content.splitlines() if line)
    return {a2b_base64(token): int(rank) for token, rank in pairs}


def _with_loader(constructor: object, load: Callable[[str, str], TokenRanks]) -> Callable[[], Mapping[str, Any]] | None:
    """Give tiktoken's recipe for an encoding with our loader in the place of its own, which may wait for ever."""
    loader = "load_tiktoken_bpe"
    if not isinstance(constructor, FunctionType) or loader not in constructor.__code__.co_names:
        return None
    return FunctionType(constructor.__code__, {**constructor.__globals__, loader: load})


def _count_parallel(tokenizer: Encoding, texts: Sequence[str]) -> list[int]:
    """Count; tiktoken lets go of the interpreter's lock while it encodes, so threads help a large column."""
    if sum(map(len, texts)) < PARALLEL_FROM_CHARS:
        return _count(tokenizer, texts)
    from joblib import Parallel, cpu_count, delayed  # noqa: PLC0415 - a third of a second, for large columns alone

    jobs = min(cpu_count(), MAX_THREADS)
    step = -(-len(texts) // (4 * jobs))
    parts = (texts[at : at + step] for at in range(0, len(texts), step))
    counted = Parallel(jobs, prefer="threads")(delayed(_count)(tokenizer, part) for part in parts)
    return list(chain.from_iterable(counted))


def _count(tokenizer: Encoding, texts: Sequence[str]) -> list[int]:
    """Count in this thread; a text that is too long for tiktoken in pieces, which may add a token at each cut."""
    encode = tokenizer.encode_ordinary
    return [
        len(encode(text))
        if len(text) <= MAX_PIECE_CHARS
        else sum(len(encode(text[at : at + MAX_PIECE_CHARS])) for at in range(0, len(text), MAX_PIECE_CHARS))
        for text in texts
    ]


@cache
def _warn_estimated(name: str, reason: str) -> None:
    warn(f"token counts are estimates: {name} could not be loaded: {reason}", EstimateWarning, stacklevel=3)


MAX_VOCABULARY_BYTES: Final = 64 * 2**20
"""Bytes beyond which a download is no vocabulary."""


DOWNLOAD_DEADLINE_S: Final = 120.0
"""Seconds that a download nobody waits for any more may go on, for the next process to profit from."""


@dataclass(frozen=True, slots=True)
class VocabularySource:
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
class MissingVocabulary:
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


def read_vocabulary(url: str, sha256: str, vocabularies: VocabularySource) -> bytes | MissingVocabulary:
    """Give a vocabulary's bytes, or say why it cannot be had. Returns within ``wait_s`` seconds."""
    path = vocabulary_path(url, vocabularies.folder)
    found: bytes | None = None
    with suppress(OSError):
        found = path.read_bytes()
    if found is not None and hashlib.sha256(found).hexdigest() == sha256:
        return found
    if vocabularies.download:
        return _fetch(url, sha256, path, vocabularies.wait_s)
    return MissingVocabulary(f"{path} is not there" if found is None else f"{path} is damaged: its digest is another")


def _fetch(url: str, sha256: str, path: Path, wait_s: float) -> bytes | MissingVocabulary:
    """Download in a thread of its own, since neither names nor slow servers keep to a socket's timeout."""
    arrived: SimpleQueue[bytes | MissingVocabulary] = SimpleQueue()

    def run() -> None:
        content = _download(url, sha256, wait_s)
        if isinstance(content, bytes):
            _store_file(path, content)
        arrived.put(content)

    Thread(target=run, name="llmhub-vocabulary", daemon=True).start()
    try:
        return arrived.get(timeout=wait_s)
    except Empty:
        return MissingVocabulary(f"{url} did not come within {wait_s:g} s")


def _download(url: str, sha256: str, wait_s: float) -> bytes | MissingVocabulary:
    """Read the file, and check that it is the one."""
    until = monotonic() + DOWNLOAD_DEADLINE_S
    content = bytearray()
    try:
        with urlopen(url, timeout=wait_s) as reply:  # noqa: S310 - the URL is tiktoken's own
            while piece := reply.read(2**16):
                content += piece
                if len(content) > MAX_VOCABULARY_BYTES or monotonic() > until:
                    return MissingVocabulary(f"{url} is too large or too slow")
    except (OSError, HTTPException, ValueError) as error:
        return MissingVocabulary(f"{url}: {error}")
    if hashlib.sha256(content).hexdigest() != sha256:
        return MissingVocabulary(f"{url} gave a file whose digest is another")
    return bytes(content)


def _store_file(path: Path, content: bytes) -> None:
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

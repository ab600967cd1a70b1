"""Token counts of a column of texts: from the model's vocabulary where it can be had, else estimated and said so.

tiktoken fetches a vocabulary at first use, without a bound on the wait and under a lock that all threads share.
So llmhub brings the vocabulary itself: from tiktoken's cache folder, or with a bounded wait over the network,
checked against the digest that tiktoken knows, and left in that folder for the next process to find.
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

from llmhub.core.tokens import estimate_tokens
from llmhub.tables.vocabulary import Missing, Vocabularies, read_vocabulary

if TYPE_CHECKING:
    from tiktoken import Encoding

ESTIMATOR: Final = "estimate"
"""The name under which `llmhub.core.tokens.estimate_tokens` goes."""
NEWEST: Final = "o200k_base"
"""The vocabulary taken for a model whose own is not public or not known."""
SAME_TEXT: Final[Mapping[str, str]] = {"o200k_harmony": "o200k_base", "p50k_edit": "p50k_base", "gpt2": "r50k_base"}
"""Tokenizers that differ in control tokens alone, which no user's text becomes."""
PIECE: Final = 400_000
"""Characters that tiktoken is given at once: on a million blanks in a row its pattern's stack overflows."""
CROWD: Final = 20_000_000
"""Characters from which on starting threads is worth its while (a second's work for one)."""
CROWD_JOBS: Final = 4
"""Threads of a large count: more of them wait for each other."""

Ranks: TypeAlias = dict[bytes, int]


class EstimateWarning(UserWarning):
    """Token counts are estimates, because a vocabulary could not be had."""


@dataclass(frozen=True, slots=True)
class Counted:
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

    tokens: list[int]
    estimated: bool
    tokenizer: str


def count_tokens(texts: Sequence[str], model: str, vocabularies: Vocabularies | None = None) -> Counted:
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
    ...     count_tokens(["Say hi."], "openai/gpt-4o", Vocabularies(Path("/nowhere"), download=False))
    Counted(tokens=[2], estimated=True, tokenizer='estimate')
    """
    name, own = tokenizer_of(model)
    found = encoding(name, vocabularies or Vocabularies())
    if isinstance(found, Missing):
        _say(name, found.reason)
        return Counted([estimate_tokens(text) for text in texts], estimated=True, tokenizer=ESTIMATOR)
    return Counted(_lengths(found, texts), estimated=not own, tokenizer=name)


def tokenizer_of(model: str) -> tuple[str, bool]:
    """Name the tokenizer to count with, and say whether it is known to be the model's own.

    Examples
    --------
    >>> tokenizer_of("openai/gpt-4-0613"), tokenizer_of("groq/openai/gpt-oss-20b")
    (('cl100k_base', True), ('o200k_base', True))
    >>> tokenizer_of("anthropic/claude-sonnet-4-5")
    ('o200k_base', False)
    """
    from tiktoken.model import encoding_name_for_model  # noqa: PLC0415 - loaded by those who count

    try:
        name = encoding_name_for_model(model.rpartition("/")[2])
    except KeyError:
        return NEWEST, False
    return SAME_TEXT.get(name, name), True


@cache
def encoding(name: str, vocabularies: Vocabularies) -> Encoding | Missing:
    """Build a tokenizer from a vocabulary that is at hand or can be had in time; what came of it stands for good."""
    from tiktoken import Encoding  # noqa: PLC0415 - loaded by those who count
    from tiktoken_ext.openai_public import (  # type: ignore[import-untyped]  # noqa: PLC0415 - as above
        ENCODING_CONSTRUCTORS,
    )

    missing: list[Missing] = []

    def load(url: str, expected_hash: str) -> Ranks:
        content = read_vocabulary(url, expected_hash, vocabularies)
        if isinstance(content, Missing):
            missing.append(content)
            return {}
        return ranks_of(content)

    constructor = _rebound(ENCODING_CONSTRUCTORS.get(name), load)
    if constructor is None:
        return Missing(f"this version of tiktoken has no {name} of the form known here")
    pieces = constructor()
    return missing[0] if missing else Encoding(**pieces)


def ranks_of(content: bytes) -> Ranks:
    r"""Read a vocabulary file: on each line a token in base64 and its rank.

    Examples
    --------
    >>> ranks_of(b"IQ== 0\nIg== 1\n")
    {b'!': 0, b'"': 1}
    """
    pairs = (line.split() for line in content.splitlines() if line)
    return {a2b_base64(token): int(rank) for token, rank in pairs}


def _rebound(constructor: object, load: Callable[[str, str], Ranks]) -> Callable[[], Mapping[str, Any]] | None:
    """Give tiktoken's recipe for an encoding with our loader in the place of its own, which may wait for ever."""
    loader = "load_tiktoken_bpe"
    if not isinstance(constructor, FunctionType) or loader not in constructor.__code__.co_names:
        return None
    return FunctionType(constructor.__code__, {**constructor.__globals__, loader: load})


def _lengths(tokenizer: Encoding, texts: Sequence[str]) -> list[int]:
    """Count; tiktoken lets go of the interpreter's lock while it encodes, so threads help a large column."""
    if sum(map(len, texts)) < CROWD:
        return _alone(tokenizer, texts)
    from joblib import Parallel, cpu_count, delayed  # noqa: PLC0415 - a third of a second, for large columns alone

    jobs = min(cpu_count(), CROWD_JOBS)
    step = -(-len(texts) // (4 * jobs))
    parts = (texts[at : at + step] for at in range(0, len(texts), step))
    counted = Parallel(jobs, prefer="threads")(delayed(_alone)(tokenizer, part) for part in parts)
    return list(chain.from_iterable(counted))


def _alone(tokenizer: Encoding, texts: Sequence[str]) -> list[int]:
    """Count in this thread; a text that is too long for tiktoken in pieces, which may add a token at each cut."""
    encode = tokenizer.encode_ordinary
    return [
        len(encode(text))
        if len(text) <= PIECE
        else sum(len(encode(text[at : at + PIECE])) for at in range(0, len(text), PIECE))
        for text in texts
    ]


@cache
def _say(name: str, reason: str) -> None:
    warn(f"token counts are estimates: {name} could not be loaded: {reason}", EstimateWarning, stacklevel=3)

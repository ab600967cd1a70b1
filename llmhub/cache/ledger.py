"""What a store may offer besides keeping answers: claims on keys, and a ledger of every request.

A key is claimed before it is asked, so that no two processes ask the same at once, and each request is written down
before it is sent. What a process that died leaves behind is then known: what it had only reserved was never sent; what
it had sent and has no answer may have been charged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

LEASE_S: Final = 30.0
"""How long a claim lives when nobody can tell whether its owner does."""
BEAT_S: Final = 5.0
"""How often an owner says that it lives."""

State: TypeAlias = Literal["reserved", "sent", "done", "error", "ambiguous"]
"""Where a request is; ``ambiguous``: sent, and who sent it is gone without an answer."""


class Wish(NamedTuple):
    """A key that somebody wants to ask, and the run it is for (16 bytes)."""

    key: bytes
    run: bytes


@dataclass(frozen=True, slots=True)
class Claimed:
    """What came of claiming keys: those named nowhere here are granted.

    Parameters
    ----------
    held
        Keys that another owner holds; ask again later.
    unsure
        Keys that an owner sent who is gone without an answer, and the run that sent them first. Granted, too, where
        they may be sent again; left as they are otherwise.
    alone
        Whether nobody else was there since the last claim, so that nobody can have answered anything meanwhile.
    """

    held: frozenset[bytes] = frozenset()
    unsure: Mapping[bytes, bytes] = field(default_factory=dict)
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Keys claimed across processes. The functions block, and may be called from any thread.

    Parameters
    ----------
    claim
        ``claim(wishes, resend, again)`` claims all at once; ``resend`` says whether to take what is ambiguous;
        ``again``, that these were held before, so that most will be still. An answer is filed before its key is given
        back: whoever is granted a key, and was not ``alone``, looks it up once more.
    release
        Gives keys back.
    beat
        Says that the owner lives; due every ``beat_s``.
    """

    claim: Callable[[Sequence[Wish], bool, bool], Claimed]
    release: Callable[[Sequence[bytes]], None]
    beat: Callable[[], None]
    beat_s: float = BEAT_S


class Sent(NamedTuple):
    """A request about to be sent, to which model and when; one that is claimed and no more has neither."""

    key: bytes
    run: bytes
    model: str = ""
    at: float = 0.0


class Ended(NamedTuple):
    """A request that came to an end; tokens as the provider counted them."""

    key: bytes
    run: bytes
    model: str
    served_model: str
    state: State
    error: str
    sent_at: float
    ended_at: float
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(slots=True)
class Batch:
    """What is written together: all of it or nothing."""

    sent: list[Sent] = field(default_factory=list)
    unsent: list[bytes] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    released: list[bytes] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Say whether there is anything to write."""
        return bool(self.sent or self.unsent or self.ended or self.released)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Every request, durable before it is sent. The functions block, and may be called from any thread.

    Parameters
    ----------
    commit
        Writes a batch: it survives the death of this process from then on.
    try_commit
        Writes a batch like ``commit``, but waits for nobody: says no where somebody else is writing. Takes some ten
        microseconds, so it may be called where nothing may wait.
    requests
        Reads every request, ended or not, in the order of their end, those under way last.
    forget
        Takes out requests that ended before a time (epoch seconds); gives their number.
    """

    commit: Callable[[Batch], None]
    try_commit: Callable[[Batch], bool]
    requests: Callable[[], Iterator[Ended]]
    forget: Callable[[float], int]

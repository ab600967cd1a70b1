"""What goes through the engine: a call, and what became of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from returns.result import Result

from llmhub.core.errors import LLMError
from llmhub.core.prepared import PreparedPrompt, PromptPreparer, field_replacer, prepare_prompt, with_model
from llmhub.core.provider import Endpoint, Provider, RateLimitInfo
from llmhub.core.types import CompletionRequest, CompletionResponse, StreamChunk, Usage

if TYPE_CHECKING:
    from llmhub.engine.spending import Budgets

Outcome: TypeAlias = Result[CompletionResponse, LLMError]


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked: the provider, where it is, its own name of the model, and the name a user typed."""

    provider: Provider
    endpoint: Endpoint
    model: str
    name: str


class PreparedText(NamedTuple):
    """A quick way to prepare one request, and the request it stands for: it does not count for any other.

    ``preparer_by_target`` gives the way of the same question to somebody else.
    """

    request: CompletionRequest
    prepare: PromptPreparer
    text: str
    for_target: Callable[[Target], PreparedPrompt]


def preparer_by_target(request: CompletionRequest, *, stream: bool) -> Callable[[Target], PreparedPrompt]:
    """Make the function that gives the way to a target of what is asked by putting texts behind ``request``."""
    known: dict[str, PreparedPrompt] = {}

    def to(target: Target) -> PreparedPrompt:
        found = known.get(target.name)
        if found is None:
            asked = with_model(request, target.model)
            found = known[target.name] = prepare_prompt(target.provider, target.endpoint, asked, stream=stream)
        return found

    return to


@dataclass(frozen=True, slots=True)
class Call:
    """One request to one target.

    Parameters
    ----------
    on_chunk
        Asks for a stream, and is told what comes.
    stream
        Asks for a stream, to measure the time to the first token.
    spliced
        How to prepare ``request`` quickly; of no account once a middleware has put another request in its place.
    key
        Key of the question as it was asked (`llmhub.core.cache_key.request_key`), where it is known; whoever puts another
        target or request in the call's place sets it anew.
    purse
        The budgets it must fit into; those of the hub where it has none.
    on_sent
        Told when it goes out.
    sample
        Which of several answers to the same question it is to be.
    asked
        Whom the caller asked, where it is known; ``target`` is another once somebody sent the call elsewhere.
    """

    target: Target
    request: CompletionRequest
    on_chunk: Callable[[StreamChunk], None] | None = None
    stream: bool = False
    prepared: PreparedText | None = None
    key: bytes | None = None
    budgets: Budgets | None = None
    on_sent: Callable[[], None] | None = None
    sample: int = 0
    requested_target: Target | None = None

    def with_target(self, target: Target) -> Call:
        """Give the same question to another target."""
        if target.name == self.target.name:
            return self
        request, quick = with_model(self.request, target.model), self.valid_prepared
        if quick is not None:
            quick = PreparedText(request, quick.for_target(target).prepare, quick.text, quick.for_target)
        return _to(self, target, request, quick, None, self.requested_target or self.target)

    @property
    def valid_prepared(self) -> PreparedText | None:
        """The quick way, where it stands for the request that is asked."""
        quick = self.prepared
        return quick if quick is not None and quick.request is self.request else None

    def with_key(self, key: bytes) -> Call:
        """Say the key of the question."""
        return _keyed(self, key)

    def with_on_sent(self, on_sent: Callable[[], None]) -> Call:
        """Have somebody else told when it goes out."""
        return _telling(self, on_sent)


_to: Final = field_replacer(Call, "target", "request", "prepared", "key", "requested_target")
_keyed: Final = field_replacer(Call, "key")
_telling: Final = field_replacer(Call, "on_sent")


class BilledFailure(NamedTuple):
    """What an attempt used that failed after it was answered: the provider charged it to ``target``."""

    target: Target
    usage: Usage


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a call, and how long it took.

    ``latency_s`` and ``ttft_s`` are the provider's time in the last attempt; ``rate_wait_s`` and ``total_s``
    cover all attempts; ``started_at`` (epoch seconds) is when the first was sent, 0 when none was. ``limits`` is what
    the last reply said about limits, be it an answer or a refusal; ``spent`` what attempts used that failed.
    ``target`` is who answered, or failed last, when that is not who was asked, and ``key`` that of the question as
    it was put to them.
    """

    outcome: Outcome
    latency_s: float | None = None
    ttft_s: float | None = None
    rate_wait_s: float | None = None
    total_s: float | None = None
    attempts: int = 0
    started_at: float = 0.0
    cache_hit: bool = False
    dropped: tuple[str, ...] = ()
    limits: RateLimitInfo | None = None
    billed_failures: tuple[BilledFailure, ...] = ()
    target: Target | None = None
    key: bytes | None = None

    def attributed_to(self, target: Target | None, key: bytes | None) -> Answer:
        """Have it say who gave it, and to which question; nobody: whoever was asked."""
        return _of(self, target, key)


_of: Final = field_replacer(Answer, "target", "key")

Send: TypeAlias = Callable[[Call], Awaitable[Answer]]
Middleware: TypeAlias = Callable[[Send], Send]


def chain(send: Send, *middleware: Middleware) -> Send:
    """Wrap ``send``: the first middleware is the outermost, and sees a call first and its answer last.

    Examples
    --------
    >>> seen = []
    >>> def noted(name):
    ...     def wrap(send):
    ...         seen.append(name)
    ...         return send
    ...     return wrap
    >>> async def send(call): ...
    >>> _ = chain(send, noted("outer"), noted("inner"))
    >>> seen
    ['inner', 'outer']
    """
    for wrap in reversed(middleware):
        send = wrap(send)
    return send

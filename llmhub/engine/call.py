"""Define the values that pass through the engine: a `Call` goes in and an `Answer` comes out.

Every layer of the engine is a `Middleware`, a function from one `Send` to another, so layers compose with `chain` and
can be tested alone. Calls and answers are immutable; the ``with_...`` methods return changed copies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from returns.result import Result

from llmhub.core.construction import fast_constructor
from llmhub.core.embedding import EmbedOptions, EmbedRequest
from llmhub.core.errors import LLMError
from llmhub.core.prepared import PreparedPrompt, PromptPreparer, prepare_prompt, with_model
from llmhub.core.provider import Endpoint, Provider, RateLimitInfo
from llmhub.core.stream import Delta
from llmhub.core.types import CompletionRequest, CompletionResponse, StreamChunk, Text, Usage

if TYPE_CHECKING:
    from llmhub.engine.spending import Budgets

SIMULATED_PREFIX: Final = "simulated/"
"""In front of the model's name in a cache, if a simulator answered."""

Outcome: TypeAlias = Result[CompletionResponse, LLMError]
SendMode: TypeAlias = Literal["live", "batch"]
"""How a request is sent: by itself, or in a batch of the provider's Batch API."""


@dataclass(frozen=True, slots=True)
class Target:
    """A model at a provider.

    Parameters
    ----------
    provider
        The API it is called through.
    endpoint
        The address and credentials.
    model
        The model's name at the provider.
    name
        The name as the user typed it, ``provider/model``.
    """

    provider: Provider
    endpoint: Endpoint
    model: str
    name: str

    @property
    def cache_name(self) -> str:
        """The name that responses are stored with; those of a simulator never count as the model's own."""
        return f"{SIMULATED_PREFIX}{self.name}" if self.endpoint.simulated else self.name


class PreparedText(NamedTuple):
    """A shortcut that builds the HTTP request of one particular `CompletionRequest` from its text.

    Parameters
    ----------
    request
        The request it is valid for.
    http
        Builds the HTTP request from ``text`` and the current time.
    text
        The text of the request.
    for_target
        Returns the key and HTTP request builders of the same prompt at another target.
    """

    request: CompletionRequest
    http: PromptPreparer
    text: str
    for_target: Callable[[Target], PreparedPrompt]


def preparer_by_target(request: CompletionRequest, *, stream: bool) -> Callable[[Target], PreparedPrompt]:
    """Return a memoized function from a target to the builders of ``request``, followed by any text, at that target."""
    prepared: dict[str, PreparedPrompt] = {}

    def for_target(target: Target) -> PreparedPrompt:
        found = prepared.get(target.name)
        if found is None:
            request_there = with_model(request, target.model)
            found = prepare_prompt(target.provider, target.endpoint, request_there, stream=stream)
            prepared[target.name] = found
        return found

    return for_target


@dataclass(frozen=True, slots=True)
class Call:
    """One request to one target.

    Parameters
    ----------
    target
        The target it is sent to.
    request
        The request, with the target's model.
    on_chunk
        Called with each chunk of the response, which is then streamed.
    on_deltas
        Called with the deltas of the response as the wire decodes them, which have more than chunks: the index of each
        part, further choices, log probabilities. The response is then streamed.
    stream
        Whether to stream the response even without ``on_chunk``, to measure the time to the first token.
    prepared
        A shortcut for building the HTTP request; ignored once a middleware has replaced ``request``.
    key
        Cache key of the request (`llmhub.core.cache_key.request_key`), if computed. Code that replaces the target or
        the request must replace the key too.
    budgets
        The budgets the call must fit into; ``None`` for those of the hub.
    on_sent
        Called when the request is sent.
    sample
        Which of several responses to the same request is wanted, from 0.
    requested_target
        The target the caller named, if known; it differs from ``target`` once the call was routed elsewhere.
    cache_scope
        Part of the cache key: calls of other scopes share no responses. Empty for the key of the request alone.
    embedding
        Options of a call for embeddings, whose request is one message with a part for each text; ``None`` for a
        completion.
    has_other_credentials
        Whether the target's endpoint has other credentials than the one that ``prepared`` was made for.
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
    on_deltas: Callable[[Sequence[Delta]], None] | None = None
    cache_scope: str = ""
    embedding: EmbedOptions | None = None
    has_other_credentials: bool = False

    @property
    def is_delivered(self) -> bool:
        """Whether the response is passed on while it arrives, so that it cannot begin again elsewhere."""
        return self.on_chunk is not None or self.on_deltas is not None

    @property
    def embed_request(self) -> EmbedRequest | None:
        """The request for embeddings, as middleware has left it; ``None`` for a completion."""
        if self.embedding is None:
            return None
        parts = (part for message in self.request.messages for part in message.parts)
        texts = tuple([part.text for part in parts if isinstance(part, Text)])
        return EmbedRequest(self.target.model, texts, self.embedding)

    @property
    def valid_prepared(self) -> PreparedText | None:
        """``prepared``, if it was made for the present request."""
        prepared = self.prepared
        return prepared if prepared is not None and prepared.request is self.request else None

    def with_target(self, target: Target) -> Call:
        """Return the same call to another target, without a key."""
        if target.name == self.target.name:
            return self
        request, prepared = with_model(self.request, target.model), self.valid_prepared
        if prepared is not None:
            prepared = PreparedText(request, prepared.for_target(target).http, prepared.text, prepared.for_target)
        return self._copy(target, request, prepared, None, self.on_sent, self.requested_target or self.target)

    def with_endpoint(self, endpoint: Endpoint) -> Call:
        """Return the call with other credentials: ``endpoint`` differs from the target's in nothing else."""
        old = self.target
        if endpoint is old.endpoint:
            return self
        target = Target(old.provider, endpoint, old.model, old.name)
        call = self._copy(target, self.request, self.prepared, self.key, self.on_sent, self.requested_target)
        object.__setattr__(call, "has_other_credentials", True)
        return call

    def with_key(self, key: bytes) -> Call:
        """Return the call with its cache key."""
        return self._copy(self.target, self.request, self.prepared, key, self.on_sent, self.requested_target)

    def with_on_sent(self, on_sent: Callable[[], None]) -> Call:
        """Return the call with another ``on_sent`` callback."""
        return self._copy(self.target, self.request, self.prepared, self.key, on_sent, self.requested_target)

    def _copy(
        self,
        target: Target,
        request: CompletionRequest,
        prepared: PreparedText | None,
        key: bytes | None,
        on_sent: Callable[[], None] | None,
        requested_target: Target | None,
    ) -> Call:
        """Return a copy with these fields. Runs for every routed attempt: `dataclasses.replace` takes much longer."""
        return NEW_CALL(
            target, request, self.on_chunk, self.stream, prepared, key, self.budgets, on_sent, self.sample,
            requested_target, self.on_deltas, self.cache_scope, self.embedding,
            self.has_other_credentials,
        )  # fmt: skip


NEW_CALL: Final = fast_constructor(Call)


class BilledFailure(NamedTuple):
    """Tokens the provider charged to ``target`` for an attempt that failed after it was answered.

    ``response`` is the whole response, if it was a middleware that failed.
    """

    target: Target
    usage: Usage
    response: CompletionResponse | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a call, with its timing.

    Parameters
    ----------
    outcome
        The response or the error.
    latency_s, ttft_s
        The provider's time in the last attempt: in all, and to the first token; ``None`` where not measured.
    rate_wait_s, total_s
        Time spent waiting for rate limits, and in all; over all attempts.
    attempts
        HTTP requests sent.
    started_at
        When the first was sent (epoch seconds); 0 if none was.
    cache_hit
        Whether the response came from a store or from an equal call.
    dropped
        Parameters the provider does not support and that were left out.
    limits
        Rate limit information in the last reply, successful or not.
    billed_failures
        Tokens charged for attempts that failed.
    target
        The target that answered, or failed last, if it is not the requested one.
    key
        The cache key of the request as sent to ``target``.
    uncertain_requests
        Requests that timed out, were cut off, or whose reply could not be read: the provider may have charged them, for
        tokens it did not report.
    mode
        How the request was sent: ``live``, or ``batch`` through the provider's Batch API, at the price of batches.
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
    uncertain_requests: int = 0
    mode: SendMode = "live"

    @property
    def failed_response(self) -> CompletionResponse | None:
        """The last response after which a middleware failed; ``None`` without one."""
        return next((each.response for each in reversed(self.billed_failures) if each.response is not None), None)

    def attributed_to(self, target: Target | None, key: bytes | None) -> Answer:
        """Return the answer as given by ``target`` to the request with ``key``; ``None`` for the requested target."""
        # Every field by position, since `dataclasses.replace` takes much longer.
        return NEW_ANSWER(
            self.outcome, self.latency_s, self.ttft_s, self.rate_wait_s, self.total_s, self.attempts, self.started_at,
            self.cache_hit, self.dropped, self.limits, self.billed_failures, target, key,
            self.uncertain_requests, self.mode,
        )  # fmt: skip


NEW_ANSWER: Final = fast_constructor(Answer)

Send: TypeAlias = Callable[[Call], Awaitable[Answer]]
Middleware: TypeAlias = Callable[[Send], Send]


def chain(send: Send, *middleware: Middleware) -> Send:
    """Wrap ``send`` in middleware, the first outermost: it sees a call first and its answer last.

    Examples
    --------
    >>> wrapped = []
    >>> def named(name):
    ...     def wrap(send):
    ...         wrapped.append(name)
    ...         return send
    ...     return wrap
    >>> async def send(call): ...
    >>> _ = chain(send, named("outer"), named("inner"))
    >>> wrapped
    ['inner', 'outer']
    """
    for wrap in reversed(middleware):
        send = wrap(send)
    return send

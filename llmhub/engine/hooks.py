"""Compile hooks to middleware: objects with functions called before a call, after its answer, or after its failure.

A hook is any object with at least one of ``on_request``, ``on_response`` and ``on_error``. In a chain of several hooks,
``on_request`` is called in order, ``on_response`` and ``on_error`` in reverse order.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Final, Protocol, TypeAlias, cast

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.core.errors import ConnectorError, InvalidRequest, LLMError
from llmhub.core.types import CompletionResponse
from llmhub.engine.call import Answer, BilledFailure, Call, Middleware, Send, Target
from llmhub.engine.write_ahead import SEND_CONTEXT, SendContext

MAX_RESENDS: Final = 3
"""How often one hook may have a call sent again."""
HOOK_NAMES: Final = ("on_request", "on_response", "on_error")

ResolveTarget: TypeAlias = Callable[[str], Target]


class ErrorAction:
    """Return values of ``on_error``; ``None`` stands for `Propagate`.

    Examples
    --------
    >>> ErrorAction.Fallback("anthropic/claude-haiku-4-5")
    ErrorAction.Fallback(model='anthropic/claude-haiku-4-5')
    """

    @dataclass(frozen=True, slots=True)
    class Retry:
        """Send the call again after ``after_s`` seconds."""

        after_s: float = 0.0

    @dataclass(frozen=True, slots=True)
    class Fallback:
        """Send the call to another ``provider/model``, or to the same model of another ``provider``."""

        model: str

    @dataclass(frozen=True, slots=True)
    class Propagate:
        """Return the failure unchanged."""


Action: TypeAlias = ErrorAction.Retry | ErrorAction.Fallback | ErrorAction.Propagate


class Hook(Protocol):
    """The functions of a hook, each optional and plain or ``async``.

    ``on_request(call)`` returns the call to send instead, or ``None`` to leave it unchanged; ``on_response(call,
    answer)`` does the same for a successful answer; ``on_error(call, error)`` returns an `ErrorAction` or ``None``.

    An exception of ``on_response`` rejects the response: its row is an error, with the text, the tokens and the cost of
    the response, and it is not cached. ``KeyboardInterrupt`` and the like end the run; the ``table`` of the exception
    has the response as well. A hook that only observes has to catch its own exceptions.
    """

    on_request: Callable[[Call], Call | Awaitable[Call | None] | None]
    on_response: Callable[[Call, Answer], Answer | Awaitable[Answer | None] | None]
    on_error: Callable[[Call, LLMError], Action | Awaitable[Action | None] | None]


def is_hook(value: object) -> bool:
    """Return whether ``value`` has at least one function of a hook.

    Examples
    --------
    >>> is_hook(lambda send: send)
    False
    """
    return any(callable(getattr(value, name, None)) for name in HOOK_NAMES)


def to_middleware(middleware: object, resolve: ResolveTarget) -> Middleware:
    """Return a hook or middleware function as a middleware function; ``resolve`` as in `hook_middleware`."""
    return hook_middleware(middleware, resolve) if is_hook(middleware) else cast("Middleware", middleware)


def hook_middleware(hook: object, resolve: ResolveTarget) -> Middleware:
    """Return the middleware that calls the functions of ``hook``.

    ``resolve`` finds the target that an `ErrorAction.Fallback` names. After a fallback or a retry, ``on_error`` is
    called again if that fails too, for at most `MAX_RESENDS` resends.
    """
    on_request, on_response, on_error = (getattr(hook, name, None) for name in HOOK_NAMES)

    def wrap(send: Send) -> Send:
        async def send_with_hook(call: Call) -> Answer:
            if on_request is not None:
                call = await _maybe_await(on_request(call)) or call
            answer = await send(call)
            if on_error is not None:
                call, answer = await _handle_error(call, answer, send, on_error, resolve)
            if on_response is not None and is_successful(answer.outcome):
                answer = await _maybe_await(on_response(call, answer)) or answer
            return answer

        return send_with_hook

    return wrap


async def _handle_error(
    call: Call, answer: Answer, send: Send, on_error: Callable[[Call, LLMError], object], resolve: ResolveTarget
) -> tuple[Call, Answer]:
    """Carry out the actions of ``on_error`` until the call succeeds or its failure is propagated."""
    for _ in range(MAX_RESENDS):
        if is_successful(answer.outcome):
            break
        match await _maybe_await(on_error(call, answer.outcome.failure())):
            case ErrorAction.Retry(after_s):
                await asyncio.sleep(after_s)
            case ErrorAction.Fallback(model):
                call = call.with_target(resolve(model if "/" in model else f"{model}/{call.target.model}"))
            case ErrorAction.Propagate() | None:
                break
            case other:
                message = f"on_error returned {other!r:.80}; return an ErrorAction or None"
                return call, replace(answer, outcome=Failure(InvalidRequest(path="middleware", message=message)))
        answer = add_attempts(answer, await send(call))
    return call, answer


def add_attempts(earlier: Answer, last: Answer) -> Answer:
    """Return ``last`` with the attempts, times and charges of ``earlier`` added."""
    return replace(
        last,
        attempts=earlier.attempts + last.attempts,
        rate_wait_s=_sum_if_known(earlier.rate_wait_s, last.rate_wait_s),
        total_s=_sum_if_known(earlier.total_s, last.total_s),
        started_at=earlier.started_at or last.started_at,
        billed_failures=earlier.billed_failures + last.billed_failures,
        uncertain_requests=earlier.uncertain_requests + last.uncertain_requests,
    )


def _sum_if_known(first: float | None, second: float | None) -> float | None:
    return second if first is None else first if second is None else first + second


async def _maybe_await(value: Any) -> Any:
    """Await the result of an ``async`` function; return that of a plain one."""
    return await value if inspect.isawaitable(value) else value


def exception_guard(send: Send) -> Send:
    """Turn exceptions and wrong results of a user's middleware into a failed answer, so that a run continues.

    As with event hooks of httpx, an exception after a response rejects it: the call fails. What was paid for is kept
    all the same (see `failed_with`), also if the exception is none that a run survives, such as ``KeyboardInterrupt``:
    then the responses are in the ``received`` of the context.
    """

    async def send_guarded(call: Call) -> Answer:
        context = SEND_CONTEXT.get() or SendContext()
        received = context.received = []
        answer = await _send_contained(send, call, received)
        context.received = []
        return answer

    return send_guarded


async def _send_contained(send: Send, call: Call, received: Sequence[tuple[Target, Answer]]) -> Answer:
    """Send a call through a user's middleware; return a failure for an exception and for a wrong result."""
    try:
        answer: object = await send(call)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return failed_with(received, _middleware_error("CancelledError"))  # of something that the middleware awaited
    except ConnectorError as error:
        return failed_with(received, error.error)
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything
        return failed_with(received, _middleware_error(f"{type(error).__name__}: {error}"))
    if not isinstance(answer, Answer):
        return failed_with(received, _middleware_error(f"it returned a {type(answer).__name__}, not an Answer"))
    if received and not is_successful(answer.outcome):
        return replace(answer, billed_failures=(*answer.billed_failures, *_billed(received)))
    return answer


def record_responses(send: Send) -> Send:
    """Record in the context what is received within a user's middleware, for `exception_guard`."""

    async def send_recorded(call: Call) -> Answer:
        answer = await send(call)
        context = SEND_CONTEXT.get()
        if context is not None and is_successful(answer.outcome) and not answer.cache_hit:
            context.received.append((answer.target or call.target, answer))
        return answer

    return send_recorded


def failed_with(received: Sequence[tuple[Target, Answer]], error: LLMError) -> Answer:
    """Return a failure that keeps the responses that were received before it: text, tokens, cost and timing.

    They are its `BilledFailure` entries. A table has the last of them in the row of the failure, and ``complete``
    attaches it to its exception as ``response``. They are not cached: what a middleware rejected, or could not change,
    must not answer later calls.
    """
    if not received:
        return Answer(Failure(error))
    answers = [answer for _, answer in received]
    whole = reduce(add_attempts, answers)
    return replace(whole, outcome=Failure(error), billed_failures=(*whole.billed_failures, *_billed(received)))


def with_received(received: Sequence[tuple[Target, Answer]], unfinished: Answer) -> Answer:
    """Return the outcome of a call that ended within a user's middleware, with the responses received before."""
    return failed_with(received, unfinished.outcome.failure()) if received else unfinished


def _billed(received: Sequence[tuple[Target, Answer]]) -> Iterator[BilledFailure]:
    for target, answer in received:
        response = answer.outcome.unwrap()
        # Vectors are no text that a row could show.
        yield BilledFailure(target, response.usage, response if isinstance(response, CompletionResponse) else None)


def _middleware_error(detail: str) -> InvalidRequest:
    return InvalidRequest(path="middleware", message=f"a middleware failed: {detail}")

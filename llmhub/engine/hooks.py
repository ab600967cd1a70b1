"""Compile hooks to middleware: objects with functions called before a call, after its answer, or after its failure.

A hook is any object with at least one of ``on_request``, ``on_response`` and ``on_error``. In a chain of several hooks,
``on_request`` is called in order, ``on_response`` and ``on_error`` in reverse order.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias, cast

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.core.errors import ConnectorError, InvalidRequest, LLMError
from llmhub.engine.call import Answer, Call, Middleware, Send, Target

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
    """Turn exceptions and wrong results of a user's middleware into a failed answer, so that a run continues."""

    async def send_guarded(call: Call) -> Answer:
        try:
            answer: object = await send(call)
        except ConnectorError as error:
            return Answer(Failure(error.error))
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            return Answer(Failure(_middleware_error(f"{type(error).__name__}: {error}")))
        if not isinstance(answer, Answer):
            return Answer(Failure(_middleware_error(f"it returned a {type(answer).__name__}, not an Answer")))
        return answer

    return send_guarded


def _middleware_error(detail: str) -> InvalidRequest:
    return InvalidRequest(path="middleware", message=f"a middleware failed: {detail}")

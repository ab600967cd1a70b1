"""The hook form of a middleware: what to do with a call before it goes, and with its answer or failure after.

A hook is any object with one or more of three functions; `hook_middleware` compiles it to a `Middleware`. In a chain of
several, ``on_request`` is therefore asked in order, and ``on_response`` and ``on_error`` in reverse.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.core.errors import ConnectorError, InvalidRequest, LLMError
from llmhub.engine.call import Answer, Call, Middleware, Send, Target

T = TypeVar("T")
MAX_RESENDS: Final = 3
"""How often one hook may have a call sent again, whatever it wishes: the number of times is bounded by somebody."""


class ErrorAction:
    """What ``on_error`` may want: one of the three, or ``None`` for `Propagate`.

    Examples
    --------
    >>> ErrorAction.Fallback("anthropic/claude-haiku-4-5")
    ErrorAction.Fallback(model='anthropic/claude-haiku-4-5')
    """

    @dataclass(frozen=True, slots=True)
    class Retry:
        """Send the call again, after ``after_s`` seconds."""

        after_s: float = 0.0

    @dataclass(frozen=True, slots=True)
    class Fallback:
        """Ask ``provider/model`` instead, or the same model of another ``provider``."""

        model: str

    @dataclass(frozen=True, slots=True)
    class Propagate:
        """Let the failure be."""


Action: TypeAlias = ErrorAction.Retry | ErrorAction.Fallback | ErrorAction.Propagate


class Hook(Protocol):
    """What a hook may have, each plain or ``async``; one that is missing changes nothing.

    ``on_request(call)`` gives the call to send in its place, or ``None`` to leave it; ``on_response(call, answer)``
    the same for an answer; ``on_error(call, error)`` says what to do about a failure.
    """

    on_request: Callable[[Call], Call | Awaitable[Call | None] | None]
    on_response: Callable[[Call, Answer], Answer | Awaitable[Answer | None] | None]
    on_error: Callable[[Call, LLMError], Action | Awaitable[Action | None] | None]


HOOK_NAMES: Final = ("on_request", "on_response", "on_error")
ResolveTarget: TypeAlias = Callable[[str], Target]


def is_hook(value: object) -> bool:
    """Say whether something is in the hook form.

    Examples
    --------
    >>> is_hook(lambda send: send)
    False
    """
    return any(callable(getattr(value, name, None)) for name in HOOK_NAMES)


def hook_middleware(hook: object, resolve: ResolveTarget) -> Middleware:
    """Compile a hook to a middleware; ``resolve`` finds the target that a `ErrorAction.Fallback` names.

    After a fallback or a retry the hook is asked again about what comes of it, at most `MAX_RESENDS` times.
    """
    on_request, on_response, on_error = (getattr(hook, name, None) for name in HOOK_NAMES)

    def wrap(send: Send) -> Send:
        async def sending(call: Call) -> Answer:
            if on_request is not None:
                call = await _maybe_await(on_request(call)) or call
            answer = await send(call)
            if on_error is not None:
                call, answer = await _handle_error(call, answer, send, on_error, resolve)
            if on_response is not None and is_successful(answer.outcome):
                answer = await _maybe_await(on_response(call, answer)) or answer
            return answer

        return sending

    return wrap


async def _handle_error(
    call: Call, answer: Answer, send: Send, on_error: Callable[[Call, LLMError], object], resolve: ResolveTarget
) -> tuple[Call, Answer]:
    """Do what a hook wants done about a failure, and again about what comes of that."""
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
                said = f"on_error gave {other!r:.80}; give an ErrorAction or None"
                return call, replace(answer, outcome=Failure(InvalidRequest(path="middleware", message=said)))
        answer = add_attempts(answer, await send(call))
    return call, answer


def add_attempts(before: Answer, last: Answer) -> Answer:
    """Give an answer that came after another was of no use: what both took counts."""
    return replace(
        last,
        attempts=before.attempts + last.attempts,
        rate_wait_s=_sum(before.rate_wait_s, last.rate_wait_s),
        total_s=_sum(before.total_s, last.total_s),
        started_at=before.started_at or last.started_at,
        billed_failures=before.billed_failures + last.billed_failures,
    )


def _sum(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else one + other


async def _maybe_await(value: Any) -> Any:
    """Wait for what an ``async`` function gave; take a plain function's as it is."""
    return await value if inspect.isawaitable(value) else value


def exception_guard(send: Send) -> Send:
    """Keep what a user's middleware raises from ending a run: the row says so, and the others go on."""

    async def sending(call: Call) -> Answer:
        try:
            answer: object = await send(call)
        except ConnectorError as wrong:
            return Answer(Failure(wrong.error))
        except Exception as wrong:  # noqa: BLE001 - a user's function may raise anything
            return Answer(Failure(_middleware_error(f"{type(wrong).__name__}: {wrong}")))
        if not isinstance(answer, Answer):
            return Answer(Failure(_middleware_error(f"it gave a {type(answer).__name__}, not an Answer")))
        return answer

    return sending


def _middleware_error(said: str) -> InvalidRequest:
    return InvalidRequest(path="middleware", message=f"a middleware failed: {said}")


def to_middleware(middleware: object, resolve: ResolveTarget) -> Middleware:
    """Give a middleware of either form as a function."""
    return hook_middleware(middleware, resolve) if is_hook(middleware) else cast("Middleware", middleware)

"""The hook form of a middleware: what to do with a call before it goes, and with its answer or failure after.

A hook is any object with one or more of three functions; `hooked` compiles it to a `Middleware`. In a chain of
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
MOST: Final = 3
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


NAMES: Final = ("on_request", "on_response", "on_error")
Resolve: TypeAlias = Callable[[str], Target]


def is_hook(value: object) -> bool:
    """Say whether something is in the hook form.

    Examples
    --------
    >>> is_hook(lambda send: send)
    False
    """
    return any(callable(getattr(value, name, None)) for name in NAMES)


def hooked(hook: object, resolve: Resolve) -> Middleware:
    """Compile a hook to a middleware; ``resolve`` finds the target that a `ErrorAction.Fallback` names.

    After a fallback or a retry the hook is asked again about what comes of it, at most `MOST` times.
    """
    on_request, on_response, on_error = (getattr(hook, name, None) for name in NAMES)

    def wrap(send: Send) -> Send:
        async def sending(call: Call) -> Answer:
            if on_request is not None:
                call = await _settled(on_request(call)) or call
            answer = await send(call)
            if on_error is not None:
                call, answer = await _mended(call, answer, send, on_error, resolve)
            if on_response is not None and is_successful(answer.outcome):
                answer = await _settled(on_response(call, answer)) or answer
            return answer

        return sending

    return wrap


async def _mended(
    call: Call, answer: Answer, send: Send, on_error: Callable[[Call, LLMError], object], resolve: Resolve
) -> tuple[Call, Answer]:
    """Do what a hook wants done about a failure, and again about what comes of that."""
    for _ in range(MOST):
        if is_successful(answer.outcome):
            break
        match await _settled(on_error(call, answer.outcome.failure())):
            case ErrorAction.Retry(after_s):
                await asyncio.sleep(after_s)
            case ErrorAction.Fallback(model):
                call = call.to(resolve(model if "/" in model else f"{model}/{call.target.model}"))
            case ErrorAction.Propagate() | None:
                break
            case other:
                said = f"on_error gave {other!r:.80}; give an ErrorAction or None"
                return call, replace(answer, outcome=Failure(InvalidRequest(path="middleware", message=said)))
        answer = added(answer, await send(call))
    return call, answer


def added(before: Answer, last: Answer) -> Answer:
    """Give an answer that came after another was of no use: what both took counts."""
    return replace(
        last,
        attempts=before.attempts + last.attempts,
        rate_wait_s=_sum(before.rate_wait_s, last.rate_wait_s),
        total_s=_sum(before.total_s, last.total_s),
        started_at=before.started_at or last.started_at,
        spent=before.spent + last.spent,
    )


def _sum(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else one + other


async def _settled(value: Any) -> Any:
    """Wait for what an ``async`` function gave; take a plain function's as it is."""
    return await value if inspect.isawaitable(value) else value


def guarded(send: Send) -> Send:
    """Keep what a user's middleware raises from ending a run: the row says so, and the others go on."""

    async def sending(call: Call) -> Answer:
        try:
            answer: object = await send(call)
        except ConnectorError as wrong:
            return Answer(Failure(wrong.error))
        except Exception as wrong:  # noqa: BLE001 - a user's function may raise anything
            return Answer(Failure(_blamed(f"{type(wrong).__name__}: {wrong}")))
        if not isinstance(answer, Answer):
            return Answer(Failure(_blamed(f"it gave a {type(answer).__name__}, not an Answer")))
        return answer

    return sending


def _blamed(said: str) -> InvalidRequest:
    return InvalidRequest(path="middleware", message=f"a middleware failed: {said}")


def compiled(middleware: object, resolve: Resolve) -> Middleware:
    """Give a middleware of either form as a function."""
    return hooked(middleware, resolve) if is_hook(middleware) else cast("Middleware", middleware)

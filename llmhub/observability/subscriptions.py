"""The observers of this process: of every hub, like the handlers of `logging` and the providers of OpenTelemetry.

The observer that logs is among them while its logger is enabled, which costs a look-up per call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from llmhub.engine.observer import NO_OBSERVERS, AnswerObserver, Observer, Observers, ObserverSet, Sampler, Subscription
from llmhub.observability.logging import LOG_OBSERVER, is_enabled

_LOGGING: Final = Subscription(LOG_OBSERVER)


class _Subscriptions:
    """The subscriptions, as a tuple that is replaced and never changed, so that any thread may read it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.set(())

    def set(self, subscriptions: tuple[Subscription, ...]) -> None:
        """Replace the subscriptions."""
        self.current = subscriptions
        self.with_logging = ObserverSet.of((*subscriptions, _LOGGING))
        self.active = ObserverSet.of(subscriptions) if subscriptions else NO_OBSERVERS


_SUBSCRIBED: Final = _Subscriptions()


def subscribe(
    observer: Observer,
    *,
    starts: bool = True,
    on_answer: AnswerObserver | None = None,
    sampler: Sampler | None = None,
) -> Callable[[], None]:
    """Observe every hub of this process from now on; return the function that ends it.

    The arguments are those of a `Subscription`.
    """
    subscription = Subscription(observer, starts, on_answer, sampler)
    with _SUBSCRIBED.lock:
        _SUBSCRIBED.set((*_SUBSCRIBED.current, subscription))

    def unsubscribe() -> None:
        with _SUBSCRIBED.lock:
            _SUBSCRIBED.set(tuple([each for each in _SUBSCRIBED.current if each is not subscription]))

    return unsubscribe


def current_observers() -> ObserverSet:
    """Return the observers of now."""
    return _SUBSCRIBED.with_logging if is_enabled() else _SUBSCRIBED.active


def observers_and(subscription: Subscription) -> Observers:
    """Return a function that returns the observers of now and one more."""
    known: tuple[tuple[Subscription, ...], bool] | None = None
    active = NO_OBSERVERS

    def current() -> ObserverSet:
        nonlocal known, active
        now = _SUBSCRIBED.current, is_enabled()
        if now != known:
            subscriptions, logs = now
            known, active = now, ObserverSet.of((*subscriptions, *((_LOGGING,) if logs else ()), subscription))
        return active

    return current

"""The observers of this process: of every hub, like the handlers of `logging` and the providers of OpenTelemetry.

The observer that logs is among them while its logger is enabled, which costs a look-up per call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from llmhub.engine.observer import NO_OBSERVERS, Observer, ObserverSet
from llmhub.observability.logging import LOG_OBSERVER, is_enabled


class _Subscriptions:
    """The observers, as a tuple that is replaced and never changed, so that any thread may read it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.active = NO_OBSERVERS
        self.skips: tuple[tuple[Observer, Callable[[], bool]], ...] = ()

    def set(self, observers: tuple[Observer, ...], of_starts: tuple[Observer, ...]) -> None:
        """Replace the observers."""
        own = [skips for observer, skips in self.skips if len(observers) == 1 and observer is observers[0]]
        skips = own[0] if own else None
        self.active = ObserverSet(observers, of_starts, skips)


_SUBSCRIBED: Final = _Subscriptions()


def subscribe(
    observer: Observer, *, starts: bool = True, skips: Callable[[], bool] | None = None
) -> Callable[[], None]:
    """Observe every hub of this process from now on; return the function that ends it.

    ``starts`` tells whether the observer wants the events of starts too; ``skips``, whether a call of a run may go
    unobserved (see `ObserverSet`).
    """
    with _SUBSCRIBED.lock:
        if skips is not None:
            _SUBSCRIBED.skips = (*_SUBSCRIBED.skips, (observer, skips))
        active = with_observer(_SUBSCRIBED.active, observer, starts=starts)
        _SUBSCRIBED.set(active.observers, active.of_starts)

    def unsubscribe() -> None:
        with _SUBSCRIBED.lock:
            active = _SUBSCRIBED.active
            _SUBSCRIBED.skips = tuple(item for item in _SUBSCRIBED.skips if item[0] is not observer)
            _SUBSCRIBED.set(
                tuple(item for item in active.observers if item is not observer),
                tuple(item for item in active.of_starts if item is not observer),
            )

    return unsubscribe


def current_observers() -> ObserverSet:
    """Return the observers of now."""
    active = _SUBSCRIBED.active
    return with_observer(active, LOG_OBSERVER) if is_enabled() else active


def with_observer(active: ObserverSet, observer: Observer, *, starts: bool = False) -> ObserverSet:
    """Return observers and one more."""
    return ObserverSet((*active.observers, observer), (*active.of_starts, observer) if starts else active.of_starts)

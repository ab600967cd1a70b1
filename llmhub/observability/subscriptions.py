"""The observers of this process: of every hub, like the handlers of `logging` and the providers of OpenTelemetry.

The observer that logs is among them while its logger is enabled, which costs a look-up per call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from llmhub.engine.observer import Observer
from llmhub.observability.logging import LOG_OBSERVER, is_enabled


class _Subscriptions:
    """The observers, as a tuple that is replaced and never changed, so that any thread may read it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.observers: tuple[Observer, ...] = ()


_SUBSCRIBED: Final = _Subscriptions()


def subscribe(observer: Observer) -> Callable[[], None]:
    """Observe every hub of this process from now on; return the function that ends it."""
    with _SUBSCRIBED.lock:
        _SUBSCRIBED.observers = (*_SUBSCRIBED.observers, observer)

    def unsubscribe() -> None:
        with _SUBSCRIBED.lock:
            _SUBSCRIBED.observers = tuple(item for item in _SUBSCRIBED.observers if item is not observer)

    return unsubscribe


def current_observers() -> tuple[Observer, ...]:
    """Return the observers of now."""
    subscribed = _SUBSCRIBED.observers
    return (*subscribed, LOG_OBSERVER) if is_enabled() else subscribed

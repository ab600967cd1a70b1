"""The default hub: that of an enclosing `using` block, of `configure`, or one made from the environment.

`configure` sets the only mutable global of the library; `using` sets a context variable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from llmhub.hub import Hub, hub_from_environment


@dataclass(slots=True)
class _ProcessDefault:
    hub: Hub | None = None


_DEFAULT: Final = _ProcessDefault()
_CURRENT: Final[ContextVar[Hub | None]] = ContextVar("llmhub_hub", default=None)


def configure(hub: Hub | None) -> None:
    """Make ``hub`` the default of this process; ``None`` restores the default from the environment."""
    _DEFAULT.hub = hub


def configured_hub() -> Hub | None:
    """Return the hub that `configure` set, or ``None`` while the default is that of the environment."""
    return _DEFAULT.hub


@contextmanager
def using(hub: Hub) -> Iterator[Hub]:
    """Make ``hub`` the default inside a ``with`` block, for the current thread or task only."""
    token = _CURRENT.set(hub)
    try:
        yield hub
    finally:
        _CURRENT.reset(token)


def current_hub() -> Hub:
    """Return the default hub: that of `using`, of `configure`, or one made from the environment on first use."""
    hub = _CURRENT.get() or _DEFAULT.hub
    if hub is None:
        hub = _DEFAULT.hub = hub_from_environment()
    return hub

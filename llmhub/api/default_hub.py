"""Which hub is in force: the process's default, the one mutable cell there is, or that of an enclosing block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from llmhub.hub import Hub, hub_from_environment


@dataclass(slots=True)
class _Default:
    hub: Hub | None = None


_DEFAULT: Final = _Default()


_CURRENT: Final[ContextVar[Hub | None]] = ContextVar("llmhub_hub", default=None)


def configure(hub: Hub | None) -> None:
    """Make ``hub`` the process's default; ``None`` goes back to what the environment says."""
    _DEFAULT.hub = hub


def configured_hub() -> Hub | None:
    """Return the hub that `configure` set, or ``None`` while the default is that of the environment."""
    return _DEFAULT.hub


@contextmanager
def using(hub: Hub) -> Iterator[Hub]:
    """Make ``hub`` the default inside a block, for this thread or task only."""
    token = _CURRENT.set(hub)
    try:
        yield hub
    finally:
        _CURRENT.reset(token)


def current_hub() -> Hub:
    """Give the hub in force: of the enclosing `using`, of `configure`, or made from the environment."""
    hub = _CURRENT.get() or _DEFAULT.hub
    if hub is None:
        hub = _DEFAULT.hub = hub_from_environment()
    return hub

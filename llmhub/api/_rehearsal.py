"""The same work on simulated or on real providers: whichever the environment has keys for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from llmhub import config
from llmhub.cache.memory import MemoryCache
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.hub import Hub
from llmhub.sim import Simulator, SimulatorThread, serve

DEFAULT_BUDGET_USD: Final = 0.5
"""What a rehearsal on real providers may cost, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A hub to work with, and whom it can ask.

    Parameters
    ----------
    hub
        Reaches the real providers, or a simulator on loopback.
    models
        Those of the models asked for that it can ask.
    simulator
        The simulator; ``None`` where real providers are asked.
    """

    hub: Hub
    models: tuple[str, ...]
    simulator: SimulatorThread | None = None

    @property
    def real(self) -> bool:
        """Whether real providers are asked, and paid."""
        return self.simulator is None

    def close(self) -> None:
        """Close the hub, and stop the simulator."""
        self.hub.close()
        if self.simulator is not None:
            self.simulator.stop()

    def __enter__(self) -> Self:
        """Give the rehearsal; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Say whom it asks."""
        who = "real providers, up to the budget" if self.real else "simulated providers on this machine"
        return f"{len(self.models)} models on {who}: {', '.join(self.models)}"


def rehearsal(models: Sequence[str], *, simulator: Simulator | None = None, **options: Any) -> Rehearsal:
    """Ask real models where their keys are in the environment, and simulated ones where there is none.

    So one notebook runs for everybody: without keys it costs nothing and leaves the machine alone.

    Parameters
    ----------
    models
        ``provider/model``. Of these, real ones are asked if any has its credentials; else all are simulated.
    simulator
        How the simulator behaves.
    **options
        Of the `Hub`. Answers are kept in memory, and real ones may cost half a dollar (``budget_usd``), unless given.

    Raises
    ------
    InvalidRequestError
        No model, or one that names no known provider.

    Examples
    --------
    >>> with rehearsal(["openai/gpt-4o-mini"]) as stage:
    ...     stage.real, stage.models
    (False, ('openai/gpt-4o-mini',))
    """
    names = tuple(models)
    if not names:
        raise BadRequestError(InvalidRequest(path="models", message="there is none; give at least one"))
    settings = config.load_settings()
    given: dict[str, Any] = {"cache": MemoryCache(), **options}
    hub = Hub(**{"settings": settings, "budget_usd": DEFAULT_BUDGET_USD, **given})
    for name in names:
        hub.provider(name)
    usable = tuple(name for name in names if name.partition("/")[0] in hub.available_providers())
    if usable:
        return Rehearsal(hub, usable)
    hub.close()
    served = serve(simulator or Simulator())
    endpoints = {**served.endpoints(), **given.pop("endpoints", {})}
    return Rehearsal(Hub(**{"settings": config.Settings(), "endpoints": endpoints, **given}), names, served)

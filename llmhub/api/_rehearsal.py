"""The same code on simulated or on real providers, depending on whether the environment has credentials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from llmhub import config
from llmhub.cache.memory import MemoryCache
from llmhub.core.errors import invalid
from llmhub.hub import Hub

if TYPE_CHECKING:
    from llmhub.sim import Simulator, SimulatorThread

DEFAULT_BUDGET_USD: Final = 0.5
"""Budget of a rehearsal on real providers, in US dollars."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A hub and the models that it can call.

    Parameters
    ----------
    hub
        Reaches the real providers, or a simulator on loopback.
    models
        Those of the requested models that can be called.
    simulator
        The simulator; ``None`` with real providers.
    """

    hub: Hub
    models: tuple[str, ...]
    simulator: SimulatorThread | None = None

    @property
    def real(self) -> bool:
        """Whether real providers are called and billed."""
        return self.simulator is None

    def close(self) -> None:
        """Close the hub and stop the simulator."""
        self.hub.close()
        if self.simulator is not None:
            self.simulator.stop()

    def __enter__(self) -> Self:
        """Return the rehearsal; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the rehearsal."""
        self.close()

    def __repr__(self) -> str:
        """Return the models, and whether they are real."""
        providers = "real providers, up to the budget" if self.real else "simulated providers on this machine"
        return f"{len(self.models)} models on {providers}: {', '.join(self.models)}"


def rehearsal(models: str | Sequence[str], *, simulator: Simulator | None = None, **options: Any) -> Rehearsal:
    """Return a hub for the real models whose credentials are set, or a hub of simulated models if there are none.

    A notebook that uses it runs everywhere: without credentials nothing leaves the machine and nothing is billed.

    Parameters
    ----------
    models
        ``provider/model``, or several. If any of them has credentials, the rehearsal has those that do; otherwise all
        of them, simulated. A provider that needs no credentials, such as Ollama, is simulated unless its address is
        set.
    simulator
        Behaviour of the simulator.
    **options
        Options of the `Hub`. By default responses are cached in memory, and real calls have a budget of 0.50 US
        dollars.

    Raises
    ------
    BadRequestError
        No model is given, or one of an unknown provider or one that is not simulated.

    Examples
    --------
    >>> with rehearsal(["openai/gpt-4o-mini"]) as run:
    ...     run.real, run.models
    (False, ('openai/gpt-4o-mini',))
    """
    from llmhub.sim import Simulator, serve  # noqa: PLC0415 - a server, which few processes need

    names = (models,) if isinstance(models, str) else tuple(models)
    if not names:
        raise invalid("models", "the list of models is empty; pass at least one")
    settings = config.load_settings()
    hub_options: dict[str, Any] = {"cache": MemoryCache(), **options}
    hub = Hub(**{"settings": settings, "budget_usd": DEFAULT_BUDGET_USD, **hub_options})
    for name in names:
        hub.provider(name)
    # A provider that needs no credentials always has an endpoint; it counts only if its address was set.
    set_up = (name for name, endpoint in settings.endpoints.items() if settings.sources.get(name) or endpoint.base_url)
    configured = {*hub.endpoints, *set_up}
    available = tuple(name for name in names if name.partition("/")[0] in configured)
    if available:
        return Rehearsal(hub, available)
    hub.close()
    served = serve(simulator or Simulator())
    endpoints = {**served.endpoints(), **hub_options.pop("endpoints", {})}
    defaults = {"settings": config.Settings(), "simulator": served.url, "endpoints": endpoints}
    simulated = Hub(**{**defaults, **hub_options})
    try:
        for name in names:
            simulated.target(name)
    except BaseException:
        simulated.close()
        served.stop()
        raise
    return Rehearsal(simulated, names, served)

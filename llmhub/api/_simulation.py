"""Simulate every provider on this machine in one line: for tutorials, tests and dry runs without keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from llmhub import config
from llmhub.api.default_hub import configure, configured_hub
from llmhub.cache.memory import MemoryCache
from llmhub.core.errors import invalid
from llmhub.hub import Hub

if TYPE_CHECKING:
    from llmhub.sim import Simulator, SimulatorThread

MEDIAN_LATENCY_S: Final = 0.05
LATENCY_SIGMA: Final = 0.4
"""Latency of simulated calls unless a `Simulator` is given: short, but with a spread that plots can show."""


@dataclass(slots=True)
class Simulation:
    """A default hub whose providers are simulated, until `close` or the end of a ``with`` block.

    Attributes
    ----------
    hub
        The hub that is the process's default meanwhile. Its cache holds simulated responses only.
    simulator
        The simulator's HTTP server, in a thread of its own.
    """

    hub: Hub
    simulator: SimulatorThread
    _previous: Hub | None = field(default=None, repr=False)
    _open: bool = field(default=True, repr=False)

    def counts(self) -> dict[str, Any]:
        """Return what the simulator was sent so far: requests, tokens, refusals."""
        return self.simulator.counts()

    def close(self) -> None:
        """Restore the previous default hub and stop the simulator. Closing twice does nothing."""
        if not self._open:
            return
        self._open = False
        if configured_hub() is self.hub:
            configure(self._previous)
        self.hub.close()
        self.simulator.stop()

    def __enter__(self) -> Self:
        """Return the simulation; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the simulation."""
        self.close()

    def __repr__(self) -> str:
        """Return the simulator's address and state."""
        state = "responses are not real and cost nothing" if self._open else "closed"
        return f"<Simulation at {self.simulator.url}: {state}>"


def simulate(simulator: Simulator | None = None, **options: Any) -> Simulation:
    """Start simulated providers on loopback and make a hub that reaches them the process's default.

    Every provider of the table is simulated, with any model name. No key is needed, nothing leaves the machine.

    Parameters
    ----------
    simulator
        How the simulator behaves: seed, latency, limits, faults, responses.
    **options
        Options of the `Hub`, such as ``limits`` or ``route``. The cache is in memory unless one is given, and is never
        that of real responses.

    Raises
    ------
    BadRequestError
        ``simulator`` is something else, such as the name of a model.

    Examples
    --------
    >>> from llmhub.sim import Simulator
    >>> with simulate(Simulator(seed=7)) as simulation:
    ...     status = simulation.counts()["requests"]
    >>> status
    0
    """
    from llmhub.sim import Latency, Simulator, serve  # noqa: PLC0415 - a server, which few processes need

    given: Any = simulator
    if not isinstance(given, Simulator | None):
        message = f"{given!r} is no Simulator; every model is simulated: call simulate() or pass sim.Simulator()"
        raise invalid("simulator", message)
    served = serve(simulator or Simulator(latency=Latency(MEDIAN_LATENCY_S, LATENCY_SIGMA)))
    try:
        endpoints = {**served.endpoints(), **options.pop("endpoints", {})}
        defaults = {"settings": config.Settings(), "cache": MemoryCache(), "simulator": served.url}
        hub = Hub(**{**defaults, **options, "endpoints": endpoints})
    except BaseException:
        served.stop()
        raise
    previous = configured_hub()
    configure(hub)
    return Simulation(hub, served, previous)

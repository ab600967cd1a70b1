"""Simulated providers: a real HTTP server on loopback that speaks every wire, seeded, with limits and faults.

Rehearse a job on it before spending money. It answers the same question alike every time, says what it was
asked, and goes wrong when told to::

    with serving(Simulator(seed=7, limit=Limit(rpm=600), faults=Faults(rate_500=0.01))) as simulator:
        hub = llmhub.Hub(endpoints=simulator.endpoints())
        ...
        simulator.counts()["requests"]

Asked for an answer that fits a schema, it gives one; a tool that must be called is called with arguments that fit,
and one that may be, when the prompt says ``[[sim:tool name]]``.

One prompt can be made to fail: ``[[sim:500 always]]`` or ``[[sim:429 once]]`` in its text, or a header
``x-sim-fault: reset``. Faults are listed at `Faults`.
"""

from __future__ import annotations

from llmhub.sim.faults import Faults
from llmhub.sim.graded import Graded
from llmhub.sim.latency import Latency
from llmhub.sim.limits import SimLimit
from llmhub.sim.server import SimulatorServer, aserve, aserving
from llmhub.sim.servers import FAKE_PROVIDERS
from llmhub.sim.settings import Simulator
from llmhub.sim.threaded import SimulatorThread, base_url, endpoints, serve, serving

__all__ = [
    "FAKE_PROVIDERS",
    "Faults",
    "Graded",
    "Latency",
    "SimLimit",
    "SimulatorServer",
    "SimulatorThread",
    "Simulator",
    "base_url",
    "endpoints",
    "aserving",
    "serve",
    "serving",
    "aserve",
]

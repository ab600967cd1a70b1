"""Simulated providers: an HTTP server on loopback that implements every wire format, with rate limits and faults.

Use it to test a job before spending money. Equal requests get equal responses, requests are counted, and faults are
injected on demand::

    with serving(Simulator(seed=7, limit=SimLimit(rpm=600), faults=Faults(rate_500=0.01))) as simulator:
        hub = llmhub.Hub(endpoints=simulator.endpoints())
        ...
        simulator.counts()["requests"]

A response schema is matched; a required tool is called with arguments that match its schema, and an optional one if
the prompt contains ``[[sim:tool name]]``.

To make one prompt fail, put ``[[sim:500 always]]`` or ``[[sim:429 once]]`` into its text, or send a header
``x-sim-fault: reset``. `Faults` lists all faults.
"""

from __future__ import annotations

from llmhub.sim.batch_store import SimBatches
from llmhub.sim.faults import Faults
from llmhub.sim.graded import Graded
from llmhub.sim.latency import Latency
from llmhub.sim.limits import SimLimit
from llmhub.sim.server import SimulatorServer, aserve, aserving
from llmhub.sim.servers import FAKE_PROVIDERS
from llmhub.sim.settings import Simulator
from llmhub.sim.stand_ins import SIMULATED
from llmhub.sim.threaded import SimulatorThread, base_url, endpoints, serve, serving

__all__ = [
    "FAKE_PROVIDERS",
    "SIMULATED",
    "Faults",
    "Graded",
    "Latency",
    "SimBatches",
    "SimLimit",
    "Simulator",
    "SimulatorServer",
    "SimulatorThread",
    "aserve",
    "aserving",
    "base_url",
    "endpoints",
    "serve",
    "serving",
]

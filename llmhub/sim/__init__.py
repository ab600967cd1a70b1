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
from llmhub.sim.limits import Limit
from llmhub.sim.peers import PEERS
from llmhub.sim.server import Running, running, start
from llmhub.sim.serving import Served, base_url, endpoints, serve, serving
from llmhub.sim.settings import Simulator

__all__ = [
    "PEERS",
    "Faults",
    "Graded",
    "Latency",
    "Limit",
    "Running",
    "Served",
    "Simulator",
    "base_url",
    "endpoints",
    "running",
    "serve",
    "serving",
    "start",
]

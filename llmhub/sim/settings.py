"""How a simulator behaves, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmhub.sim.completions import Respond
from llmhub.sim.faults import Faults
from llmhub.sim.graded import Graded
from llmhub.sim.latency import Latency
from llmhub.sim.limits import SimLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """How a simulator behaves.

    Parameters
    ----------
    seed
        Decides answers, durations and faults.
    host, port
        Where it listens: loopback, and 0 for any free port.
    api_key
        The one key that is right, checked as each provider checks it; empty takes any key or none.
    latency, faults
        How long it takes, and what goes wrong.
    limit
        What each model of each provider allows.
    limits
        Limits of their own for ``provider`` or ``provider/model``.
    respond
        Your own model: the last user turn to the answer's text, or to the arguments of a tool that must be called.
    graded
        Questions with their right answers, and how often each model finds them; all else is answered as ever.
    """

    seed: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    api_key: str = field(default="", repr=False)
    latency: Latency = field(default_factory=Latency)
    faults: Faults = field(default_factory=Faults)
    limit: SimLimit | None = None
    limits: Mapping[str, SimLimit] = field(default_factory=dict)
    respond: Respond | None = None
    graded: Graded | None = None

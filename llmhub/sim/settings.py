"""Settings of a simulator, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmhub.sim.batch_store import SimBatches
from llmhub.sim.completions import Respond
from llmhub.sim.faults import Faults
from llmhub.sim.graded import Graded
from llmhub.sim.latency import Latency
from llmhub.sim.limits import SimLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """Settings of a simulator.

    Parameters
    ----------
    seed
        Determines responses, durations and faults.
    host, port
        Address to listen on; port 0 selects a free one.
    api_key
        The valid key, checked like each provider does; empty accepts any key or none.
    latency, faults
        Response times and injected faults.
    limit
        Rate limits of every model.
    limits
        Rate limits by ``provider`` or ``provider/model``, which take precedence over ``limit``.
    respond
        Your own model: text of the last user message to text of the response, or to JSON arguments of a required tool.
    batches
        How batches behave.
    graded
        Questions with correct answers, and the accuracy of each model; all other prompts get generated responses.
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
    batches: SimBatches = field(default_factory=SimBatches)

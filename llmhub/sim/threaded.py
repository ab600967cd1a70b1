"""Run a simulator in a thread of its own, for callers without an event loop: tests, notebooks, demonstrations."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

from llmhub.core.errors import invalid
from llmhub.core.provider import Endpoint
from llmhub.sim.batch_store import SimBatch
from llmhub.sim.faults import Faults
from llmhub.sim.handler import SimRequestHandler
from llmhub.sim.server import SimulatorServer, aserving
from llmhub.sim.servers.bedrock_converse import ACCESS_KEY_ID
from llmhub.sim.settings import Simulator
from llmhub.sim.stand_ins import SIMULATED

REGION: Final = "us-east-1"
PROJECT_ID: Final = "simulated"
"""Cloud project, for providers that require one."""
DEFAULT_API_KEY: Final = "simulated"
"""API key, for clients that require one."""


def base_url(url: str, provider: str) -> str:
    """Return the base URL of a provider on a simulator, for that provider's clients.

    Examples
    --------
    >>> base_url("http://127.0.0.1:8000", "openai")
    'http://127.0.0.1:8000/openai/v1'
    """
    return f"{url}{SIMULATED[provider].prefix}"


def endpoints(url: str, api_key: str = "") -> dict[str, Endpoint]:
    """Return the endpoints of all providers on a simulator, with keys that it accepts.

    Parameters
    ----------
    url
        Address of the simulator, as ``llmhub sim`` prints it.
    api_key
        The simulator's key, if it requires one.

    Raises
    ------
    BadRequestError
        ``url`` is not an address.

    Examples
    --------
    >>> list(endpoints("http://127.0.0.1:8000"))[:4]
    ['openai', 'openai-responses', 'anthropic', 'google']
    """
    address: object = url
    if not isinstance(address, str) or not (address.startswith(("http://", "https://")) and urlsplit(address).hostname):
        raise invalid("url", f"expected the address of a simulator, such as 'http://127.0.0.1:8000', not {url!r:.80}")
    url, key = url.rstrip("/"), api_key or DEFAULT_API_KEY
    keyed = {
        name: Endpoint(base_url=base_url(url, name), api_key=key, project=PROJECT_ID, simulated=True)
        for name in SIMULATED
    }
    signed = Endpoint(
        base_url=base_url(url, "bedrock"),
        region=REGION,
        access_key_id=ACCESS_KEY_ID,
        secret_access_key=key,
        simulated=True,
    )
    return {**keyed, "bedrock": signed}


@dataclass(frozen=True, slots=True)
class SimulatorThread:
    """A simulator that runs in a thread of its own."""

    url: str
    _server: SimulatorServer
    _loop: asyncio.AbstractEventLoop
    _stopped: asyncio.Event
    _thread: threading.Thread

    @property
    def settings(self) -> Simulator:
        """The settings, with the actual port."""
        return replace(self._handler.settings, port=int(self.url.rpartition(":")[2]))

    @property
    def _handler(self) -> SimRequestHandler:
        return self._server.handler

    def base_url(self, provider: str) -> str:
        """Return the base URL of a provider."""
        return base_url(self.url, provider)

    def endpoints(self) -> dict[str, Endpoint]:
        """Return the endpoints of all providers, with keys that it accepts."""
        return endpoints(self.url, self._handler.settings.api_key)

    def counts(self) -> dict[str, Any]:
        """Return the request counters as a JSON object."""
        return dict(self._call_in_loop(self._server.counts))

    def reset(self) -> None:
        """Reset the request counters."""
        self._call_in_loop(self._server.reset)

    def set_faults(self, faults: Faults) -> None:
        """Replace the injected faults."""
        self._call_in_loop(lambda: self._server.set_faults(faults))

    def advance_clock(self, seconds: float) -> None:
        """Set the clock of batches forward: a batch of a day ends at once."""
        self._call_in_loop(lambda: self._server.advance_clock(seconds))

    def batch_rows(self) -> Counter[str]:
        """Return how many batches that were neither refused nor cancelled hold each row, by its id."""
        rows: Counter[str] = self._call_in_loop(self._handler.batches.rows_in_live_batches)
        return rows

    def batches(self) -> list[SimBatch]:
        """Return all batches, oldest first."""
        return list(self._call_in_loop(lambda: list(self._handler.batches.batches.values())))

    def stop(self) -> None:
        """Stop the server and wait for its thread; a second call does nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()

    def _call_in_loop(self, function: Callable[[], Any]) -> Any:
        """Call a function in the simulator's event loop and return its result."""
        done: Future[Any] = Future()
        self._loop.call_soon_threadsafe(lambda: done.set_result(function()))
        return done.result()


def serve(settings: Simulator = Simulator()) -> SimulatorThread:  # noqa: B008 - a frozen value
    """Run a simulator in a thread until it is stopped or the process ends, for notebooks.

    Examples
    --------
    >>> simulator = serve(Simulator(seed=7))
    >>> simulator.counts()["requests"]
    0
    >>> simulator.stop()

    Raises
    ------
    OSError
        If the address is in use or not local.
    """
    ready: Future[SimulatorThread] = Future()

    async def run() -> None:
        stop = asyncio.Event()
        async with aserving(settings) as simulator:
            ready.set_result(SimulatorThread(simulator.url, simulator, asyncio.get_running_loop(), stop, thread))
            await stop.wait()

    def thread_main() -> None:
        try:
            asyncio.run(run())
        except BaseException as exception:
            if ready.done():
                raise
            ready.set_exception(exception)

    thread = threading.Thread(target=thread_main, name="llmhub-sim", daemon=True)
    thread.start()
    return ready.result()


@contextlib.contextmanager
def serving(settings: Simulator = Simulator()) -> Iterator[SimulatorThread]:  # noqa: B008 - a frozen value
    """Run a simulator in a thread for a ``with`` block.

    Examples
    --------
    >>> with serving(Simulator(seed=7)) as simulator:
    ...     simulator.counts()["requests"]
    0
    """
    served = serve(settings)
    try:
        yield served
    finally:
        served.stop()

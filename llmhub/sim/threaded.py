"""A simulator in a thread of its own: for tests, notebooks and demonstrations, whatever loop the caller has."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Final

from llmhub.core.provider import Endpoint
from llmhub.sim.faults import Faults
from llmhub.sim.handler import SimRequestHandler
from llmhub.sim.server import SimulatorServer, aserving
from llmhub.sim.servers import FAKE_PROVIDERS
from llmhub.sim.servers.bedrock_converse import ACCESS_KEY_ID
from llmhub.sim.settings import Simulator

REGION: Final = "us-east-1"
PROJECT_ID: Final = "simulated"
"""The project that pays, where one has to be named."""
DEFAULT_API_KEY: Final = "simulated"
"""A key for clients that insist on one."""


def base_url(url: str, provider: str) -> str:
    """Give a provider's base URL on a simulator, as that provider's clients take it.

    Examples
    --------
    >>> base_url("http://127.0.0.1:8000", "openai")
    'http://127.0.0.1:8000/openai/v1'
    """
    return f"{url}{FAKE_PROVIDERS[provider].prefix}"


def endpoints(url: str, api_key: str = "") -> dict[str, Endpoint]:
    """Give the endpoints of all providers on a simulator, with keys that it takes.

    Examples
    --------
    >>> list(endpoints("http://127.0.0.1:8000"))[:4]
    ['openai', 'openai-responses', 'anthropic', 'google']
    """
    key = api_key or DEFAULT_API_KEY
    keyed = {name: Endpoint(base_url=base_url(url, name), api_key=key, project=PROJECT_ID) for name in FAKE_PROVIDERS}
    signed = Endpoint(
        base_url=base_url(url, "bedrock"), region=REGION, access_key_id=ACCESS_KEY_ID, secret_access_key=key
    )
    return {**keyed, "bedrock": signed}


@dataclass(frozen=True, slots=True)
class SimulatorThread:
    """A simulator that runs in its own thread."""

    url: str
    _server: SimulatorServer
    _loop: asyncio.AbstractEventLoop
    _stopped: asyncio.Event
    _thread: threading.Thread

    @property
    def settings(self) -> Simulator:
        """What it was started with, its port filled in."""
        return replace(self._handler.settings, port=int(self.url.rpartition(":")[2]))

    @property
    def _handler(self) -> SimRequestHandler:
        return self._server.handler

    def base_url(self, provider: str) -> str:
        """Give a provider's base URL."""
        return base_url(self.url, provider)

    def endpoints(self) -> dict[str, Endpoint]:
        """Give the endpoints of all providers, with keys that it takes."""
        return endpoints(self.url, self._handler.settings.api_key)

    def counts(self) -> dict[str, Any]:
        """Give what it was asked so far."""
        return dict(self._call_in_loop(self._server.counts))

    def reset(self) -> None:
        """Begin to count anew."""
        self._call_in_loop(self._server.reset)

    def set_faults(self, faults: Faults) -> None:
        """Change what goes wrong from now on."""
        self._call_in_loop(lambda: self._server.set_faults(faults))

    def stop(self) -> None:
        """Stop serving and wait until it has; a second call does nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()

    def _call_in_loop(self, act: Callable[[], Any]) -> Any:
        """Do something in the simulator's own thread."""
        done: Future[Any] = Future()
        self._loop.call_soon_threadsafe(lambda: done.set_result(act()))
        return done.result()


def serve(settings: Simulator = Simulator()) -> SimulatorThread:  # noqa: B008 - a frozen value
    """Run a simulator in a thread until it is stopped, or the process ends: the form for a notebook's cells.

    Examples
    --------
    >>> simulator = serve(Simulator(seed=7))
    >>> simulator.counts()["requests"]
    0
    >>> simulator.stop()

    Raises
    ------
    OSError
        When the address cannot be listened on.
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
        except BaseException as wrong:
            if ready.done():
                raise
            ready.set_exception(wrong)

    thread = threading.Thread(target=thread_main, name="llmhub-sim", daemon=True)
    thread.start()
    return ready.result()


@contextlib.contextmanager
def serving(settings: Simulator = Simulator()) -> Iterator[SimulatorThread]:  # noqa: B008 - a frozen value
    """Run a simulator in a thread for a block.

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

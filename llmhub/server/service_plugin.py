"""`ServicePlugin`: a host process starts, observes and stops the service, as a plugin of the hub that it serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from llmhub.core.errors import invalid
from llmhub.engine.event_loop import submit
from llmhub.hub import Hub
from llmhub.server.access import Access
from llmhub.server.key_access import access_from_settings
from llmhub.server.running import RunningService, start
from llmhub.server.server_settings import ServerSettings, load_server_settings
from llmhub.server.service import Service, State

PLUGIN_ID: Final = "llmhub.service"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """State of a service at one moment.

    Parameters
    ----------
    state
        ``starting``, ``ready``, ``draining`` or ``stopped``.
    url
        Address of the service; empty while it does not listen.
    active_requests
        Requests that are being answered.
    waiting_calls
        Calls that wait for a slot.
    in_flight
        HTTP requests that a provider has not answered yet, by provider.
    """

    state: State
    url: str = ""
    active_requests: int = 0
    waiting_calls: int = 0
    in_flight: dict[str, int] | None = None


class ServicePlugin:
    """Serve a hub from the process that has made it: a `llmhub.plugins.ConnectorPlugin`.

    The service listens once the hub is made, runs on the engine's event loop beside the threads and loops of the host,
    and shares the hub's cache, limits and budget with the host's own calls. Closing the hub completes the requests in
    progress, for the ``drain_timeout_s`` of the settings, and stops the service.

    Parameters
    ----------
    settings
        Settings of the service; those of ``llmhub.toml`` and the environment by default. ``cache``, ``limits`` and
        ``simulator`` are the hub's.
    access
        Authenticates requests; as the settings say by default.
    on_state
        Called with each `ServiceStatus` at a change of state: on the event loop, so it must return at once.

    Examples
    --------
    >>> from llmhub.plugins import Plugins
    >>> plugin = ServicePlugin(ServerSettings(port=0))
    >>> with Hub(plugins=Plugins(connectors={plugin.id: plugin}), local_files=False):
    ...     plugin.status().state
    'ready'
    >>> plugin.status().state
    'stopped'
    """

    id = PLUGIN_ID

    def __init__(
        self,
        settings: ServerSettings | None = None,
        access: Access | None = None,
        on_state: Callable[[ServiceStatus], object] | None = None,
    ) -> None:
        self._settings = settings
        self._access = access
        self._on_state = on_state
        self._running: RunningService | None = None
        self._stopped = False

    def initialize(self, hub: Any) -> None:
        """Start the service of a hub, and return once it listens.

        Raises
        ------
        BadRequestError
            A setting is wrong, the address is in use, the service would be open to other machines without keys, or the
            hub reads files that a request names.
        """
        if not isinstance(hub, Hub):
            raise invalid("hub", f"must be a Hub, not {type(hub).__name__}")
        if hub.local_files is not False:
            raise invalid("hub.local_files", "must be False: a request to a service must not read files of its machine")
        if self._running is not None and not self._stopped:
            raise invalid("plugin", f"serves a hub already at {self._running.url}; make one plugin a hub")
        settings = load_server_settings() if self._settings is None else self._settings
        access = access_from_settings(settings) if self._access is None else self._access
        self._stopped = False
        self._running = submit(self._start(Service(hub, settings, access))).result()

    def shutdown(self) -> None:
        """Complete requests in progress and stop the service; return once it has ended."""
        running = self._running
        if running is not None and not self._stopped:
            self._stopped = True
            submit(self._stop(running)).result()

    def status(self) -> ServiceStatus:
        """Return the state of the service; any thread may ask."""
        running = self._running
        if running is None:
            return ServiceStatus(state="stopped")
        service = running.service
        listens = service.state in {"ready", "draining"}
        client = service.hub.runtime.state() if listens else None
        return ServiceStatus(
            state=service.state,
            url=running.url if listens else "",
            active_requests=service.active_requests,
            waiting_calls=service.lanes.waiting,
            in_flight=dict(client.in_flight) if client is not None else {},
        )

    async def _start(self, service: Service) -> RunningService:
        self._running = running = await start(service)
        service.on_drain(self._report)
        self._report()
        return running

    async def _stop(self, running: RunningService) -> None:
        await running.stop()
        self._report()

    def _report(self) -> None:
        if self._on_state is not None:
            self._on_state(self.status())

"""Stopping a simulator while connections arrive."""

from __future__ import annotations

import gc
import socket
from urllib.parse import urlsplit

from llmhub.sim import serve


def test_connections_that_are_being_accepted_are_closed() -> None:
    for _ in range(20):
        simulator = serve()
        address = urlsplit(simulator.url)
        clients = [socket.socket() for _ in range(20)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex((address.hostname or "", address.port or 0))
        simulator.stop()
        for client in clients:
            client.close()
    gc.collect()  # one that is left open is a warning here, and so an error

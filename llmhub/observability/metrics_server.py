"""The page from which Prometheus scrapes the metrics of a notebook or a script."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Self

from llmhub.core.errors import invalid
from llmhub.observability.metrics import CONTENT_TYPE, PrometheusCollector, collect

SHUTDOWN_POLL_S: Final = 0.1
"""Longest wait of `MetricsServer.close` for the server to end."""


class MetricsServer:
    """A page with the metrics of this process, for Prometheus; made by `start_http_server`.

    Parameters
    ----------
    collector
        The metrics.
    address, port
        Where to listen; port 0 chooses a free one.
    """

    def __init__(self, collector: PrometheusCollector, address: str, port: int) -> None:
        self.collector = collector
        self._stop_collecting = collect(collector)
        try:
            self._server = ThreadingHTTPServer((address, port), _handler(collector))
        except OSError as error:
            self._stop_collecting()
            message = f"cannot listen on {address}:{port} ({error.strerror}); pass another port, or 0 for a free one"
            raise invalid("port", message) from None
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://{address}:{self.port}/metrics"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(SHUTDOWN_POLL_S,), name="llmhub-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening and collecting."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._stop_collecting()

    def __repr__(self) -> str:
        """Return the address."""
        return f"MetricsServer({self.url!r})"

    def __enter__(self) -> Self:
        """Return the server; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the server."""
        self.close()


def _handler(collector: PrometheusCollector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            is_metrics = self.path.partition("?")[0] in {"/", "/metrics"}
            body = collector.render() if is_metrics else b"not found; the metrics are at /metrics\n"
            self.send_response(200 if is_metrics else 404)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write no line for each scrape."""

    return Handler

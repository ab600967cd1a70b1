"""Which proxy a URL is reached through, as the environment variables of curl and requests describe it. Pure.

``NO_PROXY`` is a list of host names (with all their subdomains), addresses, networks (``10.0.0.0/8``), each with an
optional port, or ``*`` for all hosts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

from llmhub.core.secret import Secret

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
PROXY_VARIABLES: Final = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
NO_PROXY_VARIABLES: Final = ("no_proxy", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy and the variable that names it. The URL may hold a user name and password, so it is a `Secret`.

    ``address`` is the URL without them, for messages.
    """

    url: Secret
    variable: str

    @property
    def address(self) -> str:
        """Scheme, host and port; ``""`` if the URL cannot be parsed, since a part of it may then be a password."""
        parts = _split(self.url.reveal())
        return "" if parts is None else f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@dataclass(frozen=True, slots=True)
class Proxies:
    """Proxies by the scheme of the URLs that are reached through them, and the hosts reached without one."""

    by_scheme: Mapping[str, Proxy] = field(default_factory=dict)
    bypassed: tuple[str, ...] = ()

    def for_url(self, url: str) -> Proxy | None:
        """Return the proxy for a URL, or ``None`` if it is reached without one.

        Examples
        --------
        >>> proxies = parse_proxies({"https_proxy": "proxy:3128", "no_proxy": "localhost,.corp"})
        >>> proxies.for_url("https://api.openai.com/v1").address
        'http://proxy:3128'
        >>> proxies.for_url("http://api.openai.com/v1"), proxies.for_url("https://llm.corp/v1")
        (None, None)
        """
        parts = _split(url) if self.by_scheme else None
        proxy = None if parts is None else self.by_scheme.get(parts.scheme)
        return None if parts is None or proxy is None or _is_bypassed(parts, self.bypassed) else proxy


NO_PROXIES: Final = Proxies()


def parse_proxies(environ: Mapping[str, str]) -> Proxies:
    """Return the proxies that ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` describe.

    A lower-case name takes precedence over its upper-case one, and the variable of a scheme over ``ALL_PROXY``. A proxy
    without a scheme is an HTTP proxy. ``HTTP_PROXY`` is ignored in a CGI process, where a client sets it with a header.
    """
    by_scheme: dict[str, Proxy] = {}
    for scheme in ("http", "https"):
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"):
            url = environ.get(name, "").strip()
            if url and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in environ):
                with_scheme = url if "://" in url else f"http://{url}"
                by_scheme[scheme] = Proxy(Secret(with_scheme, source=name), name)
                break
    bypassed = next((environ[name] for name in NO_PROXY_VARIABLES if environ.get(name)), "")
    return Proxies(by_scheme, tuple(host for host in bypassed.replace(",", " ").lower().split() if host))


def _is_bypassed(parts: SplitResult, bypassed: tuple[str, ...]) -> bool:
    """Return whether a host is reached without a proxy."""
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    return any(_matches(pattern, host, port) for pattern in bypassed)


def _matches(pattern: str, host: str, port: int | None) -> bool:
    if pattern == "*" or _in_network(pattern, host):
        return True
    name, separator, pattern_port = pattern.rpartition(":")
    if separator and pattern_port.isdigit() and (":" not in name or name.endswith("]")):
        if int(pattern_port) != port:
            return False
        pattern = name
    pattern = pattern.strip("[]").removeprefix("*").strip(".")
    return bool(pattern) and (host == pattern or host.endswith(f".{pattern}"))


def _in_network(pattern: str, host: str) -> bool:
    """Return whether a host is an address within a network."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return False


def _split(url: str) -> SplitResult | None:
    """Split a URL with a host and a valid port; ``None`` if it is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.hostname else None

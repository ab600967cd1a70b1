"""Proxies of the environment: which variable applies, which hosts are reached without one, what is shown of them."""

from __future__ import annotations

import pytest

from llmhub.core.proxies import NO_PROXIES, parse_proxies

PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("environ", "url", "variable"),
    [
        ({"HTTPS_PROXY": PROXY}, "https://host/v1", "HTTPS_PROXY"),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, "https://host/v1", "https_proxy"),
        ({"HTTPS_PROXY": PROXY}, "http://host/v1", None),
        ({"HTTP_PROXY": PROXY}, "http://host/v1", "HTTP_PROXY"),
        ({"HTTP_PROXY": PROXY}, "https://host/v1", None),
        ({"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"}, "http://host/v1", None),
        ({"http_proxy": PROXY, "REQUEST_METHOD": "GET"}, "http://host/v1", "http_proxy"),
        ({"ALL_PROXY": PROXY}, "https://host/v1", "ALL_PROXY"),
        ({"all_proxy": PROXY}, "http://host/v1", "all_proxy"),
        ({"ALL_PROXY": "socks5://other:1", "HTTPS_PROXY": PROXY}, "https://host/v1", "HTTPS_PROXY"),
        ({"HTTPS_PROXY": "", "ALL_PROXY": PROXY}, "https://host/v1", "ALL_PROXY"),
        ({"HTTPS_PROXY": "proxy:3128"}, "https://host/v1", "HTTPS_PROXY"),
        ({}, "https://host/v1", None),
        ({"HTTPS_PROXY": PROXY}, "nonsense", None),
        ({"HTTPS_PROXY": PROXY}, "https://host:port/v1", None),
    ],
)
def test_variable_that_applies(environ: dict[str, str], url: str, variable: str | None) -> None:
    proxy = parse_proxies(environ).for_url(url)
    assert (proxy and proxy.variable) == variable
    assert proxy is None or proxy.address == PROXY


@pytest.mark.parametrize(
    ("no_proxy", "url", "bypassed"),
    [
        ("*", "https://host/v1", True),
        ("host", "https://host/v1", True),
        ("host", "https://HOST./v1", True),
        ("host", "https://sub.host/v1", True),
        (".corp", "https://llm.corp/v1", True),
        ("*.corp", "https://llm.corp/v1", True),
        ("corp", "https://llmcorp/v1", False),
        ("a, host ,b", "https://host/v1", True),
        ("a host b", "https://host/v1", True),
        ("host:443", "https://host/v1", True),
        ("host:8443", "https://host/v1", False),
        ("host:8443", "https://host:8443/v1", True),
        ("127.0.0.1", "https://127.0.0.1:9/v1", True),
        ("10.0.0.0/8", "https://10.1.2.3/v1", True),
        ("10.0.0.0/8", "https://11.1.2.3/v1", False),
        ("::1", "https://[::1]:8000/v1", True),
        ("[::1]:8000", "https://[::1]:8000/v1", True),
        ("[::1]:8000", "https://[::1]:9000/v1", False),
        ("fd00::/8", "https://[fd00::7]/v1", True),
        (",, ,", "https://host/v1", False),
        ("", "https://host/v1", False),
    ],
)
def test_hosts_reached_without_a_proxy(no_proxy: str, url: str, bypassed: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        proxies = parse_proxies({"HTTPS_PROXY": PROXY, name: no_proxy})
        assert (proxies.for_url(url) is None) == bypassed


def test_no_password_is_shown() -> None:
    proxies = parse_proxies({"HTTPS_PROXY": "http://ann:hunter22@proxy:3128"})
    proxy = proxies.for_url("https://host")
    assert proxy is not None
    assert proxy.address == PROXY
    assert "hunter22" not in repr(proxies)
    for garbled in ("http://ann:hunter22", "http://ann:hunter22@", "http://ann:hunter22@[proxy"):
        proxy = parse_proxies({"HTTPS_PROXY": garbled}).for_url("https://host")
        assert proxy is not None
        assert "hunter22" not in repr(proxy) + proxy.address


def test_nothing_set_is_no_proxy() -> None:
    assert parse_proxies({"NO_PROXY": ""}) == NO_PROXIES

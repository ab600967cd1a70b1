from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from llmhub.engine.probe import probe
from llmhub.engine.transport import Timeout, Wiring

Script: TypeAlias = Callable[..., Any]


async def test_any_http_answer_is_an_answer_and_no_credentials_are_sent(scripted: Script, speech: Any) -> None:
    there = {str(status): scripted([speech.reply(b"", status=status)]) for status in (200, 401, 404, 503)}
    found = await probe({name: f"{server.url}/v1" for name, server in there.items()}, Wiring())
    assert {name: reached.status for name, reached in found.items()} == {"200": 200, "401": 401, "404": 404, "503": 503}
    assert all(reached.error == "" for reached in found.values())
    for server in there.values():
        (request,) = server.requests
        assert request.startswith(b"GET /v1 HTTP/1.1")
        assert b"authorization" not in request.lower()


async def test_one_that_refuses_hangs_or_speaks_nonsense_says_why_and_holds_up_no_other(
    scripted: Script, speech: Any
) -> None:
    addresses = {
        "good": scripted([speech.reply(b"")]).url,
        "refuses": "http://127.0.0.1:1/v1",
        "hangs": scripted(["hang"]).url,
        "nonsense": scripted([b"SSH-2.0-server\r\n", "close"]).url,
        "no address": "localhost:80",
    }
    found = await probe(addresses, Wiring(timeout=Timeout(connect_s=0.3, total_s=0.3)))
    assert list(found) == list(addresses)
    assert {name for name, reached in found.items() if reached.status is not None} == {"good"}
    assert "cannot connect to http://127.0.0.1:1" in found["refuses"].error
    assert "within 0.3 s" in found["hangs"].error
    assert found["nonsense"].error
    assert "no HTTP address" in found["no address"].error


async def test_a_name_and_a_password_in_an_address_are_not_repeated() -> None:
    found = await probe({"web": "http://me:hunter22@127.0.0.1:1/v1", "none": "ftp://me:hunter22@host/"}, Wiring())
    assert "cannot connect to http://127.0.0.1:1 " in found["web"].error
    assert "'ftp://host/'" in found["none"].error
    assert "hunter22" not in found["web"].error + found["none"].error


async def test_nothing_to_ask_is_nothing_found() -> None:
    assert await probe({}, Wiring()) == {}

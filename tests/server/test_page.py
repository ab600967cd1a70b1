"""The pages of the service: what they show, to whom, and that nothing in them can be a script."""

from __future__ import annotations

import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from playwright.sync_api import Browser, Page, expect, sync_playwright
from returns.result import Failure, Result, Success

from llmhub.cache.memory import MemoryCache
from llmhub.cache.sqlite_access import open_sqlite_access
from llmhub.core.errors import AuthFailed, LLMError
from llmhub.core.secret import Secret
from llmhub.core.types import Usage
from llmhub.engine.limits import Limit
from llmhub.server.access import SCOPES, Caller
from llmhub.server.access_settings import AccessSettings
from llmhub.server.activity import MAX_ROWS, Activity, RowKey
from llmhub.server.html_elements import element
from llmhub.server.key_access import KeyAccess
from llmhub.server.routes import HttpRoute
from llmhub.server.run_views import RunView
from llmhub.server.running import RunningService
from llmhub.server.virtual_keys import KeyOptions, KeyRegistry
from llmhub.sim import Faults, Simulator, SimulatorThread, serving

Serving = Callable[..., RunningService]
HOSTILE: Final = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x1b[31m"
TEAM_SCOPES: Final = frozenset(SCOPES) - {"admin"}
CALLERS: Final = {
    "canary-admin-4711": Caller(key_id="key_admin", team="platform"),
    "canary-red-4712": Caller(key_id="key_red", team="red", scopes=TEAM_SCOPES),
    "canary-blue-4713": Caller(key_id="key_blue", team=f"blue {HOSTILE}", scopes=TEAM_SCOPES),
}


class TokenAccess:
    async def authenticate(self, request: web.Request, _route: HttpRoute) -> Result[Caller, LLMError]:
        caller = CALLERS.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        return Failure(AuthFailed(message="no such key")) if caller is None else Success(caller)


class ListedRuns:
    """A source of runs."""

    def list_runs(self, team: str | None, limit: int) -> list[RunView]:
        runs = [
            RunView(
                id=f"run-of-{name}", kind="run", team=name, key_id="k", models=(HOSTILE,), rows=200, done=50, failed=2,
                billed_usd=Decimal("1.25"), forecast_usd=Decimal(5), remaining_s=90, waits_for="requests, declared",
            )
            for name in ("red", "green")
        ]  # fmt: skip
        return [run for run in runs if team in {None, run.team}][:limit]


class Elements(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


OPENER: Final = urllib.request.build_opener(NoRedirect)


def fetch(
    url: str, data: dict[str, str] | None = None, cookie: str = "", **headers: str
) -> tuple[int, dict[str, str], str]:
    """Send a request of a browser; return status, headers and text."""
    body = None if data is None else urllib.parse.urlencode(data).encode()
    head = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, {**head, **({"cookie": cookie} if cookie else {})})
    try:
        reply = OPENER.open(request, timeout=20)
    except urllib.error.HTTPError as error:
        reply = error
    with reply:
        return reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.read().decode()


def complete(url: str, key: str, prompt: str = "Say hi", model: str = "openai/gpt-4o-mini") -> int:
    chat = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "{prompt}"}}]}}'.encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    try:
        with OPENER.open(urllib.request.Request(f"{url}/v1/chat/completions", chat, headers), timeout=20) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def cookie_of(key: str) -> str:
    return f"llmhub_key={key}"


@pytest.fixture
def guarded(serving: Serving) -> str:
    """Return the address of a service with keys, runs and a few calls of two teams."""
    running = serving(access=TokenAccess(), hub={"cache": MemoryCache(), "limits": {"openai": Limit(rpm=600)}})
    running.service.run_sources.append(ListedRuns())
    for key in ("canary-red-4712", "canary-red-4712", "canary-blue-4713"):
        complete(running.url, key)
    return running.url


class TestOverview:
    def test_shows_calls_spend_cache_runs_and_limits(self, guarded: str) -> None:
        status, _, page = fetch(f"{guarded}/", cookie=cookie_of("canary-admin-4711"))
        shown = " ".join(Elements(page).text.split())
        assert status == 200
        for text in (
            "key_admin", "key_red", "openai/gpt-4o-mini", "66.7 %", "run-of-red", "run-of-green", "50 of 200, 2 failed",
            "$1.25", "forecast $5.00", "1 min 30 s left", "600 requests/min, declared", "healthy",
        ):  # fmt: skip
            assert text in shown, text

    def test_errors_show_their_kind_and_message(self, serve_on: Callable[..., Any]) -> None:
        with serving(Simulator(faults=Faults(quota=1.0))) as broke, serve_on(broke.url) as running:
            assert complete(running.url, "") == 429
            page = Elements(fetch(f"{running.url}/")[2])
        assert "QuotaExhausted" in page.text
        assert "1 of 1 calls" in page.text

    def test_without_keys_it_is_open_and_has_no_sign_out(self, serving: Serving) -> None:
        status, _, page = fetch(f"{serving().url}/")
        assert (status, "Sign out" in page) == (200, False)
        assert "No calls in the last hour." in page

    def test_draining_service_still_shows_it(self, serving: Serving) -> None:
        running = serving()
        running.service.begin_drain()
        status, _, page = fetch(f"{running.url}/")
        assert (status, "draining" in page) == (200, True)


class TestTeams:
    def test_a_team_sees_its_own_and_nothing_else(self, guarded: str) -> None:
        _, _, page = fetch(f"{guarded}/", cookie=cookie_of("canary-red-4712"))
        assert "run-of-red" in page
        for text in ("blue", "run-of-green", "platform"):
            assert text not in page, text


class TestSignIn:
    def test_key_in_the_form_becomes_a_cookie_that_scripts_cannot_read(self, guarded: str) -> None:
        status, _, page = fetch(f"{guarded}/")
        assert (status, "password" in page) == (401, True)
        status, headers, _ = fetch(f"{guarded}/login", {"key": " canary-red-4712 "}, sec_fetch_site="same-origin")
        assert (status, headers["location"]) == (303, "./")
        cookie = headers["set-cookie"]
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert "Secure" not in cookie
        assert fetch(f"{guarded}/", cookie=cookie.partition(";")[0])[0] == 200

    def test_cookie_is_for_tls_only_behind_tls(self, guarded: str) -> None:
        _, headers, _ = fetch(f"{guarded}/login", {"key": "canary-red-4712"}, x_forwarded_proto="https")
        assert "Secure" in headers["set-cookie"].split("; ")

    @pytest.mark.parametrize("key", ["wrong", "", "\u00e4\r\nset-cookie: a=b"])
    def test_wrong_key_gets_the_form_again(self, guarded: str, key: str) -> None:
        status, headers, page = fetch(f"{guarded}/login", {"key": key})
        assert (status, "set-cookie" in headers) == (401, False)
        assert "does not know this key" in page
        assert "wrong" not in page

    def test_form_with_many_fields_has_no_key(self, guarded: str) -> None:
        assert fetch(f"{guarded}/login", {f"field{number}": "" for number in range(50)})[0] == 401

    def test_signing_out_removes_the_cookie(self, guarded: str) -> None:
        status, headers, _ = fetch(f"{guarded}/logout", {}, cookie=cookie_of("canary-red-4712"))
        assert (status, "Max-Age=0" in headers["set-cookie"]) == (303, True)

    @pytest.mark.parametrize("path", ["login", "logout"])
    def test_forms_of_other_sites_are_refused(self, guarded: str, path: str) -> None:
        assert fetch(f"{guarded}/{path}", {"key": "canary-red-4712"}, sec_fetch_site="cross-site")[0] == 403

    def test_the_api_takes_no_cookie(self, guarded: str) -> None:
        assert fetch(f"{guarded}/v1/models", cookie=cookie_of("canary-red-4712"))[0] == 401

    def test_no_page_shows_a_key(self, guarded: str) -> None:
        for key in CALLERS:
            for path in ("", "docs", "openapi.json"):
                assert "canary" not in fetch(f"{guarded}/{path}", cookie=cookie_of(key))[2]


class TestKeys:
    def test_keys_of_the_team_with_what_they_spent_and_may_spend(self, serving: Serving, tmp_path: Path) -> None:
        store = open_sqlite_access(tmp_path / "keys.db")
        url = serving(access=KeyAccess(AccessSettings(keys=True, admin_key=Secret("a" * 40)), store)).url
        registry = KeyRegistry(store)
        made = [
            registry.create(KeyOptions(team=team, name=f"notebook of {team}", budget_usd_per_day=Decimal(2), rpm=60))
            for team in ("red", "blue")
        ]
        assert complete(url, made[0].token) == 200
        login = fetch(f"{url}/login", {"key": made[0].token})[1]["set-cookie"].partition(";")[0]
        page = Elements(fetch(f"{url}/", cookie=login)[2]).text
        assert "notebook of red" in page
        assert "notebook of blue" not in page
        assert re.search(r"\$0\.\d+ of \$2\.00", page)
        assert "60 requests/min" in page
        admin = Elements(fetch(f"{url}/", cookie=cookie_of("a" * 40))[2]).text
        assert "notebook of blue" in admin
        registry.revoke(made[0].key.id)


class TestNothingRuns:
    def test_pages_are_escaped_and_have_no_inline_scripts_or_styles(self, guarded: str) -> None:
        complete(guarded, "canary-blue-4713", model="openai/<img src=x onerror=alert(3)>")
        for path, key in (("", "canary-admin-4711"), ("", "canary-blue-4713"), ("docs", ""), ("", "")):
            _, headers, text = fetch(f"{guarded}/{path}", cookie=cookie_of(key))
            page = Elements(text)
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["cache-control"] == "no-store"
            scripts = [attributes for tag, attributes in page.elements if tag == "script"]
            assert all(each["src"] == "static/page.js" for each in scripts)
            assert not [tag for tag, _ in page.elements if tag in {"img", "style", "iframe"}]
            assert not [name for _, each in page.elements for name in each if name == "style" or name[:2] == "on"]
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
        assert (
            "<script>alert(1)</script>" in Elements(fetch(f"{guarded}/", cookie=cookie_of("canary-admin-4711"))[2]).text
        )

    def test_elements_escape_text_and_attributes(self) -> None:
        parsed = Elements(element("p", HOSTILE, title=HOSTILE))
        assert [tag for tag, _ in parsed.elements] == ["p"]
        assert parsed.elements[0][1]["title"] == HOSTILE.replace("\x1b", "\u2039ESC\u203a")

    @pytest.mark.parametrize("attribute", ["style", "onclick"])
    def test_elements_refuse_what_the_policy_blocks(self, attribute: str) -> None:
        with pytest.raises(ValueError, match="blocked"):
            element("p", **{attribute: "x"})


class TestActivity:
    def test_rows_are_bounded(self, simulator: SimulatorThread) -> None:
        from llmhub.engine.call import Answer, Call, Target  # noqa: PLC0415 - of this test alone
        from llmhub.engine.observer import CallFinished, CallOrigin  # noqa: PLC0415 - as above
        from llmhub.hub import Hub  # noqa: PLC0415 - as above
        from llmhub.types import CompletionRequest, CompletionResponse  # noqa: PLC0415 - as above

        target: Target = Hub(simulator=simulator.url).target("openai/gpt-4o-mini")
        request = CompletionRequest(model="gpt-4o-mini", messages=())
        answer = Answer(Success(CompletionResponse(parts=(), usage=Usage(input_tokens=5, output_tokens=1))))
        activity = Activity(clock=lambda: 600.0)
        for number in range(MAX_ROWS + 50):
            origin = CallOrigin(key_id=f"key{number}", team=f"team{number % 3}")
            event = CallFinished(number, Call(target, request), answer, 0, 600 * 10**9, origin, b"", "", 0)
            activity.observe(event)
        snapshot = activity.snapshot()
        assert len(snapshot.rows) == MAX_ROWS + 3
        assert snapshot.total.answered == snapshot.minutes[-1].answered == MAX_ROWS + 50
        assert snapshot.rows[RowKey("team0", "other", "other")].answered > 0
        assert {key.team for key in activity.snapshot("team1").rows} == {"team1"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert program, "install chromium"
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


def open_page(browser: Browser, url: str, key: str, width: int, scheme: Any) -> tuple[Page, list[str]]:
    """Sign in; return the page, and what the browser complains of from then on."""
    page = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}).new_page()
    page.goto(f"{url}/")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.fill("#key", key)
    page.click("button[type=submit]")
    page.wait_for_selector("#live")
    return page, complaints


class TestInABrowser:
    def test_page_follows_the_service_until_it_is_paused(self, guarded: str, browser: Browser) -> None:
        page, complaints = open_page(browser, guarded, "canary-blue-4713", 1280, "light")
        assert page.url == f"{guarded}/"
        calls = page.locator(".tile .value").nth(1)
        assert calls.inner_text() == "1"
        complete(guarded, "canary-blue-4713", prompt="another")
        expect(calls).to_have_text("2", timeout=20_000)
        page.click("#pause")
        assert page.locator("#pause").inner_text() == "Paused"
        assert "alert(1)" in page.locator(".user").inner_text()
        page.click("text=Sign out")
        page.wait_for_selector("#key")
        assert [each for each in complaints if "401" not in each] == []

    @pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
    def test_pages_fit_their_width_and_scheme(self, guarded: str, browser: Browser, width: int, scheme: str) -> None:
        page, complaints = open_page(browser, guarded, "canary-admin-4711", width, scheme)
        back = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
        assert (max(back) < 64) == (scheme == "dark")
        for path in ("", "docs"):
            page.goto(f"{guarded}/{path}")
            assert page.evaluate("document.documentElement.scrollWidth") == width
            cut = page.evaluate(
                "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
            )
            assert cut == 0
        page.locator("details", has_text="/v1/chat/completions").first.locator("summary").click()
        page.click("text=ChatRequest")
        page.locator("#schema-ChatRequest").wait_for(state="visible")
        assert complaints == []
